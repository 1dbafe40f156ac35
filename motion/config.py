"""What a motion model is, as data: `configs/motion/*.yaml` and the header of its weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from motion.actions import ACTIONS
from shared.process import CosineVP, VariancePreserving


class Settings(BaseModel):
    """Frozen data without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MotionConfig(Settings):
    """A network of `motion.network.MotionTransformer` and the noise it is trained on.

    Attributes:
        kind: name of the architecture, in the files.
        width: of a frame's token, a multiple of twice the heads.
        depth: blocks.
        heads: of the attention.
        feedforward: width inside a block's second half.
        embedding: of the noise level, even.
        actions: what a frame can be asked for, in the order of the network's table; the first is no demand.
        fps: frames a second.
        frames: shortest and longest window of the training.
        log_snr_min: of the cosine process, where it starts.
    """

    kind: Literal["motion_transformer"] = "motion_transformer"
    width: PositiveInt = 192
    depth: PositiveInt = 6
    heads: PositiveInt = 4
    feedforward: PositiveInt = 576
    embedding: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    actions: tuple[str, ...] = ACTIONS
    fps: PositiveFloat = 30.0
    frames: tuple[Annotated[int, Field(ge=2)], Annotated[int, Field(ge=2)]] = (64, 120)
    log_snr_min: float = -8.0

    @model_validator(mode="after")
    def _fits(self) -> MotionConfig:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the {self.heads} heads")
        if self.frames[0] > self.frames[1]:
            raise ValueError(f"frames {self.frames} must not fall")
        return self

    def process(self) -> CosineVP:
        """Return the noise process; networks are told its time in [0, 1]."""
        return VariancePreserving.cosine(log_snr_min=self.log_snr_min, time_scale=1.0)

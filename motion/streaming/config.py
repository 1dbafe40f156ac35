"""What a model of endless motion is, as data: `configs/motion/stream_small.yaml` and the header of its weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from motion.actions import ACTIONS
from motion.config import Settings
from shared.process import CosineVP, VariancePreserving


class StreamConfig(Settings):
    """A network of `motion.streaming.network.StreamTransformer` and the noise it is trained on.

    Attributes:
        kind: name of the architecture, in the files.
        width: of a frame's token, a multiple of twice the heads.
        depth: layers.
        heads: of the attention.
        feedforward: width inside a layer's second half.
        embedding: of the noise level, even.
        actions: what a frame can be asked for, in the order of the network's table; the first is no demand.
        fps: frames a second.
        block: frames that are made at a time, B.
        sink: first blocks of the stream that every block sees.
        window: blocks before it that a block sees.
        blocks: of a window of the training.
        history_noise: largest deviation of the noise on the past in training, in units of the features' deviation; it
            is not told, so that the network does not rely on its own past to the last digit and drift with it.
        log_snr_min: of the cosine process, where it starts.
    """

    kind: Literal["stream_transformer"] = "stream_transformer"
    width: PositiveInt = 128
    depth: PositiveInt = 6
    heads: PositiveInt = 4
    feedforward: PositiveInt = 384
    embedding: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    actions: tuple[str, ...] = ACTIONS
    fps: PositiveFloat = 30.0
    block: Annotated[int, Field(ge=2)] = 15
    sink: NonNegativeInt = 0
    window: PositiveInt = 3
    blocks: PositiveInt = 6
    history_noise: NonNegativeFloat = 0.1
    log_snr_min: float = -8.0

    @model_validator(mode="after")
    def _fits(self) -> StreamConfig:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the {self.heads} heads")
        return self

    @property
    def frames(self) -> tuple[int, int]:
        """Return shortest and longest window of the training: the blocks and the frame before them."""
        return (1 + self.blocks * self.block,) * 2

    def process(self) -> CosineVP:
        """Return the noise process; networks are told its time in [0, 1]."""
        return VariancePreserving.cosine(log_snr_min=self.log_snr_min, time_scale=1.0)

"""What a stereo model is, as data: `configs/robotics/stereo_*.yaml` and the header of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from shared.errors import InputError
from shared.process import TableVP, VariancePreserving, squared_cosine_betas


class Settings(BaseModel):
    """Frozen data without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def check_surfaces(channels: Sequence[int]) -> None:
    """Raise `ValueError` unless a branch for glass and mirrors may have these channels; none is right too."""
    if any(count % 8 for count in channels) or (channels and channels[-1] % 32):
        raise ValueError(f"surfaces {tuple(channels)} must be multiples of 8, and the last one of 32")


class StereoConfig(Settings):
    """A network of `robotics.stereo.networks.StereoNetwork` and the noise it is trained on.

    Attributes:
        kind: name of the architecture, in the files.
        half: channels of the features at half the size.
        quarter: channels of the features at a quarter, a multiple of `groups`.
        groups: of the correlation.
        volume: channels of its aggregation.
        channels: of the U-Net's levels, multiples of 8.
        embedding: of the noise level, even.
        correction: channels of the last correction at full size.
        surfaces: channels of the levels of the branch for glass and mirrors, multiples of 8, the last one of 32; none
            by default.
        steps: of the squared cosine table of noise.
        bend_px: a residual disparity r is x = asinh(r / bend) / asinh(limit / bend): linear below bend, log above.
        limit_px: the residual that is x = 1.
        spread: standard deviation of x that an estimate from noise alone assumes.
    """

    kind: Literal["residual_stereo"] = "residual_stereo"
    half: PositiveInt = 16
    quarter: PositiveInt = 48
    groups: PositiveInt = 8
    volume: PositiveInt = 12
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (32, 64, 96, 96)
    embedding: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    correction: PositiveInt = 12
    surfaces: tuple[PositiveInt, ...] = ()
    steps: PositiveInt = 100
    bend_px: PositiveFloat = 1.0
    limit_px: PositiveFloat = 80.0
    spread: PositiveFloat = 0.3

    @model_validator(mode="after")
    def _fits(self) -> StereoConfig:
        if self.quarter % self.groups:
            raise ValueError(f"quarter {self.quarter} must be a multiple of groups {self.groups}")
        if any(channels % 8 for channels in self.channels):
            raise ValueError(f"channels {self.channels} must be multiples of 8")
        check_surfaces(self.surfaces)
        if self.limit_px <= self.bend_px:
            raise ValueError(f"limit_px {self.limit_px} must be above bend_px {self.bend_px}")
        return self

    @property
    def multiple(self) -> int:
        """Return what height and width must be multiples of."""
        return 4 * 2 ** (max(len(self.channels), len(self.surfaces)) - 1)

    def require_crop(self, crop: tuple[int, int]) -> None:
        """Raise `InputError` unless height and width of a training's crops are multiples of `multiple`."""
        if any(side % self.multiple for side in crop):
            raise InputError(
                "crop", found=f"{crop}", expected=f"multiples of {self.multiple}", fix="Correct the configuration."
            )

    def process(self) -> TableVP:
        """Return the noise process."""
        return VariancePreserving.from_betas(squared_cosine_betas(self.steps))

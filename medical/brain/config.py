"""What a model of brain volumes is, as data: the header of its file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

Strategy = Literal["noise", "clean", "velocity", "flow", "rflow"]

# The network and the grid of MedForj.
CHANNELS = (16, 32, 64, 128, 256)
ATTENTION = (False, False, False, False, True)
SIZE = (192, 224, 192)
SPACING_MM = 1.0


class BrainConfig(BaseModel):
    """A `DiffusionModelUNet` in three dimensions, what it predicts, and the grid it is trained on.

    The defaults are MedForj's.

    Attributes:
        kind: name of the architecture, in the files.
        strategy: what it predicts, by the names of MedForj; `medical.brain.model.PREDICTIONS` has the formulas.
        channels: of the levels, multiples of `groups`.
        attention: whether a level attends over all its voxels.
        blocks: residual blocks of a level.
        head_channels: of an attention head.
        groups: of the group normalisations.
        size: voxels along x, y, z (to the left, posterior, superior).
        spacing_mm: edge of a voxel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["monai_diffusion_unet_3d"] = "monai_diffusion_unet_3d"
    strategy: Strategy
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = CHANNELS
    attention: tuple[bool, ...] = ATTENTION
    blocks: PositiveInt = 2
    head_channels: PositiveInt = 8
    groups: PositiveInt = 8
    size: tuple[PositiveInt, PositiveInt, PositiveInt] = SIZE
    spacing_mm: PositiveFloat = SPACING_MM

    @model_validator(mode="after")
    def _fits(self) -> BrainConfig:
        if len(self.attention) != len(self.channels):
            raise ValueError(f"attention {self.attention} must have one entry for each of channels {self.channels}")
        if any(channels % self.groups for channels in self.channels):
            raise ValueError(f"channels {self.channels} must be multiples of groups {self.groups}")
        if self.channels[-1] % self.head_channels:  # the middle always attends
            raise ValueError(f"channels {self.channels[-1]} must be a multiple of head_channels {self.head_channels}")
        attending = [channels for channels, attends in zip(self.channels, self.attention, strict=True) if attends]
        if any(channels % self.head_channels for channels in attending):
            raise ValueError(f"channels {attending} must be multiples of head_channels {self.head_channels}")
        if any(side % self.multiple for side in self.size):
            raise ValueError(f"size {self.size} must be multiples of {self.multiple}")
        return self

    @property
    def multiple(self) -> int:
        """Return what every side of a volume must be a multiple of."""
        return 2 ** (len(self.channels) - 1)

    @property
    def fov_mm(self) -> tuple[float, float, float]:
        """Return the field of view along x, y, z."""
        x, y, z = self.size
        return x * self.spacing_mm, y * self.spacing_mm, z * self.spacing_mm

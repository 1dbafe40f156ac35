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
LATENT_FACTOR, LATENT_CHANNELS = 4, 4  # of `medical.brain.latent`


class Condition(BaseModel):
    """A number within a range, or one of some words, that a network may be told.

    Attributes:
        name: such as "ventricles_cm3".
        between: least and largest number of the training; None for words.
        words: such as ("T1w", "T2w"); empty for a number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_]*$")
    between: tuple[float, float] | None = None
    words: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_kind(self) -> Condition:
        if (self.between is None) == (not self.words):
            raise ValueError(f"condition {self.name} must have either between: [low, high] or words: [...]")
        if self.between is not None and not self.between[0] < self.between[1]:
            raise ValueError(f"condition {self.name} is between {self.between}, which must be [low, high]")
        return self

    @property
    def columns(self) -> int:
        """Return how many numbers say it: one, or one a word."""
        return len(self.words) or 1


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
        fold: "haar" has the network work on the eight Haar coefficients of each block of 2 x 2 x 2 voxels.
        skip: "stationary" has it correct the estimate of a Gaussian model of the heads, `medical.brain.stationary`.
        latent: "maisi" has it work on the latents of that autoencoder, `medical.brain.latent`.
        conditions: what the network may be told; each may stay unknown.
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
    fold: Literal["none", "haar"] = "none"
    skip: Literal["none", "stationary"] = "none"
    latent: Literal["none", "maisi"] = "none"
    conditions: tuple[Condition, ...] = ()

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
        if self.skip == "stationary" and self.fold != "haar":
            raise ValueError("skip: stationary needs fold: haar")
        if self.latent != "none" and self.fold != "none":
            raise ValueError(f"latent {self.latent} needs fold: none")
        names = [condition.name for condition in self.conditions]
        if len(set(names)) < len(names):
            raise ValueError(f"conditions {names} must differ in name")
        return self

    @property
    def multiple(self) -> int:
        """Return what every side of a volume must be a multiple of."""
        return self.finer * 2 ** (len(self.channels) - 1 + (self.fold == "haar"))

    @property
    def finer(self) -> int:
        """Return how many voxels of a volume are one of what is sampled, along an axis."""
        return 1 if self.latent == "none" else LATENT_FACTOR

    def sampled(self, size: tuple[int, int, int]) -> tuple[int, int, int, int]:
        """Return the shape (C, X, Y, Z) of what is sampled for a volume of so many voxels."""
        x, y, z = (side // self.finer for side in size)
        return (1 if self.latent == "none" else LATENT_CHANNELS), x, y, z

    @property
    def fov_mm(self) -> tuple[float, float, float]:
        """Return the field of view along x, y, z."""
        x, y, z = self.size
        return x * self.spacing_mm, y * self.spacing_mm, z * self.spacing_mm

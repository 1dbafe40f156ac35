"""The sizes of a detector as data: one mapping describes a network completely, in a YAML file or beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from shared.errors import InputError

Model = TypeVar("Model", bound=BaseModel)
Share = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """A frozen model in which a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class UNetConfig(Settings):
    """Size of the SR3 UNet; the defaults are those of the published weights.

    Attributes:
        bands: C, of the images.
        channels: of the finest level.
        multipliers: channels of each level in units of `channels`, finest first; the grid halves between levels.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: levels with self-attention (0 is the finest); the middle always has it.
        groups: of the group normalisations.
        dropout: probability of the second half of each residual block, in training.
        fold: the network sees fold x fold pixels as channels of one, so everything costs fold^2 less. 1 is published.
    """

    bands: PositiveInt = 3
    channels: PositiveInt = 128
    multipliers: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = (1, 2, 4, 8, 8)
    blocks: PositiveInt = 2
    attention: tuple[Annotated[int, Field(ge=0)], ...] = (4,)
    groups: PositiveInt = 32
    dropout: Share = 0.2
    fold: PositiveInt = 1

    @model_validator(mode="after")
    def _fits(self) -> UNetConfig:
        if self.channels % 2:
            raise ValueError("channels must be even: half are sines and half cosines of the noise level")
        if any(width % self.groups for width in self.widths):
            raise ValueError(f"channels x multipliers {self.widths} must be multiples of groups = {self.groups}")
        if any(level >= len(self.multipliers) for level in self.attention):
            raise ValueError(f"attention must name levels below {len(self.multipliers)}")
        return self

    @property
    def widths(self) -> tuple[int, ...]:
        """Return the channels of each level, finest first."""
        return tuple(self.channels * multiplier for multiplier in self.multipliers)

    @property
    def multiple(self) -> int:
        """Return what H and W must be multiples of."""
        return self.fold * 2 ** (len(self.multipliers) - 1)

    @property
    def outputs(self) -> int:
        """Return the number of blocks on the way up."""
        return len(self.multipliers) * (self.blocks + 1)

    def level_of(self, scale: int) -> int:
        """Return the level (0 is the finest) of the decoder's output `scale`, counted from the last one."""
        return scale // (self.blocks + 1)

    @property
    def first_scales(self) -> tuple[int, ...]:
        """Return the outputs of the first block of each level on the way up, coarsest first: (14, 11, 8, 5, 2)."""
        count = self.blocks + 1
        return tuple(count * (level + 1) - 1 for level in reversed(range(len(self.multipliers))))


class ScheduleConfig(Settings):
    """The noise table.

    Attributes:
        kind: "linear" in beta, or "cosine".
        steps: T.
        first: beta of the first step (linear).
        last: beta of the last step (linear).
    """

    kind: Literal["linear", "cosine"] = "linear"
    steps: PositiveInt = 2000
    first: Annotated[float, Field(gt=0, lt=1)] = 1e-6
    last: Annotated[float, Field(gt=0, lt=1)] = 1e-2


class DiffusionConfig(Settings):
    """A diffusion network over images: all that pretraining decides.

    Attributes:
        unet: the network.
        schedule: its noise.
        low: value of each band (or of all) that the network sees as -1. A constant of the sensor, never of an image.
        high: value of each band (or of all) that the network sees as 1.
    """

    unet: UNetConfig = UNetConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    low: Annotated[tuple[float, ...], Field(min_length=1)] = (0.0,)
    high: Annotated[tuple[float, ...], Field(min_length=1)] = (255.0,)

    @model_validator(mode="after")
    def _fits(self) -> DiffusionConfig:
        if {len(self.low), len(self.high)} - {1, self.unet.bands}:
            raise ValueError(f"low and high must hold one number, or one for each of {self.unet.bands} bands")
        if any(high <= low for low, high in self.limits):
            raise ValueError("high must lie above low")
        return self

    @property
    def limits(self) -> tuple[tuple[float, float], ...]:
        """Return (low, high) of every band."""
        bands = self.unet.bands
        low, high = (values * bands if len(values) == 1 else values for values in (self.low, self.high))
        return tuple(zip(low, high, strict=True))


class HeadConfig(Settings):
    """Size of the change head.

    Attributes:
        timesteps: noise steps (1 ... T) at which features are taken.
        scales: outputs of the decoder, counted from the last one, one of every level; None is the first of each level.
        use_finest: classify the finest difference. The published head computes it and classifies the level above.
        hidden: channels of the classifier.
        ordered: tell the dates apart, and let what both show weigh their difference. The published head does not.
    """

    timesteps: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (50, 100, 400)
    scales: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    use_finest: bool = False
    hidden: PositiveInt = 64
    ordered: bool = False


class DetectorConfig(Settings):
    """A change detector: diffusion network, head and the noise of the features.

    Attributes:
        diffusion: the network whose features are compared.
        head: the network that compares them.
        noise: "shared" gives both dates the same noise at the same place, so identical images do not differ;
            "independent" is published.
        seed: of the noise.
        temperature: by which the logit of change is divided, see `calibration`.
        logit_shift: which is taken from it before.
    """

    diffusion: DiffusionConfig = DiffusionConfig()
    head: HeadConfig = HeadConfig()
    noise: Literal["shared", "independent"] = "shared"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    temperature: PositiveFloat = 1.0
    logit_shift: float = 0.0

    @model_validator(mode="after")
    def _fits(self) -> DetectorConfig:
        unet, steps = self.diffusion.unet, self.diffusion.schedule.steps
        if max(self.head.timesteps) > steps:
            raise ValueError(f"timesteps must be at most {steps}, the steps of the schedule")
        levels = sorted(unet.level_of(scale) for scale in self.scales)
        if levels != list(range(len(unet.multipliers))):
            raise ValueError(f"scales must name one output of each of {len(unet.multipliers)} levels, found {levels}")
        return self

    @property
    def scales(self) -> tuple[int, ...]:
        """Return the decoder's outputs that the head is made for, coarsest first."""
        scales = self.head.scales
        return self.diffusion.unet.first_scales if scales is None else tuple(sorted(scales, reverse=True))

    @property
    def used_scales(self) -> tuple[int, ...]:
        """Return those that its output depends on."""
        return self.scales if self.head.use_finest else self.scales[:-1]


OFFICIAL = DetectorConfig(noise="independent")
LIGHT = DetectorConfig(
    diffusion=DiffusionConfig(
        unet=UNetConfig(channels=48, multipliers=(1, 2, 3), blocks=1, attention=(), groups=8, dropout=0.0, fold=4)
    ),
    head=HeadConfig(timesteps=(100,), use_finest=True, hidden=32, ordered=True),
)
PRESETS = {"official": OFFICIAL, "light": LIGHT}
"""Detectors by name: the published one, and one that a CPU trains."""


def from_data(model: type[Model], data: Mapping[str, Any]) -> Model:
    """Return the settings that a mapping describes.

    Raises:
        InputError: an unknown key, or a value that does not fit; named by its path.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or model.__name__
        raise InputError(
            key,
            found=repr(first.get("input"))[:200] if first["loc"] else "values that do not fit each other",
            expected=first["msg"].removeprefix("Value error, "),
            fix="Correct the configuration.",
        ) from error


def detector_from_data(data: Mapping[str, Any]) -> DetectorConfig:
    """Return the configuration that a mapping describes; "preset" ("official", "light") gives what is left out.

    Raises:
        InputError: an unknown preset or key, or a value that does not fit.
    """
    values = dict(data)
    preset = values.pop("preset", "official")
    if preset not in PRESETS:
        raise InputError(
            "preset", found=repr(preset), expected=f"one of {', '.join(PRESETS)}", fix="Correct the configuration."
        )
    return from_data(DetectorConfig, _merged(PRESETS[preset].model_dump(), values))


def _merged(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return base with changes, mappings inside changed key by key."""
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return merged

"""What a data set of scenes looks like, as data: `configs/robotics/stereo_scenes.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from robotics.stereo.pair import Surface
from robotics.stereo.scenes.textures import KINDS

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Range = Annotated[tuple[float, float], Field(description="low, high")]
Layout = Literal["tabletop", "clutter", "room"]


class Settings(BaseModel):
    """A frozen model in which a misspelt key is an error, and a range is low before high."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="after")
    def _ordered(self) -> Settings:
        for name, value in self:
            if isinstance(value, tuple) and len(value) == 2 and not value[0] <= value[1]:
                raise ValueError(f"{name} must be low, high; got {value}")
        return self


class SensorConfig(Settings):
    """From light to pixels; every range is drawn from uniformly for each scene.

    Attributes:
        blur: standard deviation of the lens, px.
        noise: standard deviation at half of full scale, share of full scale; half of its variance is shot noise.
        gain: ratio of the right camera's exposure to the left's, as a log2 range.
        tint: ratio of the cameras' colour channels, as a log2 range.
        vertical_shift: of the right image, px: what rectification left over.
        gamma: exponent of the encoding.
        brightness: mean of the left image that the exposure aims at, share of full scale in linear light.
        grey: share of scenes seen by grey cameras.
    """

    blur: Range = (0.25, 0.7)
    noise: Range = (0.001, 0.015)
    gain: Range = (-0.2, 0.2)
    tint: Range = (-0.05, 0.05)
    vertical_shift: Range = (0.0, 0.3)
    gamma: Range = (1.8, 2.4)
    brightness: Range = (0.12, 0.35)
    grey: Share = 0.25


class ScenesConfig(Settings):
    """A family of scenes.

    Attributes:
        name: of the family.
        layouts: relative frequency of each layout.
        materials: relative frequency of each surface in each layout.
        textures: relative frequency of each kind of texture.
        textures_in_scene: how many different textures a scene has.
        focal: focal length, in image widths.
        baseline: m; of the layouts that choose it.
        near_disparity: largest disparity that a layout aims at, in image widths.
        objects: least and most objects in each layout.
        index: refractive index of glass.
        projector: share of scenes lit by a dot pattern.
        edge_samples: rays added to a pixel on an edge, a mirror or glass.
        sensor: from light to pixels.
    """

    name: str = "robotics/stereo_scenes"
    layouts: dict[Layout, Weight] = {"tabletop": 0.5, "clutter": 0.4, "room": 0.1}
    materials: dict[Layout, dict[str, Weight]] = {}
    textures: dict[str, Weight] = dict.fromkeys(KINDS, 1.0)
    textures_in_scene: Annotated[int, Field(ge=1)] = 8
    focal: Range = (0.75, 1.4)
    baseline: Range = (0.04, 0.25)
    near_disparity: Range = (0.06, 0.26)
    objects: dict[Layout, tuple[int, int]] = {"tabletop": (3, 12), "clutter": (8, 36), "room": (6, 20)}
    index: Range = (1.4, 1.52)
    projector: Share = 0.2
    edge_samples: Literal[0, 2, 4] = 2
    sensor: SensorConfig = SensorConfig()

    @model_validator(mode="after")
    def _known(self) -> ScenesConfig:
        surfaces = [surface.name.lower() for surface in Surface]
        for layout, weights in self.materials.items():
            if unknown := sorted({*weights} - {*surfaces}):
                raise ValueError(f"materials.{layout} names {unknown[0]!r}; known: {', '.join(surfaces)}")
        if unknown := sorted({*self.textures} - {*KINDS}):
            raise ValueError(f"textures names {unknown[0]!r}; known: {', '.join(KINDS)}")
        for layout, weight in self.layouts.items():
            if weight > 0 and layout not in self.objects:
                raise ValueError(f"objects lacks {layout!r}")
            if weight > 0 and sum(self.materials.get(layout, {}).values()) <= 0:
                raise ValueError(f"materials lacks weights for {layout!r}")
        if sum(self.layouts.values()) <= 0 or sum(self.textures.values()) <= 0:
            raise ValueError("layouts and textures need a weight above 0")
        return self

"""Materials, lights and projectors of random scenes."""

from __future__ import annotations

import numpy as np

from robotics.stereo.camera import StereoCamera
from robotics.stereo.pair import Surface
from robotics.stereo.scenes.config import ScenesConfig
from robotics.stereo.scenes.scene import Light, Material, Projector
from robotics.stereo.scenes.textures import dots, make_texture


class Dresser:
    """Draws the materials of one scene.

    Args:
        config: the family of scenes.
        layout: whose frequencies of surfaces are used.
        rng: of every draw.

    Attributes:
        materials: drawn so far.
        textures: of the scene.
    """

    def __init__(self, config: ScenesConfig, layout: str, rng: np.random.Generator) -> None:
        self.config, self.rng = config, rng
        weights = config.materials[layout]  # type: ignore[index]
        self.surfaces = [Surface[name.upper()] for name in weights]
        self.chances = np.array(list(weights.values()), float) / sum(weights.values())
        kinds = list(config.textures)
        chances = np.array(list(config.textures.values()), float)
        drawn = rng.choice(len(kinds), config.textures_in_scene, p=chances / chances.sum())
        self.textures = [make_texture(kinds[int(kind)], rng) for kind in drawn]
        self.rich = [index for index, kind in enumerate(drawn) if kinds[int(kind)] != "flat"]
        self.materials: list[Material] = []

    def thing(self, pixels: float) -> int:
        """Return the index of a material of an object; `pixels` of the image are a metre there."""
        surface = self.surfaces[int(self.rng.choice(len(self.surfaces), p=self.chances))]
        return self._new(surface, pixels)

    def opaque(self, pixels: float) -> int:
        """Return the index of a diffuse or glossy material."""
        return self._new(Surface.GLOSSY if self.rng.random() < 0.2 else Surface.DIFFUSE, pixels)

    def backdrop(self, pixels: float) -> int:
        """Return the index of a material of a table, wall or floor: opaque, and seldom without texture."""
        surface = Surface.GLOSSY if self.rng.random() < 0.12 else Surface.DIFFUSE
        return self._new(surface, pixels, rich=self.rng.random() < 0.9)

    def _new(self, surface: Surface, pixels: float, *, rich: bool = False) -> int:
        rng = self.rng
        known = self.rich if rich and self.rich else range(len(self.textures))
        texture = int(rng.choice(known))
        texel = np.exp(rng.uniform(np.log(0.5), np.log(4.0)))  # size of a texel in the image, px
        shine, sharpness, reflectance = 0.0, 30.0, 0.04
        match surface:
            case Surface.DIFFUSE | Surface.TRANSLUCENT:
                colours = self._palette(rich)
            case Surface.GLOSSY:
                colours = self._palette(rich)
                shine, sharpness = rng.uniform(0.05, 0.6), np.exp(rng.uniform(np.log(10), np.log(300)))
                reflectance = rng.uniform(0.03, 0.15)
            case Surface.MIRROR:
                colours = np.tile(_tint(rng, 0.75, 0.95, 0.12), (3, 1))
                shine, sharpness = rng.uniform(0.2, 1.0), 400.0
            case _:
                clear = rng.random() < 0.7
                colours = np.tile(_tint(rng, 0.9, 0.99, 0.03) if clear else _tint(rng, 0.6, 0.95, 0.3), (3, 1))
                shine, sharpness = rng.uniform(0.3, 1.0), np.exp(rng.uniform(np.log(100), np.log(500)))
        self.materials.append(
            Material(
                surface, colours, texture=texture, texels=float(pixels / texel),
                shine=float(shine), sharpness=float(sharpness), reflectance=float(reflectance),
                index=float(rng.uniform(*self.config.index)), opacity=float(rng.uniform(0.3, 0.8)),
            )
        )  # fmt: skip
        return len(self.materials) - 1

    def _palette(self, rich: bool) -> np.ndarray:
        """Return three colours: often of one hue and, unless `rich`, little contrast; else of any."""
        rng = self.rng
        base = _colour(rng)
        if rng.random() < 0.5:
            contrast = rng.uniform(0.5 if rich else 0.15, 1.2)
            shades = base * np.exp(contrast * rng.standard_normal((2, 1))) + 0.05 * rng.standard_normal((2, 3))
            return np.clip(np.stack([base, *shades]), 0.02, 0.95)
        return np.stack([base, _colour(rng), _colour(rng)])


def _colour(rng: np.random.Generator) -> np.ndarray:
    """Return a colour in linear light; most things are of low saturation."""
    value = rng.uniform(0.03, 0.9) ** 1.3
    hue = np.clip(0.5 + 0.5 * np.cos(2 * np.pi * (rng.random() + np.array([0.0, 1 / 3, 2 / 3]))), 0.0, 1.0)
    saturation = rng.beta(1.2, 2.5)
    return np.clip(value * ((1 - saturation) + saturation * hue), 0.02, 0.95)


def _tint(rng: np.random.Generator, low: float, high: float, spread: float) -> np.ndarray:
    return np.clip(rng.uniform(low, high) + rng.uniform(-spread, spread, 3), 0.05, 0.995)


def random_lights(
    up: np.ndarray, middle: np.ndarray, rng: np.random.Generator, *, dim: bool
) -> tuple[tuple[Light, ...], np.ndarray]:
    """Return one or two lamps above the scene and the ambient light; `dim` leaves room for a projector's dots."""
    scale = float(np.linalg.norm(middle))
    count = int(rng.integers(1, 3))
    lamps = []
    for _ in range(count):
        offset = rng.uniform(-1.2, 1.2, 3) * scale
        offset += up * (scale * rng.uniform(0.7, 2.0) - offset @ up)
        # The lamp stays out of what is behind the scene: it is drawn towards the camera.
        position = 0.6 * middle + offset
        strength = rng.uniform(0.3, 1.0) / count * (0.3 if dim else 1.0)
        lamps.append(Light(position, strength * rng.uniform(0.8, 1.0, 3)))
    return tuple(lamps), rng.uniform(0.15, 0.6) * (0.4 if dim else 1.0) * rng.uniform(0.85, 1.0, 3)


def random_projector(
    config: ScenesConfig, camera: StereoCamera, dresser: Dresser, rng: np.random.Generator
) -> Projector | None:
    """Return a dot projector near the left camera in a share of the scenes, and add its pattern to the textures."""
    if rng.random() >= config.projector:
        return None
    dresser.textures.append(dots(rng))
    position = np.array([rng.uniform(0.2, 0.8) * camera.baseline, rng.uniform(-0.01, 0.01), 0.0])
    # A texel is 0.5 to 0.9 px wide, a cell with a dot 8 texels.
    return Projector(position, rng.uniform(0.15, 0.8), camera.fx / rng.uniform(0.5, 0.9), len(dresser.textures) - 1)

"""A scene as data: primitives, materials, lights, textures, and the cameras that look at it.

The world frame is the optical frame of the left camera: x right, y down, z forward, metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robotics.stereo.pair import Surface
from robotics.stereo.scenes.primitives import Primitive


@dataclass(frozen=True)
class Material:
    """How a surface looks; colours are linear light in [0, 1].

    Attributes:
        surface: what becomes of a ray.
        colours: (3, 3), rows c0, c1, c2 of the texture's mixture; of glass and mirrors, row 0 is the tint.
        texture: index in the scene's textures.
        texels: texels per metre on the surface.
        shine: strength of the lights' highlights.
        sharpness: exponent of Blinn and Phong's highlights.
        reflectance: share reflected at normal incidence, of GLOSSY.
        index: of refraction, of GLASS and THIN_GLASS.
        opacity: share of the light that TRANSLUCENT scatters, the rest goes straight through.
    """

    surface: Surface
    colours: np.ndarray
    texture: int = 0
    texels: float = 100.0
    shine: float = 0.0
    sharpness: float = 30.0
    reflectance: float = 0.04
    index: float = 1.45
    opacity: float = 0.5


@dataclass(frozen=True)
class Light:
    """A lamp far enough to have no falloff.

    Attributes:
        position: (3,), m.
        colour: (3,) linear light.
    """

    position: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True)
class Environment:
    """What a ray sees that meets nothing: a gradient along `up` and bright soft windows.

    Attributes:
        up: (3,) unit vector against gravity.
        top: (3,) colour straight up.
        bottom: (3,) colour straight down.
        windows: (K, 7) rows of a direction (unit), a colour, and a sharpness.
    """

    up: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    windows: np.ndarray


@dataclass(frozen=True)
class Projector:
    """A dot projector beside the left camera.

    Attributes:
        position: (3,), m.
        strength: light of a dot on a white surface.
        texels: of the pattern per unit of x / z.
        texture: index of the pattern.
    """

    position: np.ndarray
    strength: float
    texels: float
    texture: int


@dataclass(frozen=True)
class Scene:
    """Everything that light meets.

    Attributes:
        primitives: what is hit.
        materials: by the primitives' indices.
        textures: by the materials' indices; (SIZE, SIZE, 2) each.
        lights: lamps, with shadows.
        ambient: (3,) light from everywhere.
        environment: behind everything.
        projector: None for passive stereo.
    """

    primitives: tuple[Primitive, ...]
    materials: tuple[Material, ...]
    textures: tuple[np.ndarray, ...]
    lights: tuple[Light, ...]
    ambient: np.ndarray
    environment: Environment
    projector: Projector | None = None

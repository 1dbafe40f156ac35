"""Where to lie, from the shape of things seen from above.

A lying surface is a level patch at 0.2 to 0.85 m over the floor that a rectangle of 1.5 m by 0.55 m fits on, pillows
included. Its axis is the direction with most room for that rectangle; its head end is where the headboard or the
pillow is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from motion.scene.field import DistanceField
from motion.scene.loading import Scene
from motion.scene.surfaces import HeightMap, candidates, describe_top, height_map
from motion.scene.walkable import ROOM_AREA, WalkableMap
from shared.errors import InputError

LYING_HEIGHTS = (0.2, 0.85)  # m over the floor
BOARD = 0.15  # m beyond the level patch: farther things are walls
LYING_SIZE = (1.5, 0.55)  # m, least length and width


@dataclass(frozen=True)
class LyingSurface:
    """A place to lie.

    Attributes:
        name: of the object.
        centre: (3,) middle of the body's place on the surface, m.
        height: of the surface over the floor, m.
        axis: (2,) unit vector from the feet to the head.
        size: (length along the axis, width), m, of the level patch.
        stand: (2,) the nearest place to stand, m.
        head: why the head is there: headboard, pillow, or "unknown" if nothing tells.
    """

    name: str
    centre: np.ndarray
    height: float
    axis: np.ndarray
    size: tuple[float, float]
    stand: np.ndarray
    head: str


def find_lying(
    scene: Scene, field: DistanceField, walkable: WalkableMap, *, name: str | None = None, within: float = 0.8
) -> tuple[LyingSurface, ...]:
    """Return the lying surfaces of one object or of all, those with most room first within an object.

    Args:
        scene: from `read_scene`.
        field: of it.
        walkable: of it.
        name: of an object, as for `Scene.find`; None for all but those of `surfaces.NEVER_OCCUPIED`.
        within: how far the place to stand may be from the middle of the surface beyond half its width, m.

    Raises:
        InputError: nobody can lie on a named object; why is told.
    """
    surfaces: list[LyingSurface] = []
    for o in candidates(scene, name):
        surface = height_map([o], scene.floor).closed()
        found = [_lying(o.name, surface, *place, scene, field, walkable, within) for place in _places(surface)]
        usable = [lying for lying in found if isinstance(lying, LyingSurface)]
        if name is not None and not usable:
            reasons = [lying for lying in found if isinstance(lying, str)]
            raise InputError(
                f"{scene.source}: {o.name}", found=reasons[0] if reasons else describe_top(surface, LYING_HEIGHTS),
                expected=f"a level patch of {LYING_SIZE[0]} x {LYING_SIZE[1]} m at {LYING_HEIGHTS[0]} to "
                f"{LYING_HEIGHTS[1]} m over the floor", fix="Choose another object.",
            )  # fmt: skip
        surfaces += usable
    return tuple(surfaces)


def _places(surface: HeightMap) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return the level patches that a body fits on, most room first: mask (nx, ny), middle (2,) and axis (2,)."""
    from scipy import ndimage

    labels, count = ndimage.label(surface.level(*LYING_HEIGHTS))
    places = []
    for k in range(1, count + 1):
        patch = labels == k
        if patch.sum() * surface.cell**2 >= LYING_SIZE[0] * LYING_SIZE[1]:
            placed = _roomiest(ndimage.binary_dilation(patch), surface)
            if placed is not None:
                places.append((placed[0], patch, *placed[1:]))
    return [place[1:] for place in sorted(places, key=lambda place: -place[0])]


def _lying(
    name: str,
    surface: HeightMap,
    patch: np.ndarray,
    centre: np.ndarray,
    axis: np.ndarray,
    scene: Scene,
    field: DistanceField,
    walkable: WalkableMap,
    within: float,
) -> LyingSurface | str:
    """Return the surface, or why nobody can lie there."""
    height = float(np.median(surface.heights[patch]))
    across = np.array([-axis[1], axis[0]])
    offsets = surface.centres(np.argwhere(patch)) - centre
    along, aside = offsets @ axis, offsets @ across
    straight = along[np.abs(aside) < 0.2], aside[np.abs(along) < 0.3]
    size = (float(np.ptp(straight[0])) + surface.cell, float(np.ptp(straight[1])) + surface.cell)
    sign, why = _head(surface, centre, axis, straight[0], height)
    place = np.array([*centre, scene.floor + height])
    body = place + np.linspace(-0.7, 0.7, 8)[:, None] * np.array([*axis, 0.0]) + np.array([0.0, 0.0, 0.35])
    if float(field(torch.from_numpy(body)).min()) < 0.1:
        return "a surface with something over it"
    stand = walkable.nearest(centre, within + size[1] / 2, area=ROOM_AREA)
    if stand is None:
        return "a surface with no place to stand beside it"
    return LyingSurface(name, place, height, sign * axis, size, stand, why)


def _roomiest(patch: np.ndarray, surface: HeightMap) -> tuple[int, np.ndarray, np.ndarray] | None:
    """Return where a body fits: the number of places, their middle (2,) and the axis (2,) that has most; or None.

    A place is where a rectangle of the least size lies on the patch, but for 2 % of it.
    """
    best: tuple[int, np.ndarray, np.ndarray] | None = None
    for angle in np.radians(np.arange(0, 180, 5)):
        axis = np.array([np.cos(angle), np.sin(angle)])
        stencil = _rectangle(*LYING_SIZE, axis, surface.cell)
        if (np.array(stencil.shape) > patch.shape).any():
            continue
        covered = _correlation(patch, stencil)
        cells = np.argwhere(covered >= 0.98 * stencil.sum())
        if len(cells) and (best is None or len(cells) > best[0]):
            best = (len(cells), surface.centres(cells.mean(0) + (np.array(stencil.shape) - 1) / 2), axis)
    return best


def _correlation(patch: np.ndarray, stencil: np.ndarray) -> np.ndarray:
    """Return how many cells of a stencil lie on a patch, for every place of it within the patch's array."""
    spectrum = np.fft.rfft2(patch.astype(float)) * np.conj(np.fft.rfft2(stencil.astype(float), patch.shape))
    rows, columns = np.array(patch.shape) - stencil.shape + 1
    return np.fft.irfft2(spectrum, patch.shape)[:rows, :columns]


def _rectangle(length: float, width: float, axis: np.ndarray, cell: float) -> np.ndarray:
    """Return the mask of a rectangle, in an array with an odd number of rows and columns about its middle."""
    half = int(np.ceil(0.5 * np.hypot(length, width) / cell))
    offsets = cell * (np.moveaxis(np.mgrid[-half : half + 1, -half : half + 1], 0, -1))
    along, aside = np.abs(offsets @ axis), np.abs(offsets @ np.array([-axis[1], axis[0]]))
    mask = (along <= length / 2) & (aside <= width / 2)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _head(
    surface: HeightMap, centre: np.ndarray, axis: np.ndarray, along: np.ndarray, height: float
) -> tuple[float, str]:
    """Return the sign of the axis that leads to the head, and what tells: the higher board, else the pillow."""
    across = np.array([-axis[1], axis[0]])
    lanes = np.linspace(-0.25, 0.25, 11)[:, None, None] * across

    def rise(start: float, stop: float) -> float:
        line = centre + lanes + np.arange(start, stop, surface.cell)[:, None] * axis
        profile = surface.at(line)
        return float(np.median(profile.max(1)) - height)

    low, high = along.min(), along.max()
    boards = (rise(low - BOARD, low + 0.02), rise(high - 0.02, high + BOARD))
    if max(boards) > 0.1 and abs(boards[1] - boards[0]) > 0.05:
        return (1.0 if boards[1] > boards[0] else -1.0), "headboard"
    pillows = (rise(low + 0.05, low + 0.5), rise(high - 0.5, high - 0.05))
    if abs(pillows[1] - pillows[0]) > 0.03:
        return (1.0 if pillows[1] > pillows[0] else -1.0), "pillow"
    return 1.0, "unknown"

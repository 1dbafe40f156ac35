"""Both views of a scene: light, exact disparities of the first surfaces, materials."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robotics.stereo.camera import StereoCamera
from robotics.stereo.scenes.compiled import compiled
from robotics.stereo.scenes.primitives import MATERIAL
from robotics.stereo.scenes.scene import Scene
from robotics.stereo.scenes.tracing import MIRROR, NOTHING, STACK, SURFACE, trace, world_of

# Rays added to a pixel on an edge, px from its centre; the mean of each pair is the centre.
OFFSETS = np.array([(0.31, 0.17), (-0.31, -0.17), (-0.17, 0.33), (0.17, -0.33)])


@dataclass(frozen=True)
class View:
    """What one camera sees.

    Attributes:
        light: (height, width, 3) float32, linear.
        disparity: (height, width) float32, px; -doffs where nothing was met, at infinity.
        material: (height, width) uint8, values of `Surface`.
    """

    light: np.ndarray
    disparity: np.ndarray
    material: np.ndarray


def render_pair(
    scene: Scene, camera: StereoCamera, *, vertical_shift: float = 0.0, edge_samples: int = 2
) -> tuple[View, View]:
    """Return the left and the right view.

    Args:
        scene: what is seen.
        camera: the pair.
        vertical_shift: rows by which the right image lies too low.
        edge_samples: rays added to each pixel that one ray does not settle, 0, 2 or 4: silhouettes, edges of shadows,
            mirrors and glass.
    """
    world = world_of(scene)
    views = []
    for x, cx, cy in (
        (0.0, camera.cx_l, camera.cy),
        (camera.baseline, camera.cx_r, camera.cy + vertical_shift),
    ):
        light, depth, material = _view(
            *world, camera.width, camera.height, camera.fx, camera.fy, cx, cy, x, OFFSETS[:edge_samples]
        )
        disparity = (camera.fx * camera.baseline / depth - camera.doffs).astype(np.float32)
        views.append(View(light, disparity, material))
    return views[0], views[1]


@compiled
def _view(
    prims: np.ndarray, waves: np.ndarray, mats: np.ndarray, lamps: np.ndarray, sky: np.ndarray, windows: np.ndarray,
    texels: np.ndarray, width: int, height: int, fx: float, fy: float, cx: float, cy: float, x: float,
    offsets: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return light (height, width, 3) float32, depth Z float64 and materials uint8 of a camera at (x, 0, 0)."""
    image = np.zeros((height, width, 3), np.float32)
    depth = np.empty((height, width))
    material = np.zeros((height, width), np.uint8)
    key = np.empty((height, width), np.int64)
    stack = np.empty((STACK, 11))
    # The first turn takes one ray a pixel, the second adds rays where neighbours differ.
    for turn in range(2 if len(offsets) else 1):
        for row in range(height):
            for column in range(width):
                own = key[row, column]
                if turn == 1 and not (
                    material[row, column] >= MIRROR
                    or own != key[max(row - 1, 0), column] or own != key[min(row + 1, height - 1), column]
                    or own != key[row, max(column - 1, 0)] or own != key[row, min(column + 1, width - 1)]
                ):  # fmt: skip
                    continue
                for k in range(1 if turn == 0 else len(offsets)):
                    a, b = (column - cx) / fx, (row - cy) / fy
                    if turn == 1:
                        a, b = a + offsets[k, 0] / fx, b + offsets[k, 1] / fy
                    long = math.sqrt(a * a + b * b + 1.0)
                    ray = (a / long, b / long, 1.0 / long)
                    light, t, p, lit = trace(
                        prims, waves, mats, lamps, sky, windows, texels, (x, 0.0, 0.0), ray, 1.0 / fx, stack
                    )
                    for channel in range(3):
                        image[row, column, channel] += light[channel]
                    if turn == 0:
                        depth[row, column] = t / long
                        key[row, column] = 64 * p + lit
                        if p != NOTHING:
                            material[row, column] = int(mats[int(prims[p, MATERIAL]), SURFACE])
                if turn == 1:
                    for channel in range(3):
                        image[row, column, channel] /= 1 + len(offsets)
    return image, depth, material

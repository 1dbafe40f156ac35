"""From disparities to points, and from the right image to the left one."""

from __future__ import annotations

import os

import numpy as np

from robotics.stereo.camera import StereoCamera
from shared.files import atomic_path


def points_of(disparity: np.ndarray, camera: StereoCamera) -> np.ndarray:
    """Return the points (height, width, 3) float32, m, in the left camera's optical frame; NaN where unknown.

    X = (u - cx_l) Z / fx, Y = (v - cy) Z / fy, Z = fx B / (d + doffs).
    """
    depth = camera.depth(disparity).astype(np.float64)
    height, width = disparity.shape
    x = (np.arange(width)[None] - camera.cx_l) / camera.fx * depth
    y = (np.arange(height)[:, None] - camera.cy) / camera.fy * depth
    return np.stack([x, y, depth], -1).astype(np.float32)


def resized_disparity(disparity: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the map of images resampled to this size: the nearest pixel, its value times width / old width.

    A mean of neighbours would invent depths at edges and spread holes.
    """
    rows, columns = (
        ((np.arange(after) + 0.5) * before / after).astype(int)
        for after, before in zip((height, width), disparity.shape, strict=True)
    )
    return (disparity[rows[:, None], columns] * np.float32(width / disparity.shape[1])).astype(np.float32)


def write_ply(
    path: str | os.PathLike[str], points: np.ndarray, colours: np.ndarray | None = None, *, overwrite: bool = False
) -> int:
    """Write points as a binary little-endian PLY file; unknown ones are left out. Returns how many were written.

    Args:
        path: of the file.
        points: (..., 3) float, m.
        colours: (..., 3) uint8 RGB, or None.
        overwrite: replace an existing file.
    """
    flat = points.reshape(-1, 3)
    known = np.isfinite(flat).all(1)
    fields = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    header = "".join(f"property float {axis}\n" for axis in "xyz")
    if colours is not None:
        fields += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
        header += "".join(f"property uchar {name}\n" for name in ("red", "green", "blue"))
    rows = np.zeros(int(known.sum()), np.dtype(fields))
    for axis, name in enumerate("xyz"):
        rows[name] = flat[known, axis]
    if colours is not None:
        for channel, name in enumerate(("red", "green", "blue")):
            rows[name] = colours.reshape(-1, 3)[known, channel]
    with atomic_path(path, overwrite=overwrite) as scratch:
        text = "ply\nformat binary_little_endian 1.0\ncomment metres, optical frame: x right, y down, z forward\n"
        text += f"element vertex {len(rows)}\n{header}end_header\n"
        scratch.write_bytes(text.encode("ascii") + rows.tobytes())
    return len(rows)


def warp_to_left(right: np.ndarray, disparity: np.ndarray) -> np.ndarray:
    """Return I_r(x - d(x), y), the right image or map seen from the left, float32; NaN where out of view or unknown.

    Args:
        right: (height, width) or (height, width, C). Linear between columns; an unknown neighbour makes unknown.
        disparity: (height, width) of the left image, px.
    """
    height, width = disparity.shape
    column = np.arange(width, dtype=np.float64)[None] - disparity
    with np.errstate(invalid="ignore"):
        seen = (column >= 0) & (column <= width - 1)
    safe = np.where(seen, column, 0.0)
    low = np.minimum(safe.astype(np.int64), width - 2)
    share = safe - low
    rows = np.arange(height)[:, None]
    if right.ndim == 3:
        share, seen = share[..., None], seen[..., None]
    first, second = right[rows, low].astype(np.float64), right[rows, low + 1].astype(np.float64)
    # A neighbour of no weight does not count, even if it is unknown.
    value = np.where(share == 0, first, np.where(share == 1, second, (1 - share) * first + share * second))
    return np.where(seen, value, np.nan).astype(np.float32)

"""PNG preview of a volume: up to twelve slices as a radiologist hangs them, with orientation letters and the window."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medical.images import Image, display_oriented, plane, toward
from shared.pictures import Window, label, montage, png_bytes, render, titled

if TYPE_CHECKING:
    from PIL.Image import Image as Bitmap

MOST_SLICES = 12
SINGLE_PIXELS = 512  # longer side of one slice alone
TILE_PIXELS = 256  # longer side of a slice in a montage


def write_preview(image: Image, path: Path) -> dict[str, Any]:
    """Write the preview of |image|; return the window and the slices shown."""
    bitmap, window, slices = preview(image)
    path.write_bytes(png_bytes(bitmap))
    return {"preview_window": [window.low, window.high], "preview_window_rule": window.rule, "preview_slices": slices}


def preview(image: Image) -> tuple[Bitmap, Window, list[int]]:
    """Draw a volume in true proportions, one window for all slices.

    Returns:
        The bitmap, its window, and the indices of the slices shown.
    """
    from medical.sidecar import describe

    known = not image.provenance.get("nominal_geometry")
    shown = display_oriented(image)
    volume = shown.magnitude().cpu().numpy()
    window = Window.at_percentile(volume)
    count = len(volume)
    # More slices than tiles: even steps that leave out the ends, where there is often no tissue.
    even = np.linspace(0, count - 1, MOST_SLICES + 2).round()[1:-1]
    slices = list(range(count)) if count <= MOST_SLICES else [int(z) for z in even]
    dx, dy, _ = shown.voxel_size_mm()
    extent = np.array([volume.shape[2] * dx, volume.shape[1] * dy])
    longer = SINGLE_PIXELS if len(slices) == 1 else TILE_PIXELS
    width, height = (int(n) for n in np.maximum(1, np.rint(extent * longer / extent.max())))
    tiles = []
    for z in slices:
        tile = render(volume[z], window, size=(width, height))
        if known:
            mark_orientation(tile, shown, size=max(11, longer // 22))
        if len(slices) > 1:
            label(tile, f"{z}", at="top left", size=11)
        tiles.append(tile)
    left = edge_letters(shown)["left"]
    side = f"radiological: left of the picture is {left}" if known else "orientation unknown"
    lines = ["Not for diagnosis", describe(image), f"{plane(shown.affine)}, {side}", str(window)]
    return titled(montage(tiles), lines, size=12), window, slices


def edge_letters(image: Image) -> dict[str, str]:
    """Return the anatomical letter at each edge of a displayed slice (x to the right, y downwards)."""
    x, y = image.affine[:3, 0], image.affine[:3, 1]
    return {"right": toward(x), "left": toward(-x), "bottom": toward(y), "top": toward(-y)}


def mark_orientation(bitmap: Bitmap, image: Image, *, size: int = 14) -> None:
    """Write the orientation letters onto the edges of a bitmap of one of the image's slices, in place."""
    for edge, letter in edge_letters(image).items():
        label(bitmap, letter, at=edge, size=size)

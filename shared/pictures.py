"""Arrays become pictures: window, colours, size, labels and PNG bytes, with Pillow alone.

A picture of numbers is honest only with its window, so `Window` travels with it and says in words what it shows.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as Bitmap

# Evenly spaced anchor colours, interpolated linearly in sRGB. "heat" has monotone lightness; "signed" is white at 0.
COLOURS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "gray": ((0, 0, 0), (255, 255, 255)),
    "heat": (
        (0, 0, 4),
        (31, 12, 72),
        (85, 15, 109),
        (136, 34, 106),
        (186, 54, 85),
        (227, 89, 51),
        (249, 140, 10),
        (249, 201, 50),
        (252, 255, 164),
    ),
    "signed": (
        (5, 48, 97),
        (33, 102, 172),
        (67, 147, 195),
        (146, 197, 222),
        (209, 229, 240),
        (247, 247, 247),
        (253, 219, 199),
        (244, 165, 130),
        (214, 96, 77),
        (178, 24, 43),
        (103, 0, 31),
    ),
}
BACKGROUND = (12, 13, 15)
INK = (226, 229, 233)


@dataclass(frozen=True)
class Window:
    """The values shown as the first and the last colour; what lies outside is shown as the nearer of the two.

    Attributes:
        low: value of the first colour.
        high: value of the last colour.
        rule: how the two were chosen, for the caption; "" if they were given.
    """

    low: float
    high: float
    rule: str = ""

    @classmethod
    def at_percentile(cls, values: np.ndarray, percentile: float = 99.5) -> Window:
        """Return [0, percentile of |values|], or symmetric about 0 when some value is negative."""
        finite = np.abs(values[np.isfinite(values)])
        high = float(np.percentile(finite, percentile)) if finite.size else 0.0
        high = high or float(finite.max(initial=0.0)) or 1.0
        low = -high if bool((values < 0).any()) else 0.0
        return cls(low, high, f"{percentile:g}th percentile")

    def __str__(self) -> str:
        rule = f" ({self.rule})" if self.rule else ""
        return f"window {self.low:.3g} to {self.high:.3g}{rule}"


def render(values: np.ndarray, window: Window, *, colours: str = "gray", size: tuple[int, int] | None = None) -> Bitmap:
    """Return a bitmap of a 2-D real array; row 0 is at the top, and NaN takes the first colour.

    Args:
        values: real (rows, columns).
        window: which values take the first and the last colour.
        colours: a key of `COLOURS`.
        size: (width, height) in pixels, resampled bicubically; None for one pixel a value.
    """
    from PIL import Image

    unit = np.clip((np.nan_to_num(values, nan=window.low) - window.low) / (window.high - window.low), 0.0, 1.0)
    anchors = np.array(COLOURS[colours], dtype=np.float64)
    table = np.linspace(0.0, 1.0, len(anchors))
    channels = [np.interp(unit, table, anchors[:, channel]) for channel in range(3)]
    bitmap = Image.fromarray(np.rint(np.stack(channels, axis=-1)).astype(np.uint8))
    return bitmap if size is None else bitmap.resize(size, Image.Resampling.BICUBIC)


def montage(tiles: Sequence[Bitmap], *, columns: int | None = None, gap: int = 4) -> Bitmap:
    """Return the tiles row by row on a dark ground; the number of columns defaults to a nearly square grid."""
    from PIL import Image

    columns = columns or math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    width, height = max(tile.width for tile in tiles), max(tile.height for tile in tiles)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), BACKGROUND)
    for index, tile in enumerate(tiles):
        row, column = divmod(index, columns)
        left, top = column * (width + gap), row * (height + gap)
        sheet.paste(tile, (left + (width - tile.width) // 2, top + (height - tile.height) // 2))
    return sheet


def label(bitmap: Bitmap, text: str, *, at: str = "top left", size: int = 14) -> None:
    """Write text onto a bitmap in place, with a dark rim so that it reads on any ground.

    Args:
        bitmap: RGB bitmap.
        text: one line.
        at: "top", "bottom", "left" or "right" (the middle of that edge), or a corner such as "top left".
        size: font size in pixels.
    """
    from PIL import ImageDraw, ImageFont

    words = at.split()
    margin = max(4, size // 3)
    sides = {"left": (margin, "l"), "right": (bitmap.width - margin, "r")}
    levels = {"top": (margin, "t"), "bottom": (bitmap.height - margin, "b")}
    x, horizontal = next((place for word, place in sides.items() if word in words), (bitmap.width // 2, "m"))
    y, vertical = next((place for word, place in levels.items() if word in words), (bitmap.height // 2, "m"))
    ImageDraw.Draw(bitmap).text(
        (x, y),
        text,
        fill=INK,
        font=ImageFont.load_default(size),
        anchor=horizontal + vertical,
        stroke_width=max(1, size // 12),
        stroke_fill=BACKGROUND,
    )


def titled(bitmap: Bitmap, lines: Sequence[str], *, size: int = 14) -> Bitmap:
    """Return the bitmap below a strip with lines of text; a line too long for the picture is cut with an ellipsis."""
    from PIL import Image, ImageDraw, ImageFont

    leading = round(size * 1.5)
    strip = leading * len(lines) + size // 2
    sheet = Image.new("RGB", (bitmap.width, bitmap.height + strip), BACKGROUND)
    sheet.paste(bitmap, (0, strip))
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size)
    for index, line in enumerate(lines):
        shown = line
        while draw.textlength(shown, font=font) > bitmap.width - size and len(shown) > 1:
            shown = shown[:-2] + "…" if shown.endswith("…") else shown[:-1] + "…"
        draw.text((size // 2, size // 2 + leading * index), shown, fill=INK, font=font)
    return sheet


def png_bytes(bitmap: Bitmap) -> bytes:
    """Return a bitmap as PNG bytes."""
    buffer = io.BytesIO()
    bitmap.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()

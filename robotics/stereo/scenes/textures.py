"""Procedural textures: two grey fields each, made from a seed, read through a mip pyramid.

A material mixes three colours by the two fields: c0 + a (c1 - c0) + b (c2 - c0). That is linear, so a field averaged
over the footprint of a pixel gives the averaged colour, and one sample a pixel does not alias.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

import numpy as np

from robotics.stereo.scenes.compiled import compiled

SIZE = 256
LEVELS = 7
TEXELS = sum((SIZE >> level) ** 2 for level in range(LEVELS))
KINDS = ("noise", "marble", "stripes", "checks", "text", "collage", "speckle", "flat")


def pyramids(textures: Sequence[np.ndarray]) -> np.ndarray:
    """Return the mip pyramids of textures (SIZE, SIZE, 2) one after the other, (count * TEXELS, 2) float32."""
    level = np.stack(textures).astype(np.float32)
    levels = [level]
    while len(levels) < LEVELS:
        level = 0.25 * (level[:, ::2, ::2] + level[:, 1::2, ::2] + level[:, ::2, 1::2] + level[:, 1::2, 1::2])
        levels.append(level)
    return np.concatenate([level.reshape(len(textures), -1, 2) for level in levels], 1).reshape(-1, 2)


@compiled
def look_up(texels: np.ndarray, texture: int, u: float, v: float, footprint: float) -> tuple[float, float]:
    """Return the two fields of a texture, trilinear between the texels and the levels around the footprint.

    Args:
        texels: from `pyramids`.
        texture: index.
        u: column in texels of the finest level; it repeats after SIZE.
        v: row likewise.
        footprint: width of a pixel in these texels.
    """
    level = min(max(math.log2(max(footprint, 1e-6)), 0.0), LEVELS - 1.001)
    below = int(level)
    share = level - below
    a, b = _bilinear(texels, texture, u, v, below)
    if share < 1e-3:
        return a, b
    c, d = _bilinear(texels, texture, u, v, below + 1)
    return a + share * (c - a), b + share * (d - b)


@compiled
def _bilinear(texels: np.ndarray, texture: int, u: float, v: float, level: int) -> tuple[float, float]:
    # Texel centres of every level are at half-integers of that level.
    edge = SIZE >> level
    x, y = u / (1 << level) - 0.5, v / (1 << level) - 0.5
    column, row = math.floor(x), math.floor(y)
    fx, fy = x - column, y - row
    x0, y0 = int(column) & (edge - 1), int(row) & (edge - 1)
    x1, y1 = (x0 + 1) & (edge - 1), (y0 + 1) & (edge - 1)
    # Finer levels before this one hold SIZE^2 (1 + 1/4 + ...) texels.
    start = texture * TEXELS + 4 * (SIZE * SIZE - edge * edge) // 3
    p, q, r, s = start + y0 * edge + x0, start + y0 * edge + x1, start + y1 * edge + x0, start + y1 * edge + x1
    k, l, m, n = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy  # noqa: E741
    return (
        k * texels[p, 0] + l * texels[q, 0] + m * texels[r, 0] + n * texels[s, 0],
        k * texels[p, 1] + l * texels[q, 1] + m * texels[r, 1] + n * texels[s, 1],
    )


def make_texture(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return a periodic texture (SIZE, SIZE, 2) float32 in [0, 1]; `kind` is one of `KINDS`."""
    fields = _octaves(rng, rng.uniform(0.7, 1.9))
    match kind:
        case "noise":
            return fields
        case "marble":
            turns = rng.uniform(2.0, 12.0)
            return np.stack([0.5 + 0.5 * np.sin(2 * np.pi * turns * fields[..., 0]), fields[..., 1]], -1)
        case "stripes" | "checks":
            return np.stack([_bands(kind, rng, fields), fields[..., 1]], -1)
        case "text":
            return np.stack([_text(rng), fields[..., 1] * rng.uniform(0.0, 0.6)], -1)
        case "collage":
            return np.stack([_collage(rng), 0.7 * _collage(rng) + 0.3 * fields[..., 1]], -1)
        case "speckle":
            grain = rng.random((SIZE, SIZE), np.float32)
            return np.stack([(grain > rng.uniform(0.6, 0.97)).astype(np.float32), fields[..., 1]], -1)
        case "flat":
            return (0.5 + rng.uniform(0.0, 0.06) * (fields - 0.5)).astype(np.float32)
        case _:
            raise ValueError(f"no texture {kind}")


def dots(rng: np.random.Generator, cell: int = 8) -> np.ndarray:
    """Return a projector's pattern (SIZE, SIZE, 2): one bright dot at a random place of every cell of `cell` texels."""
    count = SIZE // cell
    middle = (np.arange(count) * cell)[:, None] + rng.integers(1, cell - 1, (2, count, count)).astype(np.float64)
    middle[1] = middle[1] - (np.arange(count) * cell)[:, None] + (np.arange(count) * cell)[None]
    pattern = np.zeros((SIZE, SIZE), np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            rows, columns = (middle[0] + dy).astype(int) % SIZE, (middle[1] + dx).astype(int) % SIZE
            pattern[rows, columns] = np.maximum(pattern[rows, columns], np.exp(-0.7 * (dx * dx + dy * dy)))
    return np.stack([pattern, pattern], -1)


def _octaves(rng: np.random.Generator, exponent: float) -> np.ndarray:
    """Return two independent fields (SIZE, SIZE, 2) with amplitude 1 / f^exponent, in [0, 1] with mean 1/2.

    White noise times a real spectrum: the real and the imaginary part of one transform are two real fields.
    """
    import scipy.fft

    frequency = np.fft.fftfreq(SIZE).astype(np.float32) * SIZE
    radius = np.hypot(frequency[:, None], frequency[None])
    radius[0, 0] = 1.0
    shape = radius ** np.float32(-exponent)
    shape[0, 0] = 0.0
    # Some textures are drawn out, like wood or brushed metal.
    if rng.random() < 0.25:
        shape *= np.exp(-np.abs(frequency[None, :] if rng.random() < 0.5 else frequency[:, None]) / rng.uniform(2, 12))
    white = rng.standard_normal((2, SIZE, SIZE), np.float32)
    field = scipy.fft.ifft2((white[0] + 1j * white[1]).astype(np.complex64) * shape.astype(np.float32))
    both = np.stack([field.real, field.imag], -1)
    both /= both.std((0, 1)) + 1e-9
    return np.clip(0.5 + rng.uniform(0.18, 0.4) * both, 0.0, 1.0).astype(np.float32)


def _bands(kind: str, rng: np.random.Generator, fields: np.ndarray) -> np.ndarray:
    """Return stripes or checks with a whole number of periods, a random duty and wavy edges."""
    axis = np.arange(SIZE, dtype=np.float32) / SIZE
    periods = rng.integers(3, 28, 2)
    wave = rng.uniform(0.0, 0.6) * rng.integers(0, 2) * (fields[..., 0] - 0.5)
    duty = rng.uniform(0.3, 0.7)
    first = ((axis[None] * periods[0] + wave) % 1.0) < duty
    if kind == "stripes":
        return first.astype(np.float32)
    second = ((axis[:, None] * periods[1] + wave) % 1.0) < duty
    return (first ^ second).astype(np.float32)


def _text(rng: np.random.Generator) -> np.ndarray:
    """Return lines of random letters at random sizes: the ink, 0 or 1 with soft edges."""
    from PIL import Image, ImageDraw, ImageFont

    sheet = Image.new("L", (SIZE, SIZE), 0)
    draw = ImageDraw.Draw(sheet)
    letters = np.array(list(string.ascii_letters + string.digits + "   "))
    row = int(rng.integers(0, 8))
    while row < SIZE:
        size = int(rng.integers(9, 42) if rng.random() < 0.3 else rng.integers(9, 16))
        line = "".join(rng.choice(letters, int(1.8 * SIZE / size)))
        draw.text((int(rng.integers(-4, 30)), row), line, fill=255, font=ImageFont.load_default(size))
        row += int(size * rng.uniform(1.05, 1.8))
    return np.asarray(sheet, np.float32) / 255


def _collage(rng: np.random.Generator) -> np.ndarray:
    """Return overlapping ellipses, rectangles and triangles of random grey."""
    from PIL import Image, ImageDraw

    sheet = Image.new("L", (SIZE, SIZE), int(rng.integers(0, 256)))
    draw = ImageDraw.Draw(sheet)
    count = int(rng.integers(20, 160))
    places = rng.uniform(-20, SIZE + 20, (count, 2))
    sizes = np.exp(rng.uniform(np.log(3), np.log(60), (count, 2)))
    for (x, y), (wide, tall), kind, grey in zip(
        places, sizes, rng.integers(0, 3, count), rng.integers(0, 256, count), strict=True
    ):
        edges = (x - wide / 2, y - tall / 2, x + wide / 2, y + tall / 2)
        if kind == 0:
            draw.ellipse(edges, fill=int(grey))
        elif kind == 1:
            draw.rectangle(edges, fill=int(grey))
        else:
            corners = [(x + wide * a, y + tall * b) for a, b in rng.uniform(-0.6, 0.6, (3, 2))]
            draw.polygon(corners, fill=int(grey))
    return np.asarray(sheet, np.float32) / 255

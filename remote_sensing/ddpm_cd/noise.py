r"""Noise that belongs to a place on the ground: a pure function of seed, step, date, band, row and column.

A counter-based generator gives each pixel of an unbounded raster its own numbers, in any order, with no state. So a
scene has the same noise however it is cut into tiles, and two dates have the same noise where they show the same place.

    w = Philox4x32-10(counter = (column, row, 2^16 date + band // 4, step), key = seed)
    eps_{4k}, eps_{4k+1} = r cos(phi), r sin(phi),   r = sqrt(-2 ln((w_0 + 1/2) / 2^32)),   phi = 2 pi w_1 / 2^32

and the same with w_2, w_3 for bands 4k + 2 and 4k + 3 (Box and Muller, 1958).

Reference: Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORDS = 4

Counter = tuple[Tensor, Tensor, Tensor, Tensor]


def philox(counter: Counter, seed: int) -> Counter:
    """Return the four words of Philox4x32-10 (Salmon et al., section 3.3).

    Args:
        counter: four int64 tensors that broadcast, each of numbers in [0, 2^32).
        seed: the key, in [0, 2^64).

    Returns:
        Four int64 tensors of numbers in [0, 2^32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = seed & WORD, seed >> 32 & WORD
    for _ in range(ROUNDS):
        # The product of two words fills 64 bits; as int64 it may be negative, but its bits are right.
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> 32 & WORD) ^ c1 ^ k0, p1 & WORD, (p0 >> 32 & WORD) ^ c3 ^ k1, p0 & WORD
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return c0, c1, c2, c3


def ground_noise(origins: Tensor, shape: tuple[int, int, int], *, seed: int, step: int, date: int = 0) -> Tensor:
    """Return N(0, 1) numbers (N, C, H, W), float32, on the device of `origins`.

    Args:
        origins: row and column of each image's first pixel in the raster of the scene, int64 (N, 2); any sign.
        shape: (C, H, W).
        seed: in [0, 2^64).
        step: of the noise table; another step has other noise.
        date: stream; both dates in the same stream have the same noise.
    """
    bands, height, width = shape
    device = origins.device

    def line(start: Tensor | int, count: int, *place: int) -> Tensor:
        return (start + torch.arange(count, device=device).reshape(place)) & WORD

    column = line(origins[:, 1].reshape(-1, 1, 1, 1), width, 1, 1, 1, -1)
    row = line(origins[:, 0].reshape(-1, 1, 1, 1), height, 1, 1, -1, 1)
    group = line(date << 16, -(-bands // WORDS), 1, -1, 1, 1)
    words = philox((column, row, group, torch.full_like(group, step)), seed)
    numbers = []
    for first, second in (words[:2], words[2:]):
        radius = torch.sqrt(-2 * torch.log((first.double() + 0.5) / 2**32))
        angle = second.double() * (2 * math.pi / 2**32)
        numbers += [(radius * angle.cos()).float(), (radius * angle.sin()).float()]
    return torch.stack(numbers, dim=2).flatten(1, 2)[:, :bands]

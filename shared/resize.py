r"""Resizing of batches (N, C, ...) along 1 to 3 spatial axes by Lanczos windows, antialiased.

Output i of an axis with extent n -> m lies at c_i = (i + 1/2) n / m and is the mean of the inputs with the weights

    L(x) = sinc(x) sinc(x / 3) for |x| < 3, else 0,       x = (j + 1/2 - c_i) / r,   r = max(1, n / m),

normalised to sum 1, so constants stay; r > 1 widens the window when the extent shrinks, which takes out what the
coarser grid cannot hold.

Reference: Duchon, Lanczos Filtering in One and Two Dimensions, 1979; the sampling is that of Pillow's `resize`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LOBES = 3


def resize(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Return x (N, C, ...) with the spatial axes of `shape`; axes whose extent stays are untouched."""
    for axis, extent in enumerate(shape, start=2):
        if x.shape[axis] != extent:
            weights = lanczos(x.shape[axis], extent).to(device=x.device, dtype=x.dtype)
            x = torch.movedim(torch.movedim(x, axis, -1) @ weights.T, -1, axis)
    return x


def lanczos(before: int, after: int) -> Tensor:
    """Return the weights (after, before) of an axis, float64, each row of sum 1."""
    ratio = before / after
    centres = (torch.arange(after, dtype=torch.float64) + 0.5) * ratio
    places = torch.arange(before, dtype=torch.float64) + 0.5
    x = (places[None, :] - centres[:, None]) / max(1.0, ratio)
    weights = torch.where(x.abs() < LOBES, torch.sinc(x) * torch.sinc(x / LOBES), 0.0)
    return weights / weights.sum(1, keepdim=True)

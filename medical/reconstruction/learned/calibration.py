"""The box of k-space that is fully sampled around the zero frequency, from which coil maps are estimated."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from shared.errors import InputError


def calibration_box(mask: Tensor, *, smallest: int = 4) -> Tensor:
    """Return the largest fully sampled box [c - h, c + h) around DC at c = N//2, in both axes.

    Masks of lines give full lines; masks that undersample both axes (Poisson, radial, Gaussian) a true box. Among boxes
    of the same area it is the most square one.

    Args:
        mask: bool (B, H, W), true where sampled.
        smallest: least side of the box (or the whole axis, where that is shorter).

    Returns:
        bool (B, H, W), true in the box.

    Raises:
        InputError: no box so large is sampled.
    """
    boxes = []
    for sampled in mask:
        height, width = sampled.shape
        least = min(smallest, height), min(smallest, width)
        halves = [torch.arange(1, (n + 1) // 2 + 1, device=mask.device) for n in (height, width)]
        (top, bottom), (left, right) = (
            ((n // 2 - h).clamp(min=0), (n // 2 + h).clamp(max=n)) for n, h in zip((height, width), halves, strict=True)
        )
        # Summed-area table: the samples missing in every box at once.
        missing = functional.pad((~sampled).long().cumsum(0).cumsum(1), (1, 0, 1, 0))
        holes = missing[bottom][:, right] - missing[top][:, right] - missing[bottom][:, left] + missing[top][:, left]
        tall, wide = (bottom - top)[:, None], (right - left)[None, :]
        fits = (holes == 0) & (tall >= least[0]) & (wide >= least[1])
        if not bool(fits.any()):
            raise InputError(
                "mask",
                found="no fully sampled box around the zero frequency",
                expected=f"at least {least[0]} x {least[1]} samples for the coil maps",
                fix="Acquire calibration lines, or shift k-space so that its centre is at N//2.",
            )
        squareness = torch.minimum(tall, wide) / (2.0 * max(height, width))
        best = int(torch.where(fits, tall * wide + squareness, -1.0).argmax())
        i, j = divmod(best, len(halves[1]))
        box = torch.zeros_like(sampled)
        box[top[i] : bottom[i], left[j] : right[j]] = True
        boxes.append(box)
    return torch.stack(boxes)

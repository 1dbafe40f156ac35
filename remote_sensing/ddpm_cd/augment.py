r"""Labelled pairs made from few: other light, other places of known objects, and pairs that hold no change for certain.

    paste    after <- (1 - m) after + m o,   label <- 1      o, m: a changed object of some pair and its soft mask
    both     before and after alike,         label <- 0      a seam, and an object, that are no change
    same     after <- before or the reverse, label <- 0      whatever differs then comes from light and shift
    warp     scale, rotation and mirror of both dates and the label; one date is also shifted by a part of a pixel
    light    u <- clamp(g_c (c (u - mean) + mean + b))^gamma, u in [0, 1], for each date on its own; then blur

Objects are cut from the second date of the training pairs. Every random number comes from one generator on the CPU, so
a batch is a function of its state; pixels are computed on the device of the batch. Dates are never swapped: the head of
DDPM-CD is symmetric in them, and to a network that is not, the labels say which date has the object.

References:
    Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method, CVPR 2021.
    Zheng et al., Change is Everywhere: Single-Temporal Supervised Object Change Detection, ICCV 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from remote_sensing.ddpm_cd.config import Settings, Share
from remote_sensing.ddpm_cd.crops import CHANGED, UNCHANGED, UNKNOWN, PairBatch, PairScene

SMALLEST = 24  # pixels of an object worth pasting
MARGIN = 4  # pixels of ground around an object's box
TAPS = 7  # of the blur
FEATHER = 5  # pixels over which a pasted object fades out
GAMMA_FLOOR = 1e-3  # below which a power has no useful slope
WHOLE = 0.99  # share of a resampled pixel that must have a value


class Augmentation(Settings):
    """How a batch of pairs is changed; every default leaves it as it is.

    Attributes:
        paste: share of the pairs into whose second date an object is pasted, once for each of `objects`.
        both: the same for objects in both dates, which are no change.
        objects: how often each is tried.
        same: share of the pairs that become one image twice.
        warp: share of the pairs that are scaled and turned by any angle.
        scale: largest factor of it, and 1 / scale the smallest.
        shift: largest misregistration in pixels, along each axis, of every pair.
        light: largest change of brightness, contrast, colour and gamma, as a share.
        blur: largest standard deviation in pixels, in half of the images.
    """

    paste: Share = 0.0
    both: Share = 0.0
    objects: Annotated[int, Field(ge=1)] = 2
    same: Share = 0.0
    warp: Share = 0.0
    scale: Annotated[float, Field(ge=1, le=2)] = 1.25
    shift: Annotated[float, Field(ge=0)] = 0.0
    light: Share = 0.0
    blur: Annotated[float, Field(ge=0, le=2)] = 0.0

    def reach(self, crop: int, most: int) -> int:
        """Return the side of the windows from which crops are warped, at most `most`."""
        if not self.warp and not self.shift:
            return crop
        widest = crop * (math.sqrt(2) * self.scale if self.warp else 1) + 2 * math.ceil(self.shift)
        return max(crop, min(most, math.ceil(widest / 2) * 2))


class Augmenter:
    """`Augmentation` over batches.

    Args:
        settings: what is done.
        pairs: whose changed objects are pasted.
        limits: (low, high) of each band, between which `light` works.
        crop: side of what it returns; objects that are larger are not pasted.
    """

    def __init__(
        self, settings: Augmentation, pairs: Sequence[PairScene], limits: Sequence[tuple[float, float]], crop: int
    ) -> None:
        self.settings, self.crop = settings, crop
        self.limits = torch.tensor(limits, dtype=torch.float32)[:, :, None, None]
        wanted = settings.paste or settings.both
        self.objects = cut_objects(pairs, crop) if wanted else torch.zeros(0, len(limits) + 1, crop, crop)

    def __call__(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        """Return the batch changed, its crops cut from the middle of the windows."""
        if self.settings == Augmentation():
            return batch
        with torch.no_grad(), torch.autocast(batch.before.device.type, enabled=False):  # places need all their digits
            return self._changed(batch, generator)

    def _changed(self, batch: PairBatch, generator: torch.Generator) -> PairBatch:
        before, after, label = batch.before, batch.after, batch.label
        known = (before.isfinite() & after.isfinite()).all(1)
        before, after = (torch.where(known[:, None], date, 0.0) for date in (before, after))
        before, after, label = self._made_same(before, after, label, generator)
        before, after, label = self._pasted(before, after, label, generator)
        before, after, label, known = self._warped(before, after, label, known, generator)
        before, after = (self._lit(date, generator) for date in (before, after))
        before, after = (torch.where(known[:, None], date, torch.nan) for date in (before, after))
        return PairBatch(before, after, label, batch.origins)

    def _made_same(
        self, before: Tensor, after: Tensor, label: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return pairs of which some are one image twice."""
        drawn = torch.rand(len(before), 2, generator=generator).to(before.device)
        chosen = drawn[:, 0] < self.settings.same
        first = (chosen & (drawn[:, 1] < 0.5))[:, None, None, None]
        second = (chosen & (drawn[:, 1] >= 0.5))[:, None, None, None]
        label = torch.where(chosen[:, None, None], UNCHANGED, label)
        return torch.where(second, after, before), torch.where(first, before, after), label

    def _pasted(
        self, before: Tensor, after: Tensor, label: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return pairs with objects in the second date, changed, and in both, unchanged."""
        settings, count, size = self.settings, len(before), before.shape[-1]
        if not len(self.objects):
            return before, after, label
        for share, twice in ((settings.both, True), (settings.paste, False)) * settings.objects:
            drawn = torch.rand(count, 8, generator=generator)
            chosen = torch.randint(len(self.objects), (count,), generator=generator)
            # Both ends of the range keep the middle of the object inside the crop, which is the middle of the window.
            place = (2 * drawn[:, 1:3] - 1) * (self.crop / size)
            matrix = _matrix(drawn[:, 3], drawn[:, 4], self.settings.scale, drawn[:, 5])
            ratio = size / self.crop
            theta = torch.cat([matrix * ratio, -(matrix @ place[:, :, None]) * ratio], 2).to(before.device)
            grid = F.affine_grid(theta, [count, 1, size, size], align_corners=False)
            stored = self.objects.to(before.device)[chosen.to(before.device)]
            pasted = F.grid_sample(stored, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
            soft, image = pasted[:, -1:], pasted[:, :-1]
            inside = soft[:, 0] >= 0.5
            free = ~(inside & (label == CHANGED)).flatten(1).any(1)
            does = (drawn[:, 0] < share).to(before.device) & free
            inside, soft = inside & does[:, None, None], soft * does[:, None, None, None]
            after = torch.lerp(after, image, soft)
            if twice:
                before = torch.lerp(before, image, soft)
            label = torch.where(inside, UNCHANGED if twice else CHANGED, label)
        return before, after, label

    def _warped(
        self, before: Tensor, after: Tensor, label: Tensor, known: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the crops, and where they have values; what lies outside the window is unknown."""
        settings, count, size, crop = self.settings, len(before), before.shape[-1], self.crop
        drawn = torch.rand(count, 6, generator=generator)
        matrix = _matrix(drawn[:, 0], drawn[:, 1], settings.scale, drawn[:, 2])
        matrix = torch.where((drawn[:, 3] < settings.warp)[:, None, None], matrix, torch.eye(2)) * (crop / size)
        shift = (2 * drawn[:, 4:6] - 1) * (2 * settings.shift / size)
        half = _parity(size, crop)
        theta = torch.cat([matrix, torch.full((count, 2, 1), half)], 2)
        moved = torch.cat([matrix, half + shift[:, :, None]], 2)
        grids = [
            F.affine_grid(part.to(before.device), [count, 1, crop, crop], align_corners=False)
            for part in (theta, moved)
        ]
        before = F.grid_sample(before, grids[0], padding_mode="reflection", align_corners=False)
        after = F.grid_sample(after, grids[1], padding_mode="reflection", align_corners=False)
        # Outside the window all masks are 0: unknown and without a value.
        masks = torch.stack([label != UNKNOWN, label == CHANGED], 1).float()
        kept = F.grid_sample(masks, grids[0], mode="nearest", align_corners=False) > 0.5
        found = torch.where(kept[:, 1], CHANGED, UNCHANGED)
        valid = torch.stack([F.grid_sample(known[:, None].float(), grid, align_corners=False) for grid in grids])
        return before, after, torch.where(kept[:, 0], found, UNKNOWN).to(torch.uint8), (valid > WHOLE).all(0)[:, 0]

    def _lit(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images under another light, and blurred."""
        light, blur, (count, bands) = self.settings.light, self.settings.blur, images.shape[:2]
        drawn = torch.rand(count, 5 + bands, generator=generator).to(images.device)
        if light:
            low, high = self.limits.to(images.device).unbind(1)
            u = (images - low) / (high - low)
            by = (2 * drawn - 1)[:, :, None, None] * light
            mean = u.mean((1, 2, 3), keepdim=True)
            u = (1 + by[:, 5:] / 2) * ((1 + by[:, 0:1]) * (u - mean) + mean + by[:, 1:2] / 2)
            u = u.clamp(GAMMA_FLOOR, 1) ** torch.exp(by[:, 2:3])
            images = low + (high - low) * u
        if blur:
            sigma = torch.where(drawn[:, 3] < 0.5, drawn[:, 4] * blur, 0.0).clamp_min(1e-2)
            offsets = torch.arange(TAPS, device=images.device) - TAPS // 2
            taps = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
            taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(bands, 0)
            flat = F.pad(images.reshape(1, -1, *images.shape[2:]), [TAPS // 2] * 4, mode="replicate")
            flat = F.conv2d(flat, taps[:, None, None, :], groups=count * bands)
            images = F.conv2d(flat, taps[:, None, :, None], groups=count * bands).reshape(images.shape)
        return images


def cut_objects(pairs: Sequence[PairScene], size: int) -> Tensor:
    """Return the changed objects of the second dates with the ground around, and their soft masks as the last band.

    An object is a connected part of the label that fits into a square of `size`; it lies in the middle of it.

    Returns:
        (objects, C + 1, size, size), float32; no objects where there is no label.
    """
    from scipy.ndimage import find_objects, gaussian_filter, label

    found = []
    for pair in pairs:
        if pair.label is None:
            continue
        marks, _ = label(pair.label == CHANGED)
        for index, box in enumerate(find_objects(marks), start=1):
            rows, columns = (slice(max(0, side.start - MARGIN), side.stop + MARGIN) for side in box)
            mask = marks[rows, columns] == index
            if mask.sum() < SMALLEST or max(mask.shape) > size:
                continue
            part = pair.after[:, rows, columns].astype(np.float32)
            if not np.isfinite(part).all():
                continue
            soft = np.maximum(gaussian_filter(mask.astype(np.float32), FEATHER / 4), 0.0)
            soft = np.where(mask, np.maximum(soft, 0.5), np.minimum(soft, 0.49))
            top, left = ((size - side) // 2 for side in mask.shape)
            whole = np.zeros((len(part) + 1, size, size), np.float32)
            # The ground's last pixels continue to the edge, so that interpolation meets no black.
            around = ((0, 0), (top, size - top - mask.shape[0]), (left, size - left - mask.shape[1]))
            whole[:-1] = np.pad(part, around, mode="edge")
            whole[-1, top : top + mask.shape[0], left : left + mask.shape[1]] = soft
            found.append(whole)
    bands = len(pairs[0].after)
    return torch.from_numpy(np.stack(found)) if found else torch.zeros(0, bands + 1, size, size)


def _matrix(angle: Tensor, zoom: Tensor, scale: float, mirror: Tensor) -> Tensor:
    """Return 2 x 2 matrices of a turn, a factor within [1 / scale, scale] and a mirror, of numbers in [0, 1)."""
    turn, factor = 2 * math.pi * angle, torch.exp((2 * zoom - 1) * math.log(scale))
    sign = torch.where(mirror < 0.5, -1.0, 1.0)
    rows = [turn.cos() * sign, -turn.sin(), turn.sin() * sign, turn.cos()]
    return torch.stack(rows, 1).reshape(-1, 2, 2) * factor[:, None, None]


def _parity(size: int, crop: int) -> float:
    """Return the shift of the middle, in halves of a window, that puts a crop's pixels on those of the window."""
    return (size - crop) % 2 / size

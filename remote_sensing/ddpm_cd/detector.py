"""The change detector: two images of one place and where they lie, to the probability of change of every pixel.

    features of noised images -> g of each date (`embed`) -> logits of the pair (`compare`) -> sigmoid

Both dates go through the networks in one pass. With shared noise an image that is the same on both dates goes through
once, and its difference is exactly zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remote_sensing.ddpm_cd.config import DetectorConfig, DiffusionConfig
from remote_sensing.ddpm_cd.features import FeatureExtractor
from remote_sensing.ddpm_cd.head import ChangeHead
from remote_sensing.ddpm_cd.schedule import noise_process
from remote_sensing.ddpm_cd.unet import UNet
from shared.errors import InputError

Precision = Literal["float32", "bfloat16", "float16"]


class ChangeDetector(nn.Module):
    """A diffusion UNet and a change head.

    Args:
        config: describes both completely.

    Attributes:
        precision: of the convolutions; float16 is for GPUs.
        most: images x timesteps put through the UNet at once, None is all: a bound of the memory.
    """

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.unet, self.head = UNet(config.diffusion.unet), ChangeHead(config)
        self.precision: Precision = "float32"
        self.most: int | None = None
        self._process = noise_process(config.diffusion.schedule)

    def scaled(self, images: Tensor) -> Tensor:
        """Return images (N, C, H, W) in the units of their sensor as the network sees them, in [-1, 1].

        Pixels without a value (NaN, infinite) become the middle of the range.
        """
        return scaled(images, self.config.diffusion)

    def probability(
        self, before: Tensor, after: Tensor, origins: Tensor | None = None, *, valid: Tensor | None = None
    ) -> Tensor:
        """Return the probability of change (N, H, W), float32, without gradients; any H and W.

        Args:
            before: (N, C, H, W) in the units of the sensor.
            after: the same places at the later date.
            origins: row and column in the scene of each image's first pixel, (N, 2); None is (0, 0) for all.
            valid: (N, H, W), where both dates have a value; elsewhere both are seen as the middle of the range and
                the result is NaN. None is everywhere where all bands are finite.

        Raises:
            InputError: shapes that do not fit, or other bands than the network's.
        """
        require_one_grid(before, after)
        if valid is None:
            valid = (before.isfinite() & after.isfinite()).all(1)
        with torch.no_grad():
            a, b = (self.scaled(torch.where(valid[:, None], image, torch.nan)) for image in (before, after))
            found = self.logits(a, b, origins)
        return torch.where(valid, self.calibrated(found), torch.nan)

    def calibrated(self, logits: Tensor) -> Tensor:
        """Return the probability of change (N, H, W), float32, of logits (N, 2, H, W)."""
        change = logits[:, 1].float() - logits[:, 0].float()
        return torch.sigmoid((change - self.config.logit_shift) / self.config.temperature)

    def logits(self, before: Tensor, after: Tensor, origins: Tensor | None = None) -> Tensor:
        """Return the logits (N, 2, H, W) of two dates, (N, C, H, W) in [-1, 1], differentiable in the parameters.

        Raises:
            InputError: shapes that do not fit, or other bands than the network's.
        """
        require_one_grid(before, after)
        where = origins_of(before, origins)
        shared = self.config.noise == "shared"
        # To look makes the host wait for the device: a training does only where dropout would tell equal dates apart.
        look = shared and (not torch.is_grad_enabled() or self.config.diffusion.unet.dropout > 0)
        changed = (before != after).flatten(1).any(1) if look else torch.ones(len(before), dtype=torch.bool)
        rows = torch.nonzero(changed.cpu()).flatten().to(before.device)
        noised = [self.noised(before, where), self.noised(after[rows], where[rows], date=0 if shared else 1)]
        both = self.embed_noised(torch.cat(noised))
        a = [level[: len(before)] for level in both]
        if len(rows) == len(before):
            b = [level[len(before) :] for level in both]
        else:
            b = [first.index_copy(0, rows, level[len(before) :]) for first, level in zip(a, both, strict=True)]
        return self.compare(a, b, before.shape[-2:])

    def embed(self, images: Tensor, origins: Tensor | None = None, *, date: int = 0) -> list[Tensor]:
        """Return g of images of one date, (N, C, H, W) in [-1, 1], at every level that the head uses, coarsest first.

        Args:
            images: of one date.
            origins: as for `probability`.
            date: 0 is before and 1 is after; they differ where the noise is independent.
        """
        stream = 0 if self.config.noise == "shared" else date
        return self.embed_noised(self.noised(images, origins_of(images, origins), date=stream))

    def noised(self, images: Tensor, origins: Tensor, *, date: int = 0) -> Tensor:
        """Return images as the UNet is given them: (N, timesteps, C, H', W'), H' and W' multiples of its step."""
        return self._extractor().noised(padded(images, self.config.diffusion.unet.multiple), origins, date)

    def embed_noised(self, noised: Tensor) -> list[Tensor]:
        """Return g of what `noised` gives."""
        with self._autocast(noised.device):
            return self.head.embed(self._extractor()(noised))

    def compare(self, before: Sequence[Tensor], after: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return the logits (N, 2, H, W) of what `embed` gave for two dates; `size` is (H, W)."""
        with self._autocast(before[0].device):
            logits = self.head.compare(before, after)
        return logits[..., : size[0], : size[1]]

    def _extractor(self) -> FeatureExtractor:
        config = self.config
        return FeatureExtractor(
            self.unet, self._process, config.head.timesteps, config.used_scales, seed=config.seed, most=self.most
        )

    def _autocast(self, device: torch.device) -> Any:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(device.type, dtype=getattr(torch, self.precision))


def require_one_grid(before: Tensor, after: Tensor) -> None:
    """Raise `InputError` if two dates have different shapes."""
    if before.shape != after.shape:
        raise InputError(
            "pair",
            found=f"images of shapes {tuple(before.shape)} and {tuple(after.shape)}",
            expected="two images of one grid",
            fix="Resample one date to the grid of the other.",
        )


def scaled(images: Tensor, config: DiffusionConfig) -> Tensor:
    """Return 2 (v - low) / (high - low) - 1 of every band of (N, C, H, W), float32, and 0 where v is not finite.

    Raises:
        InputError: other bands than the network's.
    """
    if images.ndim != 4 or images.shape[1] != config.unet.bands:
        raise InputError(
            "image",
            found=f"shape {tuple(images.shape)}",
            expected=f"(N, {config.unet.bands}, H, W), the bands of the network",
            fix="Choose as many bands as the network was trained on, in its order.",
        )
    limits = torch.tensor(config.limits, dtype=torch.float32, device=images.device)[:, :, None, None]
    low, high = limits.unbind(1)
    return (2 * (images.float() - low) / (high - low) - 1).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def padded(images: Tensor, multiple: int) -> Tensor:
    """Return images with their last rows and columns repeated up to a multiple."""
    bottom, right = (-size % multiple for size in images.shape[-2:])
    return F.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images


def origins_of(images: Tensor, origins: Tensor | None) -> Tensor:
    """Return the origins (N, 2), int64, on the device of the images; zeros for None.

    Raises:
        InputError: another shape, or numbers that are not whole.
    """
    if origins is None:
        return torch.zeros(len(images), 2, dtype=torch.int64, device=images.device)
    if tuple(origins.shape) != (len(images), 2) or origins.is_floating_point() or origins.is_complex():
        raise InputError(
            "origins",
            found=f"{origins.dtype} of shape {tuple(origins.shape)}",
            expected=f"whole numbers of shape ({len(images)}, 2): row and column of each image's first pixel",
            fix="Give where each image lies in its scene.",
        )
    return origins.to(device=images.device, dtype=torch.int64)

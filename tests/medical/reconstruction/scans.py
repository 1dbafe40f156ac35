"""Small scans for tests: arrays of known content as `RawScan`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medical.images import Geometry
from medical.reconstruction.raw import RawScan


def scan_of(kspace: Tensor, mask: Tensor | None = None, **changes: Any) -> RawScan:
    """Scan of (slice, coil, *encodes) with 1 mm pixels; the protocol asks for what was encoded."""
    encodes = kspace.shape[2:]
    z, (y, x) = (encodes[0] if len(encodes) == 3 else 1), encodes[-2:]
    fields: dict[str, Any] = {
        "geometry": Geometry((float(x), float(y), float(z)), positions_mm=((0.0, 0.0, 0.0),) * kspace.shape[0]),
        "recon_matrix": (z, y, x),
        "recon_fov_mm": (float(x), float(y), float(z)),
        "source": "test",
    }
    mask = torch.ones(kspace[:, 0].shape, dtype=torch.bool) if mask is None else mask
    return RawScan(kspace * mask[:, None], mask, **(fields | changes))


def blobs(shape: tuple[int, ...], seed: int = 0, count: int = 6) -> Tensor:
    """Complex128 image of off-centre Gaussian blobs: band-limited and inside the middle half of the field of view."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(shape, dtype=torch.complex128)
    for _ in range(count):
        term = torch.ones(shape, dtype=torch.complex128) * torch.randn((), dtype=torch.complex128, generator=generator)
        for axis, n in enumerate(shape):
            centre = (torch.rand((), generator=generator) - 0.5) * 0.2 * n
            offset = torch.arange(n, dtype=torch.float64) - n // 2 - centre
            profile = torch.exp(-0.5 * (offset / max(0.02 * n, 1.2)) ** 2)
            term = term * profile.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        image += term
    return image

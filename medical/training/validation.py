"""Scores and pictures of a network on held-out simulated slices, beside the zero-filled images."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from medical import metrics
from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.learned.calibration import calibration_box
from medical.reconstruction.learned.output import LearnedOutput, root_sum_of_squares
from medical.simulation.acquisition import SimulatedSlice
from medical.training.dataset import SimulatedSlices
from shared.files import atomic_path
from shared.pictures import Window, label, montage, png_bytes, render

PICTURED = 6
TILE_PIXELS = 200


@torch.no_grad()
def reconstruct(network: nn.Module, slice_: SimulatedSlice, device: torch.device) -> Tensor:
    """Return the magnitude (y, x) of a network's combined image, on the CPU."""
    return output_of(network, slice_, device).image[0].abs().float().cpu()


def output_of(network: nn.Module, slice_: SimulatedSlice, device: torch.device) -> LearnedOutput:
    """Return a network's answer to what may be seen of a slice, with the calibration box found as for a real scan."""
    mask = slice_.mask[None]
    kspace, mask, calibration = (x.to(device) for x in (slice_.kspace[None], mask, calibration_box(mask)))
    output: LearnedOutput = network(kspace, mask, calibration, slice_.spacing)
    return output


def score(network: nn.Module, slices: SimulatedSlices, device: torch.device) -> dict[str, float]:
    """Return mean SSIM, PSNR and NMSE over the slices, of the network and zero-filled, and SSIM for each pattern."""
    found: dict[str, list[float]] = defaultdict(list)
    for number in range(len(slices)):
        slice_ = slices[number]
        truth = slice_.image.abs()[None]
        for name, image in (("", reconstruct(network, slice_, device)), ("zero_filled.", zero_filled(slice_))):
            for metric in (metrics.ssim, metrics.psnr, metrics.nmse):
                found[f"{name}{metric.__name__}"].append(metric(truth, image[None]))
            found[f"{slice_.pattern}.{name}ssim"].append(found[f"{name}ssim"][-1])
    return {name: float(np.mean(values)) for name, values in sorted(found.items())}


def zero_filled(slice_: SimulatedSlice) -> Tensor:
    """Return the magnitude (y, x) of what was acquired, combined with the phases and shares of the calibration box."""
    low = ifft_centred(slice_.kspace * slice_.calibration)
    maps = low / root_sum_of_squares(low[None]).clamp_min(torch.finfo(torch.float32).tiny)
    return (maps.conj() * ifft_centred(slice_.kspace)).sum(0).abs()


def picture(network: nn.Module, slices: SimulatedSlices, device: torch.device, path: Path) -> None:
    """Write a PNG with a column a slice: truth, zero-filled, reconstruction, and five times its error."""
    columns = []
    for number in range(min(PICTURED, len(slices))):
        slice_ = slices[number]
        truth = slice_.image.abs()
        image = reconstruct(network, slice_, device)
        window = Window(0.0, float(truth.quantile(0.998)))
        height = round(TILE_PIXELS * slice_.spacing[0] * len(truth) / (slice_.spacing[1] * truth.shape[1]))
        size = (TILE_PIXELS, min(height, 2 * TILE_PIXELS))
        tiles = [render(values.numpy(), window, size=size) for values in (truth, zero_filled(slice_), image)]
        tiles.append(render(5 * (image - truth).abs().numpy(), window, size=size, colours="heat"))
        label(tiles[0], f"{slice_.pattern} R {slice_.acceleration:.1f}", at="top left", size=12)
        label(tiles[2], f"SSIM {metrics.ssim(truth[None], image[None]):.3f}", at="top left", size=12)
        columns.append(montage(tiles, columns=1))
    with atomic_path(path, overwrite=True) as scratch:
        scratch.write_bytes(png_bytes(montage(columns, columns=len(columns))))

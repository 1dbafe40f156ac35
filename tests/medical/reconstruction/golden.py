"""The in-vivo brain and BART's stored reconstructions of it, and measures to compare them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Golden:
    """One slice of a 16-coil brain, R = 2.56, with BART 0.8.00's results; data divided by their largest magnitude."""

    full: Tensor
    kspace: Tensor
    mask: Tensor
    maps: Tensor
    maps_full: Tensor
    l2: Tensor
    wavelet: Tensor
    tv: Tensor
    rss: Tensor


def read_golden(find) -> Golden:
    """Read the pair of files with the `data_file` fixture."""
    measured: Path = find("mri/pulseq_cimaX_brain_16ch_128.npy")
    stored: Path = find("mri/bart080_golden_cimaX_brain_R4.npz")
    full = torch.from_numpy(np.load(measured))
    full = (full / full.abs().max())[None]
    with np.load(stored, allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files}
    mask = arrays["mask"][None] > 0
    images = {name: arrays[name][None, None] for name in ("l2", "wav", "tv")}
    return Golden(
        full=full,
        kspace=full * mask[:, None],
        mask=mask,
        maps=arrays["sens"][None, None],
        maps_full=arrays["sens_full"][None, None],
        l2=images["l2"],
        wavelet=images["wav"],
        tv=images["tv"],
        rss=arrays["rss"][None],
    )


def nrmse(image: Tensor, reference: Tensor) -> float:
    """||a |image| - reference|| / ||reference|| with the best real a."""
    magnitude = image.abs().reshape(reference.shape)
    scale = (magnitude * reference).sum() / magnitude.square().sum()
    return float((scale * magnitude - reference).norm() / reference.norm())


def difference_up_to_phase(image: Tensor, reference: Tensor) -> float:
    """||image - u reference|| / ||reference|| with the best |u| = 1."""
    inner = (reference.conj() * image).sum()
    return float((image - inner / inner.abs() * reference).norm() / reference.norm())


def collinearity(maps: Tensor, others: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """|<s1, s2>| of unit vectors over coils (axis -3) where both are non-zero, and the two supports."""
    first, second = maps.norm(dim=-3) > 0, others.norm(dim=-3) > 0
    return (maps.conj() * others).sum(-3).abs()[first & second], first, second

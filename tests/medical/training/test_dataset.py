"""Virtual coils: fewer channels, the same noise, the same image."""

from __future__ import annotations

import torch

from medical.reconstruction.fourier import ifft_centred
from medical.training.dataset import compressed
from tests.medical.simulation.test_acquisition import scan


def combined(slice_) -> torch.Tensor:
    return (slice_.coil_maps.conj() * ifft_centred(slice_.full_kspace)).sum(0)


def test_virtual_coils_hold_nearly_all_signal_of_one_image_and_noise_of_variance_one():
    full = scan(coils=12, snr=20.0)
    few = compressed(full, 6)
    assert few.kspace.shape == (6, *full.kspace.shape[1:])
    assert few.kspace.abs().square().sum() > 0.95 * full.kspace.abs().square().sum()
    difference = combined(few).abs() - full.image.abs()
    assert difference.norm() < 0.08 * full.image.norm(), "maps, truth and k-space are mixed alike"
    noise = (few.kspace - few.full_kspace)[:, few.mask]
    covariance = (noise @ noise.mH) / noise.shape[1]
    assert (covariance - torch.eye(6)).abs().max() < 0.2


def test_small_arrays_stay_as_they_are():
    full = scan(coils=4)
    assert compressed(full, 6) is full

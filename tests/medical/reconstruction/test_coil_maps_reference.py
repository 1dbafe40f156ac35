"""Maps against the body coil are the sensitivities, wherever there is an object, whatever its contrast."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medical.reconstruction.coil_maps_reference import maps_from_reference
from medical.reconstruction.fourier import ifft_centred
from shared.errors import InputError
from tests.medical.reconstruction.adjoint import complex_noise


def sensitivities(shape: tuple[int, ...], coils: int = 4) -> torch.Tensor:
    """Smooth complex maps (coil, *shape) of unit sum of squares."""
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape], indexing="ij")
    centres = torch.rand((coils, len(shape)), dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 3 - 1.5
    squares = [sum((g - c) ** 2 for g, c in zip(axes, centre, strict=True)) for centre in centres]
    maps = torch.stack([torch.exp(-0.6 * r + 1j * (i + 0.8 * axes[-1])) for i, r in enumerate(squares)])
    return maps / maps.abs().square().sum(0).sqrt()


def disc(shape: tuple[int, ...], radius: float) -> torch.Tensor:
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n, dtype=torch.float64) for n in shape], indexing="ij")
    return sum(g**2 for g in axes) < radius**2


@pytest.mark.parametrize("shape", [(48, 45), (28, 29, 30)])
def test_maps_are_the_sensitivities_in_the_object_and_zero_outside(shape):
    truth, inside = sensitivities(shape), disc(shape, 0.5)
    # Contrast with rough magnitude and phase must cancel in the ratio.
    anatomy = inside * (0.5 + complex_noise(shape, seed=1))
    body = torch.stack([anatomy, 1j * anatomy]) + 0.02 * complex_noise((2, *shape), seed=2)
    coil = truth * anatomy + 0.02 * complex_noise(truth.shape, seed=5)
    maps = maps_from_reference(coil[None], body[None])
    assert maps.shape == (1, 1, 4, *shape)
    found = maps[0, 0]
    core = disc(shape, 0.42)
    alike = (found.conj() * truth).sum(0)
    assert alike.abs()[core].min() > 0.995
    # One common phase, that of the body-coil combination, is left.
    assert (alike / alike.abs().clamp_min(1e-9))[core].sum().abs() > 0.999 * core.sum()
    assert found.abs().sum(0).gt(0)[~disc(shape, 1.0)].double().mean() < 0.03
    torch.testing.assert_close(found.abs().square().sum(0)[core], torch.ones(int(core.sum()), dtype=torch.float64))


def test_noise_alone_has_an_almost_empty_support():
    maps = maps_from_reference(complex_noise((1, 4, 64, 64), seed=1), complex_noise((1, 2, 64, 64), seed=2))
    assert maps.abs().sum(2).gt(0).double().mean() < 0.01


def test_images_of_other_slices_or_empty_ones_are_refused():
    with pytest.raises(InputError, match="same slices"):
        maps_from_reference(complex_noise((2, 4, 8, 8)), complex_noise((1, 2, 8, 8)))
    with pytest.raises(InputError, match="empty slice"):
        maps_from_reference(complex_noise((1, 4, 8, 8)), torch.zeros(1, 2, 8, 8, dtype=torch.complex64))


@pytest.mark.data
def test_body_coil_maps_of_a_real_brain_are_collinear_with_espirit_of_bart(data_file):
    coil, body = (
        ifft_centred(torch.from_numpy(np.load(data_file(f"mri/pulseq_cimaX_brain_{name}_128.npy"))))[None]
        for name in ("16ch", "bodycoil_2ch")
    )
    golden = np.load(data_file("mri/bart080_golden_cimaX_brain_R4.npz"), allow_pickle=False)["sens"]
    espirit = torch.from_numpy(golden)
    maps = maps_from_reference(coil, body)[0, 0]
    both = (espirit.abs().sum(0) > 0) & (maps.abs().sum(0) > 0)
    assert both.double().mean() > 0.38
    alike = (maps.conj() * espirit).sum(0).abs()[both]
    assert alike.mean() > 0.998
    assert alike.quantile(0.01) > 0.98
    shuffled = (maps.roll(1, 0).conj() * espirit).sum(0).abs()[both]
    assert shuffled.mean() < 0.9

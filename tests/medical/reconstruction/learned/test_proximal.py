"""Proximal networks: compressed sensing when untrained, exact for the data, blind to units."""

from __future__ import annotations

import math

import pytest
import torch

from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.learned.build import network_from_data
from medical.reconstruction.learned.output import combine, root_sum_of_squares
from medical.reconstruction.learned.proximal import DataSolution, espirit_maps
from medical.reconstruction.operators import CartesianSense
from medical.reconstruction.sparse import minimise_wavelet
from shared.errors import InputError
from tests.medical.reconstruction.learned.slices import batch

TINY = {"name": "proximal", "cascades": 2, "channels": 4, "pools": 2, "kspace_channels": 3, "kspace_pools": 1}
BACKBONES = ["unet", "udno"]


def untrained(backbone: str, **changes: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return network_from_data({**TINY, "backbone": backbone, "radius_mm": 8.0, **changes})


def trained(backbone: str, **changes: object) -> torch.nn.Module:
    """Stands for a trained one: nothing is zero any more."""
    network = untrained(backbone, **changes)
    for parameter in network.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


def noisy() -> tuple[torch.Tensor, ...]:
    """Noise keeps ESPIRiT's maps stable where there is no object."""
    kspace, mask, *rest = batch()
    noise = torch.randn(kspace.shape, dtype=kspace.dtype, generator=torch.Generator().manual_seed(0))
    return kspace + 0.01 * noise * mask[:, None], mask, *rest


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    ("coils", "shape", "fov"),
    [(1, (33, 47), (165.0, 235.0)), (32, (20, 24), (120.0, 150.0)), (4, (31, 64), (200.0, 200.0))],
)
def test_any_matrix_and_number_of_coils(backbone, coils, shape, fov):
    kspace, mask, calibration, spacing = batch(coils, shape, fov)
    out = trained(backbone)(kspace, mask, calibration, spacing)
    assert out.image.shape == (1, *shape)
    assert out.image.dtype == out.kspace.dtype == out.coil_maps.dtype == torch.complex64
    torch.testing.assert_close(root_sum_of_squares(out.coil_maps), torch.ones(1, *shape), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.image, combine(out.kspace, out.coil_maps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("factor", [1e-6, 3.0, 1e6])
def test_the_unit_of_data_and_noise_does_not_matter(backbone, factor):
    network, (kspace, *rest) = trained(backbone), noisy()
    out, scaled = network(kspace, *rest, noise_std=0.01), network(factor * kspace, *rest, noise_std=0.01 * factor)
    assert (scaled.image / factor - out.image).norm() < 1e-3 * out.image.norm()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_slices_of_a_batch_do_not_see_each_other(backbone):
    network, (kspace, mask, calibration, spacing) = trained(backbone), batch(slices=2)
    scales = torch.tensor([1.0, 100.0])
    together = network(kspace * scales[:, None, None, None], mask, calibration, spacing)
    for i in range(2):
        alone = network(kspace[i : i + 1] * scales[i], mask[i : i + 1], calibration[i : i + 1], spacing)
        assert (together.image[i] - alone.image[0]).norm() < 1e-3 * alone.image.norm()


def dense_normal(maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A^H A as a matrix, from the responses to single pixels."""
    shape = maps.shape[-2:]
    pixels = torch.eye(shape.numel(), dtype=maps.dtype).reshape(-1, *shape)
    sampled = fft_centred(maps * pixels[:, None]) * mask
    return (maps.conj() * ifft_centred(sampled)).sum(1).reshape(len(pixels), -1).T


@pytest.mark.parametrize("backbone", BACKBONES)
def test_untrained_it_is_compressed_sensing_drawn_to_the_data(backbone):
    """Two cascades x <- (B + l)^-1 (A^H y + l x), here by a dense solve, from the l1-wavelet image of the same maps.

    The untrained operator on k-space takes what was not sampled from that image.
    """
    kspace, mask, calibration, spacing = batch(3, (12, 14), (150.0, 175.0))
    kspace = kspace / kspace.abs().square().sum().sqrt() * math.sqrt(12 * 14)  # the common scale
    noise = 0.2
    out = untrained(backbone, gradient_steps=60, radius_mm=24.0)(kspace, mask, calibration, spacing, noise_std=noise)
    maps = espirit_maps(kspace, calibration)
    x = minimise_wavelet(
        CartesianSense(maps[:, None], mask),
        kspace,
        weight=torch.tensor([0.3 * noise]),
        lipschitz=1.0,
        iterations=20,
        generator=torch.Generator().manual_seed(0),
    )[:, 0]
    if backbone == "udno":
        x = combine(torch.where(mask, kspace, fft_centred(maps * x)), maps)
    x, maps = x.to(torch.complex128).flatten(), maps.to(torch.complex128)
    B = dense_normal(maps[0], mask[0])
    back = combine(kspace.to(torch.complex128) * mask[:, None], maps).flatten()
    strength = math.e * noise  # exp(a) (noise^2)^(1/2)
    for _ in range(2):
        x = torch.linalg.solve(B + strength * torch.eye(len(B)), back + strength * x)
    truth = x.reshape(12, 14)
    assert (out.image[0].abs() - truth.abs()).norm() < 1e-3 * truth.norm()


def test_the_solution_for_the_data_and_its_gradients_are_those_of_a_dense_solve():
    generator = torch.Generator().manual_seed(3)
    maps = torch.randn(1, 2, 6, 7, dtype=torch.complex128, generator=generator)
    maps = maps / root_sum_of_squares(maps)
    mask = torch.rand(1, 6, 7, generator=generator) < 0.5
    z, back, seen = torch.randn(3, 1, 6, 7, dtype=torch.complex128, generator=generator)
    operator, B = CartesianSense(maps[:, None], mask), dense_normal(maps[0], mask[0])
    solution = DataSolution(iterations=60).double()
    log_noise = torch.full((1, 1, 1), -1.3, dtype=torch.float64)

    def dense(z: torch.Tensor) -> torch.Tensor:
        strength = (solution.log_weight + solution.exponent * log_noise.flatten()).exp()
        right = back.flatten() + strength * z.flatten()
        return torch.linalg.solve(B + strength * torch.eye(len(B)), right).reshape(z.shape)

    gradients = []
    for solve in (
        dense,
        lambda z: solution(z, back, lambda x: operator.normal(x[:, None])[:, 0], log_noise),
    ):
        start = z.clone().requires_grad_()
        found = solve(start)
        (found * seen.conj()).real.sum().backward()
        gradients.append((found.detach(), start.grad, solution.log_weight.grad.clone(), solution.exponent.grad.clone()))
        solution.zero_grad()
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("iterations", [1, 3])
def test_what_the_data_say_nothing_about_passes_however_few_the_iterations(iterations):
    maps = torch.ones(1, 1, 8, 8, dtype=torch.complex128)
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, ::2] = True
    operator = CartesianSense(maps[:, None], mask)
    unseen = torch.randn(1, 8, 8, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)) * ~mask
    z = ifft_centred(unseen)
    found = DataSolution(iterations).double()(
        z, torch.zeros_like(z), lambda x: operator.normal(x[:, None])[:, 0], torch.full((1, 1, 1), -9.0)
    )
    torch.testing.assert_close(found.detach(), z, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_image_networks_know_the_noise_level(backbone):
    """They would not through a constant channel: normalisation takes constants away."""
    network = trained(backbone)
    x = torch.randn(1, 40, 36, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(1, 40, 36, dtype=torch.bool)
    quiet, loud = (
        network.networks[0](x, (5.0, 5.0), condition=network.conditions(torch.full((1, 1, 1), math.log(v)), mask))
        for v in (1e-4, 1e-1)
    )
    assert (quiet - loud).norm() > 0.05 * quiet.norm()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_cleaner_data_are_fitted_better(backbone):
    network, (kspace, mask, calibration, spacing) = trained(backbone, gradient_steps=40), noisy()
    residuals = [
        ((network(kspace, mask, calibration, spacing, noise_std=std).kspace - kspace) * mask[:, None]).norm()
        for std in (1e-1, 1e-3, 1e-5)
    ]
    assert residuals[0] > 1.4 * residuals[1]
    assert residuals[1] > residuals[2]
    assert residuals[2] < 0.05 * kspace.norm()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_weight_learns_and_a_silent_coil_does_no_harm(backbone):
    kspace, *rest = batch()
    network = untrained(backbone)
    for parameter in network.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    network(torch.cat([kspace, torch.zeros_like(kspace[:, :1])], dim=1), *rest).image.abs().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        assert bool(parameter.grad.any()), name


@pytest.mark.parametrize("backbone", BACKBONES)
def test_data_without_signal_give_zero(backbone):
    kspace, *rest = batch()
    assert not trained(backbone)(torch.zeros_like(kspace), *rest).image.any()


def test_maps_stay_where_the_low_resolution_image_is_dark():
    """An object with a dark gap: ESPIRiT's maps stay those of the coils in its middle."""
    n = 48
    y, x = torch.meshgrid(torch.arange(n) - n // 2, torch.arange(n) - n // 2, indexing="ij")
    centres = [(-30.0, 0.0), (30.0, 0.0), (0.0, -30.0), (0.0, 30.0)]
    coils = torch.stack([torch.exp(-((y - a) ** 2 + (x - b) ** 2) / 1500) * torch.exp(0.02j * x) for a, b in centres])
    coils = (coils / root_sum_of_squares(coils[None])).to(torch.complex64)
    disc = ((y**2 + x**2) < 18**2).float() * (1 - 0.999 * ((y.abs() < 3) & (x.abs() < 12)).float())
    kspace = fft_centred(coils * disc)[None]
    calibration = ((y.abs() < 10) & (x.abs() < 10))[None]
    found = espirit_maps(kspace, calibration)[0]
    gap = (y.abs() < 2) & (x.abs() < 8)
    agreement = (found.conj() * coils).sum(0).abs()[gap]
    assert float(agreement.min()) > 0.99


def test_an_unknown_backbone_is_refused():
    with pytest.raises(InputError, match="unet or udno"):
        network_from_data({"name": "proximal", "backbone": "resnet"})

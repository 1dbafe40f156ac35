"""Every learned network takes any scan, scales with it, starts at the classical image and can be trained."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from medical.reconstruction.coil_maps import principal_coil
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.learned.build import config_from_data, config_to_data, network_from_data
from medical.reconstruction.learned.configs import SMALL
from medical.reconstruction.learned.modl import consistent
from medical.reconstruction.learned.output import combine, root_sum_of_squares
from shared.errors import InputError, MissingExtra
from tests.medical.reconstruction.learned.slices import batch, blobs, receive_maps

TINY = {
    "varnet": {"cascades": 2, "channels": 4, "pools": 2, "sensitivity_channels": 3, "sensitivity_pools": 2},
    "no_varnet": {
        "cascades": 2,
        "channels": 4,
        "pools": 2,
        "sensitivity_channels": 3,
        "sensitivity_pools": 2,
        "kspace_channels": 3,
        "kspace_pools": 1,
        "radius_mm": 8.0,
    },
    "modl": {"steps": 2, "layers": 3, "channels": 6, "sensitivity_channels": 3, "sensitivity_pools": 2},
}
NAMES = sorted(TINY)
needs_operators = pytest.mark.skipif(
    importlib.util.find_spec("neuralop") is None, reason="neuraloperator is not installed"
)


def untrained(name: str, **changes: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return network_from_data({"name": name, **TINY[name], **changes})


def trained(name: str) -> torch.nn.Module:
    """Stands for a trained one: nothing is zero any more."""
    network = untrained(name)
    for parameter in network.parameters():
        if not bool(parameter.any()):
            torch.nn.init.normal_(parameter, std=0.1)
    return network.eval().requires_grad_(False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("coils", "shape", "fov"),
    [(1, (33, 47), (165.0, 235.0)), (32, (20, 24), (120.0, 150.0)), (4, (31, 64), (200.0, 200.0))],
)
def test_any_matrix_and_number_of_coils(name, coils, shape, fov):
    kspace, mask, calibration, spacing = batch(coils, shape, fov)
    out = trained(name)(kspace, mask, calibration, spacing)
    assert out.image.shape == (1, *shape)
    assert out.image.dtype == out.kspace.dtype == out.coil_maps.dtype == torch.complex64
    assert out.kspace.shape == out.coil_maps.shape == kspace.shape
    torch.testing.assert_close(root_sum_of_squares(out.coil_maps), torch.ones(1, *shape), rtol=1e-5, atol=1e-5)
    assert torch.isfinite(torch.view_as_real(out.kspace)).all()
    torch.testing.assert_close(out.image, combine(out.kspace, out.coil_maps))
    torch.testing.assert_close(out.rss, root_sum_of_squares(ifft_centred(out.kspace)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("factor", [1e-9, 3.0, 1e9])
def test_scaling_the_data_scales_the_image_and_leaves_the_maps(name, factor):
    network, (kspace, *rest) = trained(name), batch()
    out, scaled = network(kspace, *rest), network(factor * kspace, *rest)
    assert (scaled.image / factor - out.image).norm() < 1e-4 * out.image.norm()
    assert (scaled.coil_maps - out.coil_maps).norm() < 1e-4 * out.coil_maps.norm()


@pytest.mark.parametrize("name", NAMES)
def test_slices_of_a_batch_do_not_see_each_other(name):
    network, (kspace, mask, calibration, spacing) = trained(name), batch(slices=3)
    together = network(kspace * torch.tensor([1.0, 100.0, 0.01])[:, None, None, None], mask, calibration, spacing)
    for i, scale in enumerate([1.0, 100.0, 0.01]):
        alone = network(kspace[i : i + 1], mask[i : i + 1], calibration[i : i + 1], spacing)
        assert (together.image[i] / scale - alone.image[0]).norm() < 1e-4 * alone.image.norm()


@pytest.mark.parametrize("name", NAMES)
def test_data_without_signal_give_zero_and_a_silent_coil_does_no_harm(name):
    network, (kspace, *rest) = trained(name), batch()
    assert not network(torch.zeros_like(kspace), *rest).image.any()
    silent = torch.cat([kspace, torch.zeros_like(kspace[:, :1])], dim=1)
    training = untrained(name)
    training(silent, *rest).image.abs().sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in training.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_untrained_networks_give_the_root_sum_of_squares_of_a_full_scan(name):
    kspace, mask, calibration, spacing = batch(full=True)
    changes = {"gradient_steps": 30} if name == "modl" else {}
    image = untrained(name, **changes).requires_grad_(False)(kspace, mask, calibration, spacing).image
    truth = root_sum_of_squares(ifft_centred(kspace))
    assert (image.abs() - truth).norm() < 1e-4 * truth.norm()


def test_untrained_varnet_gives_the_zero_filled_image_with_classical_maps():
    kspace, mask, calibration, spacing = batch()
    out = untrained("varnet").requires_grad_(False)(kspace, mask, calibration, spacing)
    low = ifft_centred(kspace * calibration[:, None])
    expected = (low.conj() * ifft_centred(kspace)).sum(1) / root_sum_of_squares(low)
    torch.testing.assert_close(out.image.abs(), expected.abs(), rtol=1e-3, atol=1e-6 * float(expected.abs().max()))
    torch.testing.assert_close(out.kspace, kspace, rtol=1e-4, atol=1e-6 * float(kspace.abs().max()))


def test_the_kspace_operator_fills_what_was_not_sampled_and_leaves_what_was():
    network, (kspace, mask, calibration, spacing) = trained("no_varnet"), batch()
    maps = network.sensitivity(kspace, calibration, spacing)
    filled = network.kspace_operator(kspace, mask, maps, spacing)
    sampled = mask[:, None].expand_as(kspace)
    assert torch.equal(filled[sampled], kspace[sampled])
    assert filled[~sampled].abs().mean() > 0


@pytest.mark.parametrize("name", NAMES)
def test_the_phase_of_maps_is_that_of_espirit_and_keeps_the_coil_images(name):
    kspace, mask, calibration, spacing = batch()
    out = trained(name)(kspace, mask, calibration, spacing)
    principal = principal_coil(kspace * calibration[:, None], 2)[..., None, None]
    combined = (principal.conj() * out.coil_maps).sum(1)
    assert (combined.imag.abs() < 1e-4).all()
    assert (combined.real > -1e-6).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_trained_and_the_error_falls(name):
    network = untrained(name)
    kspace, mask, calibration, spacing = batch(2, (24, 20))
    truth = root_sum_of_squares(ifft_centred(batch(2, (24, 20), full=True)[0]))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    start = {key: value.clone() for key, value in network.state_dict().items()}
    errors = []
    for _ in range(25):
        error = (network(kspace, mask, calibration, spacing).image.abs() - truth).norm() / truth.norm()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        errors.append(error.item())
    assert errors[-1] < 0.7 * errors[0]
    unmoved = [key for key, value in network.state_dict().items() if torch.equal(value, start[key])]
    # k_0 holds the measured samples, so the first step of data consistency has nothing to correct.
    assert unmoved == ([] if name == "modl" else ["cascades.0.consistency"])


def test_the_small_networks_have_equal_size():
    sizes = {
        name: sum(p.numel() for p in network_from_data({"name": name, "preset": "small"}).parameters())
        for name in ("varnet", "no_varnet")
    }
    assert abs(sizes["no_varnet"] / sizes["varnet"] - 1) < 0.03
    assert all(1e6 < size < 1.5e6 for size in sizes.values())


@pytest.mark.parametrize("config", SMALL.values(), ids=list(SMALL))
def test_a_configuration_survives_as_data(config):
    data = config_to_data(config)
    assert config_from_data(data) == config
    assert all(isinstance(value, str | int | float) for value in data.values())


@pytest.mark.parametrize(
    "data",
    [
        {"name": "transformer"},
        {},
        {"name": "varnet", "preset": "huge"},
        {"name": "varnet", "cascade": 3},
        {"name": "varnet", "cascades": 0},
        {"name": "varnet", "cascades": 2.5},
        {"name": "varnet", "cascades": True},
        {"name": "varnet", "dropout": 1.0},
        {"name": "no_varnet", "radius_mm": "wide"},
        {"name": "operator", "backbone": "deeponet"},
    ],
)
def test_wrong_configurations_are_named(data):
    with pytest.raises(InputError):
        network_from_data(data)


@pytest.mark.parametrize("wrong", ["real", "coilless", "mask shape", "mask type"])
def test_wrong_shapes_and_types_are_named(wrong):
    kspace, mask, calibration, spacing = batch()
    given = {
        "real": (kspace.abs(), mask, calibration),
        "coilless": (kspace[0], mask, calibration),
        "mask shape": (kspace, mask[0], calibration),
        "mask type": (kspace, mask, calibration.float()),
    }[wrong]
    with pytest.raises(InputError):
        untrained("varnet")(*given, spacing)


def test_pixels_that_a_network_does_not_serve_are_refused():
    kspace, mask, calibration, _ = batch()
    with pytest.raises(InputError, match="spacing"):
        untrained("no_varnet")(kspace, mask, calibration, (20.0, 20.0))


def test_consistency_solves_the_regularised_problem_exactly():
    """Against the dense matrix of A^H A + lambda."""
    shape, strength = (6, 5), torch.tensor(0.3, dtype=torch.float64)
    maps = receive_maps(3, shape)[None]
    mask = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1)) < 0.4
    right = blobs(shape, (60.0, 50.0))[None]
    unit = torch.eye(30, dtype=torch.complex128).reshape(30, *shape)
    columns = (maps.conj() * ifft_centred(fft_centred(maps * unit[:, None]) * mask[:, None])).sum(1) + strength * unit
    expected = torch.linalg.solve(columns.reshape(30, 30).T, right.flatten())
    found = consistent(right, maps, mask, strength, iterations=40)
    torch.testing.assert_close(found.flatten(), expected)


def test_gradients_through_consistency_equal_finite_differences():
    shape = (3, 2)
    maps = receive_maps(2, shape)[None].requires_grad_()
    mask = torch.rand(1, *shape, generator=torch.Generator().manual_seed(1)) < 0.5
    right = blobs(shape, (60.0, 50.0))[None].requires_grad_()
    strength = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda b, s, m: consistent(b, m / torch.linalg.vector_norm(m, dim=1, keepdim=True), mask, s, iterations=12),
        (right, strength, maps),
    )


def test_operators_are_named_when_their_package_is_absent(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "neuralop", None)
    with pytest.raises(MissingExtra, match="neuralop"):
        network_from_data({"name": "operator", "preset": "small"})


@needs_operators
@pytest.mark.peer
@pytest.mark.parametrize("backbone", ["fno", "uno"])
def test_operators_of_neuraloperator_reconstruct_any_matrix(backbone):
    data = {"name": "operator", "backbone": backbone, "cascades": 1, "channels": 6, "modes": 6}
    network = network_from_data({**data, "sensitivity_channels": 3, "sensitivity_pools": 2})
    kspace, mask, calibration, spacing = batch(2, (33, 47), (165.0, 235.0))
    out = network(kspace, mask, calibration, spacing)
    expected = combine(kspace, out.coil_maps)
    assert (out.image - expected).norm() < 1e-4 * expected.norm()
    out.image.abs().sum().backward()
    assert out.image.shape == (1, 33, 47)

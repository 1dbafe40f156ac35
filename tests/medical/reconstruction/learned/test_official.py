"""Published weights load by their published names, and the network then computes what the published formulas say."""

from __future__ import annotations

import pytest
import torch

from medical.reconstruction.learned.normalise import ComplexNetwork, real_imaginary
from medical.reconstruction.learned.official import (
    fastmri_names,
    fastmri_varnet,
    no_mri_names,
    no_mri_network,
    read_state,
)
from medical.reconstruction.learned.unet import unet
from medical.reconstruction.learned.varnet import UnrolledNetwork
from shared.errors import InputError
from tests.medical.reconstruction.learned.slices import batch, receive_maps
from tests.oracles.official_varnet import (
    fastmri_tensors,
    forward,
    no_mri_tensors,
    random_state,
    udno_of,
    unet_of,
)

SMALL = {"cascades": 2, "channels": 3, "sens_channels": 2}


def meta(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(shape) for name, shape in shapes.items()}


def test_the_released_no_mri_weights_are_198_tensors_of_76_million_numbers_and_all_are_used():
    shapes = no_mri_tensors()
    assert len(shapes) == 198
    network = no_mri_network(meta(shapes))
    assert sum(p.numel() for p in network.parameters()) == 76_297_534
    assert set(no_mri_names(6)) == set(shapes)
    assert set(no_mri_names(6).values()) == set(network.state_dict())


@pytest.mark.parametrize(("cascades", "numbers"), [(1, 2_939_237), (12, 29_936_966)])
def test_fastmri_varnets_have_the_published_sizes_and_all_tensors_are_used(cascades, numbers):
    shapes = fastmri_tensors(cascades)
    network = fastmri_varnet(meta(shapes))
    assert len(shapes) == 24 * (cascades + 1) + cascades
    assert sum(p.numel() for p in network.parameters()) == numbers
    assert set(fastmri_names(cascades).values()) == set(network.state_dict())


@pytest.mark.parametrize("shape", [(40, 36), (33, 32)])
def test_fastmri_weights_compute_what_its_formulas_say(shape):
    state = random_state(fastmri_tensors(**SMALL))
    kspace, mask, calibration, spacing = batch(3, shape, dtype=torch.complex128)
    network = fastmri_varnet(state).double().requires_grad_(False)
    expected = forward(state, kspace[0], mask[0, 0], unet_of(state), "unet", lines=8)
    out = network(kspace, mask, calibration, spacing)
    torch.testing.assert_close(out.rss[0], expected, rtol=1e-7, atol=1e-8 * float(expected.max()))


@pytest.mark.parametrize(("matrix", "kernel"), [((40, 36), (3, 4)), ((64, 48), (6, 7))])
def test_no_mri_weights_compute_what_its_formulas_say(matrix, kernel):
    functions = (kernel[0] - 1) * kernel[1] + 1
    state = random_state(no_mri_tensors(**SMALL, kno_channels=2, functions=functions))
    kspace, mask, calibration, spacing = batch(3, matrix, dtype=torch.complex128)
    network = no_mri_network(state, shape=matrix, radius=0.1, kernel_shape=kernel).double().requires_grad_(False)
    expected = forward(state, kspace[0], mask[0, 0], udno_of(state, 0.1, matrix, *kernel), "udno", lines=8)
    out = network(kspace, mask, calibration, spacing)
    torch.testing.assert_close(out.rss[0], expected, rtol=1e-6, atol=1e-7 * float(expected.max()))


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape", "kernel", "other network", "empty", "gap"])
def test_anything_but_the_published_tensors_is_refused(damage):
    state = meta(no_mri_tensors(**SMALL, kno_channels=2, functions=9))
    kernel = (6, 7) if damage == "kernel" else (3, 4)
    if damage == "missing":
        del state["kno.udno.bottleneck.layers.4.weight"]
    elif damage == "unknown":
        state["kno.udno.extra.weight"] = torch.zeros(1)
    elif damage == "shape":
        state["cascades.1.model.udno.up.0.layers.0.weight"] = torch.zeros(24, 48, 7)
    elif damage == "other network":
        state = meta(fastmri_tensors(**SMALL))
    elif damage == "empty":
        state = {}
    elif damage == "gap":
        state = {key.replace("cascades.1.", "cascades.2."): value for key, value in state.items()}
    with pytest.raises(InputError):
        no_mri_network(state, kernel_shape=kernel)


def test_checkpoints_of_lightning_state_dicts_and_safetensors_are_read(tmp_path):
    from safetensors.torch import save_file

    state = random_state(fastmri_tensors(1, 2, 2), torch.float32)
    torch.save(state, tmp_path / "plain.pt")
    lightning = {"state_dict": {f"model.{key}": value for key, value in state.items()}, "hyper_parameters": {"lr": 1.0}}
    torch.save(lightning, tmp_path / "lightning.ckpt")
    save_file(state, tmp_path / "plain.safetensors")
    for name in ("plain.pt", "lightning.ckpt", "plain.safetensors"):
        read = read_state(tmp_path / name)
        assert set(read) == set(state)
        assert all(torch.equal(read[key], state[key]) for key in state)


class Trap:
    def __reduce__(self):
        return (print, ("code from the file was run",))


def test_files_that_hold_code_or_no_weights_are_refused_and_run_nothing(tmp_path, capsys):
    torch.save({"state_dict": Trap()}, tmp_path / "trap.pt")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    (tmp_path / "text.pt").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    (tmp_path / "empty.ckpt").write_bytes(b"")
    for name in ("trap.pt", "numbers.pt", "text.pt", "text.safetensors", "empty.ckpt", "absent.pt"):
        with pytest.raises(InputError):
            read_state(tmp_path / name)
    assert capsys.readouterr().out == ""


class WithSpacing(torch.nn.Module):
    def __init__(self, network: torch.nn.Module, spacing: tuple[float, float]) -> None:
        super().__init__()
        self.network, self.spacing = network, spacing

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x, self.spacing)


class GivenMaps(torch.nn.Module):
    def __init__(self, maps: torch.Tensor) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, *args: object) -> torch.Tensor:
        return self.maps


@pytest.mark.peer
def test_the_cascades_equal_those_of_monai():
    """MONAI's VarNet around the same U-Net and maps (its own maps are normalised for real and imaginary part apart).

    It divides by the deviation with N, ours (as fastMRI's) with N - 1: a difference of 2e-4 here.
    """
    pytest.importorskip("monai.apps.reconstruction.networks.nets")
    from monai.apps.reconstruction.networks.nets.complex_unet import ComplexUnet
    from monai.apps.reconstruction.networks.nets.varnet import VariationalNetworkModel

    torch.manual_seed(0)
    kspace, mask, calibration, spacing = batch(3, (64, 48))
    maps = receive_maps(3, (64, 48)).to(torch.complex64)[None]
    refinement = unet(2, 2, channels=4, pools=4)
    ours = UnrolledNetwork(GivenMaps(maps), [ComplexNetwork(refinement, real_imaginary) for _ in range(3)])
    theirs = VariationalNetworkModel(
        GivenMaps(torch.view_as_real(maps)), ComplexUnet(conv_net=WithSpacing(refinement, spacing)), num_cascades=3
    )
    for ours_too, theirs_too, weight in zip(ours.cascades, theirs.cascades, [0.8, 1.1, 0.5], strict=True):
        ours_too.consistency.data.fill_(weight)
        theirs_too.dc_weight.data.fill_(weight)
    with torch.no_grad():
        expected = theirs(torch.view_as_real(kspace), mask[:, None, :1, :, None])
        out = ours(kspace, mask, calibration, spacing).rss
    assert (out - expected).norm() < 1e-3 * expected.norm()

"""`fewstep mri train`: from a YAML file to weights that the reconstruction loads, and on after a stop."""

from __future__ import annotations

import importlib.util
import json

import pytest
import torch
from typer.testing import CliRunner

from medical.reconstruction.cli import app

CONFIG = """
name: medical/tiny_varnet
method: varnet
network: {name: varnet, cascades: 1, channels: 2, pools: 1, sensitivity_channels: 2, sensitivity_pools: 1}
ranges:
  {matrix: [32, 32], fov_mm: [260, 260], pixel_mm: [5, 9], cell_mm: 2.5, coils: [2, 3], patterns: [random, poisson]}
steps: 2
validation_slices: 1
"""


@pytest.fixture
def brains(data_file):
    return str(data_file("brain/open/sub-colin27_T1w.nii.gz").parents[1])


def run(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments), "--quiet"])


@pytest.mark.data
def test_trained_weights_load_as_a_method_and_a_second_run_exports_the_same(brains, tmp_path):
    from safetensors.torch import load_file

    from medical.reconstruction.settings import Settings
    from medical.reconstruction.trained import load_model

    config, output = tmp_path / "tiny.yaml", tmp_path / "tiny_varnet.safetensors"
    config.write_text(CONFIG)
    first = run(config, "--output", output, "--data", brains)
    assert first.exit_code == 0, first.output
    assert output.is_file()
    assert str(output) in first.output
    model = load_model(Settings(method="varnet", weights=str(output)))
    assert model.card.simulated
    assert model.card.network["channels"] == 2
    assert set(model.card.trained_on.patterns) <= {"random", "poisson"}
    assert json.loads(output.with_suffix(".json").read_text())["measured"]["steps"] == 2
    again = tmp_path / "again.safetensors"
    second = run(config, "--output", again, "--data", brains, "--work", tmp_path / "tiny_varnet", "--export")
    assert second.exit_code == 0, second.output
    one, two = load_file(output), load_file(again)
    assert all((one[name] == two[name]).all() for name in one)


@pytest.mark.data
@pytest.mark.skipif(importlib.util.find_spec("neuralop") is None, reason="neuraloperator is not installed")
@pytest.mark.parametrize("backbone", ["fno", "uno"])
def test_operators_with_complex_weights_train_and_load_as_they_were(brains, tmp_path, backbone):
    from safetensors.torch import load_file

    from medical.reconstruction.learned.build import network_from_data
    from medical.reconstruction.learned.calibration import calibration_box
    from medical.reconstruction.settings import Settings
    from medical.reconstruction.trained import load_model

    operator = f"{{name: operator, backbone: {backbone}, cascades: 2, channels: 4, modes: 4, sensitivity_channels: 2}}"
    text = "\n".join(f"network: {operator}" if line.startswith("network") else line for line in CONFIG.splitlines())
    config, output = tmp_path / "tiny.yaml", tmp_path / "operator.safetensors"
    config.write_text(text)
    found = run(config, "--output", output, "--data", brains)
    assert found.exit_code == 0, found.output
    stored = load_file(output)
    assert any(value.is_complex() and bool(value.imag.any()) for value in stored.values())
    model = load_model(Settings(method="varnet", weights=str(output)))
    network = network_from_data(model.card.network)
    network.load_state_dict(stored)
    generator = torch.Generator().manual_seed(0)
    kspace = torch.randn(2, 24, 28, dtype=torch.complex64, generator=generator)
    mask = torch.ones(24, 28, dtype=torch.bool)
    with torch.inference_mode():
        expected = network(kspace[None], mask[None], calibration_box(mask[None]), (2.0, 2.0)).image
    torch.testing.assert_close(model.run(kspace, mask, (2.0, 2.0), generator).image[0], expected)


def test_nothing_starts_that_could_not_be_written(tmp_path):
    from shared.errors import InputError

    existing = tmp_path / "a.safetensors"
    existing.touch()
    config = tmp_path / "tiny.yaml"
    config.write_text(CONFIG)
    cases = {
        "existing": [config, "--output", existing],
        "suffix": [config, "--output", tmp_path / "a.pt"],
        "checkpoint": [config, "--output", tmp_path / "b.safetensors", "--export"],
        "no volume": [config, "--output", tmp_path / "b.safetensors"],
    }
    for word, arguments in cases.items():
        result = run(*arguments, "--data", tmp_path)
        assert isinstance(result.exception, InputError), result.output
        assert word in str(result.exception)
    assert not (tmp_path / "b.safetensors").exists()

"""The training loop on a small unrolled network: it learns, resumes bit for bit, and exports what it says."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.learned.build import network_from_data
from medical.simulation.protocol import Ranges
from medical.training.card import trained_on, write_weights
from medical.training.config import TrainingConfig
from medical.training.dataset import SimulatedSlices
from medical.training.loop import learning_rate, train
from medical.training.validation import reconstruct, zero_filled
from shared.errors import InputError

SMALL = Ranges(
    matrix=(40, 40), fov_mm=(260.0, 260.0), coils=(2, 3), accelerations=(2.0, 4.0), cell_mm=2.5, pixel_mm=(5, 7)
)


@dataclass
class Output:
    image: torch.Tensor
    coil_maps: torch.Tensor
    kspace: torch.Tensor


class OneCascade(nn.Module):
    """x <- S^H F^-1 y + CNN, k <- F S x - w M (F S x - y), with maps from the calibration box."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, 12, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(12, 2, 3, padding=1))
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.dropout = nn.Dropout2d(0.05)  # random, so that resuming must restore the random state too

    def forward(self, kspace, mask, calibration, spacing):
        low = ifft_centred(kspace * calibration[:, None])
        maps = low / low.abs().square().sum(1, keepdim=True).sqrt().clamp_min(1e-9)
        scale = low.abs().amax((1, 2, 3), keepdim=True)
        y = kspace / scale
        image = (maps.conj() * ifft_centred(y)).sum(1, keepdim=True)
        step = self.dropout(self.body(torch.cat([image.real, image.imag], 1))).float()
        image = image + torch.complex(*step.split(1, 1))
        k = fft_centred(maps * image)
        k = k - self.weight * (k - y) * mask[:, None]
        return Output((maps.conj() * ifft_centred(k)).sum(1) * scale[:, 0], maps, k * scale)


def network() -> OneCascade:
    torch.manual_seed(0)
    return OneCascade()


def config(**changes) -> TrainingConfig:
    values = {"name": "medical/tiny", "method": "tiny", "network": {"name": "tiny"}, "ranges": SMALL, "steps": 4}
    values |= {"warmup": 2, "validation_slices": 1, "validate_every": 9, "slices_per_step": 2, "checkpoint_minutes": 9}
    return TrainingConfig.model_validate(values | changes)


@pytest.fixture
def brains(data_file):
    return data_file("brain/open/sub-colin27_T1w.nii.gz").parents[1]


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    return tmp_path_factory.mktemp("slices")


@pytest.mark.data
def test_a_killed_training_goes_on_to_the_same_bits(brains, slices, tmp_path):
    paths = {"data": brains, "cache": slices}
    straight = train(config(), network(), work=tmp_path / "straight", **paths)
    half = train(config(), network(), work=tmp_path / "halves", stop_at=2, **paths)
    resumed = train(config(), network(), work=tmp_path / "halves", **paths)
    assert (half.step, resumed.step) == (2, 4)
    one, two = (load_file(tmp_path / name / "checkpoint.safetensors") for name in ("straight", "halves"))
    assert one.keys() == two.keys()
    assert any(name.startswith("optimizer.") for name in one)
    for name, value in one.items():
        assert torch.equal(value, two[name]), name
    for name, value in straight.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name])
    assert not torch.equal(half.network.state_dict()["weight"], resumed.network.state_dict()["weight"])


@pytest.mark.data
def test_the_exported_network_is_the_average_of_the_weights(brains, slices, tmp_path):
    weights = []
    settings = config(steps=3, slices_per_step=1, average=0.5)
    for stop in (1, 2, 3):
        train(settings, network(), data=brains, cache=slices, work=tmp_path / "w", stop_at=stop)
        weights.append(load_file(tmp_path / "w" / "checkpoint.safetensors")["network.body.0.weight"])
    average = network().state_dict()["body.0.weight"]
    for update, value in enumerate(weights):
        decay = min(0.5, (1 + update) / (10 + update))
        average = decay * average + (1 - decay) * value
    end = train(settings, network(), data=brains, cache=slices, work=tmp_path / "w")
    torch.testing.assert_close(end.network.state_dict()["body.0.weight"], average)


@pytest.mark.data
def test_a_trained_network_beats_zero_filling_on_a_subject_it_has_not_seen(brains, slices, tmp_path):
    settings = config(steps=30, slices_per_step=1, validation_slices=6, learning_rate=3e-3, warmup=5, average=0.9)
    settings = settings.model_copy(update={"ranges": SMALL.model_copy(update={"patterns": ("gaussian",)})})
    torch.manual_seed(0)
    varnet = network_from_data({"name": "varnet", "cascades": 2, "channels": 4, "pools": 2, "sensitivity_pools": 2})
    end = train(settings, varnet, data=brains, cache=slices, work=tmp_path / "w")
    assert end.scores["ssim"] > end.scores["zero_filled.ssim"]
    assert end.scores["nmse"] < end.scores["zero_filled.nmse"]
    rows = [json.loads(line) for line in (tmp_path / "w" / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 30
    assert sum(losses[-10:]) < sum(losses[:10])
    from PIL import Image

    with Image.open(tmp_path / "w" / "validation_000030.png") as picture:
        assert picture.width > 300
        assert picture.convert("L").getextrema()[1] > 200


@pytest.mark.data
def test_mixed_precision_trains_near_the_same_weights_after_a_training_in_full(brains, slices, tmp_path):
    weights = {}
    for precision in ("no", "bf16"):
        settings = config(steps=2, warmup=0, precision=precision, average=0.0)
        end = train(settings, network(), data=brains, cache=slices, work=tmp_path / precision)
        weights[precision] = end.network.state_dict()["body.0.weight"]
    difference = (weights["bf16"] - weights["no"]).norm()
    moved = (weights["no"] - network().state_dict()["body.0.weight"]).norm()
    assert 0 < float(difference) < 0.5 * float(moved)


@pytest.mark.data
def test_a_checkpoint_of_another_configuration_is_refused(brains, slices, tmp_path):
    train(config(), network(), data=brains, cache=slices, work=tmp_path / "w", stop_at=1)
    with pytest.raises(InputError, match="another configuration"):
        train(config(learning_rate=0.5), network(), data=brains, cache=slices, work=tmp_path / "w")


@pytest.mark.data
def test_weights_reload_and_the_card_says_what_the_slices_were(brains, slices, tmp_path):
    seen = SimulatedSlices("train", SMALL, brains, slices, length=12)
    covered = trained_on(seen)
    rates = [seen[number].acceleration for number in range(12)]
    assert covered["acceleration"] == [min(rates), max(rates)]
    assert covered["matrix"] == [40, 40]
    assert covered["coils"] == [2, 3]
    model = network()
    write_weights(tmp_path / "tiny.safetensors", model, config(), covered, {"steps": 1})
    card = json.loads((tmp_path / "tiny.json").read_text())
    assert card["simulated"] is True
    assert card["trained_on"]["patterns"] == covered["patterns"]
    assert {subject["name"] for subject in card["subjects"]}.isdisjoint({"pycortexS1", "synthseg11", "OAS10061"})
    other = OneCascade()
    other.load_state_dict(load_file(tmp_path / "tiny.safetensors"))
    sample = seen[0]
    cpu = torch.device("cpu")
    assert torch.equal(reconstruct(model.eval(), sample, cpu), reconstruct(other.eval(), sample, cpu))
    assert "not for diagnosis" in (tmp_path / "tiny.md").read_text().lower()
    with pytest.raises(InputError, match="existing"):
        write_weights(tmp_path / "tiny.safetensors", model, config(), covered, {"steps": 1})


@pytest.mark.data
def test_slice_numbers_decide_slices_whatever_the_start(brains, slices, tmp_path):
    whole = SimulatedSlices("train", SMALL, brains, slices, length=6, seed=3)
    rest = SimulatedSlices("train", SMALL, brains, slices, length=6, seed=3, first=4)
    assert len(rest) == 2
    assert torch.equal(whole[4].kspace, rest[0].kspace)
    assert not torch.equal(whole[4].kspace[0], whole[5].kspace[0])
    assert zero_filled(whole[0]).shape == (40, 40)


def test_the_learning_rate_rises_and_falls_along_half_a_cosine():
    settings = config(steps=102, warmup=2, learning_rate=1.0)
    assert [learning_rate(settings, step) for step in (0, 1, 2, 52)] == pytest.approx([0.5, 1.0, 1.0, 0.5])
    assert learning_rate(settings, 101) < 1e-3


def test_misspelt_and_impossible_settings_are_refused(tmp_path):
    from shared.config import load_config

    file = tmp_path / "c.yaml"
    for line in ("stepz: 3", "ranges: {patterns: [spiral]}", "ranges: {coils: [8, 4]}", "steps: 0"):
        file.write_text(f"name: medical/x\nmethod: x\nnetwork: {{}}\n{'' if 'steps' in line else 'steps: 3'}\n{line}\n")
        with pytest.raises(InputError):
            load_config(file, TrainingConfig)

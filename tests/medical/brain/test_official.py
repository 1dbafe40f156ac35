"""MedForj's files: names, shapes, reading, and what is told of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medical.brain.config import BrainConfig
from medical.brain.files import load_brain, save_brain
from medical.brain.official import SLOPES, answering, check_strategy, load_official, network_of
from shared.errors import InputError
from tests.medical.brain.gaussian import exact_network

pytest.importorskip("monai")
pytest.importorskip("einops")
from medical.brain.network import brain_network

SMALL = BrainConfig(strategy="flow", channels=(8, 16), attention=(False, True), blocks=1, size=(8, 8, 8), spacing_mm=4)


def published_names() -> set[str]:
    """The table of the module's docstring, written out."""
    resnet = ["norm1", "conv1.conv", "time_emb_proj", "norm2", "conv2.conv"]
    attention = ["norm", "attn.to_q", "attn.to_k", "attn.to_v", "attn.out_proj"]
    parts = ["conv_in.conv", "time_embed.0", "time_embed.2", "out.0", "out.2.conv"]
    for level in range(5):
        for side, blocks in (("down", 2), ("up", 3)):
            parts += [f"{side}_blocks.{level}.resnets.{i}.{part}" for i in range(blocks) for part in resnet]
        parts += [f"up_blocks.{level}.resnets.{i}.skip_connection.conv" for i in range(3)]  # the skip always widens it
        if level < 4:
            parts += [f"down_blocks.{level}.downsampler.op.conv", f"up_blocks.{level}.upsampler.postconv.conv"]
            parts += [f"down_blocks.{level + 1}.resnets.0.skip_connection.conv"]
    parts += [f"middle_block.resnet_{i}.{part}" for i in (1, 2) for part in resnet]
    places = ["down_blocks.4.attentions.0", "down_blocks.4.attentions.1", "middle_block.attention"]
    places += [f"up_blocks.0.attentions.{i}" for i in range(3)]
    parts += [f"{place}.{part}" for place in places for part in attention]
    return {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def test_names_shapes_and_size_are_the_published_ones():
    with torch.device("meta"):
        state = brain_network(BrainConfig(strategy="flow")).state_dict()
    assert set(state) == published_names()
    assert len(state) == 394
    assert sum(value.numel() for value in state.values()) == 41_245_217
    assert tuple(state["conv_in.conv.weight"].shape) == (16, 1, 3, 3, 3)
    assert tuple(state["time_embed.0.weight"].shape) == (64, 16)
    assert tuple(state["down_blocks.4.attentions.0.attn.to_q.weight"].shape) == (256, 256)
    assert tuple(state["up_blocks.0.resnets.0.conv1.conv.weight"].shape) == (256, 512, 3, 3, 3)
    assert tuple(state["out.0.weight"].shape) == (16,)
    assert tuple(state["out.2.conv.weight"].shape) == (1, 16, 3, 3, 3)


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """All 394 tensors, zero but for the last bias: a file of 83 MB in float16."""
    with torch.device("meta"):
        needed = brain_network(BrainConfig(strategy="clean")).state_dict()
    state = {name: torch.zeros(value.shape, dtype=torch.float16) for name, value in needed.items()}
    state["out.2.conv.bias"] += 0.25
    path = tmp_path_factory.mktemp("medforj") / "MedForj-weights-clean_ema.safetensors"
    save_file(state, path)
    return path


def test_a_published_file_loads_whole_with_the_strategy_of_its_name(published):
    model = load_brain(published)
    assert model.config == BrainConfig(strategy="clean")
    assert len(model.sha256) == 64
    state = model.network.state_dict()
    assert state["out.2.conv.bias"].tolist() == [0.25]
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert not model.network.training
    with torch.no_grad():  # all weights are zero: what is left is the last bias
        assert torch.equal(
            model.network(torch.ones(1, 1, 16, 16, 16), torch.zeros(1)), torch.full((1, 1, 16, 16, 16), 0.25)
        )


def test_an_older_checkpoint_loads_from_its_key_and_folder(published, tmp_path):
    from safetensors.torch import load_file

    folder = tmp_path / "sample"
    folder.mkdir()
    torch.save({"model": load_file(published), "epoch": 100, "run_id": "abc"}, folder / "model_epoch100.pt")
    model = load_official(folder / "model_epoch100.pt", check=False)
    assert model.config.strategy == "clean"
    assert model.network.state_dict()["out.2.conv.bias"].tolist() == [0.25]


def test_names_that_say_nothing_or_something_else_are_told(tmp_path):
    for name, strategy, message in (
        ("weights.pt", None, "--strategy"),
        ("MedForj-weights-flow_ema.safetensors", "rflow", "a name that says flow"),
        ("MedForj-weights-ldm_rflow_ema.safetensors", None, "no readable weights"),
    ):
        with pytest.raises(InputError, match=message):
            load_official(tmp_path / name, strategy)
    with pytest.raises(InputError, match="no readable weights"):
        load_official(tmp_path / "MedForj-weights-flow_ema.safetensors")


def test_other_weights_are_told_by_name_and_shape(tmp_path):
    state = brain_network(SMALL).state_dict()
    for change, message in (
        ({"conv_in.conv.bias": None}, r"conv_in\.conv\.bias absent; expected \d+ tensors, conv_in\.conv\.bias \(8,\)"),
        ({"extra": torch.zeros(2)}, r"extra \(2,\); expected \d+ tensors, extra absent"),
    ):
        wrong = {name: value for name, value in {**state, **change}.items() if value is not None}
        with pytest.raises(InputError, match=message):
            network_of(SMALL, wrong, tmp_path / "x.pt")
    save_file(state, tmp_path / "MedForj-weights-flow_ema.safetensors")
    with pytest.raises(InputError, match="expected 394 tensors"):
        load_brain(tmp_path / "MedForj-weights-flow_ema.safetensors")


@pytest.mark.parametrize("strategy", SLOPES)
def test_an_optimal_network_tells_its_kind_of_strategy(strategy):
    network = exact_network(strategy, mean=-0.6, std=0.5)
    assert answering(network) == pytest.approx(SLOPES[strategy], abs=0.05)
    for other, slope in SLOPES.items():
        if slope == SLOPES[strategy]:
            check_strategy(network, other, Path("x.pt"))
        else:
            with pytest.raises(InputError, match=f"strategy .*{strategy}"):
                check_strategy(network, other, Path("x.pt"))


def test_our_file_comes_back_bit_for_bit_and_damage_is_told(tmp_path):
    network = brain_network(SMALL).eval()
    path = tmp_path / "small.safetensors"
    save_brain(path, SMALL, network.state_dict(), {"steps": 3})
    model = load_brain(path)
    assert model.config == SMALL
    x, time = torch.randn(1, 1, 8, 8, 8), torch.tensor([500.0])
    with torch.no_grad():
        assert torch.equal(model.network(x, time), network(x, time))
    with pytest.raises(InputError, match="a model of strategy flow"):
        load_brain(path, "noise")
    state = network.state_dict()
    for header, message in (
        ({"kind": "fewstep stereo 1"}, "kind 'fewstep stereo 1'"),
        ({"kind": "fewstep brain 1", "config": "{}"}, "damaged header"),
    ):
        save_file(state, path, metadata=header)
        with pytest.raises(InputError, match=message):
            load_brain(path)
    with pytest.raises(InputError, match="no such weights"):
        load_brain(tmp_path / "absent.safetensors")


@pytest.mark.parametrize(
    "change",
    [{"attention": (True,)}, {"channels": (8, 12)}, {"head_channels": 5}, {"size": (8, 9, 8)}, {"strategy": "v"}],
)
def test_configurations_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError, match=r"must|Input"):
        BrainConfig.model_validate({**SMALL.model_dump(), **change})

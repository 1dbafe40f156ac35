"""D3RoMa's pixel-space layout against diffusers: names, files, outputs and sampling."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from robotics.stereo.official import (
    PixelConfig,
    load_official,
    pixel_unet,
    pyramid_noise,
    read_official,
)
from shared.errors import InputError

diffusers = pytest.importorskip("diffusers")

NARROW = (32, 32, 32, 32, 64, 64)
SMALL = PixelConfig(channels=NARROW)


def published_names() -> set[str]:
    """The table of the module's docstring, written out."""
    resnet = ["norm1", "conv1", "time_emb_proj", "norm2", "conv2"]
    attention = ["group_norm", "to_q", "to_k", "to_v", "to_out.0"]
    parts = ["conv_in", "conv_out", "conv_norm_out", "time_embedding.linear_1", "time_embedding.linear_2"]
    for level in range(6):
        for side, blocks in (("down", 2), ("up", 3)):
            parts += [f"{side}_blocks.{level}.resnets.{i}.{part}" for i in range(blocks) for part in resnet]
        parts += [f"up_blocks.{level}.resnets.{i}.conv_shortcut" for i in range(3)]  # the skip always widens it
        if level < 5:
            parts += [f"down_blocks.{level}.downsamplers.0.conv", f"up_blocks.{level}.upsamplers.0.conv"]
    parts += [f"down_blocks.{level}.resnets.0.conv_shortcut" for level in (2, 4)]  # 128 to 256, 256 to 512
    parts += [f"mid_block.resnets.{i}.{part}" for i in range(2) for part in resnet]
    places = ["down_blocks.4.attentions.0", "down_blocks.4.attentions.1", "mid_block.attentions.0"]
    places += [f"up_blocks.1.attentions.{i}" for i in range(3)]
    parts += [f"{place}.{part}" for place in places for part in attention]
    return {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def test_names_shapes_and_size_are_the_published_ones():
    with torch.device("meta"):
        network = pixel_unet(PixelConfig())
    state = network.state_dict()
    assert set(state) == published_names()
    assert tuple(state["conv_in.weight"].shape) == (128, 12, 3, 3)
    assert tuple(state["conv_out.weight"].shape) == (3, 128, 3, 3)
    assert tuple(state["time_embedding.linear_1.weight"].shape) == (512, 128)
    assert tuple(state["down_blocks.4.attentions.0.to_q.weight"].shape) == (512, 512)
    assert tuple(state["up_blocks.0.resnets.0.conv1.weight"].shape) == (512, 1024, 3, 3)
    assert round(sum(value.numel() for value in state.values()) / 1e6, 1) == 113.7
    assert [PixelConfig(conditions=what, depth_channels=c).in_channels for what, c in (
        ("left+right+raw", 3), ("left+right+raw", 1), ("rgb+raw", 3), ("rgb+raw", 1)
    )] == [12, 8, 9, 5]  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return pixel_unet(SMALL).eval().requires_grad_(False)


@pytest.mark.parametrize("kind", ["safetensors", "bin", "whole pipeline"])
def test_a_saved_network_comes_back_bit_for_bit(network, tmp_path, kind):
    folder = tmp_path / "unet"
    network.save_pretrained(folder)
    if kind == "bin":
        (folder / "diffusion_pytorch_model.safetensors").unlink()
        torch.save(network.state_dict(), folder / "diffusion_pytorch_model.bin")
    config, state = read_official(tmp_path if kind == "whole pipeline" else folder)
    assert config == SMALL
    loaded = load_official(config, state)
    x, time = torch.randn(2, 12, 32, 64), torch.tensor([3.0, 90.0])
    with torch.no_grad():
        assert torch.equal(loaded.network(x, time).sample, network(x, time).sample)
    assert not loaded.network.training


def test_other_weights_and_other_networks_are_told(network, tmp_path):
    state = network.state_dict()
    for change, message in (
        ({"conv_in.bias": None}, r"conv_in\.bias: found nothing; expected \(32,\)"),
        ({"extra": torch.zeros(2)}, r"extra: found \(2,\); expected nothing"),
        ({"conv_in.weight": torch.zeros(32, 8, 3, 3)}, r"found \(32, 8, 3, 3\); expected \(32, 12, 3, 3\)"),
    ):
        wrong = {name: value for name, value in {**state, **change}.items() if value is not None}
        with pytest.raises(InputError, match=message):
            load_official(SMALL, wrong)
    network.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    for change in ({"in_channels": 16, "out_channels": 4}, {"down_block_types": ["DownBlock2D"] * 6}):
        (tmp_path / "config.json").write_text(json.dumps({**values, **change}))
        with pytest.raises(InputError, match="UNet2DModel of the table"):
            read_official(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        read_official(tmp_path)


def test_what_it_sees_is_in_the_published_order_with_holes_at_minus_one(network):
    model = load_official(SMALL, network.state_dict())
    left, right = np.full((30, 60, 3), 255, np.uint8), np.zeros((30, 60, 3), np.uint8)
    right[..., 2] = 51
    raw = np.full((30, 60), 32.0, np.float32)
    raw[0, 0], raw[5, 7] = np.nan, 500.0
    seen = model.condition([left, right], raw)
    assert seen.shape == (1, 9, 32, 64)
    inside = seen[0, :, 1:31, 2:62]  # the border is shared between both sides
    assert (inside[:3] == 1).all()
    assert (inside[3:5] == -1).all()
    torch.testing.assert_close(inside[5], torch.full((30, 60), 0.2 * 2 - 1))
    assert (inside[6:, 2:4] == -0.5).all()
    assert (inside[6:, 0, 0] == -1).all()
    assert (inside[6:, 5, 7] == 1).all()
    assert (seen[0, 6:, 0, :3] == -1).all()  # the corner is repeated into the border
    d = torch.tensor([0.0, 10.5, 128.0])
    torch.testing.assert_close(model.decode(model.encode(d)[None, None, None].expand(1, 3, 1, 3))[0, 0], d)
    with pytest.raises(InputError, match="2 of"):
        model.condition([left], raw)


def test_it_samples_as_diffusers_ddpm_does_with_its_settings(network):
    model = load_official(SMALL, network.state_dict())
    source = np.random.default_rng(0)
    images = [source.integers(0, 256, (32, 64, 3), dtype=np.uint8) for _ in range(2)]
    raw = source.uniform(0, 100, (32, 64)).astype(np.float32)
    found = model.draw(images, raw, calls=10, samples=2, generator=torch.Generator().manual_seed(1))
    scheduler = diffusers.DDPMScheduler(
        num_train_timesteps=128, beta_schedule="squaredcos_cap_v2", prediction_type="sample", thresholding=True,
        dynamic_thresholding_ratio=0.995, timestep_spacing="leading",
    )  # fmt: skip
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == [108, 96, 84, 72, 60, 48, 36, 24, 12, 0]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, 32, 64, generator=generator)
    condition = model.condition(images, raw).expand(2, -1, -1, -1)
    with torch.no_grad():
        for t in scheduler.timesteps:
            answer = network(torch.cat([x, condition], 1), t).sample
            x = scheduler.step(answer, t, x, generator=generator).prev_sample
    torch.testing.assert_close(found, (x.mean(1) + 1) / 2 * 128, atol=2e-3, rtol=0)
    assert found.std() > 1


def test_pyramid_noise_has_unit_deviation_and_more_of_it_in_low_frequencies():
    shape = (8, 3, 64, 96)
    made = [
        pyramid_noise(shape, torch.Generator().manual_seed(seed), dtype=torch.float32, device="cpu")
        for seed in (0, 0, 1)
    ]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert made[0].shape == shape
    assert float(made[0].std()) == pytest.approx(1, abs=1e-4)
    # White noise has 1/8 of its deviation left in the means of 8 x 8 pixels.
    assert float(functional.avg_pool2d(made[0], 8).std()) > 0.3

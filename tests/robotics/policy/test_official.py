import json

import pytest
import torch
from safetensors.torch import save_file

from robotics.policy.files import ACTION, MODEL, OBSERVATION, policy_from_tensors
from robotics.policy.official import from_diffusion_policy, lerobot_name, name_from_lerobot, read_lerobot
from shared.errors import InputError
from tests.oracles import official_policy as official
from tests.robotics.policy.test_policy import small_policy

PAIRS = {  # ours (Diffusion Policy) and LeRobot's
    "model.down_modules.0.1.blocks.0.block.0.weight": "diffusion.unet.down_modules.0.1.conv1.block.0.weight",
    "model.mid_modules.1.blocks.1.block.1.bias": "diffusion.unet.mid_modules.1.conv2.block.1.bias",
    "model.down_modules.1.2.conv.weight": "diffusion.unet.down_modules.1.2.weight",
    "model.up_modules.0.2.conv.bias": "diffusion.unet.up_modules.0.2.bias",
    "model.up_modules.1.0.residual_conv.weight": "diffusion.unet.up_modules.1.0.residual_conv.weight",
    "model.final_conv.0.block.0.weight": "diffusion.unet.final_conv.0.block.0.weight",
    "model.diffusion_step_encoder.3.bias": "diffusion.unet.diffusion_step_encoder.3.bias",
}
CONFIG = {
    "type": "diffusion", "horizon": 16, "n_obs_steps": 2, "n_action_steps": 8, "down_dims": [8, 16, 24],
    "diffusion_step_embed_dim": 8, "clip_sample_range": 1.0,
    "input_features": {
        "observation.state": {"type": "STATE", "shape": [2]},
        "observation.environment_state": {"type": "ENV", "shape": [18]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
    "normalization_mapping": {"STATE": "MIN_MAX", "ENV": "MEAN_STD", "ACTION": "MIN_MAX"},
}  # fmt: skip


def test_names_of_lerobot_are_mapped_both_ways():
    for ours, theirs in PAIRS.items():
        assert lerobot_name(ours) == theirs
        assert name_from_lerobot(theirs) == ours
    layout = official.unet_layout(2, 40, embedding=8, widths=[8, 16, 24], kernel=5, scale=True)
    theirs = {lerobot_name(f"{MODEL}{name}") for name in layout}
    assert len(theirs) == len(layout)
    assert {name_from_lerobot(name) for name in theirs} == {f"{MODEL}{name}" for name in layout}


def lerobot_folder(folder, config=CONFIG, *, old: bool):
    policy = small_policy()
    network = policy.network.state_dict()
    tensors = {lerobot_name(f"{MODEL}{name}"): value.clone() for name, value in network.items()}
    generator = torch.Generator().manual_seed(0)
    low, high = -torch.rand(2, generator=generator), 1 + torch.rand(2, generator=generator)
    statistics = {
        "observation.state": {"min": low, "max": high},
        "observation.environment_state": {"mean": torch.randn(18, generator=generator), "std": torch.full((18,), 3.0)},
        "action": {"min": torch.tensor([12.0, 25.0]), "max": torch.tensor([511.0, 511.0])},
    }
    flat = {f"{feature}.{name}": value for feature, values in statistics.items() for name, value in values.items()}
    if old:
        for name, value in flat.items():
            feature, _, statistic = name.rpartition(".")
            side = "normalize_targets" if feature == "action" else "normalize_inputs"
            tensors[f"{side}.buffer_{feature.replace('.', '_')}.{statistic}"] = value
    else:
        save_file(flat, folder / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return network, statistics


@pytest.mark.parametrize("old", [True, False])
def test_lerobot_folder_becomes_the_same_network_and_normalisation(tmp_path, old):
    network, statistics = lerobot_folder(tmp_path, old=old)
    config, tensors = read_lerobot(tmp_path)
    policy = policy_from_tensors(config, tensors, source="lerobot")
    for name, value in policy.network.state_dict().items():
        assert torch.equal(value, network[name])
    state, keypoints = torch.rand(5, 2), torch.randn(5, 18)
    low, high = statistics["observation.state"]["min"], statistics["observation.state"]["max"]
    around = statistics["observation.environment_state"]
    expected = torch.cat([(state - low) / (high - low) * 2 - 1, (keypoints - around["mean"]) / around["std"]], dim=1)
    torch.testing.assert_close(policy.observation.apply(torch.cat([state, keypoints], dim=1)), expected)
    torch.testing.assert_close(policy.action.undo(torch.tensor([[-1.0, 1.0]])), torch.tensor([[12.0, 511.0]]))


def test_lerobot_policies_without_counterpart_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"config\.json"):
        read_lerobot(tmp_path)
    language = {**CONFIG, "input_features": {"observation.language": {"shape": [3]}}}
    lerobot_folder(tmp_path, language, old=True)
    with pytest.raises(InputError, match="no counterpart"):
        read_lerobot(tmp_path)


def test_exported_diffusion_policy_weights_load_strictly():
    policy = small_policy()
    tensors = {f"{MODEL}{name}": value for name, value in policy.network.state_dict().items()}
    tensors |= policy.observation.tensors(OBSERVATION) | policy.action.tensors(ACTION)
    published = {**tensors, "_dummy_variable": torch.empty(0), "mask_generator._dummy_variable": torch.empty(0)}
    loaded = policy_from_tensors(policy.config, from_diffusion_policy(published, policy.config), source="export")
    observations = torch.randn(1, 2, 20)
    a, b = (
        one.act(observations, generator=torch.Generator().manual_seed(0), grid=policy.grid(3)).actions
        for one in (policy, loaded)
    )
    assert torch.equal(a, b)
    del tensors["normalizer.params_dict.obs.scale"]
    with pytest.raises(InputError, match=r"params_dict\.obs\.scale: absent"):
        policy_from_tensors(policy.config, tensors, source="export")

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from robotics.policy.config import DiscreteAction, MlpConfig, TransformerConfig
from robotics.policy.episodes import Episodes
from robotics.policy.files import load_policy, policy_facts
from robotics.policy.networks import build_network
from robotics.policy.training import CHECKPOINT, PolicyTrainer, PolicyTraining
from shared.config import load_config
from shared.errors import InputError
from shared.predictions import convert
from tests.robotics.policy.test_networks import policy_config

MLP = MlpConfig(width=32, depth=1, embedding=16)


def circles(episodes: int = 6, frames: int = 40) -> Episodes:
    """The action is the first key point of five ticks later, so the observation determines it."""
    t = np.arange(frames) * 0.2 + np.arange(episodes)[:, None]
    points = np.stack([np.cos(t), np.sin(t)], axis=-1).reshape(-1, 2).astype(np.float32)
    keypoint = np.tile(points, (1, 9)).reshape(-1, 9, 2)
    later = np.stack([np.cos(t + 1), np.sin(t + 1)], axis=-1).reshape(-1, 2).astype(np.float32)
    state = np.concatenate([points, np.zeros((len(points), 3), dtype=np.float32)], axis=1)
    ends = np.arange(1, episodes + 1) * frames
    return Episodes({"keypoint": keypoint, "state": state, "action": later}, ends, Path("circles"))


def settings(network=MLP, **changes) -> PolicyTraining:
    values = {"steps": 12, "batch": 16, "learning_rate": 1e-2, "warmup": 2, "validation": 0.2, "validate_every": 6}
    return PolicyTraining(name="robotics/circles", policy=policy_config(network), **{**values, **changes})


def test_loss_falls_and_the_policy_acts_as_shown(tmp_path):
    chosen = settings(
        MlpConfig(width=128, depth=2, embedding=32), steps=400, batch=64, learning_rate=3e-3, average=0.98
    )
    trainer = PolicyTrainer(chosen, circles(), tmp_path)
    before = trainer.validate()["validation_loss"]
    trainer.run()
    after = trainer.validate()["validation_loss"]
    assert after < 0.4 * before
    trainer.export(tmp_path / "policy.safetensors")
    policy = load_policy(tmp_path / "policy.safetensors")
    data = circles()
    held = slice(45, 47)  # two ticks of the second episode
    seen = policy.observations({name: data.arrays[name][held][None] for name in ("keypoint", "state")})
    chunk = policy.act(seen.repeat(8, 1, 1), generator=torch.Generator().manual_seed(0))
    shown = torch.from_numpy(data.arrays["action"][46:54])
    assert float((chunk.executable.mean(0) - shown).abs().mean()) < 0.15  # of circles of radius 1
    assert policy_facts(tmp_path / "policy.safetensors")["steps"] == 400


@pytest.mark.parametrize("network", [MLP, TransformerConfig(layers=1, heads=2, width=16)])
def test_killed_training_ends_with_the_bits_of_one_that_was_not(tmp_path, network):
    chosen = settings(network)
    whole = PolicyTrainer(chosen, circles(), tmp_path / "whole")
    whole.run()
    PolicyTrainer(chosen, circles(), tmp_path / "killed").run(stop_at=5)
    resumed = PolicyTrainer(chosen, circles(), tmp_path / "killed")
    assert resumed.step == 5
    resumed.run()
    for name, value in whole.average.average.items():
        assert torch.equal(value, resumed.average.average[name]), name
    assert not any(value.isnan().any() for value in whole.average.average.values())
    rows = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [6, 12]
    assert rows[-1]["validation_loss"] == whole.facts["scores"]["validation_loss"]


def test_another_configuration_or_other_data_do_not_continue_a_training(tmp_path):
    PolicyTrainer(settings(), circles(), tmp_path).run(stop_at=2)
    with pytest.raises(InputError, match="another configuration"):
        PolicyTrainer(settings(seed=1), circles(), tmp_path)
    with pytest.raises(InputError, match="another configuration"):
        PolicyTrainer(settings(), circles(frames=41), tmp_path)
    assert PolicyTrainer(settings(checkpoint_minutes=0), circles(), tmp_path).step == 2


def test_scaled_discrete_actions_are_trained_at_their_small_size(tmp_path):
    data = circles()
    gripper = np.sign(data.arrays["action"][:, 0])
    data.arrays["action"][:, 1] = gripper
    policy = policy_config(MLP)
    action = policy.action.model_copy(update={"discrete": (DiscreteAction(index=1, rule="scale", factor=10),)})
    chosen = settings().model_copy(update={"policy": policy.model_copy(update={"action": action})})
    trainer = PolicyTrainer(chosen, data, tmp_path)
    assert torch.equal(trainer._actions[:, 1], torch.from_numpy(gripper) / 10)


def test_losses_are_told_as_means_of_many_steps_and_must_be_finite(tmp_path):
    told = []
    PolicyTrainer(settings(steps=53, validate_every=100), circles(), tmp_path / "told").run(
        tell=lambda step, loss: told.append((step, loss))
    )
    assert [step for step, _ in told] == [50, 53]
    assert told[1][1] < told[0][1]
    with pytest.raises(InputError, match="finite"):
        PolicyTrainer(settings(learning_rate=1e30), circles(), tmp_path / "wild").run()
    assert not (tmp_path / "wild" / CHECKPOINT).exists()


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v"])
def test_loss_of_a_network_that_answers_nothing_is_the_mean_square_of_its_target(tmp_path, prediction):
    chosen = settings()
    chosen = chosen.model_copy(update={"policy": chosen.policy.model_copy(update={"prediction": prediction})})
    trainer = PolicyTrainer(chosen, circles(), tmp_path)
    frames, process = trainer._train[:4], trainer.policy.process
    for value in trainer.network.parameters():
        torch.nn.init.zeros_(value)
    entry, noise = trainer._draw(4, torch.Generator().manual_seed(3))
    actions, t = trainer._actions[frames], (entry + 1).double() / process.steps
    x = process.add_noise(actions, noise, t)
    target = convert(actions, x, t, process, source="sample", target=prediction)
    found = float(trainer.loss(frames, torch.Generator().manual_seed(3)).detach())
    assert found == pytest.approx(float(target.square().mean()), rel=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_the_gpu_is_replayed_and_resumable(tmp_path):
    whole = PolicyTrainer(settings(), circles(), tmp_path / "whole", device="cuda")
    whole.run()
    assert whole._replayed.recorded
    PolicyTrainer(settings(), circles(), tmp_path / "killed", device="cuda").run(stop_at=6)
    resumed = PolicyTrainer(settings(), circles(), tmp_path / "killed", device="cuda")
    resumed.run()
    for name, value in whole.average.average.items():
        torch.testing.assert_close(value, resumed.average.average[name])


def test_data_that_do_not_fit_are_refused(tmp_path):
    data = circles()
    wide = Episodes({**data.arrays, "action": np.zeros((240, 3), np.float32)}, data.ends, data.path)
    with pytest.raises(InputError, match="3 numbers an action"):
        PolicyTrainer(settings(), wide, tmp_path)
    narrow = Episodes({**data.arrays, "keypoint": np.zeros((240, 8, 2), np.float32)}, data.ends, data.path)
    with pytest.raises(InputError, match="16 numbers; expected 18"):
        PolicyTrainer(settings(), narrow, tmp_path)


def test_training_in_the_mirror_doubles_the_windows_and_keeps_held_out_episodes_out(tmp_path):
    plain = PolicyTrainer(settings(), circles(), tmp_path / "plain")
    twice = PolicyTrainer(settings(mirror="pusht"), circles(), tmp_path / "twice")
    assert len(twice._train) == 2 * len(plain._train)
    assert torch.equal(twice._held, plain._held)
    frames = circles().frames
    assert not np.isin(twice._train.numpy() % frames, plain._held.numpy()).any()
    actions = twice.policy.decode(twice._actions).numpy()
    np.testing.assert_allclose(actions[frames:], 512 - actions[:frames, ::-1], atol=1e-3)
    with pytest.raises(InputError, match="mirror: found 'metaworld'"):
        PolicyTrainer(settings(mirror="metaworld"), circles(), tmp_path)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("robotics/pusht_small", 4_000_000),
        ("robotics/pusht_wide", 4_000_000),
        ("robotics/pusht_unet", 4_000_000),
        ("robotics/pusht_reference", 66_000_000),
    ],
)
def test_packaged_configurations_are_valid_and_of_their_size(name, most):
    chosen = load_config(name, PolicyTraining)
    with torch.device("meta"):
        network = build_network(chosen.policy)
    assert sum(value.numel() for value in network.parameters()) < most
    assert chosen.name == name

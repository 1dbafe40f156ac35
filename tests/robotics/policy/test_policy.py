import pytest
import torch

from robotics.policy.config import ActionConfig, DiscreteAction, MlpConfig, UnetConfig
from robotics.policy.files import load_policy, policy_facts, save_policy
from robotics.policy.networks import build_network
from robotics.policy.normalise import Normaliser
from robotics.policy.policy import Policy
from shared.errors import InputError
from tests.robotics.policy.gaussian import gaussian_policy, identity, observing
from tests.robotics.policy.test_networks import policy_config, random_weights


def small_policy(network=None, scale: float = 0.02, **changes) -> Policy:
    config = policy_config(network or UnetConfig(widths=(8, 16, 24), step_embedding=8)).model_copy(update=changes)
    built = build_network(config)
    random_weights(built)
    for value in built.parameters():
        value.data.mul_(scale)
    generator = torch.Generator().manual_seed(5)
    observation = Normaliser.fit(100 * torch.randn(50, 20, generator=generator))
    action = Normaliser.fit(512 * torch.rand(50, config.action.size, generator=generator))
    return Policy(config, built, observation, action)


def test_full_sampling_is_the_one_of_diffusers_ddpm_scheduler():
    scheduling = pytest.importorskip("diffusers.schedulers.scheduling_ddpm")
    policy = small_policy(MlpConfig(width=32, depth=1, embedding=16), scale=0.5)
    scheduler = scheduling.DDPMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", variance_type="fixed_small", clip_sample=True
    )
    observations = 100 * torch.randn(2, 2, 20, generator=torch.Generator().manual_seed(1))
    told = policy.network.conditioning(policy.observation.apply(observations))
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(2, 16, 2, generator=generator)
    scheduler.set_timesteps(100)
    with torch.no_grad():
        for k in scheduler.timesteps:
            answer = policy.network(x, k, **told)
            x = scheduler.step(answer, k, x, generator=generator).prev_sample
    chunk = policy.act(observations, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(chunk.normalised, x, rtol=1e-3, atol=1e-3)
    low, high = policy.action.statistics["min"], policy.action.statistics["max"]
    torch.testing.assert_close(chunk.actions, (x + 1) / 2 * (high - low) + low, rtol=1e-3, atol=0.2)


def test_chunk_starts_with_the_action_of_the_newest_observation():
    chunk = gaussian_policy().act(observing(3, 2), generator=torch.Generator().manual_seed(0))
    assert chunk.first == 1
    torch.testing.assert_close(chunk.executable, chunk.actions[:, 1:9])


def test_discrete_actions_are_one_of_their_two_values_and_their_guesses_are_drawn_in():
    clip = gaussian_policy(discrete=(DiscreteAction(index=1, rule="clip", factor=10),))
    scale = gaussian_policy(discrete=(DiscreteAction(index=1, rule="scale", factor=10),))
    sample = torch.tensor([[[0.4, 0.03], [-0.2, -0.9]]])
    assert torch.equal(clip.decode(sample), torch.tensor([[[0.4, 1.0], [-0.2, -1.0]]]))
    assert torch.allclose(clip.soften(sample), torch.tensor([[[0.4, 0.1], [-0.2, -0.1]]]))
    assert torch.equal(scale.soften(sample), sample)
    labels = torch.tensor([[0.4, 1.0], [-0.2, -1.0]])
    assert torch.allclose(scale.encode(labels), torch.tensor([[0.4, 0.1], [-0.2, -0.1]]))
    assert torch.equal(clip.encode(labels), labels)
    torch.testing.assert_close(scale.decode(scale.encode(labels)), labels)


def test_levels_lie_where_the_network_was_trained():
    policy = gaussian_policy()
    grid = policy.levels((20, 10, 4, 0))
    assert [round(float(policy.process.network_time(t)), 9) for t in grid.times[:-1]] == [20, 10, 4, 0]
    # Numbers of the paper's schedule: the noise of entries 2, 5, 10, 20 and 40.
    noise = [float(policy.process.sigma((k + 1) / 100)) for k in (2, 5, 10, 20, 40)]
    assert noise == pytest.approx([0.058, 0.105, 0.182, 0.333, 0.606], abs=0.002)


@pytest.mark.parametrize(
    "network", [UnetConfig(widths=(8, 16), step_embedding=8), MlpConfig(width=16, depth=1, embedding=8)]
)
def test_saved_policy_acts_the_same_when_loaded(tmp_path, network):
    policy = small_policy(network)
    path = tmp_path / "policy.safetensors"
    save_policy(path, policy.config, policy.network.state_dict(), policy.observation, policy.action, {"steps": 3})
    loaded = load_policy(path)
    assert loaded.config == policy.config
    assert policy_facts(path) == {"steps": 3}
    observations = torch.randn(2, 2, 20)
    a, b = (
        one.act(observations, generator=torch.Generator().manual_seed(0), grid=policy.grid(3)).actions
        for one in (policy, loaded)
    )
    assert torch.equal(a, b)


def test_file_that_does_not_fit_names_the_tensor(tmp_path):
    policy = small_policy()
    path = tmp_path / "policy.safetensors"
    tensors = dict(policy.network.state_dict())
    tensors["extra"] = tensors.pop("final_conv.1.bias")
    save_policy(path, policy.config, tensors, policy.observation, policy.action, {})
    with pytest.raises(InputError, match=r"unknown extra; no final_conv\.1\.bias"):
        load_policy(path)
    save_policy(path, policy.config, policy.network.state_dict(), identity(20), identity(3), {})
    with pytest.raises(InputError, match=r"params_dict\.action\.scale: shape \(3,\)"):
        load_policy(path)


def test_normaliser_maps_the_range_to_plus_minus_one_and_back():
    data = torch.rand(200, 3) * torch.tensor([512.0, 1e-6, 3.0]) + torch.tensor([10.0, 7.0, -1.0])
    limits = Normaliser.fit(data)
    normalised = limits.apply(data)
    assert normalised[:, [0, 2]].amin(0).tolist() == pytest.approx([-1, -1], abs=1e-5)
    assert normalised[:, [0, 2]].amax(0).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert float(normalised[:, 1].abs().max()) < 1e-5  # a constant goes to 0 and is not blown up
    torch.testing.assert_close(limits.undo(normalised), data, rtol=1e-5, atol=1e-4)
    gaussian = Normaliser.fit(data, "gaussian")
    assert gaussian.apply(data)[:, 0].std().item() == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(gaussian.undo(gaussian.apply(data)), data, rtol=1e-5, atol=1e-4)
    with pytest.raises(InputError, match="not finite"):
        Normaliser.fit(torch.tensor([[1.0], [torch.nan]]))


def test_configuration_refuses_what_cannot_work():
    with pytest.raises(ValueError, match="multiple of 4"):
        policy_config(UnetConfig(widths=(8, 16, 24)), horizon=10)
    with pytest.raises(ValueError, match="below 2"):
        ActionConfig(size=2, discrete=(DiscreteAction(index=2),))
    with pytest.raises(ValueError, match="odd"):
        UnetConfig(kernel=4)

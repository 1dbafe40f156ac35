"""Inner Loop Feedback: plain reuse without its scale, nearer to the full network once trained, safe as a file."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from shared import Multistep, sample, trailing_grid
from shared.denoiser import NetworkDenoiser
from shared.errors import InputError
from shared.examples import load_example
from shared.ledger import Ledger
from shared.networks import ResidualMLP
from shared.process import FlowMatching, VariancePreserving
from shared.reuse import Block, block_costs, make_schedule, nested, stack, unet_levels, uniform
from shared.reuse.feedback import Feedback, FeedbackSchedule, find_entries, load_feedback
from shared.reuse.feedback_training import FeedbackTraining, train_feedback

PROCESS = VariancePreserving.linear()
SOLVER = Multistep.dpm_solver_pp_2m()
GRID = trailing_grid(PROCESS, 6)
ASKED = SOLVER.plan(GRID).asked


def randomised(network: nn.Module, scale: float) -> nn.Module:
    """Zero-initialised layers would make every block, and with it every test, trivial."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(scale * torch.randn(parameter.shape))
    return network.eval().requires_grad_(False)


def residual_mlp() -> tuple[NetworkDenoiser, list[Block], tuple[int, ...]]:
    torch.manual_seed(0)
    network = randomised(ResidualMLP(8, width=24, depth=4, embedding=16), 0.15)
    return NetworkDenoiser(network, PROCESS, "v"), stack(network, "blocks"), (8,)


def unet() -> tuple[NetworkDenoiser, list[Block], tuple[int, ...]]:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4, add_attention=False,
    )  # fmt: skip
    network = randomised(network, 0.05)
    return NetworkDenoiser(network, PROCESS, "v"), unet_levels(network), (1, 8, 8)


def transformer() -> tuple[NetworkDenoiser, list[Block], tuple[int, ...]]:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=1, num_layers=4, sample_size=8,
        patch_size=4, num_embeds_ada_norm=10, norm_num_groups=4,
    )  # fmt: skip
    network = randomised(network, 0.1)
    denoiser = NetworkDenoiser(network, PROCESS, "v", conditioning={"class_labels": torch.tensor([3])})
    return denoiser, stack(network, "transformer_blocks"), (1, 8, 8)


NETWORKS = {
    "residual_mlp": (residual_mlp, uniform(6, 4, 2, kept=[0])),
    "unet": (unet, nested([2, 1, 1, 2, 0, 1], 2)),
    "transformer": (transformer, uniform(6, 4, 3, kept=[0, 3])),
}


def schedules(name):
    build, mask = NETWORKS[name]
    denoiser, blocks, shape = build()
    x = PROCESS.noise((3, *shape), torch.Generator().manual_seed(10_000))
    costs = block_costs(denoiser.network, blocks, x, torch.ones(3), **denoiser.conditioning)[0]
    plain = make_schedule(denoiser, blocks, mask, GRID, ASKED, shape=shape, costs=costs, producer="uniform")
    entries = find_entries(denoiser, blocks, mask, x)
    feedback = Feedback(denoiser.network, entries, ASKED)
    return denoiser, plain, FeedbackSchedule(plain, entries, feedback.state_dict()), x


@pytest.mark.parametrize("name", NETWORKS)
def test_untrained_feedback_is_plain_reuse_bit_for_bit_and_gamma_makes_it_another(name):
    denoiser, plain, feedback, x = schedules(name)
    reused = sample(plain.bind(denoiser), x, GRID, SOLVER)
    assert torch.equal(sample(feedback.bind(denoiser), x, GRID, SOLVER), reused)
    assert not torch.equal(sample(denoiser, x, GRID, SOLVER), reused)
    scaled = {key: value + 0.5 if "gamma" in key else value for key, value in feedback.tensors.items()}
    moved = sample(dataclasses.replace(feedback, tensors=scaled).bind(denoiser), x, GRID, SOLVER)
    assert not torch.allclose(moved, reused)


def test_feedback_sits_where_the_computed_part_reads_again():
    def entries(name, mask):
        denoiser, blocks, shape = NETWORKS[name][0]()
        return {e.module: e.steps for e in find_entries(denoiser, blocks, mask, torch.zeros(1, *shape))}

    # 0 computed, 1-2 skipped, 3 computed: the run ends at 2; with everything skipped it ends at 3
    rows = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 1]])
    assert entries("residual_mlp", rows) == {"blocks.0": (3,), "blocks.2": (1, 3), "blocks.3": (2,)}
    # one level kept: level 0's up block reads the up block of level 1; none kept: the last up block is the entry
    assert entries("unet", nested([2, 1, 0], 2)) == {"up_blocks.0": (1,), "up_blocks.1": (2,)}


def test_a_copied_block_corrects_by_gamma_times_its_own_residual_at_the_time_of_the_call():
    denoiser, _, feedback, x = schedules("residual_mlp")
    network = denoiser.network
    scaled = {key: torch.tensor(0.7) if "gamma" in key else value for key, value in feedback.tensors.items()}
    bound = dataclasses.replace(feedback, tensors=scaled).bind(denoiser)
    second = PROCESS.noise(x.shape, torch.Generator().manual_seed(10_001))
    with torch.no_grad():
        bound(x, ASKED[0])
        found = bound(second, ASKED[1])

        def hidden(batch, level):
            embedding = network.time(denoiser.time_input(level).float().expand(len(batch)))
            values = [network.enter(batch)]
            for block in network.blocks:
                values.append(block(values[-1], embedding))
            return values, embedding

        old, _ = hidden(x, ASKED[0])
        new, embedding = hidden(second, ASKED[1])
        reused = new[1] + (old[4] - old[1])  # block 0 is computed, 1 to 3 keep their old residuals
        entered = reused + 0.7 * (network.blocks[3](reused, embedding) - reused)
        expected = NetworkDenoiser(lambda *_: network.leave(network.norm(entered)), PROCESS, "v")(second, ASKED[1])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def trained_unet() -> tuple[NetworkDenoiser, list[Block], tuple[int, ...], torch.Tensor]:
    """A random UNet is no denoiser: its features cannot be foreseen. This one is trained."""
    pytest.importorskip("diffusers")
    model = load_example("shared/action_unet")
    assert isinstance(model.denoiser, NetworkDenoiser)
    return model.denoiser, unet_levels(model.denoiser.network), model.shape, uniform(6, 3, 2, kept=[0])


@pytest.mark.parametrize("build", [lambda: (*residual_mlp(), NETWORKS["residual_mlp"][1]), trained_unet])
def test_trained_feedback_is_nearer_to_the_full_network_than_reuse_on_held_out_noises(build):
    denoiser, blocks, shape, mask = build()
    grid = trailing_grid(denoiser.process, 6)
    trained = train_feedback(
        denoiser, blocks, mask, grid, SOLVER, shape=shape, costs=[0.1] * len(blocks),
        training=FeedbackTraining(trajectories=15, batch=16, rate=3e-3, gamma_rate=3e-2),
    )  # fmt: skip
    for seed in (10_000, 10_001):
        x = denoiser.process.noise((64, *shape), torch.Generator().manual_seed(seed))
        full = sample(denoiser, x, grid, SOLVER)
        reused, fed = (sample(one.bind(denoiser), x, grid, SOLVER) for one in (trained.schedule, trained))
        assert (fed - full).square().mean() < 0.85 * (reused - full).square().mean()
    assert not any(parameter.requires_grad for parameter in denoiser.network.parameters())


def test_operations_of_the_feedback_are_counted():
    denoiser, plain, feedback, x = schedules("residual_mlp")
    spent = []
    for schedule in (plain, feedback):
        with Ledger(flops=True) as ledger:
            sample(schedule.bind(denoiser), x, GRID, SOLVER)
        spent.append(ledger.flops)
    width, condition, reusing_steps = 24, 16, 3
    products = condition * 2 * width + 2 * width * width  # modulation and two layers of one block
    assert spent[1] - spent[0] == 2 * products * len(x) * reusing_steps


@pytest.mark.parametrize("name", NETWORKS)
def test_a_saved_feedback_samples_the_same_and_refuses_another_model(name, tmp_path):
    denoiser, _, feedback, x = schedules(name)
    scaled = {key: torch.tensor(0.3) if "gamma" in key else value for key, value in feedback.tensors.items()}
    feedback = dataclasses.replace(feedback, tensors=scaled)
    feedback.save(tmp_path / "f.safetensors")
    loaded = load_feedback(tmp_path / "f.safetensors")
    assert loaded.schedule == feedback.schedule
    assert torch.equal(*(sample(one.bind(denoiser), x, GRID, SOLVER) for one in (feedback, loaded)))
    with pytest.raises(InputError, match="existing"):
        feedback.save(tmp_path / "f.safetensors")
    with pytest.raises(InputError, match="another noise process"):
        loaded.bind(NetworkDenoiser(denoiser.network, FlowMatching(), "v", conditioning=denoiser.conditioning))
    with torch.no_grad():
        next(denoiser.network.parameters()).add_(0.01)
    with pytest.raises(InputError, match="expected one of this model"):
        loaded.bind(denoiser)


def test_files_that_are_no_feedback_or_claim_what_they_are_not_are_one_clear_error(tmp_path):
    from safetensors.torch import save_file

    denoiser, _, feedback, _ = schedules("unet")
    with pytest.raises(InputError, match="no trained feedback"):
        load_feedback(tmp_path / "absent.safetensors")
    (tmp_path / "text.safetensors").write_text("{}")
    with pytest.raises(InputError, match="no trained feedback"):
        load_feedback(tmp_path / "text.safetensors")
    facts = {"format": "fewstep inner loop feedback 1", "schedule": feedback.schedule.to_json()}
    for change in ({"module": "conv_in"}, {"channels": 10**6}, {"dimensions": 3}, {"kind": "copy"}, {"steps": 3}):
        entries = [{**dataclasses.asdict(entry), **change} for entry in feedback.entries]
        save_file(
            dict(feedback.tensors), tmp_path / "e.safetensors", metadata={**facts, "entries": json.dumps(entries)}
        )
        with pytest.raises(InputError, match="no trained feedback"):
            load_feedback(tmp_path / "e.safetensors")
    few = {key: value for key, value in feedback.tensors.items() if "first" not in key}
    with pytest.raises(InputError, match="tensors of another feedback"):
        dataclasses.replace(feedback, tensors=few).bind(denoiser)


def test_training_that_was_stopped_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    denoiser, plain, _, _ = schedules("residual_mlp")
    monkeypatch.setattr("shared.reuse.feedback_training.CHECKPOINT_EVERY", 2)

    def train(checkpoint, **settings):
        return train_feedback(
            denoiser, plain.blocks, plain.mask_tensor, GRID, SOLVER, shape=plain.shape, costs=plain.costs,
            training=FeedbackTraining(trajectories=5, batch=4, **settings), checkpoint=checkpoint,
        )  # fmt: skip

    through = train(None)
    calls = iter(range(100))
    told = denoiser.process.noise

    def stopping(*args, **kwargs):
        if next(calls) == 4:  # one draw follows the network, then one a trajectory
            raise KeyboardInterrupt
        return told(*args, **kwargs)

    monkeypatch.setattr(type(denoiser.process), "noise", lambda self, *args, **kwargs: stopping(*args, **kwargs))
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "c.resume")
    assert (tmp_path / "c.resume").exists()
    with pytest.raises(InputError, match="another training"):
        train(tmp_path / "c.resume", seed=7)
    resumed = train(tmp_path / "c.resume")
    assert not (tmp_path / "c.resume").exists()
    assert all(torch.equal(resumed.tensors[key], value) for key, value in through.tensors.items())
    assert any(float(value) != 0 for key, value in through.tensors.items() if "gamma" in key)


def test_masks_and_blocks_without_a_place_for_feedback_are_clear_errors():
    denoiser, blocks, _ = residual_mlp()
    x = torch.zeros(1, 8)
    with pytest.raises(InputError, match="no reuse"):
        find_entries(denoiser, blocks, torch.ones(3, 4), x)
    flat = [Block("layers", ("blocks.0.layers",))]
    with pytest.raises(InputError, match="neither residual nor"):
        find_entries(denoiser, flat, torch.tensor([[1], [0]]), x)

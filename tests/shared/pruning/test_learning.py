"""Learned decisions: they find the blocks that a network can do without after fine-tuning."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch

from shared.denoiser import NetworkDenoiser
from shared.errors import InputError
from shared.networks import ResidualMLP
from shared.process import VariancePreserving
from shared.pruning import (
    Group,
    Task,
    best_scores,
    block_influence,
    consecutive,
    even_levels,
    gated,
    learn,
    magnitude,
    prune,
    recover,
)  # fmt: skip
from shared.reuse import Block, stack
from tests.shared.pruning.conftest import mlp, perturbed

PROCESS = VariancePreserving.linear(time_scale=1.0)


def spiral(count, generator):
    angle = 9 * torch.rand(count, generator=generator).sqrt()
    return torch.stack([angle * angle.cos(), angle * angle.sin()], 1) / 6, {}


@pytest.fixture(scope="module")
def trained():
    """A small network trained on a spiral in the plane, in a few seconds."""
    torch.manual_seed(0)
    network = ResidualMLP(2, width=32, depth=4, embedding=16)
    task = Task(NetworkDenoiser(network, PROCESS, "v"), spiral, even_levels(PROCESS), 64)
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(500):
        problem = task.problem(generator)
        loss = task.error(task.answer(network, problem), problem.x0, problem.t)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    network.eval().requires_grad_(False)
    return task


def held_out_loss(task, network):
    generator = torch.Generator().manual_seed(10_000)
    with torch.no_grad():
        problems = [task.problem(generator) for _ in range(16)]
        return sum(float(task.error(task.answer(network, p), p.x0, p.t)) for p in problems) / 16


def test_learned_decision_is_not_worse_than_the_median_of_all_after_equal_fine_tuning(trained):
    blocks = stack(trained.network, "blocks")
    groups = consecutive(4, size=2, keep=1)
    before = copy.deepcopy(trained.network.state_dict())
    decision = learn(trained, blocks, groups, steps=200, rate=1e-3, gate_rate=2e-3)
    losses = {}
    for first, second in product((True, False), repeat=2):
        kept = (first, not first, second, not second)
        pruned = prune(trained.network, blocks, kept, torch.zeros(1, 2), torch.zeros(1))
        losses[kept] = held_out_loss(trained, recover(trained, pruned, steps=80, rate=1e-3).network)
    learned = losses[tuple(decision.kept.tolist())]
    assert learned <= sorted(losses.values())[1]
    assert all(torch.equal(value, before[name]) for name, value in trained.network.state_dict().items())


def test_a_block_that_does_nothing_is_the_one_left_out(trained):
    network = copy.deepcopy(trained.network)
    with torch.no_grad():
        for parameter in network.blocks[2].layers[2].parameters():
            parameter.zero_()
    task = Task(trained.denoiser.with_network(network), spiral, even_levels(PROCESS), 64)
    decision = learn(task, stack(network, "blocks"), [Group((0, 1, 2, 3), 3)], steps=120, rate=1e-6, gate_rate=3e-3)
    assert decision.kept.tolist() == [True, True, False, True]
    assert max(decision.probabilities[0]) == decision.probabilities[0][1]
    assert best_scores([Group((0, 1, 2, 3), 3)], block_influence(task, stack(network, "blocks"))).tolist() == [
        True, True, False, True,
    ]  # fmt: skip


def test_co_optimised_weights_are_merged_and_serve_the_decision_better_than_the_source(trained):
    blocks = stack(trained.network, "blocks")
    decision = learn(trained, blocks, consecutive(4, size=2, keep=1), steps=120, rate=1e-3, gate_rate=2e-3)
    assert set(decision.network.state_dict()) == set(trained.network.state_dict())
    losses = []
    for network in (decision.network, trained.network):
        with gated(network, blocks, decision.kept.float()):
            losses.append(held_out_loss(trained, network))
    assert losses[0] < losses[1]


def test_learning_is_the_same_for_the_same_seed_and_goes_on_from_its_checkpoint(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("shared.pruning.loop.CHECKPOINT_EVERY", 5)
    blocks, groups = stack(trained.network, "blocks"), consecutive(4, size=2, keep=1)
    calls = 0

    def failing(count, generator):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return spiral(count, generator)

    whole = learn(trained, blocks, groups, steps=12, seed=4)
    interrupted = Task(trained.denoiser, failing, trained.levels, trained.batch)
    with pytest.raises(KeyboardInterrupt):
        learn(interrupted, blocks, groups, steps=12, seed=4, checkpoint=tmp_path / "gates.resume")
    resumed = learn(trained, blocks, groups, steps=12, seed=4, checkpoint=tmp_path / "gates.resume")
    assert resumed.probabilities == whole.probabilities
    state = resumed.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.network.state_dict().items())


def test_block_influence_is_one_minus_the_cosine_of_input_and_output():
    network = perturbed(mlp(2))
    with torch.no_grad():  # a block that turns its input round: cos = -1; one that passes it on: cos = 1
        network.blocks[0].forward = lambda h, embedding: -2 * h
        network.blocks[1].forward = lambda h, embedding: 1.5 * h
    task = Task(
        NetworkDenoiser(network, PROCESS, "v"), lambda n, g: (torch.randn(n, 16, generator=g), {}), even_levels(PROCESS)
    )
    assert block_influence(task, stack(network, "blocks"), batches=2) == pytest.approx([2.0, 0.0], abs=1e-6)


def test_magnitude_is_the_mean_absolute_weight():
    network = torch.nn.Sequential(torch.nn.Linear(1, 2, bias=False), torch.nn.ReLU())
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[-3.0], [1.0]]))
    assert magnitude(network, [Block("a", ("0",)), Block("b", ("1",))]) == [2.0, 0.0]


def test_learning_on_blocks_that_change_the_shape_is_a_clear_error(trained):
    blocks = [Block(name, (name,)) for name in ("enter", "leave")]
    with pytest.raises(InputError, match="same shape"):
        learn(trained, blocks, [Group((0, 1), 1)], steps=2)

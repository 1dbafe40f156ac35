"""Gates: every choice is there, drawn as often as its probability says, and gradients reach the logits."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from shared.errors import InputError
from shared.pruning import Gates, Group, best_scores, consecutive, gated, random_choice
from shared.reuse import Block, stack
from tests.shared.pruning.conftest import mlp, perturbed


@pytest.mark.parametrize(("size", "keep"), [(1, 1), (2, 1), (4, 2), (5, 3), (4, 4)])
def test_options_of_a_group_are_all_rows_with_that_many_ones_each_once(size, keep):
    options = {tuple(row) for row in Group(tuple(range(size)), keep).options.int().tolist()}
    assert options == {row for row in product((0, 1), repeat=size) if sum(row) == keep}
    assert len(Group(tuple(range(size)), keep).options) == math.comb(size, keep)


def test_consecutive_groups_cover_every_block_once_in_order():
    groups = consecutive(6, size=3, keep=2)
    assert [group.members for group in groups] == [(0, 1, 2), (3, 4, 5)]
    assert [group.keep for group in groups] == [2, 2]


def test_highest_scores_of_each_group_stay_even_when_another_group_is_higher():
    kept = best_scores(consecutive(4, size=2, keep=1), [0.1, 0.2, 9.0, 8.0])
    assert kept.tolist() == [False, True, True, False]


def test_random_choices_are_even_over_all_that_the_groups_allow():
    generator = torch.Generator().manual_seed(0)
    drawn = [tuple(random_choice([Group((0, 2, 3), 2)], 4, generator).tolist()) for _ in range(3000)]
    counts = {row: drawn.count(row) for row in set(drawn)}
    assert set(counts) == {(False, True, True, True), (True, True, False, True), (True, True, True, False)}
    assert all(abs(count - 1000) < 4 * math.sqrt(3000 * 2 / 9) for count in counts.values())


@pytest.mark.parametrize("temperature", [4.0, 0.1])
def test_choices_are_drawn_as_often_as_the_softmax_of_the_scaled_logits_says(temperature):
    gates = Gates([Group((0, 1, 2), 2)], 3)
    probabilities = torch.tensor([0.55, 0.3, 0.15])
    with torch.no_grad():
        gates.logits[0].copy_(probabilities.log() / 100)
    torch.testing.assert_close(gates.probabilities()[0], probabilities)
    count = 20000
    drawn = gates.draw(count, temperature, torch.Generator().manual_seed(0)).detach()
    for option, probability in zip(gates.groups[0].options, probabilities.tolist(), strict=True):
        share = float((drawn == option).all(1).float().mean())
        assert abs(share - probability) < 4 * math.sqrt(probability * (1 - probability) / count)


def test_drawn_masks_are_exactly_zeros_and_ones_and_keep_the_right_number_in_each_group():
    gates = Gates((Group((0, 3), 1), Group((1, 2, 5), 2)), 6)
    for temperature in (4.0, 1.0, 0.1):
        drawn = gates.draw(500, temperature, torch.Generator().manual_seed(1)).detach()
        assert bool(((drawn == 0) | (drawn == 1)).all())
        assert bool((drawn[:, [0, 3]].sum(1) == 1).all())
        assert bool((drawn[:, [1, 2, 5]].sum(1) == 2).all())
        assert bool((drawn[:, 4] == 1).all())


def test_straight_through_gradient_is_that_of_the_tempered_softmax():
    # one group of two, one kept: d mask_0 / d l_0 = 100 / tau * y (1 - y) with y = sigmoid of the noisy difference
    gates, tau = Gates([Group((0, 1), 1)], 2), 2.0
    gates.draw(1, tau, torch.Generator().manual_seed(3))[0, 0].backward()
    uniform = torch.empty(1, 2).exponential_(generator=torch.Generator().manual_seed(3))
    y = torch.softmax(-uniform.log()[0] / tau, 0)[0]
    expected = float(100 / tau * y * (1 - y))
    assert gates.logits[0].grad.tolist() == pytest.approx([expected, -expected], rel=1e-4)


def test_gradient_of_a_loss_prefers_the_block_whose_absence_costs_more():
    network = perturbed(mlp(2))
    with torch.no_grad():
        for parameter in network.blocks[1].parameters():
            parameter.mul_(1e-3)
    blocks = stack(network, "blocks")
    generator = torch.Generator().manual_seed(0)
    x, time = torch.randn(256, 16, generator=generator), torch.rand(256, generator=generator)
    wanted = network(x, time)
    gates = Gates(consecutive(2, size=2, keep=1), 2)
    with gated(network, blocks, gates.draw(256, 1.0, generator)):
        (network(x, time) - wanted).square().mean().backward()
    keep_first, keep_second = (-gates.logits[0].grad).tolist()
    assert gates.groups[0].options.tolist() == [[1, 0], [0, 1]]
    assert keep_first > 0 > keep_second


def test_each_sample_follows_its_own_row_of_the_mask():
    network = perturbed(mlp())
    blocks = stack(network, "blocks")
    generator = torch.Generator().manual_seed(0)
    x, time = torch.randn(3, 16, generator=generator), torch.rand(3, generator=generator)
    mask = torch.tensor([[1.0, 1, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]])
    with gated(network, blocks, mask):
        together = network(x, time)
    for row in range(3):
        h, embedding = network.enter(x[row : row + 1]), network.time(time[row : row + 1])
        for bit, block in zip(mask[row].tolist(), network.blocks, strict=True):
            h = block(h, embedding) if bit else h
        torch.testing.assert_close(together[row : row + 1], network.leave(network.norm(h)), rtol=1e-5, atol=1e-6)


def test_decision_is_the_most_probable_choice_of_each_group_and_other_blocks_stay():
    gates = Gates((Group((0, 1), 1), Group((2, 4), 1)), 5)
    with torch.no_grad():
        gates.logits[0].copy_(torch.tensor([-1.0, 1.0]))
        gates.logits[1].copy_(torch.tensor([0.5, 0.2]))
    assert gates.kept().tolist() == [False, True, True, True, False]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Group((0, 1), 3),
        lambda: Group((0, 1), 0),
        lambda: Group((0, 0), 1),
        lambda: consecutive(7, size=2, keep=1),
        lambda: consecutive(4, size=0, keep=1),
        lambda: consecutive(4, size=2, keep=3),
        lambda: Gates([Group((0, 4), 1)], 4),
        lambda: Gates([Group((0, 1), 1), Group((1, 2), 1)], 4),
        lambda: Gates([], 4),
    ],
)
def test_impossible_groups_are_clear_errors(make):
    with pytest.raises(InputError, match="expected"):
        make()


def test_gating_a_block_that_changes_the_shape_is_a_clear_error():
    network = perturbed(mlp())
    with (
        pytest.raises(InputError, match=r"leave.*\(3, 16\).*\(3, 24\)"),
        gated(network, [Block("leave", ("leave",))], torch.ones(1)),
    ):
        network(torch.zeros(3, 16), torch.zeros(3))


@pytest.mark.parametrize("mask", [torch.ones(3), torch.ones(2, 4), torch.ones(1, 3, 4)])
def test_masks_of_another_shape_are_clear_errors(mask):
    network = perturbed(mlp())
    with pytest.raises(InputError, match="gate"), gated(network, stack(network, "blocks"), mask):
        network(torch.zeros(3, 16), torch.zeros(3))

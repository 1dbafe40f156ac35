"""What frames of the transformer see of each other, and what it counts."""

from __future__ import annotations

import pytest
import torch

from motion.actions import ACTION
from motion.config import MotionConfig
from motion.network import MotionTransformer, block_causal, frames_left, rotary, rotated

TINY = MotionConfig(width=32, depth=2, heads=2, feedforward=48, embedding=16, frames=(16, 24))


def network(features: int = 12) -> MotionTransformer:
    torch.manual_seed(0)
    made = MotionTransformer(TINY, features)
    for block in made.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    return made.eval().requires_grad_(False)


def test_frames_left_counts_to_the_end_of_each_run():
    actions = torch.tensor([[1, 1, 2, 2, 2, 1], [3, 3, 3, 3, 3, 3]])
    assert frames_left(actions).tolist() == [[1, 0, 2, 1, 0, 0], [5, 4, 3, 2, 1, 0]]


def test_rotary_products_depend_on_the_distance_of_frames_alone():
    query, key = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    turn = rotary(30, 8, query)
    products = rotated(query.expand(30, 8), turn) @ rotated(key.expand(30, 8), turn).T
    for shift in (1, 7):
        assert torch.allclose(products[shift:, shift:], products[:-shift, :-shift], atol=1e-5)
    assert not torch.allclose(products[0, 0], products[0, 5], atol=1e-2)


def test_frames_that_are_not_visible_change_nothing():
    net, generator = network(), torch.Generator().manual_seed(1)
    x, time = torch.randn(2, 20, 12, generator=generator), torch.tensor([0.3, 0.9])
    actions = torch.full((2, 20), ACTION["walk"])
    short = net(x[:, :14], time, actions=actions[:, :14])
    actions[:, 14:] = ACTION["any"]
    valid = (torch.arange(20) < 14).expand(2, 20)
    padded = net(x, time, actions=actions, visible=valid[:, None])
    assert torch.allclose(padded[:, :14], short, atol=1e-5)
    everything = net(x, time, actions=actions)
    assert not torch.allclose(everything[:, :14], short, atol=1e-3)


def test_blocks_that_come_later_change_nothing_before():
    net, generator = network(), torch.Generator().manual_seed(2)
    x, actions = torch.randn(1, 20, 12, generator=generator), torch.full((1, 20), ACTION["walk"])
    other = x.clone()
    other[:, 15:] += 1.0
    first, second = (
        net(value, torch.tensor([0.5]), actions=actions, visible=block_causal(20, 5)) for value in (x, other)
    )
    assert torch.allclose(first[:, :15], second[:, :15], atol=1e-6)
    assert not torch.allclose(first[:, 15], second[:, 15], atol=1e-3)
    assert block_causal(4, 2)[0].int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_level_action_and_known_groups_all_matter():
    net = network()
    x, time, actions = torch.randn(1, 6, 12), torch.tensor([0.5]), torch.ones(1, 6, dtype=torch.long)
    usual = net(x, time, actions=actions)
    for other in (
        net(x, torch.tensor([0.6]), actions=actions),
        net(x, time, actions=actions + 1),
        net(x, time, actions=actions, known=torch.ones(1, 6, 4, dtype=torch.bool)),
    ):
        assert float((other - usual).abs().max()) > 1e-4


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of twice"):
        MotionConfig(width=36, heads=4)

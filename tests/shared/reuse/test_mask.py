"""Masks: what uniform and nested ones compute, and what a mask costs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import InputError
from shared.reuse import check_mask, nested, price, uniform

sizes = st.integers(1, 8)
few = settings(max_examples=40, deadline=None)


@few
@given(steps=sizes, blocks=sizes, interval=sizes, data=st.data())
def test_uniform_computes_every_kept_column_and_every_interval(steps, blocks, interval, data):
    kept = data.draw(st.sets(st.integers(0, blocks - 1)))
    mask = check_mask(uniform(steps, blocks, interval, kept=sorted(kept)), steps=steps, blocks=blocks)
    for i in range(steps):
        for b in range(blocks):
            assert bool(mask[i, b]) is (i % interval == 0 or b in kept)


@few
@given(levels=sizes, data=st.data())
def test_nested_computes_a_level_only_with_all_levels_outside_it(levels, data):
    depths = data.draw(st.lists(st.integers(0, levels), min_size=1, max_size=8))
    mask = nested(depths, levels)
    assert mask.sum(1).tolist() == depths
    assert not bool((mask[:, 1:] & ~mask[:, :-1]).any())


@few
@given(steps=sizes, blocks=sizes, interval=sizes, share=st.floats(0.01, 1))
def test_the_price_counts_calls_of_the_whole_network(steps, blocks, interval, share):
    costs = [share / blocks] * blocks
    computed = -(-steps // interval)
    assert price(uniform(steps, blocks, interval), costs) == pytest.approx(steps * (1 - share) + computed * share)
    assert price(torch.ones(steps, blocks), costs) == pytest.approx(steps)


def test_the_price_weighs_each_block_by_its_cost():
    assert price(torch.tensor([[1, 1, 1], [0, 1, 0]]).bool(), [0.5, 0.2, 0.1]) == pytest.approx(1 + 0.2 + 0.2)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(3), "shape"),
        (torch.ones(3, 2, 1), "shape"),
        (torch.ones(4, 2), r"shape \(4, 2\); expected shape \(3, 2\)"),
        (torch.ones(3, 1), r"shape \(3, 1\)"),
        (torch.tensor([[1, 0], [1, 1], [1, 1]]), "a first step that reuses"),
        (torch.full((3, 2), 0.5), "values that are not 0 or 1"),
        (torch.full((3, 2), float("nan")), "values that are not 0 or 1"),
    ],
)
def test_a_mask_of_another_shape_or_without_a_first_row_of_ones_is_refused(mask, message):
    with pytest.raises(InputError, match=message):
        check_mask(mask, steps=3, blocks=2)


def test_impossible_requests_are_refused():
    with pytest.raises(InputError, match="interval"):
        uniform(4, 2, 0)
    with pytest.raises(InputError, match="depths"):
        nested([3, 4], 3)
    with pytest.raises(InputError, match="depths"):
        nested([-1], 3)
    with pytest.raises(InputError, match="costs"):
        price(torch.ones(2, 3), [0.5, 0.5])
    with pytest.raises(InputError, match="kept"):
        uniform(4, 2, 2, kept=[2])

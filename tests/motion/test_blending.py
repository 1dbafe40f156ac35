"""From one motion into the next: ends, speed, the world's turn, and joins without jumps."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from motion.blending import blend, concatenated, joined
from motion.rotations import geodesic
from shared.errors import InputError
from tests.motion.figures import body, rotations_of, walk


def pair(frames=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    first = walk(frames)
    other = replace(
        first, root=torch.randn(frames, 3, generator=generator).double(), rotations=rotations_of(generator, frames, 20)
    )
    return first, other


def test_shares_of_nothing_and_all_are_the_two_motions():
    first, second = pair()
    shares = torch.tensor([0.0, 1, 0, 1, 0, 1, 0, 1])
    mixed = blend(first, second, shares)
    assert torch.allclose(mixed.rotations[::2], first.rotations[::2], atol=1e-14)
    assert torch.allclose(mixed.rotations[1::2], second.rotations[1::2], atol=1e-12)
    assert torch.equal(mixed.root[::2], first.root[::2])
    assert torch.allclose(mixed.root[1::2], second.root[1::2])


def test_rotations_go_along_slerp_and_positions_in_a_line():
    first, second = pair(5)
    still = [
        replace(m, root=m.root[:1].expand(5, 3), rotations=m.rotations[:1].expand(5, -1, -1, -1))
        for m in (first, second)
    ]
    shares = torch.linspace(0, 1, 5, dtype=torch.float64)
    mixed = blend(*still, shares)
    for joint in range(20):
        ends = torch.stack([motion.rotations[0, joint] for motion in still]).numpy()
        expected = Slerp([0, 1], Rotation.from_matrix(ends))(shares.numpy()).as_matrix()
        assert np.allclose(mixed.rotations[:, joint].numpy(), expected, atol=1e-10)
    steps = geodesic(mixed.rotations[:-1], mixed.rotations[1:])
    assert torch.allclose(steps, steps[:1].expand_as(steps), rtol=1e-8)
    assert torch.allclose(mixed.root.diff(dim=0), (second.root[:1] - first.root[:1]).expand(4, 3) / 4)


def test_the_blend_turns_and_moves_with_the_world():
    first, second = pair()
    turn, shift = rotations_of(torch.Generator().manual_seed(5)), torch.tensor([1.0, -2, 3], dtype=torch.float64)
    shares = torch.full((8,), 0.37)
    one = blend(first, second, shares).placed(turn, shift)
    other = blend(first.placed(turn, shift), second.placed(turn, shift), shares)
    assert torch.allclose(one.root, other.root)
    assert torch.allclose(one.rotations, other.rotations, atol=1e-10)


def test_a_join_has_the_shares_of_the_overlap_and_the_rest_as_it_was():
    first, second = pair(10)
    whole = joined(first, second, 4)
    assert whole.frames == 16
    assert torch.equal(whole.root[:6], first.root[:6])
    assert torch.equal(whole.rotations[10:], second.rotations[4:])
    shares = torch.tensor([(3 - 5**0.5) / 8, (5 - 5**0.5) / 8, (3 + 5**0.5) / 8, (5 + 5**0.5) / 8]).double()[:, None]
    assert torch.allclose(whole.root[6:10], (1 - shares) * first.root[6:] + shares * second.root[:4])


def test_a_join_of_motions_apart_has_less_jerk_than_a_straight_line_between_them():
    still = replace(walk(20), root=torch.zeros(20, 3).double())
    apart = replace(still, root=still.root + 0.1)
    height = joined(still, apart, 10).root[:, 2]
    line = torch.cat([torch.zeros(10), 0.1 * torch.arange(1, 11) / 11, torch.full((10,), 0.1)]).double()
    assert float(height.diff(n=3).abs().max()) < 0.55 * float(line.diff(n=3).abs().max())


def test_a_motion_joined_with_its_own_continuation_is_itself():
    motion = walk(30)
    again = joined(motion.cut(0, 20), motion.cut(12), 8)
    assert torch.allclose(again.positions(), motion.positions(), atol=1e-12)
    apart = concatenated([motion.cut(0, 20), motion.cut(20)])
    assert torch.equal(apart.root, motion.root)
    assert joined(motion, motion.cut(0, 8), 8).frames == joined(motion, motion.cut(22), 8).frames == 30
    assert joined(motion, motion, 0).frames == 60


def test_a_jump_becomes_steps_no_larger_than_its_share():
    first = walk(20)
    second = first.placed(torch.eye(3, dtype=torch.float64), torch.tensor([0, 0, 1.0], dtype=torch.float64))
    heights = joined(first, second, 9).root[:, 2]
    plain = float(first.root[:, 2].diff().abs().max())
    assert float(heights.diff().abs().max()) < math.sin(math.pi / 20) + 2 * plain  # of half a cosine in ten steps


def test_moving_offsets_are_blended_and_kept():
    first, second = pair(4)
    moved = first.skeleton.offsets.expand(4, -1, -1) + 1.0
    mixed = blend(first, replace(second, offsets=moved), torch.full((4,), 0.25))
    assert torch.allclose(mixed.offsets, first.skeleton.offsets + 0.25)
    assert concatenated([first, replace(second, offsets=moved)]).offsets.shape == (8, 20, 3)


def test_motions_that_do_not_match_are_told():
    first, second = pair()
    with pytest.raises(InputError, match="one length"):
        blend(first, second.cut(1), torch.zeros(8))
    with pytest.raises(InputError, match="frame rate"):
        joined(first, replace(second, fps=60.0), 2)
    with pytest.raises(InputError, match="overlap"):
        joined(first, second, 9)
    with pytest.raises(InputError, match="one skeleton"):
        joined(first, replace(second, skeleton=replace(body(), names=("Pelvis", *body().names[1:]))), 2)

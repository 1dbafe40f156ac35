"""The other hand: reflection of symmetric bodies, joints with any axes, and twice is once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from motion.mirror import mirrored
from motion.skeleton import Skeleton
from shared.errors import InputError
from tests.motion.figures import FLAVOURS, quietly, reframed, rotations_of, shortened, walk

ACROSS = torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)


def reflected(motion):
    return (motion.positions() * ACROSS)[:, list(motion.skeleton.mirror)]


def test_a_symmetric_body_is_reflected_exactly():
    motion = walk(40).placed(torch.eye(3).double(), torch.tensor([0.4, 0, 0]).double())
    other = mirrored(motion)
    assert torch.allclose(other.positions(), reflected(motion), atol=1e-12)
    names = motion.skeleton.names
    hand = [clip.positions()[:, names.index(f"{side}Hand")] for clip, side in ((motion, "Left"), (other, "Right"))]
    assert torch.allclose(hand[0] * ACROSS, hand[1], atol=1e-12)
    assert torch.allclose(torch.linalg.det(other.rotations), torch.ones(()).double())


def test_axes_of_joints_do_not_matter():
    motion = walk(20)
    frames = rotations_of(torch.Generator().manual_seed(1), len(motion.skeleton))
    other = reframed(motion, frames)
    rest = frames.transpose(-1, -2)[list(motion.skeleton.parents[1:])].transpose(-1, -2)
    known = torch.cat([frames[:1], rest.transpose(-1, -2) @ frames[1:]])
    other = replace(other, skeleton=replace(other.skeleton, rest=known))
    assert torch.allclose(mirrored(other).positions(), reflected(motion), atol=1e-10)


@pytest.mark.data
@pytest.mark.parametrize(
    ("flavour", "centimetres"), [("cmu_asf", 0.7), ("sit_down", 1.0), ("cmu91", 0.1), ("jl", 0.4), ("bandai", 0.05)]
)
def test_twice_is_the_identity_and_once_reflects_as_far_as_the_sides_agree(flavour, centimetres, data_file, tmp_path):
    path = data_file(FLAVOURS[flavour])
    motion = quietly(shortened(path, tmp_path, 400) if flavour == "jl" else path)
    other = mirrored(motion)
    again = mirrored(other)
    assert torch.allclose(again.rotations, motion.rotations, atol=1e-10)
    assert torch.allclose(again.root, motion.root)
    assert 100 * float((other.positions() - reflected(motion)).norm(dim=-1).mean()) < centimetres


def test_offsets_that_move_are_reflected_too():
    motion = walk(5)
    generator = torch.Generator().manual_seed(0)
    moved = motion.skeleton.offsets + 0.03 * torch.randn(5, len(motion.skeleton), 3, generator=generator).double()
    moved[:, 0] = 0
    motion = replace(motion, offsets=moved)
    other = mirrored(motion)
    assert torch.allclose(other.positions(), reflected(motion), atol=1e-12)
    assert torch.allclose(mirrored(other).offsets, motion.offsets, atol=1e-12)


def test_bodies_without_sides_are_told():
    chain = Skeleton(("a", "b"), (-1, 0), torch.ones(2, 3).double(), rest=torch.eye(3).double().expand(2, 3, 3))
    with pytest.raises(InputError, match="no sides"):
        _ = chain.mirror

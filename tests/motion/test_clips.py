"""A motion at other rates and in other places, and motions that are none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from motion.blending import blend, concatenated
from motion.clips import heading
from motion.formats import write_clip
from motion.kinematics import forward_kinematics
from motion.mirror import mirrored
from motion.retarget import retargeted
from motion.rotations import geodesic
from motion.stance import standing
from shared.errors import InputError
from tests.motion.figures import TALL, body, rotations_of, walk


def test_a_quarter_of_the_rate_keeps_every_fourth_frame_as_it_is():
    motion = walk(61, 120.0)
    slow = motion.resampled(30.0)
    assert slow.frames == 16
    assert slow.seconds == pytest.approx(16 / 30)
    assert torch.equal(slow.root, motion.root[::4])
    assert torch.allclose(slow.rotations, motion.rotations[::4], atol=1e-14)


def test_other_rates_interpolate_rotations_as_slerp_and_positions_in_a_line():
    motion = walk(31, 30.0)
    fast = motion.resampled(50.0)
    assert fast.frames == 51
    times = np.arange(51) / 50
    joint = motion.skeleton.names.index("LeftArm")
    slerp = Slerp(np.arange(31) / 30, Rotation.from_matrix(motion.rotations[:, joint].numpy()))
    assert np.allclose(fast.rotations[:, joint].numpy(), slerp(np.minimum(times, 1.0)).as_matrix(), atol=1e-10)
    line = np.interp(times, np.arange(31) / 30, motion.root[:, 1].numpy())
    assert np.allclose(fast.root[:, 1].numpy(), line, atol=1e-12)


def test_down_to_30_and_up_to_120_again_stays_within_what_the_curvature_allows():
    motion = walk(241, 120.0)
    back = motion.resampled(30.0).resampled(120.0)
    assert back.frames == motion.frames
    # Linear interpolation over h is off by at most h^2 / 8 of the second derivative, 0.5 (2 pi)^2 rad/s^2 at most.
    angle = (1 / 30) ** 2 / 8 * 0.5 * (2 * np.pi) ** 2
    assert 0.3 * angle < float(geodesic(motion.rotations, back.rotations).max()) < 1.1 * angle
    assert float((motion.root - back.root).abs().max()) < (1 / 30) ** 2 / 8 * 0.02 * (4 * np.pi) ** 2 * 1.01


@pytest.mark.parametrize("fps", [0.0, -30.0, float("inf"), float("nan")])
def test_a_rate_that_is_none_is_told(fps):
    with pytest.raises(InputError, match="frames a second"):
        walk(3).resampled(fps)


def test_moving_offsets_are_resampled_too():
    motion = walk(3, 10.0)
    offsets = motion.skeleton.offsets + torch.arange(3.0)[:, None, None]
    fast = replace(motion, offsets=offsets).resampled(20.0)
    assert torch.allclose(fast.offsets[1], motion.skeleton.offsets + 0.5)


def test_the_canonical_place_is_under_the_hips_with_the_right_hip_on_x_and_is_undone():
    motion = walk(20).placed(
        torch.from_numpy(Rotation.from_euler("z", 70, degrees=True).as_matrix()),
        torch.tensor([3.0, -2.0, 0.5]).double(),
    )
    seen, axes, origin = motion.canonical(5)
    positions = seen.positions()
    names = motion.skeleton.names
    assert np.allclose(positions[5, 0, :2], 0.0, atol=1e-12)
    assert float(positions[5, 0, 2]) == pytest.approx(float(motion.root[5, 2]))
    across = positions[5, names.index("RightUpLeg")] - positions[5, names.index("LeftUpLeg")]
    assert float(across[0]) == pytest.approx(0.18)
    assert float(across[1]) == pytest.approx(0.0, abs=1e-12)
    assert float(positions[-1, 0, 1] - positions[5, 0, 1]) == pytest.approx(1.2 * 14 / 30, rel=1e-3)  # forward is y
    back = seen.placed(axes, origin)
    assert torch.allclose(back.root, motion.root)
    assert torch.allclose(back.rotations, motion.rotations)


def test_the_heading_is_level_and_right_handed_whatever_the_lean():
    skeleton = body()
    generator = torch.Generator().manual_seed(0)
    rotations = rotations_of(generator, 30, len(skeleton))
    positions, _ = forward_kinematics(skeleton, torch.zeros(30, 3, dtype=torch.float64), rotations)
    axes = heading(positions, skeleton)
    assert torch.allclose(axes[..., 2], torch.tensor([0.0, 0, 1]).double().expand(30, 3))
    assert torch.allclose(torch.linalg.det(axes), torch.ones(30, dtype=torch.float64))


def test_single_precision_stays_and_gives_the_same_places(tmp_path):
    motion = walk(12)
    moved = motion.skeleton.offsets.repeat(12, 1, 1)
    moved[:, 6] += 0.01 * torch.arange(12.0, dtype=torch.float64)[:, None]
    for double in (motion, replace(motion, offsets=moved)):
        single = double.to(torch.float32)
        for change in (
            mirrored, standing, lambda clip: retargeted(clip, body(0.8)), lambda clip: clip.resampled(20.0),
            lambda clip: clip.canonical()[0], lambda clip: blend(clip, mirrored(clip), torch.linspace(0, 1, 12)),
            lambda clip: concatenated([clip, clip]),
        ):  # fmt: skip
            result = change(single)
            assert result.root.dtype == result.rotations.dtype == torch.float32
            assert torch.allclose(result.positions(), change(double).positions().float(), atol=2e-5)
        for suffix in ("bvh", "glb"):
            write_clip(tmp_path / f"clip.{suffix}", single, overwrite=True)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"root": torch.zeros(3, 2)}, "root"),
        ({"rotations": torch.zeros(60, 4, 3, 3)}, "rotations"),
        ({"root": torch.full((60, 3), float("nan"))}, "NaN"),
        ({"fps": 0.0}, "positive"),
        ({"offsets": torch.zeros(60, 1, 3)}, "offsets"),
    ],
)
def test_motions_that_are_none_are_told(change, word):
    with pytest.raises(InputError, match=word):
        replace(walk(), **change)


def test_skeletons_that_are_none_are_told():
    skeleton = body()
    for change in (
        {"parents": (-1, 2, 1, *skeleton.parents[3:])},
        {"parents": (-1, -1, *skeleton.parents[2:])},
        {"names": ("Hips", "Hips", *skeleton.names[2:])},
        {"offsets": skeleton.offsets[:3]},
    ):
        with pytest.raises(InputError, match="skeleton"):
            replace(skeleton, **change)
    with pytest.raises(InputError, match="no joint for left_eye"):
        skeleton.joints("left_eye")
    assert skeleton.leg == pytest.approx(TALL - 0.07)

"""What frames are called: on bodies whose motion is known, and on clips whose names say it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from motion.actions import ACTIONS, label, runs, standing_height
from motion.collection import body_of
from motion.retarget import retargeted
from motion.rotations import about_axis
from tests.motion.figures import TALL, body, quietly, turns, walk


def still(frames: int = 60):
    """Return the figure standing with its arms down."""
    motion = walk(frames)
    rotations = torch.eye(3, dtype=torch.float64).repeat(frames, len(motion.skeleton), 1, 1)
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        down = turns((0.0, sign, 0.0), torch.full((frames,), 1.3, dtype=torch.float64))
        rotations[:, motion.skeleton.names.index(f"{side}Arm")] = down
    root = torch.tensor([0.0, 0.0, TALL], dtype=torch.float64).repeat(frames, 1)
    return replace(motion, root=root, rotations=rotations)


def seated(drop: torch.Tensor):
    """Return the figure sinking by `drop` m a frame's thighs level at 0.42 m, the feet before the hips."""
    motion = still(len(drop))
    thigh = torch.arccos((1 - drop / 0.42).clamp(-1, 1))
    for side in ("Left", "Right"):
        motion.rotations[:, motion.skeleton.names.index(f"{side}UpLeg")] = turns((-1.0, 0.0, 0.0), thigh)
        motion.rotations[:, motion.skeleton.names.index(f"{side}Leg")] = turns((1.0, 0.0, 0.0), thigh)
    motion.root[:, 2] -= drop
    return motion


def names(motion, name: str = "") -> list[str]:
    return [ACTIONS[value] for value, _, _ in runs(label(motion, name).numpy())]


def test_standing_walking_running_and_turning_differ_by_speed():
    motion = still()
    time = torch.arange(60, dtype=torch.float64)[:, None] / 30
    forward = torch.tensor([0.0, -1.0, 0.0], dtype=torch.float64)
    assert names(motion) == ["stand"]
    assert names(replace(motion, root=motion.root + 1.2 * time * forward)) == ["walk"]
    assert names(replace(motion, root=motion.root + 2.8 * time * forward)) == ["run"]
    rotations = motion.rotations.clone()
    rotations[:, 0] = about_axis(2, 1.5 * time[:, 0])
    assert names(replace(motion, rotations=rotations)) == ["turn"]
    assert names(walk(60)) == ["walk"]


def test_a_seat_is_taken_and_left_again():
    ramp = torch.linspace(0, 0.4, 25, dtype=torch.float64)
    drop = torch.cat([torch.zeros(30), ramp, torch.full((45,), 0.4), ramp.flip(0), torch.zeros(30)]).double()
    motion = seated(drop)
    assert float(motion.positions()[..., 2].min()) == pytest.approx(TALL - 0.9, abs=1e-6)  # soles stay
    assert names(motion) == ["stand", "sit", "stand_up", "stand"]
    (_, _, sits), (_, _, rises), (_, _, stands) = list(runs(label(motion).numpy()))[:3]
    assert 30 <= sits <= 45  # on the way down
    assert 100 - 3 <= rises <= 100 + 8  # the rise begins where the hips leave their lowest
    assert 110 <= stands <= 125
    reversed_ = replace(motion, root=motion.root.flip(0), rotations=motion.rotations.flip(0))
    assert names(reversed_) == ["stand", "sit", "stand_up", "stand"]


def test_a_short_dip_is_a_crouch():
    ramp = torch.linspace(0, 0.4, 10, dtype=torch.float64)
    drop = torch.cat([torch.zeros(30), ramp, torch.full((8,), 0.4), ramp.flip(0), torch.zeros(30)]).double()
    assert names(seated(drop)) == ["stand", "crouch", "stand"]


def test_a_hand_over_the_head_reaches_and_a_level_trunk_near_the_ground_lies():
    motion = still()
    up = motion.rotations.clone()
    for side, sign in (("Left", 1.0), ("Right", -1.0)):
        up[:, motion.skeleton.names.index(f"{side}Arm")] = turns((0.0, sign, 0.0), torch.full((60,), -1.3).double())
    assert names(replace(motion, rotations=up)) == ["reach"]
    flat = motion.rotations.clone()
    flat[:, 0] = turns((1.0, 0.0, 0.0), torch.full((60,), np.pi / 2).double())
    assert names(replace(motion, root=motion.root - torch.tensor([0.0, 0, 0.75]), rotations=flat)) == ["lie"]


def test_off_the_floor_for_long_is_a_climb_and_for_short_a_jump():
    motion = still(90)
    high = motion.root.clone()
    high[20:70, 2] += 0.5
    assert "climb" in names(replace(motion, root=high))
    short = motion.root.clone()
    short[40:52, 2] += 0.3
    assert names(replace(motion, root=short)) == ["stand", "jump", "stand"]


def test_names_tell_what_geometry_cannot():
    assert names(walk(40), "humanoid3d_spinkick") == ["other"]
    assert names(walk(40), "02_05") == ["other"]
    assert names(walk(40), "02_01") == ["walk"]
    assert standing_height(body()) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        ("gazebo_cmu_bvh120/sit_down", ["stand", "sit"]),
        ("gazebo_cmu_bvh120/stand_up", ["sit", "stand_up", "stand"]),
        ("gazebo_cmu_bvh120/run", ["run"]),
        ("cmu_asfamc_bvh60/02_01", ["walk"]),
        ("deepmimic_json/humanoid3d_getup_facedown", ["lie", "get_up", "stand"]),
    ],
)
def test_recordings_are_called_by_their_names(clip, expected, data_file):
    suffix = ".json.gz" if "deepmimic" in clip else ".bvh.gz"
    figure = body_of(quietly(data_file("motion/mocap/gazebo_cmu_bvh120/stand.bvh.gz")).skeleton)
    motion = retargeted(quietly(data_file(f"motion/mocap/{clip}{suffix}")).resampled(30.0), figure.skeleton)
    assert names(motion) == expected

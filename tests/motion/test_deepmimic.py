"""DeepMimic's clips: columns, quaternions with w first, one-angle joints, frames of unequal length, the wrap."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from motion.clips import heading
from motion.formats.deepmimic import ANGLES, COLUMNS, QUATERNIONS, read_deepmimic
from shared.errors import InputError
from tests.motion.figures import quietly

FOLDER = "motion/mocap/deepmimic_json"


def clip(tmp_path, frames=3, wrap="none", seconds=1 / 30):
    rng = np.random.default_rng(0)
    rows = np.zeros((frames, COLUMNS))
    rows[:, 0] = seconds
    rows[-1, 0] = 0
    rows[:, 1:4] = np.cumsum(rng.uniform(0, 0.1, (frames, 3)), 0)
    rows[:, 2] += 0.8
    for column in (4, *QUATERNIONS.values()):
        quaternions = Rotation.from_rotvec(rng.uniform(-0.6, 0.6, (frames, 3))).as_quat()
        rows[:, column : column + 4] = quaternions[:, [3, 0, 1, 2]]
    for column in ANGLES.values():
        rows[:, column] = rng.uniform(-1, 0, frames)
    path = tmp_path / "clip.json"
    path.write_text(json.dumps({"Loop": wrap, "Frames": rows.tolist()}))
    return path, rows


def test_columns_fill_a_frame_without_gap_or_overlap():
    quaternions = (column + place for column in QUATERNIONS.values() for place in range(4))
    used = [0, 1, 2, 3, *range(4, 8), *ANGLES.values(), *quaternions]
    assert sorted(used) == list(range(COLUMNS))


def test_places_are_those_of_quaternions_with_w_first_and_angles_about_z(tmp_path):
    path, rows = clip(tmp_path)
    motion = read_deepmimic(path)
    names = motion.skeleton.names
    for frame, row in enumerate(rows):
        root = Rotation.from_quat(row[[5, 6, 7, 4]])
        hip = root * Rotation.from_quat(row[[17, 18, 19, 16]])
        knee_place = row[1:4] + root.apply([0, 0, 0.084887]) + hip.apply([0, -0.421546, 0])
        ankle = knee_place + (hip * Rotation.from_rotvec([0, 0, row[20]])).apply([0, -0.40987, 0])
        found = motion.positions()[frame, names.index("right_ankle")].numpy()
        assert np.allclose(found, ankle[[0, 2, 1]] * [1, -1, 1], atol=1e-9)
    # Fifteen links: no toes, so the ankles touch the floor, and hands are wrists.
    assert [[names[joint] for joint in foot] for foot in motion.skeleton.feet] == [["left_ankle"], ["right_ankle"]]
    assert [names[joint] for joint in motion.skeleton.toes] == ["left_ankle", "right_ankle"]
    assert [names[joint] for joint in motion.skeleton.hands] == ["left_wrist", "right_wrist"]


@pytest.mark.data
@pytest.mark.parametrize("name", ["walk", "run"])
def test_people_look_where_they_go_and_bend_knees_back_and_elbows_forward(name, data_file):
    motion = quietly(data_file(f"{FOLDER}/humanoid3d_{name}.json.gz"))
    assert motion.fps == 30.0
    positions, names = motion.positions(), motion.skeleton.names
    axes = heading(positions, motion.skeleton)
    velocity = positions.diff(dim=0)[:, 0]
    assert float(((velocity * axes[:-1, :, 1]).sum(-1) / velocity.norm(dim=-1)).mean()) > 0.9
    for top, middle, tip, sign in (("hip", "knee", "ankle", 1), ("shoulder", "elbow", "wrist", -1)):
        for side in ("left", "right"):
            a, b, c = (positions[:, names.index(f"{side}_{joint}")] for joint in (top, middle, tip))
            bend = ((b - (a + c) / 2) * axes[..., 1]).sum(-1)
            assert float(sign * bend.mean()) > 0.02
    assert float(positions[..., 2].min()) > -0.02
    assert (positions[:, names.index("left_hip")] - positions[:, names.index("right_hip")]).norm(dim=-1).std() < 1e-9


@pytest.mark.data
def test_a_body_gets_up_from_the_floor_onto_its_feet(data_file):
    motion = quietly(data_file(f"{FOLDER}/humanoid3d_getup_faceup.json.gz"))
    hips, neck = motion.positions()[:, 0, 2], motion.positions()[:, 2, 2]
    assert float(hips[0]) < 0.2
    assert float(neck[0]) < 0.25
    assert float(hips[-1]) > 0.8
    assert float(neck[-1]) > 1.2
    assert motion.skeleton.rest is not None


@pytest.mark.data
def test_frames_of_unequal_length_are_put_on_even_times(data_file):
    path = data_file(f"{FOLDER}/humanoid3d_roll.json.gz")
    motion = quietly(path)
    assert motion.fps == 60.0
    frames = np.array(json.loads(gzip.decompress(path.read_bytes()))["Frames"])
    times = np.concatenate([[0], np.cumsum(frames[:-1, 0])])
    assert np.ptp(frames[:-1, 0]) > 0.01
    expected = np.interp(np.arange(motion.frames) / 60.0, times, frames[:, 1])
    assert np.allclose(motion.root[:, 0].numpy(), expected, atol=1e-9)
    assert motion.frames == 122  # 2.016 s, 0.04 of a frame short of 121 steps


@pytest.mark.data
def test_a_wrapped_walk_goes_on_from_where_it_ends_and_others_do_not_repeat(data_file):
    path = data_file(f"{FOLDER}/humanoid3d_walk.json.gz")
    once, thrice = read_deepmimic(path), read_deepmimic(path, cycles=3)
    assert thrice.frames == 3 * once.frames - 2
    assert torch.allclose(thrice.root[: once.frames], once.root)
    steps = thrice.root.diff(dim=0).norm(dim=-1)
    assert float(steps.max()) < 1.3 * float(once.root.diff(dim=0).norm(dim=-1).max())
    length = (once.root[-1] - once.root[0])[:2].norm()
    assert float((thrice.root[-1] - thrice.root[0])[:2].norm()) == pytest.approx(3 * float(length), rel=0.02)
    assert torch.allclose(thrice.root[-1, 2], once.root[-1, 2])
    turned = heading(thrice.positions(), thrice.skeleton)
    seam = turned[once.frames - 1].T @ turned[once.frames]
    assert float(torch.rad2deg(torch.atan2(seam[1, 0], seam[0, 0])).abs()) < 10
    with pytest.raises(InputError, match="Loop: wrap"):
        read_deepmimic(data_file(f"{FOLDER}/humanoid3d_kick.json.gz"), cycles=2)


def test_a_rate_that_the_file_should_have_said_changes_the_speed_and_no_frame(tmp_path):
    path, _ = clip(tmp_path, frames=7)
    slow = read_deepmimic(path, fps=15.0)
    assert (slow.fps, slow.frames) == (15.0, 7)
    assert torch.equal(slow.root, read_deepmimic(path).root)


def test_frames_of_no_length_and_numbers_that_are_none_are_told(tmp_path):
    path, rows = clip(tmp_path)
    for place, value, word in (((1, 0), 0.0, "no length"), ((1, 5), float("nan"), "NaN")):
        wrong = rows.copy()
        wrong[place] = value
        path.write_text(json.dumps({"Frames": wrong.tolist()}))
        with pytest.raises(InputError, match=word):
            read_deepmimic(path)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "no Frames"),
        ("[1]", "no Frames"),
        ('{"Frames": [[1, 2, 3]]}', "15 links"),
        ('{"Frames": [["a"]]}', "no Frames"),
    ],
)
def test_faults_are_told(text, word, tmp_path):
    (tmp_path / "clip.json").write_text(text)
    with pytest.raises(InputError, match=word):
        quietly(tmp_path / "clip.json")

"""BVH: every trap of the files on the shelf, peers' kinematics, and stability of what is written."""

from __future__ import annotations

import gzip
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from motion.formats import read_clip, write_clip
from motion.formats.bvh import bvh_text
from motion.formats.files import read_text, snapped_rate
from motion.kinematics import end_positions
from motion.rotations import geodesic
from motion.skeleton import Conventions
from motion.stance import standing
from shared.errors import InputError
from tests.motion.figures import FLAVOURS, body, quietly, shortened, walk

# flavour: metres a unit, upward axis, fps, frames in the file, frames of motion, hips over the floor in the mean, m.
FACTS = {
    "cmu_asf": (0.01, "y", 60, 172, 172, 0.973),
    "cgspeed": (0.0254 / 0.45, "y", 120, 3029, 3028, 1.041),
    "gazebo": (0.01, "z", 120, 139, 139, 1.025),
    "sit_down": (0.01, "z", 120, 159, 159, 0.834),
    "cmu91": (0.01, "z", 30, 110, 109, 0.826),
    "jl": (1.0, "y", 60, 1794, 1794, 0.938),
    "bandai": (0.01, "y", 30, 31, 31, 0.904),
}
SMALL = [flavour for flavour, facts in FACTS.items() if facts[3] < 1000]

# As ReActIdle has it: six channels on most joints, orders that differ, offsets that move, a root that counts from its
# offset, names with dots, no toes and no hands.
REACT = """HIERARCHY
ROOT pelvis
{
  OFFSET 0 0.65 0
  CHANNELS 6 Xposition Yposition Zposition Xrotation Yrotation Zrotation
  JOINT face
  {
    OFFSET 0 0.6 0
    CHANNELS 3 Xrotation Yrotation Zrotation
    End Site
    { OFFSET 0 0.1 0 }
  }
  JOINT thigh.L
  {
    OFFSET 0.09 0 0
    CHANNELS 6 Xposition Yposition Zposition Xrotation Yrotation Zrotation
    JOINT shin.L
    {
      OFFSET 0 -0.31 0
      CHANNELS 6 Xposition Yposition Zposition Yrotation Xrotation Zrotation
      JOINT foot.L
      {
        OFFSET 0 -0.28 0
        CHANNELS 6 Xposition Yposition Zposition Xrotation Yrotation Zrotation
        End Site
        { OFFSET 0 -0.06 0.15 }
      }
    }
  }
  JOINT thigh.R
  {
    OFFSET -0.09 0 0
    CHANNELS 3 Xrotation Yrotation Zrotation
    JOINT shin.R
    {
      OFFSET 0 -0.31 0
      CHANNELS 3 Xrotation Yrotation Zrotation
      JOINT foot.R
      {
        OFFSET 0 -0.28 0
        CHANNELS 3 Xrotation Yrotation Zrotation
      }
    }
  }
}
MOTION
Frames: 3
Frame Time: 0.041667
"""
SHIFTS = (0.0, 0.02, -0.01)  # m that thigh.L leaves its offset by


def react(tmp_path, name="react.bvh"):
    rows = []
    for frame, shift in enumerate(SHIFTS):
        angles = np.array([3.0, -4.0, 5.0]) * (frame + 1)
        thigh, shin = (0.09 + shift, 0.0, 0.0), (0.0, -0.31, 0.0)
        rows.append([-0.05, 0.01 * frame, 0.0, *angles, 0, 0, 0, *thigh, *angles, *shin, *angles, 0, -0.28, 0, *angles,
                     *[0] * 9])  # fmt: skip
    path = tmp_path / name
    path.write_text(REACT + "\n".join(" ".join(f"{value:.6f}" for value in row) for row in rows) + "\n")
    return path


@pytest.mark.data
@pytest.mark.parametrize("flavour", SMALL)
def test_units_axes_rates_and_rest_frames_of_the_shelf_are_found_and_told(flavour, data_file):
    unit, up, fps, _, frames, hips = FACTS[flavour]
    with pytest.warns(UserWarning, match="the unit is not in the file") as told:
        motion = read_clip(data_file(FLAVOURS[flavour]))
    conventions = motion.skeleton.conventions
    assert conventions.metres_per_unit == pytest.approx(unit)
    assert conventions.up == up
    assert (motion.fps, motion.frames) == (fps, frames)
    positions = motion.positions()
    assert float(positions[:, motion.skeleton.roles["hips"], 2].mean()) == pytest.approx(hips, abs=2e-3)
    feet = [joint for foot in motion.skeleton.feet for joint in foot]
    assert -0.03 < float(positions[:, feet, 2].min()) < 0.09
    assert motion.offsets is None
    assert ("rest pose" in str(told[0].message)) == (flavour != "cmu_asf")
    forward = (positions[-1] - positions[0])[motion.skeleton.roles["hips"]]
    assert flavour not in ("cmu_asf", "gazebo", "bandai") or float(forward[:2].norm()) > 0.5


@pytest.mark.data
def test_the_t_pose_in_front_of_a_cgspeed_clip_is_its_rest_and_no_motion(data_file, tmp_path):
    path = shortened(data_file(FLAVOURS["cgspeed"]), tmp_path, 100)
    motion = quietly(path)
    assert motion.frames == 99
    assert motion.skeleton.conventions.metres_per_unit == pytest.approx(0.056444, abs=1e-6)
    assert motion.fps == 120.0  # .0083333 in the file
    kept = quietly(path, rest_frame=False)
    assert kept.frames == 100
    jump = torch.rad2deg(geodesic(kept.rotations[0], kept.rotations[1])).max()
    assert 60 < float(jump) < 120
    assert torch.equal(motion.skeleton.rest, kept.rotations[0])
    assert float(torch.rad2deg(geodesic(motion.rotations[0], motion.rotations[1])).max()) < 5


@pytest.mark.data
def test_walks_are_as_fast_as_people_and_a_wrong_rate_shows(data_file):
    def speed(motion):
        hips = motion.positions()[:, motion.skeleton.roles["hips"], :2]
        return float((hips[-1] - hips[0]).norm() * motion.fps / (motion.frames - 1))

    assert speed(quietly(data_file(FLAVOURS["cmu_asf"]))) == pytest.approx(1.2, abs=0.03)
    path = data_file(FLAVOURS["gazebo"])
    assert speed(quietly(path)) == pytest.approx(1.21, abs=0.01)
    # Keyed at 24 a second in COLLADA; every key is a frame of 120.
    assert speed(quietly(path, fps=24.0)) == pytest.approx(0.24, abs=0.002)


@pytest.mark.data
def test_bandais_hips_travel_on_a_root_of_their_own_and_its_constant_positions_are_offsets(data_file):
    text = read_text(data_file(FLAVOURS["bandai"]))
    assert "Frames:\t" in text
    motion = quietly(data_file(FLAVOURS["bandai"]))
    row = text.split("\n")[text.split("\n").index("MOTION") + 3].split()
    positions = motion.positions()
    x, y, z = (float(value) / 100 for value in row[6:9])  # the channels of Hips in the first frame, y-up
    assert motion.skeleton.names[:2] == ("joint_Root", "Hips")
    assert np.allclose(positions[0, 1].numpy(), [x, -z, y], atol=1e-9)
    assert motion.offsets is None
    assert all(len(channels) == 6 for channels in motion.skeleton.conventions.channels)


def test_offsets_that_move_orders_that_differ_and_a_root_that_counts_from_its_offset(tmp_path):
    with pytest.warns(UserWarning, match="count from its offset"):
        motion = read_clip(react(tmp_path))
    assert motion.fps == 24.0  # 0.041667 in the file
    names = motion.skeleton.names
    assert names[:3] == ("pelvis", "face", "thigh.L")
    positions = motion.positions()
    for frame, shift in enumerate(SHIFTS):
        angles = np.array([3.0, -4.0, 5.0]) * (frame + 1)
        turn = Rotation.from_euler("XYZ", angles, degrees=True)
        pelvis = np.array([-0.05, 0.65 + 0.01 * frame, 0.0])
        thigh = pelvis + turn.apply([0.09 + shift, 0, 0])
        shin = thigh + (turn * turn).apply([0, -0.31, 0])
        foot = shin + (turn * turn * Rotation.from_euler("YXZ", angles, degrees=True)).apply([0, -0.28, 0])
        for name, place in (("pelvis", pelvis), ("thigh.L", thigh), ("shin.L", shin), ("foot.L", foot)):
            assert np.allclose(positions[frame, names.index(name)].numpy(), place[[0, 2, 1]] * [1, -1, 1], atol=1e-6)
    assert motion.offsets is not None
    only = (motion.offsets - motion.skeleton.offsets).norm(dim=-1).amax(0) > 0
    assert [names[joint] for joint in only.nonzero()[:, 0]] == ["thigh.L"]
    assert [names[joint] for foot in motion.skeleton.feet for joint in foot] == ["foot.L", "foot.R"]


@pytest.mark.parametrize(
    ("printed", "rate"),
    [(".0083333", 120), ("0.041667", 24), ("0.0333333", 30), ("0.01666667", 60), ("8.3333e-3", 120), ("0.033", 30),
     ("0.0333667", 1 / 0.0333667), ("0.1", 10), ("0.5", 2), ("2", 0.5)],
)  # fmt: skip
def test_rounded_frame_times_give_whole_rates_and_others_stay(printed, rate):
    assert snapped_rate(printed) == rate


def test_line_ends_tabs_spaces_case_and_gzip_do_not_matter(tmp_path):
    path = react(tmp_path)
    expected, text = quietly(path), path.read_text()
    variants = {
        "crlf.bvh": text.replace("\n", "\r\n").encode(),
        "tabs.bvh": text.replace("Frames: ", "Frames:\t").replace("  ", "\t").encode(),
        "case.bvh": text.replace("Xposition", "XPOSITION")
        .replace("End Site", "END SITE")
        .replace("JOINT", "Joint")
        .encode(),
        "brace.bvh": text.replace("\n{", " {").encode(),
        "packed.bvh.gz": gzip.compress(text.encode()),
        "end.bvh": text.rstrip().encode() + b"\n\n\n",
    }
    for name, content in variants.items():
        (tmp_path / name).write_bytes(content)
        other = quietly(tmp_path / name)
        assert other.skeleton.names == expected.skeleton.names, name
        assert torch.equal(other.positions(), expected.positions()), name


@pytest.mark.data
@pytest.mark.parametrize("flavour", SMALL)
def test_what_is_read_of_a_written_file_is_written_again_byte_for_byte(flavour, data_file, tmp_path):
    motion = quietly(data_file(FLAVOURS[flavour]))
    written = bvh_text(motion)
    (tmp_path / "a.bvh").write_text(written)
    again = quietly(tmp_path / "a.bvh", rest_frame=False)
    assert bvh_text(again) == written
    assert float((again.positions() - motion.positions()).abs().max()) < 2e-6
    assert again.skeleton.conventions.channels == motion.skeleton.conventions.channels


def test_writing_is_stable_with_moving_offsets_at_gimbal_lock_and_half_turns(tmp_path):
    path = react(tmp_path)
    text = path.read_text().splitlines()
    text[-1] = text[-1].replace("9.000000 -12.000000 15.000000", "180.000000 90.000000 -180.000000")
    text[-2] = text[-2].replace("6.000000 -8.000000 10.000000", "-180.000000 -89.999999 -0.000000")
    path.write_text("\n".join(text))
    motion = quietly(path)
    written = bvh_text(motion)
    assert "-180.000000" not in written
    assert " -0.000000" not in written
    (tmp_path / "a.bvh").write_text(written)
    again = quietly(tmp_path / "a.bvh")
    assert bvh_text(again) == written
    assert torch.allclose(again.positions(), motion.positions(), atol=1e-5)


def test_a_body_without_a_file_is_written_with_the_usual_channels_and_read_again(tmp_path):
    motion = walk()
    write_clip(tmp_path / "walk.bvh", motion)
    text = (tmp_path / "walk.bvh").read_text()
    assert "CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation" in text
    assert "JOINT LeftToe\n" in text
    assert text.count("End Site") == 5  # the toes have none, but a last joint needs one
    again = quietly(tmp_path / "walk.bvh")
    assert again.skeleton.conventions.metres_per_unit == 0.01
    assert torch.allclose(again.positions(), motion.positions(), atol=1e-7)
    with pytest.raises(InputError, match="existing output"):
        write_clip(tmp_path / "walk.bvh", motion)


def test_a_joint_with_few_channels_is_read_and_written_with_enough(tmp_path):
    text = bvh_text(walk(3)).replace("CHANNELS 3 Zrotation Xrotation Yrotation", "CHANNELS 1 Xrotation", 1)
    lines = text.splitlines()
    start = lines.index("MOTION") + 3
    for row in range(start, len(lines)):
        values = lines[row].split()
        lines[row] = " ".join([*values[:6], "30.0", *values[9:]])
    (tmp_path / "a.bvh").write_text("\n".join(lines))
    motion = quietly(tmp_path / "a.bvh")
    expected = Rotation.from_euler("x", 30, degrees=True).as_matrix()
    assert np.allclose(motion.rotations[0, 1].numpy(), expected)
    assert motion.skeleton.conventions.channels[1] == ("Xrotation",)
    (tmp_path / "b.bvh").write_text(bvh_text(motion))
    assert torch.allclose(quietly(tmp_path / "b.bvh").rotations, motion.rotations, atol=1e-7)


@pytest.mark.data
def test_a_clip_made_to_stand_shows_a_body_before_its_first_frame(data_file, tmp_path):
    motion = quietly(data_file(FLAVOURS["sit_down"]))
    write_clip(tmp_path / "stand.bvh", standing(motion))
    again = quietly(tmp_path / "stand.bvh")
    assert torch.allclose(again.positions(), motion.positions(), atol=1e-6)
    zero = replace(again, rotations=torch.eye(3, dtype=torch.float64).expand_as(again.rotations).clone())
    positions, names = zero.positions()[0] - zero.root[0], again.skeleton.names
    assert positions[names.index("Head"), 2] > 0.4
    assert positions[names.index("LeftFoot"), 2] < -0.9
    hands = positions[names.index("LeftHand")] - positions[names.index("RightHand")]
    assert abs(float(hands[0])) > 1.3
    assert abs(float(hands[2])) < 0.1
    assert abs(float(positions[names.index("LeftToeBase"), 2] - positions[names.index("RightToeBase"), 2])) < 0.02


@pytest.mark.data
@pytest.mark.peer
@pytest.mark.parametrize("flavour", ["cmu_asf", "gazebo", "cmu91", "jl"])
def test_kinematics_are_those_of_pybvh(flavour, data_file, tmp_path):
    pybvh = pytest.importorskip("pybvh")
    path = shortened(data_file(FLAVOURS[flavour]), tmp_path, 40)
    motion = quietly(path, rest_frame=False)
    theirs = pybvh.read_bvh_file(path)
    coordinates = pybvh.frames_to_node_positions(theirs)
    positions, turned = motion.pose()
    ends = end_positions(motion.skeleton, positions, turned)
    axes, unit = motion.skeleton.conventions.axes, motion.skeleton.conventions.metres_per_unit
    ours = {name: positions[:, joint] for joint, name in enumerate(motion.skeleton.names)}
    ours |= {f"EndSite{motion.skeleton.names[joint]}": ends[:, k] for k, joint in enumerate(motion.skeleton.end_joints)}
    compared = 0
    for place, node in enumerate(theirs.nodes):
        if node.name in ours:
            error = np.abs((ours[node.name] @ axes / unit).numpy() - coordinates[:, place])
            assert error.max() * unit < 1e-5  # m: 1e-3 cm
            compared += 1
    assert compared == len(motion.skeleton) + len(motion.skeleton.end_joints)


@pytest.mark.data
@pytest.mark.peer
@pytest.mark.parametrize("flavour", ["cmu_asf", "gazebo", "jl", "bandai"])
def test_kinematics_are_those_of_pymotion(flavour, data_file, tmp_path):
    io = pytest.importorskip("pymotion.io.bvh")
    skeletons = pytest.importorskip("pymotion.ops.skeleton")
    path = shortened(data_file(FLAVOURS[flavour]), tmp_path, 30)
    motion = quietly(path, rest_frame=False)
    bvh = io.BVH()
    bvh.load(str(path))
    rotations, places, parents, offsets, _, _ = bvh.get_data()
    offsets = np.asarray(offsets)
    if flavour == "bandai":  # pymotion's kinematics moves the root only; Bandai's Hips move on it, and it does not turn
        places[:, 0] += places[:, 1] - offsets[1]
    places = places[:, 0]
    theirs, _ = skeletons.fk(rotations, places, offsets, parents)
    axes, unit = motion.skeleton.conventions.axes, motion.skeleton.conventions.metres_per_unit
    ours = (motion.positions() @ axes / unit).numpy()
    assert np.abs(ours - theirs).max() * unit < 1e-5  # m: 1e-3 cm


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda text: text.replace("HIERARCHY", "HELLO"), "no HIERARCHY"),
        (lambda text: text.rsplit(" ", 5)[0], "cut off"),
        (lambda text: text.replace("Frames: 3", "Frames: 4"), "cut off"),
        (lambda text: text.replace("OFFSET 0 0.6 0", "OFFSET 0 0.6"), "offset"),
        (lambda text: text.replace("CHANNELS 3 X", "CHANNELS 4 X"), "channels"),
        (lambda text: text.replace("Frame Time: 0.041667", "Frame Time: 0"), "the frame time 0"),
        (lambda text: text.replace("Frame Time: 0.041667", "Frame Time: -0.04"), "the frame time -0.04"),
        (lambda text: text[:-9] + "nan", "NaN"),
        (lambda text: text.replace("}\nMOTION", "MOTION"), "braces"),
        (lambda text: text[:-9] + "abc", "abc"),
        (lambda text: text.replace("shin.R", "shin.L"), "two joints named shin.L"),
    ],
)
def test_faults_are_told(change, word, tmp_path):
    path = react(tmp_path)
    path.write_text(change(path.read_text()))
    with pytest.raises(InputError, match=word):
        quietly(path)


def test_missing_and_foreign_files_and_wrong_options_are_told(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_clip(tmp_path / "none.bvh")
    with pytest.raises(InputError, match=r"\.bvh, \.amc, \.json"):
        read_clip(tmp_path / "clip.fbx")
    with pytest.raises(InputError, match="--units"):
        read_clip(react(tmp_path), units="yard")
    with pytest.raises(InputError, match="Rename"):
        write_clip(tmp_path / "clip.fbx", walk())
    (tmp_path / "cut.bvh.gz").write_bytes(gzip.compress(b"HIERARCHY" * 99)[:-12])
    with pytest.raises(InputError, match="cut off"):
        read_clip(tmp_path / "cut.bvh.gz")


def test_given_units_and_axes_are_believed_and_nothing_is_told(tmp_path, recwarn):
    write_clip(tmp_path / "walk.bvh", replace(walk(), skeleton=replace(body(), conventions=Conventions(1.0, "z"))))
    motion = read_clip(tmp_path / "walk.bvh", units="m", up="z")
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]
    assert torch.allclose(motion.positions(), walk().positions(), atol=1e-5)
    half = read_clip(tmp_path / "walk.bvh", units="cm", up="z")
    assert torch.allclose(half.positions() * 100, motion.positions())

"""ASF and AMC: a skeleton small enough to compute by hand, and a recorded walk written out in them."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from motion.formats import read_clip
from motion.formats.asf import read_asf
from motion.kinematics import end_positions
from shared.errors import InputError
from tests.motion.figures import FLAVOURS, quietly

CMU = 0.0254 / 0.45  # m

# Bones as CMU writes them, with axes that are none of the world's; dof in other orders than xyz too.
ASF = """# AST/ASF file generated using VICON BodyLanguage
:version 1.10
:name VICON
:units
  mass 1.0
  length 0.45
  angle deg
:documentation
   made for a test
:root
   order TX TY TZ RX RY RZ
   axis XYZ
   position 0 0 0
   orientation 0 0 0
:bonedata
  begin
     id 1
     name lfemur
     direction 0.34202 -0.939693 0
     length 7.5
     axis 0 0 20  XYZ
    dof rx ry rz
    limits (-160.0 20.0)
           (-70.0 70.0)
           (-60.0 70.0)
  end
  begin
     id 2
     name ltibia
     direction 0.34202 -0.939693 0
     length 7.25
     axis 10 -30 20  XYZ
    dof rz rx
    limits (-10.0 170.0)
           (-10.0 170.0)
  end
  begin
     id 3
     name lhipjoint
     direction 0 0 0
     length 0
     axis 0 0 0  XYZ
  end
:hierarchy
  begin
    root lhipjoint
    lhipjoint lfemur
    lfemur ltibia
  end
"""
AMC = """#!OML:ASF
:FULLY-SPECIFIED
:DEGREES
1
root 1 17 3 10 20 30
lfemur 11 -12 13
ltibia 40 7
2
root 2 17 3 0 0 0
lfemur 0 0 0
ltibia 0 0
"""


def write_pair(folder, asf=ASF, amc=AMC):
    (folder / "05.asf").write_text(asf)
    (folder / "05_01.amc").write_text(amc)
    return folder / "05_01.amc"


def test_rotations_are_those_of_the_bones_own_axes_in_the_order_of_the_file(tmp_path):
    motion = quietly(write_pair(tmp_path), up="y")
    names = motion.skeleton.names
    assert names == ("root", "lhipjoint", "lfemur", "ltibia")
    assert motion.fps == 120
    positions, turned = motion.pose()
    ends = end_positions(motion.skeleton, positions, turned)
    root = Rotation.from_euler("xyz", [10, 20, 30], degrees=True)
    thigh_axes = Rotation.from_euler("xyz", [0, 0, 20], degrees=True)
    thigh = root * thigh_axes * Rotation.from_euler("xyz", [11, -12, 13], degrees=True) * thigh_axes.inv()
    shin_axes = Rotation.from_euler("xyz", [10, -30, 20], degrees=True)
    shin = thigh * shin_axes * Rotation.from_euler("zx", [40, 7], degrees=True) * shin_axes.inv()
    direction = np.array([0.34202, -0.939693, 0])
    knee = np.array([1, 17, 3]) + thigh.apply(7.5 * direction)
    ankle = knee + shin.apply(7.25 * direction)
    assert np.allclose(positions[0, 2].numpy(), CMU * np.array([1, -3, 17]))
    assert np.allclose(positions[0, 3].numpy(), CMU * knee[[0, 2, 1]] * [1, -1, 1])
    assert np.allclose(ends[0, 0].numpy(), CMU * ankle[[0, 2, 1]] * [1, -1, 1])
    # The second frame is the skeleton as it stands in the ASF file.
    assert np.allclose(ends[1, 0].numpy(), CMU * (np.array([2, 17, 3]) + 14.75 * direction)[[0, 2, 1]] * [1, -1, 1])


def _angles(rotations):
    return rotations.as_euler("xyz", degrees=True)


@pytest.mark.data
def test_a_recorded_walk_in_asf_and_amc_has_the_places_of_its_bvh(data_file, tmp_path):
    walk = quietly(data_file(FLAVOURS["cmu_asf"]))
    skeleton, axes = walk.skeleton, walk.skeleton.conventions.axes
    rng = np.random.default_rng(0)
    bones = {joint: end @ axes / CMU for joint, end in zip(skeleton.end_joints, skeleton.end_offsets, strict=True)}
    for joint, parent in enumerate(skeleton.parents):
        if parent > 0:  # a bone ends where its children start
            bones[parent] = skeleton.offsets[joint] @ axes / CMU
    turns = {name: rng.uniform(-90, 90, 3) for name in skeleton.names[1:]}
    text = ASF.partition(":bonedata")[0] + ":bonedata\n"
    for joint, name in enumerate(skeleton.names[1:], 1):
        bone = bones[joint].numpy()
        length = np.linalg.norm(bone)
        direction = bone / length if length > 0 else bone
        text += f"begin\nid {joint}\nname {name}\ndirection {' '.join(f'{v:.9f}' for v in direction)}\n"
        text += f"length {length:.9f}\n"
        text += f"axis {' '.join(f'{v:.9f}' for v in turns[name])} XYZ\ndof rx ry rz\nend\n"
    text += ":hierarchy\nbegin\n"
    for parent, name in enumerate(skeleton.names):
        children = [skeleton.names[joint] for joint, other in enumerate(skeleton.parents) if other == parent]
        text += f"{name} {' '.join(children)}\n" if children else ""
    local = (axes.T @ walk.rotations[::4] @ axes).numpy()
    values = {"root": np.hstack([(walk.root[::4] @ axes / CMU).numpy(), _angles(Rotation.from_matrix(local[:, 0]))])}
    for joint, name in enumerate(skeleton.names[1:], 1):
        own = Rotation.from_euler("xyz", turns[name], degrees=True)
        values[name] = _angles(own.inv() * Rotation.from_matrix(local[:, joint]) * own)
    rows = ":DEGREES\n"
    for frame in range(len(local)):
        rows += f"{frame + 1}\n"
        rows += "".join(f"{name} {' '.join(f'{v:.9f}' for v in lines[frame])}\n" for name, lines in values.items())
    (tmp_path / "02.asf.gz").write_bytes(gzip.compress((text + "end\n").encode()))
    (tmp_path / "02_01.amc.gz").write_bytes(gzip.compress(rows.encode()))
    read = quietly(tmp_path / "02_01.amc.gz", fps=15.0)
    assert read.fps == 15.0
    assert sorted(read.skeleton.names) == sorted(skeleton.names)
    same = [read.skeleton.names.index(name) for name in skeleton.names]
    positions = read.positions()
    assert float((positions[:, same] - walk.positions()[::4]).abs().max()) < 1e-5
    hips = positions[:, read.skeleton.roles["hips"]]
    assert float(hips[:, 2].mean()) == pytest.approx(0.97, abs=0.01)
    speed = (hips[-1, :2] - hips[0, :2]).norm() * read.fps / (read.frames - 1)
    assert float(speed) == pytest.approx(1.2, abs=0.03)
    assert torch.equal(read.skeleton.rest, torch.eye(3).expand_as(read.skeleton.rest))


def test_what_the_files_do_not_say_is_told(tmp_path):
    path = write_pair(tmp_path)
    with pytest.warns(UserWarning, match="120 a second is taken"):
        read_clip(path, up="y")
    assert quietly(path, units="cm").root[0, 2] == pytest.approx(0.17)


def test_radians_are_read(tmp_path):
    numbers = [f"{np.deg2rad(value):.12f}" for value in (11, -12, 13)]
    amc = AMC.replace("lfemur 11 -12 13", f"lfemur {' '.join(numbers)}").replace(":DEGREES", ":RADIANS")
    asf = ASF.replace("angle deg", "angle rad")
    for degrees in ("axis 0 0 20", "axis 10 -30 20"):
        given = [float(word) for word in degrees.split()[1:]]
        asf = asf.replace(degrees, "axis " + " ".join(f"{np.deg2rad(value):.12f}" for value in given))
    amc = amc.replace("root 1 17 3 10 20 30", "root 1 17 3 " + " ".join(f"{np.deg2rad(v):.12f}" for v in (10, 20, 30)))
    amc = amc.replace("ltibia 40 7", "ltibia " + " ".join(f"{np.deg2rad(v):.12f}" for v in (40, 7)))
    (tmp_path / "deg").mkdir()
    (tmp_path / "rad").mkdir()
    one, other = quietly(write_pair(tmp_path / "deg")), quietly(write_pair(tmp_path / "rad", asf, amc))
    assert torch.allclose(one.positions(), other.positions(), atol=1e-9)


def test_the_skeleton_beside_is_found_by_name_or_alone_and_else_asked_for(tmp_path):
    path = write_pair(tmp_path)
    (tmp_path / "06.asf").write_text(ASF.replace("7.5", "9.5"))
    assert quietly(path).skeleton.offsets[3].norm() == pytest.approx(7.5 * CMU, rel=1e-6)
    assert quietly(path, asf=tmp_path / "06.asf").skeleton.offsets[3].norm() == pytest.approx(9.5 * CMU, rel=1e-6)
    path.rename(tmp_path / "07_01.amc")
    with pytest.raises(InputError, match="--asf"):
        quietly(tmp_path / "07_01.amc")
    (tmp_path / "06.asf").unlink()
    assert len(quietly(tmp_path / "07_01.amc").skeleton) == 4


@pytest.mark.parametrize(
    ("asf", "amc", "word"),
    [
        (ASF.replace("lfemur ltibia", "lfemur lshin"), AMC, "lshin"),
        (ASF.replace("dof rz rx", "dof l"), AMC, "no rotation"),
        (ASF.replace("length 7.5", "length x"), AMC, "ASF"),
        ("hello", AMC, "no order of the root"),
        (ASF.partition(":bonedata")[0], AMC, "0 bones"),
        (ASF, AMC.replace("ltibia 40 7", "ltibia 40"), "1 numbers for 'ltibia'"),
        (ASF, AMC.replace("ltibia 40 7\n", ""), "1 of ltibia"),
        (ASF, AMC.replace("lfemur 11", "lhumerus 11"), "lhumerus"),
        (ASF, ":DEGREES\n", "0 frames"),
    ],
)
def test_faults_are_told(asf, amc, word, tmp_path):
    with pytest.raises(InputError, match=word):
        quietly(write_pair(tmp_path, asf, amc))


def test_the_units_of_a_skeleton_file(tmp_path):
    write_pair(tmp_path)
    skeleton = read_asf(tmp_path / "05.asf")
    assert (skeleton.length, skeleton.degrees) == (0.45, True)
    assert skeleton.bones["ltibia"].dof == ("rz", "rx")

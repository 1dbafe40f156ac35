"""Animated GLB: what a viewer that knows only glTF's rules shows is the motion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pygltflib
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation

from motion.formats import write_clip
from motion.kinematics import forward_kinematics
from motion.rotations import about_axis
from shared.errors import InputError
from tests.motion.figures import FLAVOURS, body, quietly, walk

WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}


def accessor(file, index):
    entry = file.accessors[index]
    view = file.bufferViews[entry.bufferView]
    kind = {5126: "<f4", 5125: "<u4"}[entry.componentType]
    values = np.frombuffer(file.binary_blob(), kind, entry.count * WIDTHS[entry.type], view.byteOffset)
    return values.reshape(entry.count, -1)


def played(path):
    """Return times and where the nodes are at the keys, (F, N, 3), by glTF's rules alone: y up, T R of each node."""
    file = pygltflib.GLTF2().load(str(path))
    (animation,) = file.animations
    times = accessor(file, animation.samplers[0].input)[:, 0]
    tracks = {
        (channel.target.node, channel.target.path): accessor(file, animation.samplers[channel.sampler].output)
        for channel in animation.channels
    }
    places = np.zeros((len(times), len(file.nodes), 3))

    def visit(index, position, rotation):
        node = file.nodes[index]
        moved = tracks.get((index, "translation"), np.array([node.translation or [0, 0, 0]] * len(times)))
        turned = Rotation.from_quat(
            tracks.get((index, "rotation"), np.array([node.rotation or [0, 0, 0, 1]] * len(times)))
        )
        places[:, index] = position + rotation.apply(moved)
        for child in node.children or []:
            visit(child, places[:, index], rotation * turned)

    for root in file.scenes[file.scene].nodes:
        visit(root, np.zeros((len(times), 3)), Rotation.identity(len(times)))
    return file, times, places


def test_a_viewer_shows_every_joint_where_it_is(tmp_path):
    motion = walk(12)
    write_clip(tmp_path / "walk.glb", motion)
    file, times, places = played(tmp_path / "walk.glb")
    assert np.allclose(times, np.arange(12) / 30, atol=1e-6)
    assert [node.name for node in file.nodes[:20]] == list(motion.skeleton.names)
    positions = motion.positions().numpy()
    assert np.abs(places[:, :20] - positions[..., [0, 2, 1]] * [1, 1, -1]).max() < 1e-5
    ends = [node.name for node in file.nodes[20:]]
    assert ends == ["Head_end", "LeftHand_end", "RightHand_end"]


@pytest.mark.data
def test_clips_of_the_shelf_are_shown_where_they_are(data_file, tmp_path):
    motion = quietly(data_file(FLAVOURS["bandai"]))
    write_clip(tmp_path / "a.glb", motion)
    _, _, places = played(tmp_path / "a.glb")
    positions = motion.positions().numpy()
    assert np.abs(places[:, : len(motion.skeleton)] - positions[..., [0, 2, 1]] * [1, 1, -1]).max() < 1e-5


def test_offsets_that_move_are_animated(tmp_path):
    motion = walk(4)
    moved = motion.skeleton.offsets.repeat(4, 1, 1)
    moved[:, 6] += torch.arange(4.0)[:, None]
    motion = replace(motion, offsets=moved)
    write_clip(tmp_path / "a.glb", motion)
    file, _, places = played(tmp_path / "a.glb")
    assert np.abs(places[:, :20] - motion.positions().numpy()[..., [0, 2, 1]] * [1, 1, -1]).max() < 1e-5
    paths = [channel.target.path for channel in file.animations[0].channels]
    assert paths.count("translation") == 2


def test_quaternions_never_change_sign_between_keys(tmp_path):
    motion = walk(40)
    angles = torch.linspace(0, 4 * torch.pi, 40, dtype=torch.float64)
    rotations = motion.rotations.clone()
    rotations[:, 3] = about_axis(2, angles)
    write_clip(tmp_path / "a.glb", replace(motion, rotations=rotations))
    file, _, _ = played(tmp_path / "a.glb")
    for sampler in file.animations[0].samplers:
        values = accessor(file, sampler.output)
        if values.shape[1] == 4:
            assert ((values[1:] * values[:-1]).sum(1) > 0).all()
            assert np.allclose(np.linalg.norm(values, axis=1), 1.0, atol=1e-6)


def test_before_it_runs_the_body_stands_on_the_floor_and_capsules_lie_along_its_bones(tmp_path):
    motion = walk(3)
    write_clip(tmp_path / "walk.glb", motion)
    scene = trimesh.load(tmp_path / "walk.glb")
    skeleton = body()
    zero = torch.eye(3, dtype=torch.float64).expand(len(skeleton), 3, 3)
    positions, _ = forward_kinematics(skeleton, torch.tensor([0, 0, 0.9], dtype=torch.float64), zero)
    expected = positions.numpy()[:, [0, 2, 1]] * [1, 1, -1]
    for joint, name in enumerate(skeleton.names):
        assert np.allclose(scene.graph.get(name)[0][:3, 3], expected[joint], atol=1e-6), name
    low, high = scene.bounds
    assert low[1] == pytest.approx(0.0, abs=0.02)
    assert high[1] == pytest.approx(0.9 + 0.65 + 0.15, abs=0.03)
    assert high[0] == pytest.approx(0.8, abs=0.03)
    knee = skeleton.names.index("LeftLeg")
    place, geometry = scene.graph.get("LeftLeg")
    points = trimesh.transform_points(scene.geometry[geometry].vertices, place)
    bone = expected[knee + 1] - expected[knee]
    along = (points - expected[knee]) @ bone / np.linalg.norm(bone)
    across = np.linalg.norm((points - expected[knee]) - np.outer(along, bone / np.linalg.norm(bone)), axis=1)
    radius = 0.12 * 0.41
    assert across.max() == pytest.approx(radius, rel=0.05)
    assert along.min() == pytest.approx(-radius, rel=0.05)
    assert along.max() == pytest.approx(0.41 + radius, rel=0.05)
    file = played(tmp_path / "walk.glb")[0]
    attributes = file.meshes[file.nodes[knee].mesh].primitives[0].attributes
    surface, normals = accessor(file, attributes.POSITION), accessor(file, attributes.NORMAL)
    assert np.allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-6)
    axis = np.clip(surface @ [0, -1.0, 0], 0, 0.41)[:, None] * [0, -1.0, 0]  # the nearest point of the bone
    assert np.allclose(surface - axis, radius * normals, atol=1e-6)


def test_an_existing_file_is_not_replaced(tmp_path):
    write_clip(tmp_path / "walk.glb", walk(3))
    with pytest.raises(InputError, match="existing output"):
        write_clip(tmp_path / "walk.glb", walk(3))
    write_clip(tmp_path / "walk.glb", walk(4), overwrite=True)
    assert len(played(tmp_path / "walk.glb")[1]) == 4

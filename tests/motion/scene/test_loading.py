"""Reading: axes, units, floors, names, places, and files that make no sense."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from motion.scene.loading import Placed, read_scene, write_scene
from motion.scene.orientation import AXES, UNITS, find_frame
from shared.errors import InputError

PIECES = (
    *("armchair", "armchair2", "bed1", "bench", "chair2", "couch", "cupboard", "desk"),
    *("oakChair", "oakTable", "plasticChair", "sofa2", "stool", "winchesterSofa"),
)


def test_every_axis_is_a_rotation_that_turns_it_up():
    for name, rows in AXES.items():
        rotation = np.array(rows, float)
        assert np.linalg.det(rotation) == pytest.approx(1.0)
        assert np.allclose(rotation @ rotation.T, np.eye(3))
        axis = np.zeros(3)
        axis["xyz".index(name[-1])] = -1.0 if name[0] == "-" else 1.0
        assert np.allclose(rotation @ axis, [0, 0, 1])


@pytest.mark.data
@pytest.mark.parametrize("piece", PIECES)
def test_axis_and_unit_of_furniture_are_found_however_it_was_exported(piece, data_file):
    triangles = read_scene(data_file(f"motion/scenes/furniture/{piece}.ply"), up="z", unit="m").objects[0].triangles
    for up, unit in ("z", "m"), ("y", "cm"), ("z", "mm"), ("y", "mm"):
        exported = triangles @ np.array(AXES[up], float) / UNITS[unit]
        frame = find_frame(exported, source=piece)
        assert (frame.up, frame.unit) == (up, unit), frame.notes
        assert np.abs(frame.apply(exported) - triangles).max() < 1e-9


@pytest.mark.data
@pytest.mark.parametrize(("up", "unit"), [("z", "cm"), ("y", "mm"), ("z", "m")])
def test_a_glb_that_breaks_the_convention_is_the_same_scene(up, unit, apartment, tmp_path):
    scene, _, _ = apartment
    copy = trimesh.Scene()
    for o in scene.objects:
        vertices = o.vertices @ np.array(AXES[up], float) / UNITS[unit]
        copy.add_geometry(trimesh.Trimesh(vertices, o.faces, process=False), node_name=o.name)
    path = tmp_path / "copy.glb"
    copy.export(path)
    again = read_scene(path)
    assert (again.up, again.unit) == (up, unit)
    assert again.floor == pytest.approx(scene.floor, abs=1e-4)
    assert sorted(again.names) == sorted(scene.names)
    assert np.abs(again.find("IKEA_bed_FJELLSE").bounds - scene.find("IKEA_bed_FJELLSE").bounds).max() < 1e-4
    report = " ".join(again.report)
    assert f"up axis: {up}" in report
    assert f"unit: {unit}" in report


@pytest.mark.data
def test_the_apartment_has_its_named_things_and_its_floor(apartment):
    scene, _, _ = apartment
    assert len(scene.objects) == 33  # one a node of the file, though trimesh finds 57 primitives
    assert scene.floor == pytest.approx(0.0, abs=2e-3)  # where the furniture stands, not the ground plane 17 mm below
    assert np.allclose(scene.find("bed").bounds, [[-5.62, 3.60, 0.0], [-3.55, 4.61, 0.80]], atol=0.01)
    assert {"Plane", "IKEA_carpet_DRAGOR"} == set(scene.names) - {o.name for o in scene.solids}


def test_a_scene_written_as_glb_is_read_back_the_same(shapes, tmp_path):
    cone = shapes.thing("cone", trimesh.creation.cone(0.3, 0.9).apply_translation([1, 2, 0]))
    scene = shapes.scene_of(shapes.box("table.001", [0, 0, 0], [1.2, 0.7, 0.74]), cone)
    write_scene(tmp_path / "scene.glb", scene)
    again = read_scene(tmp_path / "scene.glb")
    assert sorted(again.names) == sorted(scene.names)
    for o in scene.objects:
        assert np.abs(o.triangles - again.find(o.name).triangles).max() < 1e-6
    raw = trimesh.load_scene(tmp_path / "scene.glb")
    assert raw.bounds[1] == pytest.approx([1.3, 0.9, 0.0], abs=1e-6)  # y up, and front (-y) towards +z
    with pytest.raises(InputError, match="existing output"):
        write_scene(tmp_path / "scene.glb", scene)


def test_a_mirrored_node_keeps_its_outside_outside(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box([1.0, 0.8, 0.6]), node_name="left", transform=np.diag([-1.0, 1, 1, 1]))
    scene.export(tmp_path / "mirror.glb")
    mesh = read_scene(tmp_path / "mirror.glb", up="y", unit="m").objects[0]
    corners = mesh.triangles
    volume = np.einsum("ti,ti->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) / 6
    assert volume == pytest.approx(0.48, rel=1e-6)


def test_an_up_vector_sets_a_tilted_scan_upright(shapes, tmp_path):
    mesh = trimesh.creation.box(bounds=[[0, 0, 0], [3, 2, 1]])
    up = np.array([0.3, -0.8, 0.4])
    tilt = trimesh.geometry.align_vectors([0, 0, 1], up)
    mesh.apply_transform(tilt)
    mesh.export(tmp_path / "scan.ply")
    bounds = read_scene(tmp_path / "scan.ply", up=up, unit="m").objects[0].bounds
    assert np.ptp(bounds[:, 2]) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("keyword", ["o", "g"])
def test_the_parts_of_an_obj_keep_their_names(keyword, tmp_path):
    lines = ["mtllib missing.mtl"]
    for k, name in enumerate(("sofa", "lamp")):
        corners = trimesh.creation.box(bounds=[[2 * k, 0, 0], [2 * k + 1, 1, 1]])
        lines += [f"{keyword} {name}", *(f"v {x} {y} {z}" for x, y, z in corners.vertices)]
        lines += [f"f {' '.join(str(8 * k + i + 1) for i in face)}" for face in corners.faces]
    (tmp_path / "room.obj").write_text("\n".join(lines))
    scene = read_scene(tmp_path / "room.obj")
    assert {o.name: o.bounds[0, 0] for o in scene.objects} == {"sofa": 0.0, "lamp": 2.0}


def test_placed_files_stand_on_the_floor_where_they_were_put(tmp_path):
    chair = trimesh.creation.box(bounds=[[10, 10, 5], [10.4, 10.6, 5.9]])
    chair.export(tmp_path / "chair.ply")
    scene = read_scene(
        [Placed(tmp_path / "chair.ply", (1.0, 2.0), 90.0, up="z"), Placed(tmp_path / "chair.ply", up="z")]
    )
    assert scene.names == ("chair", "chair.001")
    assert np.allclose(scene.objects[0].bounds, [[0.7, 1.8, 0], [1.3, 2.2, 0.9]], atol=1e-6)
    assert np.allclose(scene.objects[1].bounds, [[-0.2, -0.3, 0], [0.2, 0.3, 0.9]], atol=1e-6)
    assert scene.floor == 0.0
    with pytest.raises(InputError, match="2 objects called 'CHA'"):
        scene.find("CHA")
    again = [Placed(tmp_path / "chair.ply", name=name, up="z") for name in ("chair.001", None, None)]
    assert read_scene(again).names == ("chair.001", "chair", "chair.002")


def test_the_floor_of_a_scan_is_its_level_surface_and_not_its_lowest_noise(tmp_path):
    floor = trimesh.creation.box(bounds=[[0, 0, 0.2], [4, 3, 0.25]])
    noise = trimesh.creation.icosphere(subdivisions=1, radius=0.05).apply_translation([1, 1, -0.1])
    wall = trimesh.creation.box(bounds=[[0, 0, 0.25], [0.1, 3, 2.6]])
    trimesh.util.concatenate([floor, noise, wall]).export(tmp_path / "scan.ply")
    assert read_scene(tmp_path / "scan.ply", up="z").floor == pytest.approx(0.225, abs=0.03)
    assert read_scene(tmp_path / "scan.ply", up="z", floor=0.25).floor == 0.25


def _broken(name, folder):
    path = folder / name
    if name == "cloud.ply":
        trimesh.PointCloud(np.random.default_rng(0).random((9, 3))).export(path)
    elif name == "nan.ply":
        trimesh.Trimesh([[0, 0, 0], [1, 0, np.nan], [0, 1, 0]], [[0, 1, 2]], process=False).export(path)
    elif name == "far.ply":
        trimesh.creation.box(bounds=[[3.4e5, 5.1e6, 0], [3.4e5 + 4, 5.1e6 + 5, 2.5]]).export(path)
    elif name == "crumb.ply":
        trimesh.creation.box([0.02, 0.02, 0.02]).export(path)
    elif name != "absent.glb":
        path.write_bytes(b"" if name == "empty.obj" else b"glTF rubbish that is no file")
    return path


@pytest.mark.parametrize(
    ("name", "words"),
    [("cloud.ply", "points without faces"), ("far.ply", "to the origin"),
     ("nan.ply", "not numbers"), ("crumb.ply", "Give the unit"),
     ("absent.glb", "no file"), ("empty.obj", "found nothing"), ("rubbish.glb", "trimesh cannot read"),
     ("rubbish.ply", "trimesh cannot read"), ("scene.blend", "the suffix '.blend'")],
)  # fmt: skip
def test_a_file_that_is_no_scene_is_one_clear_error(name, words, tmp_path):
    with pytest.raises(InputError, match=words) as caught:
        read_scene(_broken(name, tmp_path))
    assert name in str(caught.value)


def test_axes_and_units_that_do_not_exist_are_refused(tmp_path):
    trimesh.creation.box([1, 1, 1]).export(tmp_path / "a.ply")
    for options, words in (
        ({"up": "w"}, "up axis"), ({"up": (0, 0, 0)}, "up vector"), ({"unit": "km"}, "one of m, cm"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            read_scene(tmp_path / "a.ply", **options)
    with pytest.raises(InputError, match="no placed objects"):
        read_scene([])

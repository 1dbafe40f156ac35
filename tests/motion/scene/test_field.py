"""Signed distance: analytic shapes, open and inside-out meshes, rooms, gradients, the edge of the grid, the cache."""

from __future__ import annotations

import igl
import numpy as np
import pytest
import torch
import trimesh

from motion.scene import field as module
from motion.scene.field import DistanceField, build_field, cache_folder
from motion.scene.loading import read_scene
from shared.errors import InputError

VOXEL = 0.05


def box_distance(points, low, high):
    """The exact signed distance to a box."""
    middle, half = (np.array(low) + high) / 2, (np.array(high) - low) / 2
    q = np.abs(points - middle) - half
    return np.linalg.norm(np.maximum(q, 0), axis=-1) + np.minimum(q.max(-1), 0)


def ball_distance(points, centre, radius):
    return np.linalg.norm(points - np.array(centre), axis=-1) - radius


def nodes(field):
    axes = [float(field.origin[a]) + field.voxel * np.arange(n) for a, n in enumerate(field.values.shape)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def without_floor(field):
    return DistanceField(field.values, field.origin, field.voxel)


def tensor(points):
    return torch.tensor(points, dtype=torch.float32)


LOW, HIGH = [0.1, 0.2, 0.0], [1.3, 0.9, 0.74]
CENTRE, RADIUS = [1.3, 0.9, 0.6], 0.45


@pytest.fixture(scope="module")
def union(shapes):
    ball = trimesh.creation.icosphere(subdivisions=4, radius=RADIUS).apply_translation(CENTRE)
    scene = shapes.scene_of(shapes.box("box", LOW, HIGH), shapes.thing("ball", ball), floor=-5.0)
    return build_field(scene, voxel=VOXEL)


def test_box_is_exact_on_the_grid_and_within_a_quarter_voxel_between(shapes):
    field = without_floor(build_field(shapes.scene_of(shapes.box("box", LOW, HIGH)), voxel=VOXEL))
    assert np.abs(field.values.numpy() - box_distance(nodes(field), LOW, HIGH)).max() < 1e-5
    points = np.random.default_rng(0).uniform([-0.2, -0.1, -0.3], [1.6, 1.2, 1.0], (4000, 3))
    error = np.abs(field(tensor(points)).numpy() - box_distance(points, LOW, HIGH))
    assert error.max() < 0.5 * VOXEL  # at edges and on the medial planes, where the distance has a crease
    assert np.median(error) < 1e-5 + 0.02 * VOXEL


def test_union_of_box_and_ball_is_the_minimum_outside_and_negative_inside(union):
    points = np.random.default_rng(1).uniform([-0.2, -0.1, -0.3], [2.0, 1.6, 1.3], (6000, 3))
    truth = np.minimum(box_distance(points, LOW, HIGH), ball_distance(points, CENTRE, RADIUS))
    value = union(tensor(points)).numpy()
    outside = truth > 0
    assert np.abs(value - truth)[outside].max() < 0.5 * VOXEL
    assert np.abs(value - truth)[outside].mean() < 0.03 * VOXEL
    deep = truth < -VOXEL
    # Deep in the union the nearest triangle may be one of the other shape inside it, so only the sign is asked.
    assert deep.sum() > 300
    assert (value[deep] < 0).all()


def test_gradient_is_a_unit_vector_and_the_derivative(union):
    generator = np.random.default_rng(2)
    directions = generator.normal(size=(200, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    directions = directions[(directions @ [1, 1, 0.3]) > 0.3]  # the part of the ball that is out of the box
    points = tensor(np.array(CENTRE) + 0.55 * directions)
    gradient = union.gradient(points)
    assert (gradient.norm(dim=-1) - 1).abs().max() < 0.05
    cosine = (gradient * tensor(directions)).sum(-1) / gradient.norm(dim=-1)
    assert cosine.min() > 0.995
    step = 1e-3
    shifts = step * torch.eye(3)[:, None]
    numeric = torch.stack([(union(points + s) - union(points - s)) / (2 * step) for s in shifts], -1)
    # A step across a cell's border sees two slopes; most do not cross one.
    assert (numeric - gradient).abs().median() < 1e-3
    assert (numeric - gradient).abs().max() < 0.2


def test_beyond_the_grid_it_is_a_continuous_upper_bound_that_leads_back(union):
    generator = np.random.default_rng(3)
    points = generator.uniform(-4, 5, (500, 3))
    points = points[((points < union.origin.numpy()) | (points > union.upper.numpy())).any(1)]
    truth = np.minimum(box_distance(points, LOW, HIGH), ball_distance(points, CENTRE, RADIUS))
    value = without_floor(union)(tensor(points)).numpy()
    assert (value >= truth - 0.01).all()
    assert (value <= truth + 1.0).all()
    gradient = without_floor(union).gradient(tensor(points)).numpy()
    towards = points - 0.5 * (np.array(LOW) + HIGH)
    assert ((gradient * towards).sum(-1) > 0).all()
    face = union.upper.clone()
    face[1:] = 0.5
    nudge = torch.tensor([1e-4, 0.0, 0.0])
    assert float(union(face + nudge) - union(face - nudge)) == pytest.approx(2e-4, abs=5e-5)


def test_the_floor_is_solid_ground(shapes):
    field = build_field(shapes.scene_of(shapes.box("box", [0, 0, 0.1], [1, 1, 0.6]), floor=0.1), voxel=VOXEL)
    heights = tensor([[3.0, 3.0, z] for z in (-1.0, 0.1, 0.15, 0.5)])
    assert torch.allclose(field(heights), tensor([-1.1, 0.0, 0.05, 0.4]), atol=1e-6)
    assert torch.allclose(field.gradient(heights[:1]), tensor([[0.0, 0.0, 1.0]]))


def test_any_batch_half_precision_and_gradients_without_nan(union):
    points = torch.rand(2, 7, 5, 3) * 1.5
    assert union(points).shape == (2, 7, 5)
    assert torch.equal(union(points)[1, 3], union(points[1, 3]))
    coarse = points.to(torch.bfloat16).requires_grad_(True)
    value = union(coarse)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert torch.isfinite(coarse.grad).all()
    assert torch.isfinite(union.gradient(torch.stack([union.origin, union.upper]))).all()


@pytest.mark.parametrize("damage", ["holes", "inside out", "unwelded", "one part inside out"])
def test_sign_survives_meshes_that_are_not_closed_or_not_oriented(damage, shapes):
    mesh = trimesh.creation.icosphere(subdivisions=3, radius=0.5).apply_translation([0, 0, 0.5])
    vertices, faces = mesh.vertices, mesh.faces
    hole = np.linalg.norm(mesh.triangles_center - [0.5, 0, 0.5], axis=1) < 0.15
    if damage == "holes":
        faces = faces[~hole]
    elif damage == "inside out":
        faces = faces[:, ::-1]
    elif damage == "unwelded":
        vertices, faces = mesh.triangles.reshape(-1, 3), np.arange(3 * len(mesh.faces)).reshape(-1, 3)
    else:
        second = trimesh.creation.box(bounds=[[0.2, -0.3, 0], [1.6, 0.3, 0.6]])  # the signs cancel where both are
        faces = np.concatenate([faces, second.faces[:, ::-1] + len(vertices)])
        vertices = np.concatenate([vertices, second.vertices])
    broken = trimesh.Trimesh(vertices, faces, process=False)
    assert not (broken.is_watertight and broken.volume > 0.6)
    field = without_floor(build_field(shapes.scene_of(shapes.thing("thing", broken)), voxel=VOXEL))
    points = np.random.default_rng(4).uniform([-0.8, -0.8, -0.2], [1.8, 0.8, 1.2], (4000, 3))
    truth = ball_distance(points, [0, 0, 0.5], 0.5)
    if damage == "one part inside out":
        truth = np.minimum(truth, box_distance(points, [0.2, -0.3, 0], [1.6, 0.3, 0.6]))
    sure = np.abs(truth) > 0.04
    if damage == "holes":  # across a hole nobody can say where the surface was
        sure &= np.linalg.norm(points - [0.5, 0, 0.5], axis=1) > 0.25
    assert ((field(tensor(points)).numpy() < 0) == (truth < 0))[sure].all()


def test_an_open_floor_sheet_does_not_spoil_the_distance_as_it_does_with_libigls_product(shapes):
    sheet = trimesh.Trimesh([[-9, -9, 0], [9, -9, 0], [9, 9, 0], [-9, 9, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    joined = trimesh.util.concatenate([sheet, trimesh.creation.box(bounds=[[0, 0, 0], [1, 1, 0.5]])])
    points = np.array([[3.0, 3.0, 1.0], [0.5, 0.5, 1.0], [0.5, 0.5, 0.3]])
    theirs = igl.signed_distance(
        points, joined.vertices, joined.faces, igl.SignedDistanceType.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
    )[0]
    assert abs(theirs[0]) < 0.2  # the true distance is 1
    scene = shapes.scene_of(shapes.thing("ground", sheet), shapes.box("box", [0, 0, 0], [1, 1, 0.5]))
    ours = build_field(scene, voxel=VOXEL)(tensor(points)).numpy()
    assert np.abs(ours - [1.0, 0.5, -0.2]).max() < 1e-3


@pytest.mark.parametrize("normals", ["in", "out"])
@pytest.mark.parametrize("ceiling", [True, False])
def test_a_scanned_room_is_free_inside_and_solid_behind_its_walls(normals, ceiling, shapes):
    room = trimesh.creation.box(bounds=[[0, 0, 0], [4, 3, 2.5]])
    faces = room.faces if normals == "out" else room.faces[:, ::-1]
    if not ceiling:
        faces = faces[room.face_normals[:, 2] < 0.5]
    shell = trimesh.Trimesh(room.vertices, faces, process=False)
    scene = shapes.scene_of(shapes.thing("room", shell), shapes.box("table", [1, 1, 0], [2, 2, 0.74]))
    field = build_field(scene, voxel=0.1, margin=0.3)
    points = np.array(
        [[3.0, 1.5, 1.0], [0.3, 1.5, 1.0], [1.5, 1.5, 1.0], [1.5, 1.5, 0.6], [-0.2, 1.5, 1.0], [4.2, 1, 1]]
    )
    assert np.abs(field(tensor(points)).numpy() - [1.0, 0.3, 0.26, -0.14, -0.2, -0.2]).max() < 0.03


def test_far_behind_the_walls_of_a_room_is_solid_and_leads_back(shapes):
    room = trimesh.creation.box(bounds=[[0, 0, 0], [4, 3, 2.5]])
    room.invert()
    field = build_field(shapes.scene_of(shapes.thing("room", room)), voxel=0.1, margin=0.3)
    points = tensor([[-2.0, 1.5, 1.0], [6.0, 1.5, 1.0], [2.0, -3.0, 1.0], [2.0, 1.5, 4.0]])
    assert np.abs(field(points).numpy() - [-2.0, -2.0, -3.0, -1.5]).max() < 0.02
    towards = tensor([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, -1]])
    assert ((field.gradient(points) * towards).sum(-1) > 0.99).all()


@pytest.mark.data
def test_furniture_has_the_exact_winding_numbers_sign_where_it_is_closed(data_file):
    scene = read_scene(data_file("motion/scenes/furniture/chair2.ply"))
    mesh = scene.objects[0]
    field = without_floor(build_field(scene, voxel=0.04))
    points = nodes(field)[::2, ::2, ::2].reshape(-1, 3)
    inside = igl.winding_number(mesh.vertices, mesh.faces, points) > 0.5
    assert inside.sum() > 20
    sure = np.abs(field.values.numpy()[::2, ::2, ::2].reshape(-1)) > 1e-4
    assert ((field.values.numpy()[::2, ::2, ::2].reshape(-1) < 0) == inside)[sure].all()


@pytest.mark.data
@pytest.mark.parametrize(("piece", "seat"), [("armchair2", 0.392), ("couch", 0.48)])
def test_upholstery_is_solid_though_its_mesh_is_open(piece, seat, data_file):
    scene = read_scene(data_file(f"motion/scenes/furniture/{piece}.ply"))
    field = build_field(scene, voxel=0.08, margin=0.1)
    column = tensor([[0.0, 0.0, seat + h] for h in (-0.09, 0.06)])
    below, above = field(column).tolist()
    assert below < -0.04
    assert 0.02 < above < 0.08


def test_grids_are_kept_and_told_apart_and_damaged_ones_are_made_again(shapes, monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path))
    scene = shapes.scene_of(shapes.box("box", [0, 0, 0], [0.4, 0.4, 0.4]))
    first = build_field(scene, voxel=0.1)
    calls = []
    compute = module._signed_distance
    monkeypatch.setattr(module, "_signed_distance", lambda *given: calls.append(1) or compute(*given))
    assert torch.equal(build_field(scene, voxel=0.1).values, first.values)
    assert not calls
    build_field(scene, voxel=0.08)
    build_field(shapes.scene_of(shapes.box("box", [0, 0, 0], [0.4, 0.4, 0.401])), voxel=0.1)
    assert len(calls) == 2
    for path in cache_folder().iterdir():
        path.write_bytes(b"damaged")
    assert torch.equal(build_field(scene, voxel=0.1).values, first.values)
    assert len(calls) == 3
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FEWSTEP_CACHE", str(tmp_path / "file"))  # a folder that cannot be made
    assert torch.equal(build_field(scene, voxel=0.1).values, first.values)


def test_the_grid_is_bounded_and_says_its_voxel(shapes):
    field = build_field(shapes.scene_of(shapes.box("hall", [0, 0, 0], [20, 20, 3])), voxel=0.01, max_points=20_000)
    assert field.values.numel() < 25_000
    assert field.voxel > 0.3


def test_fields_that_make_no_sense_are_refused(shapes):
    scene = shapes.scene_of(shapes.box("carpet", [0, 0, 0], [2, 2, 0.01]))
    with pytest.raises(InputError, match="only floor"):
        build_field(scene)
    with pytest.raises(InputError, match="positive voxel"):
        build_field(scene, voxel=0.0)
    with pytest.raises(InputError, match="at least 2 each"):
        DistanceField(torch.zeros(1, 3, 3), torch.zeros(3), 0.1)

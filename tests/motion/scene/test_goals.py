"""Seats and lying surfaces: the catalogue's heights, the file's own rotations, and goals that nobody can use."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import trimesh

from motion.scene.goals import PELVIS_OVER_SEAT, find_seats
from motion.scene.loading import read_scene
from motion.scene.lying import find_lying
from shared.errors import InputError

FOLDER = "motion/scenes/furniture"
SEATS = ["armchair", "armchair2", "oakChair", "plasticChair", "chair2", "bench", "couch", "sofa2", "winchesterSofa"]


def degrees_between(a, b):
    return np.degrees(np.arccos(np.clip(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b), -1, 1)))


@pytest.mark.data
@pytest.mark.parametrize("piece", SEATS)
def test_seats_of_the_catalogue_have_its_height_and_face_its_front(piece, data_file, grid_of):
    path = data_file(f"{FOLDER}/{piece}.ply")
    facts = {f["file"]: f for f in json.loads(data_file(f"{FOLDER}/furniture.json").read_text())}[path.name]
    scene = read_scene(path)
    field, walkable = grid_of(scene, voxel=0.1)
    seats = find_seats(scene, field, walkable)
    low, high = scene.objects[0].bounds
    assert len(seats) == (1 if facts["width_m"] < 1.2 else 2 if facts["width_m"] < 2.2 else 3)
    for seat in seats:
        assert seat.height == pytest.approx(facts["top_or_seat_elevation_m"], abs=0.015)
        assert seat.pelvis[2] == pytest.approx(seat.height + PELVIS_OVER_SEAT)
        assert ((seat.pelvis[:2] > low[:2] + 0.1) & (seat.pelvis[:2] < high[:2] - 0.1)).all()
        assert seat.backrest == (piece != "bench")
        front = [0.0, -1.0] if seat.backrest else seat.facing * [0, 1]  # a bench faces either long side
        assert degrees_between(seat.facing, front) < 6
        assert walkable.region_at(seat.stand) > 0
        assert degrees_between(seat.stand - seat.pelvis[:2], seat.facing) < 30
        assert 0.3 < np.linalg.norm(seat.stand - seat.pelvis[:2]) < 1.0
        assert 0 < float(field(torch.from_numpy(seat.pelvis))) < 0.15  # over the seat, not in it
    if seats[0].backrest and len(seats) == 1:
        assert abs(seats[0].pelvis[0] - (low + high)[0] / 2) < 0.03  # in the middle


@pytest.mark.data
def test_seats_of_the_apartment_face_as_the_file_turned_them(apartment, data_file):
    scene, field, walkable = apartment
    loaded = trimesh.load_scene(data_file("motion/scenes/apartment.glb"))
    seats = find_seats(scene, field, walkable)
    seen = set()
    for seat in seats:
        if "bed" in seat.name:
            continue
        node = next(n for n in loaded.graph.nodes_geometry if n == seat.name or n.rpartition("_")[0] == seat.name)
        x_axis = loaded.graph[node][0][:3, 0]
        front = np.array([-x_axis[2], -x_axis[0]])  # the pieces are modelled facing -y; y up to z up: (x, -z)
        assert degrees_between(seat.facing, front) < 6, seat.name
        seen.add(seat.name)
    chairs = {n for n in scene.names if any(word in n for word in ("chair", "sofa"))}
    assert seen == chairs
    assert len(chairs) == 7
    assert not {s.name for s in seats} & {n for n in scene.names if "table" in n or "desk" in n}


@pytest.mark.data
def test_beds_are_lain_on_along_their_length_with_the_head_at_the_board(apartment, data_file, grid_of):
    scene = read_scene(data_file(f"{FOLDER}/bed1.ply"))
    (bed,) = find_lying(scene, *grid_of(scene, voxel=0.1), name="bed1")
    assert bed.height == pytest.approx(0.652, abs=0.015)
    assert degrees_between(bed.axis, [0, 1]) < 6  # the front, -y, is the foot
    assert bed.head == "headboard"
    assert np.abs(bed.centre[:2]).max() < 0.05
    assert 1.8 < bed.size[0] < 2.08
    assert 1.0 < bed.size[1] < 1.41
    scene, field, walkable = apartment
    (bed,) = find_lying(scene, field, walkable)
    assert bed.name == "IKEA_bed_FJELLSE"
    assert degrees_between(bed.axis, [-1, 0]) < 6  # turned by 90 degrees in the file
    assert walkable.region_at(bed.stand) == 1
    with pytest.raises(InputError, match=r"level surface at 0\.5"):
        find_lying(scene, field, walkable, name="IKEA_sofa_EKTORP")  # 1.4 m between its arms


@pytest.mark.data
@pytest.mark.parametrize(("piece", "height"), [("cupboard", "1.50"), ("stool", "0.74"), ("bed1", "0.65")])
def test_what_is_no_seat_says_where_its_surface_is(piece, height, data_file, grid_of):
    scene = read_scene(data_file(f"{FOLDER}/{piece}.ply"))
    with pytest.raises(InputError, match=f"level surface at {height} m"):
        find_seats(scene, *grid_of(scene, voxel=0.1), name=piece)


def chair(shapes, at=(0.0, 0.0), name="chair", back=True):
    """Return a chair of boxes that faces +x: seat 0.45 m high, 0.42 m deep and wide."""
    x, y = at
    parts = [trimesh.creation.box(bounds=[[x, y - 0.21, 0.0], [x + 0.42, y + 0.21, 0.45]])]
    if back:
        parts.append(trimesh.creation.box(bounds=[[x - 0.05, y - 0.21, 0.0], [x, y + 0.21, 0.9]]))
    return shapes.thing(name, trimesh.util.concatenate(parts))


def test_a_chair_of_boxes_is_sat_on_as_it_was_built(shapes, grid_of):
    scene = shapes.scene_of(chair(shapes))
    (seat,) = find_seats(scene, *grid_of(scene))
    assert seat.height == pytest.approx(0.45, abs=1e-6)
    assert degrees_between(seat.facing, [1, 0]) < 3
    assert seat.pelvis[1] == pytest.approx(0.0, abs=0.02)
    assert 0.1 < seat.pelvis[0] < 0.22
    assert seat.stand[0] > 0.42 + 0.2


def test_a_stool_at_a_wall_is_sat_on_facing_away_from_it(shapes, grid_of):
    around = [
        shapes.box("wall", [-2, 0.21, 0], [2, 0.31, 2.5]), shapes.box("shelf", [0.5, -1, 0], [0.8, 1, 1.8]),
        shapes.box("pier", [-0.6, -1, 0], [-0.1, 1, 1.8]),
    ]  # fmt: skip
    scene = shapes.scene_of(chair(shapes, back=False, name="stool"), *around)
    seat = find_seats(scene, *grid_of(scene), name="stool")[0]
    assert degrees_between(seat.facing, [0, -1]) < 6
    assert not seat.backrest


def test_a_chair_that_nobody_can_use_says_why(shapes, grid_of):
    under = shapes.box("table", [-0.3, -1, 0.72], [1.2, 1, 0.76])
    scene = shapes.scene_of(chair(shapes), under)
    grids = grid_of(scene)
    with pytest.raises(InputError, match="without headroom"):
        find_seats(scene, *grids, name="chair")
    assert find_seats(scene, *grids) == ()
    cage = [shapes.box(f"wall {k}", low, high) for k, (low, high) in enumerate([
        ([-0.3, -0.5, 0], [-0.2, 0.5, 2.5]), ([0.7, -0.5, 0], [0.8, 0.5, 2.5]),
        ([-0.3, -0.6, 0], [0.8, -0.5, 2.5]), ([-0.3, 0.5, 0], [0.8, 0.6, 2.5]),
    ])]  # fmt: skip
    scene = shapes.scene_of(chair(shapes), *cage)
    with pytest.raises(InputError, match="no place to stand"):
        find_seats(scene, *grid_of(scene), name="chair")


def test_a_chair_at_a_table_is_reached_from_its_side(shapes, grid_of):
    parts = [trimesh.creation.box(bounds=[[0.35, -0.6, 0.71], [1.2, 0.6, 0.74]])]
    parts += [trimesh.creation.box(bounds=[[1.1, y, 0], [1.15, y + 0.05, 0.72]]) for y in (-0.55, 0.5)]
    scene = shapes.scene_of(chair(shapes), shapes.thing("table", trimesh.util.concatenate(parts)))
    field, walkable = grid_of(scene, voxel=0.1)
    seat = find_seats(scene, field, walkable, name="chair")[0]
    assert degrees_between(seat.facing, [1, 0]) < 3
    assert walkable.region_at(seat.stand) > 0
    assert abs(seat.stand[1]) > 0.3


def test_a_seat_turns_and_moves_with_its_scene(shapes, grid_of):
    parts = chair(shapes, at=(0.5, -0.3))
    for angle in (37.0, 200.0):
        turn = trimesh.transformations.rotation_matrix(np.radians(angle), [0, 0, 1])[:3, :3]
        moved = shapes.thing("chair", trimesh.Trimesh(parts.vertices @ turn.T, parts.faces, process=False))
        scene = shapes.scene_of(moved)
        (seat,) = find_seats(scene, *grid_of(scene))
        assert degrees_between(seat.facing, turn[:2, 0]) < 4
        back = turn.T @ seat.pelvis
        assert 0.6 < back[0] < 0.76
        assert back[1] == pytest.approx(-0.3, abs=0.03)


def test_goals_are_found_in_a_scan_that_is_one_mesh_with_a_ceiling(shapes, grid_of):
    room = trimesh.creation.box(bounds=[[-2, -2.2, 0], [3, 2.5, 2.6]])
    room.invert()
    seat_mesh = chair(shapes)
    bed = trimesh.creation.box(bounds=[[1.9, -1.9, 0], [2.9, 0.2, 0.5]])
    board = trimesh.creation.box(bounds=[[1.9, 0.2, 0], [2.9, 0.25, 1.0]])
    stool = trimesh.creation.box(bounds=[[-1.2, 1.2, 0], [-0.8, 1.6, 0.42]])
    parts = [room, trimesh.Trimesh(seat_mesh.vertices, seat_mesh.faces), bed, board, stool]
    scene = shapes.scene_of(shapes.thing("scan", trimesh.util.concatenate(parts)))
    field, walkable = grid_of(scene, voxel=0.1)
    seats = find_seats(scene, field, walkable)
    assert degrees_between(seats[0].facing, [1, 0]) < 3
    assert any(np.linalg.norm(seat.pelvis[:2] - [-1.0, 1.4]) < 0.1 for seat in seats)
    (lying,) = find_lying(scene, field, walkable)
    assert degrees_between(lying.axis, [0, 1]) < 6
    assert np.allclose(lying.centre, [2.4, -0.85, 0.5], atol=0.06)

"""The walkable map and ways on it, in rooms whose walls are known."""

from __future__ import annotations

import igl
import numpy as np
import pytest
import torch
import trimesh

from motion.scene.field import build_field
from motion.scene.paths import curve, route
from motion.scene.walkable import walkable_map
from shared.errors import InputError

THICK = 0.1


def two_rooms(shapes, door, extra=()):
    """Return two rooms of 4 x 3 m side by side; the wall between them has a door this wide at y = 0.3 m."""
    walls = [
        shapes.box("wall south", [0, -THICK, 0], [8, 0, 2.5]), shapes.box("wall north", [0, 3, 0], [8, 3 + THICK, 2.5]),
        shapes.box("wall west", [-THICK, -THICK, 0], [0, 3 + THICK, 2.5]),
        shapes.box("wall east", [8, -THICK, 0], [8 + THICK, 3 + THICK, 2.5]),
        shapes.box("wall middle a", [3.95, 0, 0], [4.05, 0.3, 2.5]),
        shapes.box("wall middle b", [3.95, 0.3 + door, 0], [4.05, 3, 2.5]),
    ]  # fmt: skip
    things = [shapes.box("bed", [0.2, 1.5, 0], [2.2, 2.8, 0.5]), shapes.box("piano", [6.5, 1.8, 0], [7.8, 2.6, 1.1])]
    return shapes.scene_of(*walls, *things, *extra)


def true_clearance(scene, points):
    """The exact distance on the plane from points to the boxes of a scene, whose walls stand upright."""
    distance = np.full(len(points), np.inf)
    for o in scene.solids:
        low, high = o.bounds[:, :2]
        outside = np.maximum(np.maximum(low - points, points - high), 0)
        distance = np.minimum(distance, np.linalg.norm(outside, axis=1))
    return distance


def test_clearance_is_a_bound_from_below_within_one_and_a_half_cells(shapes, grid_of):
    scene = two_rooms(shapes, 0.9)
    _, walkable = grid_of(scene)
    points = np.random.default_rng(0).uniform([0, 0], [8, 3], (2000, 2))
    truth = true_clearance(scene, points)
    clearance = walkable.clearance_at(points)
    assert (clearance <= truth + 0.02).all()  # between cells the bilinear value may be a little over the bound
    assert (clearance >= truth - 1.5 * walkable.cell).all()


def test_a_route_goes_through_the_door_and_keeps_its_distance(shapes, grid_of):
    scene = two_rooms(shapes, 0.9)
    _, walkable = grid_of(scene)
    start, goal = np.array([3.0, 2.5]), np.array([5.0, 2.5])
    path = route(walkable, start, goal)
    assert np.allclose(path.points[[0, -1]], [start, goal])
    assert true_clearance(scene, path.points).min() >= walkable.radius
    crossing = path.points[np.abs(path.points[:, 0] - 4).argmin()]
    assert crossing[1] == pytest.approx(0.75, abs=0.12)  # the middle of the door, where clearance is largest
    steps = np.linalg.norm(np.diff(path.points, axis=0), axis=1)
    assert steps.max() <= 0.05 + 1e-9
    assert steps.min() > 0.045  # chords of a smooth curve at equal arcs
    assert path.length < 1.15 * 2 * np.hypot(1.0, 1.75)  # the two straight legs to the door's middle
    turns = np.abs(np.diff(np.unwrap(np.arctan2(*path.headings.T[::-1]))))
    assert turns.max() < 0.35  # rad in 5 cm: rounded, not cornered
    assert np.allclose(np.linalg.norm(path.headings, axis=1), 1)


def test_a_route_in_the_open_is_straight(shapes, grid_of):
    _, walkable = grid_of(
        shapes.scene_of(shapes.box("post", [9, 9, 0], [9.2, 9.2, 2]), shapes.box("p", [0, 0, 0], [0.1, 0.1, 2]))
    )
    start, goal = np.array([2.0, 1.0]), np.array([8.0, 5.5])
    path = route(walkable, start, goal)
    assert path.length == pytest.approx(np.linalg.norm(goal - start), rel=2e-3)


def test_from_a_start_nearer_than_the_middle_of_its_cell_the_way_still_goes_around_walls(shapes, grid_of):
    scene = two_rooms(shapes, 0.9)
    _, walkable = grid_of(scene)
    points = np.random.default_rng(1).uniform([0.2, 0.2], [3.0, 1.5], (4000, 2))
    near = [p for p in points[walkable.clearance_at(points) < walkable.radius] if walkable.region_at(p)]
    assert len(near) >= 5
    goal = np.array([5.0, 2.5])
    for start in near[:5]:
        path, centre = route(walkable, start, goal), walkable.centres(walkable.cell_of(start))
        assert np.allclose(path.points[0], start)
        assert true_clearance(scene, path.points[2:]).min() >= walkable.radius
        assert path.length < route(walkable, centre, goal).length + walkable.cell


def test_a_thin_pole_between_the_cells_of_a_room_stands_in_the_way(shapes, grid_of):
    room = trimesh.creation.box(bounds=[[0, 0, 0], [4, 3, 2.5]])
    room.invert()
    field, _ = grid_of(shapes.scene_of(shapes.thing("room", room)))
    x, y = (field.origin[:2] + field.voxel * (torch.tensor([22, 18]) + 0.5)).tolist()
    pole = shapes.box("pole", [x - 0.002, y - 0.002, 0.0], [x + 0.002, y + 0.002, 2.0])
    _, walkable = grid_of(shapes.scene_of(shapes.thing("room", room), pole))
    around = np.array([[x, y], [x + 0.15, y], [x, y - 0.15]])
    assert walkable.region_at([x + 0.5, y])
    assert not any(walkable.region_at(p) for p in around)


def test_a_closed_door_names_both_rooms_and_a_narrow_one_says_who_would_pass(shapes, grid_of):
    _, walkable = grid_of(two_rooms(shapes, 0.0))
    with pytest.raises(InputError, match="Open a door") as caught:
        route(walkable, [3.0, 1.0], [5.0, 1.0])
    assert "by bed" in caught.value.found
    assert "by piano" in caught.value.found
    _, walkable = grid_of(two_rooms(shapes, 0.36))
    with pytest.raises(InputError, match=r"radius 0\.(1\d) m would pass") as caught:
        route(walkable, [3.0, 1.0], [5.0, 1.0])
    fits = float(caught.value.fix.split("radius ")[1].split(" ")[0])
    assert 0.18 - 1.5 * walkable.cell <= fits <= 0.18
    _, narrow = grid_of(two_rooms(shapes, 0.36), radius=fits)
    assert route(narrow, [3.0, 1.0], [5.0, 1.0]).points[-1] == pytest.approx([5.0, 1.0])


def test_a_goal_in_a_wall_is_an_error_and_a_start_in_a_thing_is_moved_out(shapes, grid_of):
    _, walkable = grid_of(two_rooms(shapes, 0.9))
    with pytest.raises(InputError, match="in or too near wall middle b") as caught:
        route(walkable, [3.0, 1.0], [4.0, 2.0])
    nearest = np.array([float(x) for x in caught.value.fix.split("(")[1].rstrip(").").split(",")])
    assert walkable.region_at(nearest)
    assert np.linalg.norm(nearest - [4.0, 2.0]) < 0.35
    with pytest.raises(InputError, match="off the map"):
        route(walkable, [3.0, 1.0], [40.0, 2.0])
    path = route(walkable, [1.2, 1.6], [3.0, 1.0])  # 0.1 m inside the bed
    assert "out of bed" in path.notes[0]
    assert true_clearance(walkable.scene, path.points).min() >= walkable.radius
    with pytest.raises(InputError, match=r"start: found .* bed"):
        route(walkable, [1.2, 2.2], [3.0, 1.0])
    with pytest.raises(InputError, match="two finite numbers"):
        route(walkable, [np.nan, 2.2], [3.0, 1.0])


def test_only_what_is_between_step_and_head_stands_in_the_way(shapes, grid_of):
    def crossing(low, high):
        beam = shapes.box("beam", [-1, -0.1, low], [1, 0.1, high])
        post = shapes.box("post", [3, 3, 0], [3.1, 3.1, 2.5])
        _, walkable = grid_of(shapes.scene_of(beam, post))
        return walkable.region_at([0.0, 0.0]) > 0

    assert crossing(0.0, 0.05)  # a threshold
    assert crossing(2.0, 2.2)  # a lintel
    assert not crossing(1.5, 1.7)  # a bar at the breast
    assert not crossing(0.0, 0.3)


def test_what_is_lower_than_a_step_is_walked_over_however_small_the_grid(shapes):
    scene = shapes.scene_of(shapes.box("threshold", [0, 0, 0], [1, 1, 0.04]))
    walkable = walkable_map(scene, build_field(scene, voxel=0.05, margin=0.0))
    assert walkable.region_at([0.5, 0.5]) == walkable.region_at([-0.5, 0.5]) == 1


def test_where_a_scan_has_no_floor_nobody_walks(shapes, grid_of):
    floor = trimesh.creation.box(bounds=[[0, 0, -0.05], [4, 2, 0.0]])
    scene = shapes.scene_of(shapes.thing("floor", floor), shapes.box("post", [0, 0, 0], [0.1, 0.1, 2]),
                            shapes.box("far", [6, 1.9, 0], [6.1, 2, 2]))  # fmt: skip
    _, walkable = grid_of(scene)
    assert walkable.region_at([2.0, 1.0]) > 0
    assert walkable.region_at([5.0, 1.0]) == 0
    free = shapes.scene_of(*scene.objects[1:])  # no floor at all is a floor everywhere
    assert grid_of(free)[1].region_at([5.0, 1.0]) > 0


def test_a_solid_scene_has_no_place_to_stand(shapes, grid_of):
    with pytest.raises(InputError, match="somewhere to stand"):
        grid_of(shapes.scene_of(shapes.box("block", [0, 0, 0], [1, 1, 2])), radius=0.5, around=0.0)


def test_an_s_curve_passes_its_waypoints_at_equal_steps():
    waypoints = np.array([[0, 0], [1.5, 0.7], [3, 0], [4.5, -0.7], [6, 0]])
    path = curve(waypoints, spacing=0.02)
    for waypoint in waypoints:
        assert np.linalg.norm(path.points - waypoint, axis=1).min() <= 0.011
    steps = np.linalg.norm(np.diff(path.points, axis=0), axis=1)
    assert np.ptp(steps) < 1e-5
    assert path.length == pytest.approx(steps[0] * len(steps), rel=1e-4)
    mirrored = curve(waypoints * [1, -1], spacing=0.02)
    assert np.allclose(mirrored.points, path.points * [1, -1])
    assert np.allclose(curve([[0, 0], [0, 0], [0, 2]]).points[:, 0], 0)
    with pytest.raises(InputError, match="2 or more"):
        curve([[1, 1], [1, 1]])


def test_a_curve_through_a_wall_is_refused(shapes, grid_of):
    _, walkable = grid_of(two_rooms(shapes, 0.9))
    with pytest.raises(InputError, match="wall middle b"):
        curve([[3, 2], [5, 2]], walkable=walkable)
    assert curve([[1, 0.75], [4, 0.75], [6, 0.75]], walkable=walkable).clearance.min() >= 0.2


@pytest.mark.parametrize("angle", [0.0, 0.3, 0.785])
def test_nobody_walks_through_a_wall_without_thickness(angle, shapes, grid_of):
    across, up = 3.0 * np.array([np.cos(angle), np.sin(angle), 0.0]), np.array([0.0, 0.0, 2.5])
    middle = np.array([1.013, 1.031, 0.0])  # between the grid's nodes
    sheet = trimesh.Trimesh([middle - across, middle + across, middle + across + up, middle - across + up],
                            [[0, 1, 2], [0, 2, 3]], process=False)  # fmt: skip
    scene = shapes.scene_of(shapes.thing("sheet", sheet))
    _, walkable = grid_of(scene)
    normal = np.array([-np.sin(angle), np.cos(angle)])
    along = np.linspace(-1.5, 1.5, 31)[:, None] * across[:2] / 3.0
    assert all(walkable.region_at(point) == 0 for point in middle[:2] + along)
    assert walkable.clearance_at(middle[None, :2] + 0.3 * normal)[0] == pytest.approx(0.3, abs=0.05)


@pytest.mark.data
def test_a_route_through_the_apartment_keeps_clear_of_every_triangle(apartment):
    scene, _, walkable = apartment
    path = route(walkable, [-3.0, 3.0], [-1.5, -1.0])
    triangles = list(scene.solids)
    heights = np.linspace(0.12, 1.8, 18)
    points = np.concatenate([np.column_stack([path.points, np.full(len(path.points), z)]) for z in heights])
    distance = np.sqrt(min_squared(triangles, points)).reshape(18, -1).min(0)
    assert distance.min() >= walkable.radius
    assert path.length < 1.2 * np.hypot(1.5, 4.0)


def min_squared(objects, points):
    return np.min([igl.point_mesh_squared_distance(points, o.vertices, o.faces)[0] for o in objects], axis=0)

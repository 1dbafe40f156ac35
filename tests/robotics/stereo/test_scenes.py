"""The ray caster against closed forms, and the generator's promises."""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from robotics.stereo.camera import StereoCamera
from robotics.stereo.cli import app
from robotics.stereo.pair import Surface, occlusion
from robotics.stereo.scenes.config import ScenesConfig
from robotics.stereo.scenes.optics import fresnel, refract, thin_sheet
from robotics.stereo.scenes.primitives import Primitive
from robotics.stereo.scenes.rendering import render_pair
from robotics.stereo.scenes.samples import make_sample
from robotics.stereo.scenes.scene import Environment, Light, Material, Scene
from robotics.stereo.scenes.shards import SceneSamples
from robotics.stereo.scenes.tracing import STACK, trace, world_of
from shared.config import load_config
from shared.errors import InputError

CAMERA = StereoCamera(96, 72, 90.0, 90.0, 47.5, 47.5, 35.5, 0.06)
EYE = np.eye(3)
BLACK = Environment(np.array([0.0, -1.0, 0.0]), np.zeros(3), np.zeros(3), np.zeros((0, 7)))


def plain(surface=Surface.DIFFUSE, colour=(1.0, 1.0, 1.0), **options):
    return Material(surface, np.tile(colour, (3, 1)), **options)


def scene_of(primitives, materials, *, ambient=1.0, lights=(), environment=BLACK, textures=None):
    textures = textures or (np.zeros((256, 256, 2), np.float32),)
    return Scene(tuple(primitives), tuple(materials), tuple(textures), tuple(lights), np.full(3, ambient), environment)


def back_wall(depth, material=0):
    return Primitive("plane", np.array([0.0, 0.0, depth]), EYE, (np.inf, np.inf), material)


def depth_at(primitive, column, row):
    scene = scene_of([primitive, back_wall(50.0)], [plain()], ambient=0.5)
    left, _ = render_pair(scene, CAMERA, edge_samples=0)
    return CAMERA.fx * CAMERA.baseline / float(left.disparity[row, column])


def ray(column, row):
    return np.array([(column - CAMERA.cx_l) / CAMERA.fx, (row - CAMERA.cy) / CAMERA.fy, 1.0])


def test_sphere_depth_is_the_root_of_its_quadratic():
    center, radius = np.array([0.03, -0.02, 1.0]), 0.2
    for column, row in ((50, 33), (40, 30), (60, 40)):
        d = ray(column, row)
        a, b, c = d @ d, d @ center, center @ center - radius**2
        z = (b - math.sqrt(b * b - a * c)) / a
        assert depth_at(Primitive("sphere", center, EYE, (radius,), 0), column, row) == pytest.approx(z, rel=1e-6)


def test_slanted_plane_depth_and_its_linear_disparity():
    angle = 0.5
    turn = np.array([[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]])
    plane = Primitive("plane", np.array([0.1, 0.0, 1.5]), turn, (np.inf, np.inf), 0)
    left, _ = render_pair(scene_of([plane], [plain()]), CAMERA, edge_samples=0)
    normal = turn[:, 2]
    z = (normal @ plane.center) / (normal @ ray(20, 50))
    assert left.disparity[50, 20] == pytest.approx(CAMERA.fx * CAMERA.baseline / z, rel=1e-6)
    assert np.abs(np.diff(left.disparity[36].astype(np.float64), 2)).max() < 2e-6


def test_box_depth_is_its_front_face_and_cylinder_depth_its_side():
    box = Primitive("box", np.array([0.0, 0.0, 1.0]), EYE, (0.2, 0.15, 0.1), 0)
    assert depth_at(box, 50, 40) == pytest.approx(0.9, rel=1e-6)
    # Axis along y: the frame's z axis is the world's y axis.
    frame = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
    cylinder = Primitive("cylinder", np.array([0.0, 0.0, 1.0]), frame, (0.2, 0.4), 0)
    d = ray(56, 30)
    a, b, c = d[0] ** 2 + 1, 1.0, 1 - 0.2**2
    assert depth_at(cylinder, 56, 30) == pytest.approx((b - math.sqrt(b * b - a * c)) / a, rel=1e-6)


def test_capsule_end_is_a_sphere_and_its_side_a_cylinder():
    frame = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
    capsule = Primitive("capsule", np.array([0.0, 0.0, 1.0]), frame, (0.1, 0.2), 0)
    end = Primitive("sphere", np.array([0.0, 0.2, 1.0]), EYE, (0.1,), 0)
    side = Primitive("cylinder", np.array([0.0, 0.0, 1.0]), frame, (0.1, 0.2), 0)
    assert depth_at(capsule, 48, 57) == pytest.approx(depth_at(end, 48, 57), rel=1e-6)
    assert depth_at(capsule, 50, 40) == pytest.approx(depth_at(side, 50, 40), rel=1e-6)


@pytest.mark.parametrize("steep", [0.3, 3.0])
def test_heightfield_points_lie_on_it_and_nothing_is_in_front_of_them(steep):
    waves = np.array([[0.05, steep / 0.05, 0.0, 0.3], [0.02, 0.0, 9.0, 1.0]])
    angle = 2.2  # seen obliquely
    turn = np.array([[1, 0, 0], [0, math.cos(angle), -math.sin(angle)], [0, math.sin(angle), math.cos(angle)]])
    field = Primitive("heightfield", np.array([0.0, 0.0, 1.5]), turn, (1.0, 1.0), 0, waves)
    left, _ = render_pair(scene_of([field, back_wall(50.0)], [plain()]), CAMERA, edge_samples=0)

    def above(t, d):
        x, y, z = turn.T @ (t * d - field.center)
        return z - (waves[:, 0] * np.sin(waves[:, 1] * x + waves[:, 2] * y + waves[:, 3])).sum()

    met = 0
    for column, row in ((30, 30), (47, 36), (60, 45), (70, 20)):
        d = ray(column, row)
        z = CAMERA.fx * CAMERA.baseline / left.disparity[row, column]
        if z > 10:
            continue
        met += 1
        assert abs(above(z, d)) < 2e-6
        signs = {above(t, d) > 0 for t in np.linspace(0.02, z - 1e-4, 4000)}
        assert len(signs) == 1
    assert met >= 3


def test_left_point_lands_at_x_minus_d_in_the_right_image():
    config = load_config("robotics/stereo_scenes", ScenesConfig)
    sample = make_sample(config, 160, 120, 3, 1)
    d, camera = sample.disparity_left.astype(np.float64), sample.pair.camera
    seen = ~sample.occluded
    columns = np.broadcast_to(np.arange(160.0), d.shape)
    x = (columns - camera.cx_l) * camera.baseline / d
    right_column = camera.cx_r + camera.fx * (x - camera.baseline) / camera.depth(sample.disparity_left)
    assert np.allclose(right_column, columns - d, atol=1e-3)
    gap = cv2.remap(
        sample.disparity_right, (columns - d).astype(np.float32),
        np.broadcast_to(np.arange(120, dtype=np.float32)[:, None], d.shape).copy(), cv2.INTER_LINEAR,
    ) - d  # fmt: skip
    assert np.median(np.abs(gap[seen])) < 0.02
    assert 0.02 < sample.occluded.mean() < 0.4


def test_opaque_photometric_residual_is_least_at_the_true_disparity():
    config = load_config("robotics/stereo_scenes", ScenesConfig)
    exact = {"noise": (0, 0), "gain": (0, 0), "tint": (0, 0), "vertical_shift": (0, 0)}
    sensor = config.sensor.model_copy(update=exact)
    config = config.model_copy(update={"sensor": sensor, "layouts": {"tabletop": 1.0}})
    sample = make_sample(config, 240, 180, 0, 5)
    left, right = (image.astype(np.float32).mean(-1) for image in (sample.pair.left, sample.pair.right))
    opaque = (sample.material == Surface.DIFFUSE) & ~sample.occluded
    rows = np.broadcast_to(np.arange(180, dtype=np.float32)[:, None], left.shape).copy()
    residual = {}
    for shift in (-0.25, 0.0, 0.25):
        columns = (np.arange(240, dtype=np.float32)[None] - sample.disparity_left - shift).astype(np.float32)
        residual[shift] = np.abs(cv2.remap(right, columns, rows, cv2.INTER_CUBIC) - left)[opaque].mean()
    assert residual[0.0] < 0.85 * min(residual[-0.25], residual[0.25])


def test_refraction_obeys_snell_and_total_reflection_begins_at_the_critical_angle():
    for degrees in (5.0, 30.0, 70.0):
        a = math.radians(degrees)
        out = refract((math.sin(a), 0.0, math.cos(a)), (0.0, 0.0, -1.0), 1 / 1.45)
        assert math.sin(a) == pytest.approx(1.45 * out[0], rel=1e-12)
        assert math.hypot(out[0], out[2]) == pytest.approx(1.0, rel=1e-12)
    critical = math.asin(1 / 1.45)
    assert fresnel(math.cos(critical + 1e-3), 1.45) == 1.0
    assert fresnel(math.cos(critical - 1e-3), 1.45) < 0.9
    assert refract((math.sin(0.9), 0.0, math.cos(0.9)), (0.0, 0.0, -1.0), 1.45) == (0.0, 0.0, 0.0)


def test_fresnel_at_normal_incidence_brewster_angle_and_thin_sheet():
    normal = ((1.45 - 1) / (1.45 + 1)) ** 2
    assert fresnel(1.0, 1 / 1.45) == pytest.approx(normal, rel=1e-12)
    # At Brewster's angle only s light is reflected: R = R_s / 2 with R_s = ((n^2 - 1) / (n^2 + 1))^2.
    assert fresnel(math.cos(math.atan(1.45)), 1 / 1.45) == pytest.approx(
        0.5 * ((1.45**2 - 1) / (1.45**2 + 1)) ** 2, rel=1e-9
    )
    # Two faces: the series R + T R T + T R^3 T + ...
    series = normal + sum((1 - normal) ** 2 * normal ** (2 * k + 1) for k in range(50))
    assert thin_sheet(normal) == pytest.approx(series, rel=1e-12)


def light_along(scene, origin, direction):
    d = np.array(direction, float) / np.linalg.norm(direction)
    start = tuple(map(float, origin))  # integers would be compiled for once more
    seen = trace(*world_of(scene), start, tuple(d.tolist()), 1e-4, np.empty((STACK, 11)))
    return np.array(seen[0])


def test_mirror_shows_the_mirrored_point():
    # A mirror at 45 degrees turns the view along z to the left, where the wall has a red half above y = 0.
    frame = np.stack(
        [[0, 1.0, 0], np.cross([-1, 0, -1], [0, 1.0, 0]) / math.sqrt(2), np.array([-1, 0, -1]) / math.sqrt(2)], 1
    )
    mirror = Primitive("plane", np.array([0.0, 0.0, 1.0]), frame, (0.5, 0.5), 1)
    side = np.array([[0, 0, 1.0], [0, 1.0, 0], [-1.0, 0, 0]])
    red = Primitive("plane", np.array([-2.0, -5.0, 1.0]), side, (5.0, 5.0), 0)
    green = Primitive("plane", np.array([-2.0, 5.0, 1.0]), side, (5.0, 5.0), 2)
    scene = scene_of(
        [mirror, red, green],
        [plain(colour=(0.8, 0.1, 0.1)), plain(Surface.MIRROR, (0.9, 0.9, 0.9)), plain(colour=(0.1, 0.8, 0.1))],
    )
    above, below = (light_along(scene, (0, 0, 0), (0.0, y, 1.0)) for y in (-0.05, 0.05))
    assert np.allclose(above[:2] / 0.9, np.array([0.8, 0.1]) * 0.75, rtol=1e-3)
    assert np.allclose(below[:2] / 0.9, np.array([0.1, 0.8]) * 0.75, rtol=1e-3)


def test_view_through_a_glass_ball_lands_where_two_refractions_send_it_and_upside_down():
    n, radius, wall = 1.45, 0.05, 3.0
    ball = Primitive("sphere", np.array([0.0, 0.0, 1.0]), EYE, (radius,), 1)
    materials = [
        plain(colour=(0.8, 0.1, 0.1)), plain(Surface.GLASS, (1.0, 1.0, 1.0), index=n), plain(colour=(0.1, 0.8, 0.1))
    ]  # fmt: skip

    # In the plane x = 0 by angles: a chord turns the ray twice by theta_i - theta_t.
    view = math.atan(0.02)
    into = math.asin(math.sin(view) / radius)  # angle of incidence: the eye is 1 m from the centre
    bent = 2 * (into - math.asin(math.sin(into) / n))
    leaves = math.pi - (into - view) - (math.pi - 2 * math.asin(math.sin(into) / n))  # place on the ball, from +z
    out = np.array([radius * math.sin(leaves), 1 + radius * math.cos(leaves)])
    slope = math.tan(view - bent)
    lands = out[0] + (wall - out[1]) * slope
    assert lands < -0.1  # the ray goes down in the image, and lands above the axis

    for edge, colour in ((lands + 0.01, 0), (lands - 0.01, 1)):
        top = Primitive("plane", np.array([0.0, edge - 10.0, wall]), EYE, (20.0, 10.0), 0)
        bottom = Primitive("plane", np.array([0.0, edge + 10.0, wall]), EYE, (20.0, 10.0), 2)
        seen = light_along(scene_of([ball, top, bottom], materials), (0, 0, 0), (0.0, 0.02, 1.0))
        # Two faces pass (1 - R)^2; R at this angle is near that of normal incidence.
        share = (1 - ((n - 1) / (n + 1)) ** 2) ** 2
        assert seen[colour] == pytest.approx(share * 0.8 * 0.75, rel=0.05)
        assert seen[1 - colour] < 0.25 * seen[colour]


def test_paraxial_rays_cross_where_the_ball_lens_formula_says():
    # f = n D / (4 (n - 1)) from the centre.
    n, radius, h = 1.45, 0.05, 1e-3
    first = np.array([0.0, h, -math.sqrt(radius**2 - h**2)])
    d = np.array(refract((0.0, 0.0, 1.0), tuple((first / radius).tolist()), 1 / n))
    out = first - 2 * (first @ d) * d
    d = np.array(refract(tuple(d.tolist()), tuple((-out / radius).tolist()), n))
    assert out[2] - out[1] * d[2] / d[1] == pytest.approx(n * 2 * radius / (4 * (n - 1)), rel=2e-3)


def test_lambert_and_shadow():
    lamp = Light(np.array([0.0, -2.0, 2.0]), np.full(3, 0.7))
    wall = back_wall(2.0)
    blocker = Primitive("sphere", np.array([0.0, -1.0, 1.5]), EYE, (0.05,), 0)
    scene = scene_of([wall, blocker], [plain(colour=(0.5, 0.5, 0.5))], ambient=0.0, lights=[lamp])
    lit = scene_of(
        [wall],
        [plain(colour=(0.5, 0.5, 0.5))],
        ambient=0.0,
        lights=[dataclasses.replace(lamp, position=np.array([0.0, -2.0, 0.5]))],
    )
    # cos of the angle between the wall's normal (0, 0, -1) and the lamp.
    assert light_along(lit, (0, 0, 0), (0, 0, 1)) == pytest.approx(
        np.full(3, 0.5 * 0.7 * 1.5 / math.hypot(2, 1.5)), rel=1e-5
    )
    assert light_along(scene, (0, 0, 0), (0, 0, 1)) == pytest.approx(np.zeros(3), abs=1e-6)  # a grazing lamp
    shaded = dataclasses.replace(lamp, position=np.array([0.0, -2.0, 1.0]))
    scene = scene_of([wall, blocker], [plain(colour=(0.5, 0.5, 0.5))], ambient=0.0, lights=[shaded])
    assert light_along(scene, (0, 0, 0), (0, 0, 1)).max() == 0.0  # the blocker is half way to the lamp


def test_occlusion_of_a_card_before_a_wall_is_as_wide_as_the_difference_of_disparities():
    card = Primitive("plane", np.array([0.0, 0.0, 0.6]), EYE, (0.1, 1.0), 0)
    views = render_pair(scene_of([card, back_wall(1.8)], [plain()]), CAMERA, edge_samples=0)
    hidden = occlusion(views[0].disparity, views[1].disparity)[36]
    near, far = CAMERA.fx * CAMERA.baseline / 0.6, CAMERA.fx * CAMERA.baseline / 1.8
    left_edge = CAMERA.cx_l - CAMERA.fx * 0.1 / 0.6
    inside = hidden[math.ceil(far) : math.ceil(left_edge)]
    assert abs(inside.sum() - (near - far)) <= 1
    assert inside[-int(near - far) + 1 :].all()  # directly left of the card
    assert hidden[: int(far)].all()  # out of view on the left border
    assert not hidden[math.ceil(left_edge) + 1 :].any()


def test_samples_depend_on_seed_and_index_alone():
    config = load_config("robotics/stereo_scenes", ScenesConfig)
    first, again, other = (make_sample(config, 64, 48, 11, index) for index in (4, 4, 5))
    for name in ("disparity_left", "disparity_right", "material", "raw", "occluded"):
        assert np.array_equal(getattr(first, name), getattr(again, name), equal_nan=name == "raw")
    assert np.array_equal(first.pair.left, again.pair.left)
    assert first.pair.camera == again.pair.camera != other.pair.camera
    assert not np.array_equal(make_sample(config, 64, 48, 12, 4).pair.left, first.pair.left)


def test_vertical_shift_moves_the_right_image_down():
    # Stripes of two heights would hide a shift; a bright card above a dark wall does not.
    card = Primitive("plane", np.array([0.0, -1.0, 1.0]), EYE, (5.0, 1.0), 1)
    scene = scene_of([back_wall(1.001), card], [plain(colour=(0.1, 0.1, 0.1)), plain()])
    for shift in (0.0, 0.3):
        views = render_pair(scene, CAMERA, vertical_shift=shift, edge_samples=4)
        moved = views[1].light[:, 48, 0].sum() - views[0].light[:, 48, 0].sum()
        assert moved == pytest.approx(shift * 0.9 * 0.75, abs=0.2)


def test_scenes_config_names_what_is_wrong(tmp_path):
    for text, word in (("layouts: {garden: 1}", "garden"), ("sensor: {blur: [2, 1]}", "low, high"),
                       ("materials: {tabletop: {gold: 1}}", "gold")):  # fmt: skip
        path = tmp_path / "scenes.yaml"
        path.write_text(text)
        with pytest.raises(InputError, match=word):
            load_config(path, ScenesConfig)


def test_generate_goes_on_where_it_stopped_and_extends(tmp_path, monkeypatch):
    from robotics.stereo.scenes import shards

    monkeypatch.setattr(shards, "SHARD", 2)
    folder, run = tmp_path / "set", CliRunner().invoke
    arguments = ["generate", "-o", str(folder), "--size", "48x32", "--seed", "3", "-q"]
    assert run(app, [*arguments, "--scenes", "3"]).exit_code == 0
    first = SceneSamples(folder)
    assert len(first) == 3
    stamp = (folder / "shard-00000.safetensors").stat().st_mtime_ns
    before = first[2]
    assert run(app, [*arguments, "--scenes", "5"]).exit_code == 0
    again = SceneSamples(folder)
    assert len(again) == 5
    assert (folder / "shard-00000.safetensors").stat().st_mtime_ns == stamp
    assert np.array_equal(again[2].pair.left, before.pair.left)
    assert np.array_equal(again[2].raw, before.raw, equal_nan=True)
    assert again[2].pair.camera == before.pair.camera
    arguments[-2] = "4"
    other = run(app, [*arguments, "--scenes", "5"])
    assert isinstance(other.exception, InputError)
    assert "seed" in str(other.exception)

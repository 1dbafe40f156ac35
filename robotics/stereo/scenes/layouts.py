"""Random scenes: objects on a table, clutter at many depths, and rooms.

Each layout chooses a camera and disparities first, in pixels, and then puts objects at the depths Z = fx B / d that
give them, so that a data set covers the disparities that it should whatever its focal lengths and baselines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robotics.stereo.camera import StereoCamera
from robotics.stereo.scenes.config import ScenesConfig
from robotics.stereo.scenes.dressing import Dresser, random_lights, random_projector
from robotics.stereo.scenes.primitives import Primitive
from robotics.stereo.scenes.scene import Environment, Scene


@dataclass
class Stage:
    """A scene being built.

    Attributes:
        config: the family of scenes.
        camera: the pair.
        rng: of every draw.
        dresser: gives objects their materials.
        primitives: what was placed so far.
    """

    config: ScenesConfig
    camera: StereoCamera
    rng: np.random.Generator
    dresser: Dresser
    primitives: list[Primitive]

    def add(
        self, kind: str, center: np.ndarray, rotation: np.ndarray, size: tuple[float, ...], material: int,
        waves: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Place one primitive."""
        self.primitives.append(Primitive(kind, np.asarray(center, np.float64), rotation, size, material, waves))

    def point(self, column: float, row: float, depth: float) -> np.ndarray:
        """Return the point (3,) seen at a pixel of the left image at this depth, m."""
        camera = self.camera
        return depth * np.array([(column - camera.cx_l) / camera.fx, (row - camera.cy) / camera.fy, 1.0])


def random_scene(config: ScenesConfig, width: int, height: int, rng: np.random.Generator) -> tuple[Scene, StereoCamera]:
    """Return a scene and the pair that looks at it, for images of this size."""
    layouts = [name for name, weight in config.layouts.items() if weight > 0]
    chances = np.array([config.layouts[name] for name in layouts], float)
    layout = layouts[int(rng.choice(len(layouts), p=chances / chances.sum()))]
    fx = width * rng.uniform(*config.focal)
    cx = (width - 1) / 2 + rng.uniform(-0.02, 0.02) * width
    cy = (height - 1) / 2 + rng.uniform(-0.02, 0.02) * height
    pitch = np.radians(rng.uniform(12, 65))
    distance = rng.uniform(0.4, 1.3)
    if layout == "tabletop":
        # The table is nearest in the bottom row, which looks down by pitch + half the field of view.
        below = pitch + np.arctan(0.5 * height / fx)
        nearer = np.sin(below) / (np.sin(pitch) * np.cos(below - pitch))
        least, most = config.near_disparity
        baseline = width * rng.uniform(least, max(0.8 * most / nearer, 1.2 * least)) * distance / fx
    else:
        baseline = rng.uniform(*config.baseline)
    camera = StereoCamera(width, height, fx, fx, cx, cx, cy, baseline)
    dresser = Dresser(config, layout, rng)
    stage = Stage(config, camera, rng, dresser, [])
    if layout == "tabletop":
        up, middle = _tabletop(stage, distance, pitch)
    elif layout == "clutter":
        up, middle = _clutter(stage)
    else:
        up, middle = _room(stage)
    projector = random_projector(config, camera, dresser, rng)
    lights, ambient = random_lights(up, middle, rng, dim=projector is not None)
    windows = np.zeros((int(rng.integers(1, 5)), 7))
    for window in windows:
        window[:3] = _unit(rng.standard_normal(3) + 0.7 * up)
        window[3:6] = rng.uniform(0.5, 3.0) * rng.uniform(0.8, 1.0, 3)
        window[6] = np.exp(rng.uniform(np.log(8), np.log(200)))
    environment = Environment(up, rng.uniform(0.1, 0.8, 3), rng.uniform(0.02, 0.3, 3), windows)
    return (
        Scene(
            tuple(stage.primitives), tuple(dresser.materials), tuple(dresser.textures), lights, ambient, environment,
            projector,
        ),
        camera,
    )  # fmt: skip


def _tabletop(stage: Stage, distance: float, pitch: float) -> tuple[np.ndarray, np.ndarray]:
    """Put objects on a table `distance` metres ahead, seen from above by `pitch`, before a wall.

    Returns the up vector and the table's middle.
    """
    rng, camera = stage.rng, stage.camera
    roll = np.radians(rng.uniform(-5, 5))
    up = _unit(np.array([np.sin(roll), -np.cos(pitch), -np.sin(pitch)]))
    frame = _frame(up)
    middle = np.array([0.0, 0.0, distance])
    pixels = camera.fx / distance
    stage.add("plane", middle, frame, (np.inf, np.inf), stage.dresser.backdrop(pixels))
    away = distance * np.exp(rng.uniform(np.log(0.6), np.log(3.5)))
    wall = _frame(-_turned(frame[:, 1], up, rng.uniform(-0.6, 0.6)))
    stage.add(
        "plane", middle + away * frame[:, 1], wall, (np.inf, np.inf), stage.dresser.backdrop(camera.fx / distance)
    )

    half = 0.5 * distance * camera.width / camera.fx
    taken: list[tuple[float, float, float]] = []
    low, high = stage.config.objects["tabletop"]
    for _ in range(int(rng.integers(low, high + 1))):
        radius = half * np.exp(rng.uniform(np.log(0.09), np.log(0.32)))
        for _ in range(20):
            x, y = rng.uniform(-0.95, 0.95) * half, rng.uniform(-0.45, 1.1) * half
            if all((x - a) ** 2 + (y - b) ** 2 > (0.95 * (radius + r)) ** 2 for a, b, r in taken):
                taken.append((x, y, radius))
                _stand(stage, middle + frame[:, :2] @ (x, y), frame, radius, pixels)
                break
    if rng.random() < 0.4:
        for _ in range(int(rng.integers(1, 5))):
            size = half * rng.uniform(0.15, 0.6, 3)
            place = middle + frame @ (rng.uniform(-1.5, 1.5) * half, rng.uniform(0.5, 0.95) * away, size[2])
            turned = frame @ _about_z(rng.uniform(0, np.pi))
            stage.add("box", place, turned, tuple(size), stage.dresser.thing(pixels))
    return up, middle


def _stand(stage: Stage, foot: np.ndarray, frame: np.ndarray, radius: float, pixels: float) -> None:
    """Put one object within `radius` of a point of the ground; `pixels` of the image are a metre there."""
    rng, up = stage.rng, frame[:, 2]
    material = stage.dresser.thing(pixels)
    turned = frame @ _about_z(rng.uniform(0, 2 * np.pi))
    lying = np.stack([turned[:, 1], up, turned[:, 0]], 1)
    match rng.choice(["sphere", "box", "stack", "cylinder", "roll", "capsule", "bottle", "plate", "card", "cup"]):
        case "sphere":
            stage.add("sphere", foot + radius * up, turned, (radius,), material)
        case "box":
            half = radius * np.array([*rng.uniform(0.3, 0.7, 2), rng.uniform(0.15, 1.3)])
            stage.add("box", foot + half[2] * up, turned, tuple(half), material)
        case "stack":
            level = 0.0
            for _ in range(int(rng.integers(2, 6))):
                half = radius * np.array([*rng.uniform(0.4, 0.7, 2), rng.uniform(0.06, 0.25)])
                spun = turned @ _about_z(rng.uniform(-0.3, 0.3))
                stage.add("box", foot + (level + half[2]) * up, spun, tuple(half), stage.dresser.thing(pixels))
                level += 2 * half[2]
        case "cylinder":
            half_height = radius * rng.uniform(0.4, 1.8)
            stage.add("cylinder", foot + half_height * up, turned, (0.7 * radius, half_height), material)
        case "roll":
            stage.add("cylinder", foot + 0.4 * radius * up, lying, (0.4 * radius, 0.9 * radius), material)
        case "capsule":
            thick = rng.uniform(0.15, 0.45) * radius
            stage.add("capsule", foot + thick * up, lying, (thick, radius - thick), material)
        case "bottle":
            half_height = radius * rng.uniform(1.0, 1.7)
            neck, rise = 0.22 * radius, 0.5 * radius
            stage.add("cylinder", foot + half_height * up, turned, (0.55 * radius, half_height), material)
            stage.add("cylinder", foot + (2 * half_height + 0.5 * rise) * up, turned, (neck, 0.5 * rise), material)
            cap = stage.dresser.opaque(pixels)
            stage.add("cylinder", foot + (2 * half_height + rise + 0.1 * radius) * up, turned,
                      (1.2 * neck, 0.1 * radius), cap)  # fmt: skip
        case "plate":
            stage.add("cylinder", foot + 0.04 * radius * up, turned, (radius, 0.04 * radius), material)
        case "card":
            leaning = turned @ _about_x(np.pi / 2 + rng.uniform(-0.4, 0.4))
            stage.add("plane", foot + 0.7 * radius * up, leaning, (0.8 * radius, 0.7 * radius), material)
        case _:
            half_height = 0.9 * radius
            stage.add("cylinder", foot + half_height * up, turned, (0.6 * radius, half_height), material)
            inside = radius * rng.uniform(0.2, 0.7)
            stage.add("cylinder", foot + (inside + 0.05 * radius) * up, turned, (0.5 * radius, inside),
                      stage.dresser.opaque(pixels))  # fmt: skip


def _clutter(stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    """Scatter overlapping objects, cards, cloths and fine structures over the whole image and range of disparity."""
    rng, camera = stage.rng, stage.camera
    near = camera.width * rng.uniform(*stage.config.near_disparity)
    far = near * rng.uniform(0.08, 0.5)
    _slanted(stage, far, 0.7)
    for _ in range(int(rng.integers(0, 3))):
        _slanted(stage, rng.uniform(far, 0.6 * near), 0.6, bounded=True)
    low, high = stage.config.objects["clutter"]
    for _ in range(int(rng.integers(low, high + 1))):
        disparity = far + (near - far) * rng.random() ** 1.3
        size = camera.width * np.exp(rng.uniform(np.log(0.02), np.log(0.2)))
        _float(stage, disparity, size)
    for _ in range(int(rng.integers(0, 4))):
        _fine(stage, far + (near - far) * rng.random())
    depth = camera.fx * camera.baseline / (0.5 * (near + far))
    return np.array([0.0, -1.0, 0.0]), np.array([0.0, 0.0, depth])


def _slanted(stage: Stage, disparity: float, steepest: float, *, bounded: bool = False) -> None:
    """Put a plane whose disparity is linear in the image: d = d0 + g_u (u - cx) + g_v (v - cy).

    With d Z = fx B, X = (u - cx) Z / fx: d0 Z + g_u fx X + g_v fx Y = fx B is the plane. An unbounded plane stays
    in front of the camera in the whole image: |g| times the half image is below `steepest` d0.
    """
    rng, camera = stage.rng, stage.camera
    half = np.array([camera.width, camera.height]) / 2 * 1.1
    slope = steepest * disparity * rng.uniform(-0.5, 0.5, 2) / half * (rng.random() < 0.75)
    vector = np.array([slope[0] * camera.fx, slope[1] * camera.fx, disparity])
    reach = (np.inf, np.inf)
    column, row = camera.cx_l, camera.cy
    if bounded:
        column, row = rng.uniform(0, camera.width), rng.uniform(0, camera.height)
        depth = camera.fx * camera.baseline / disparity
        reach = tuple(depth * camera.width / camera.fx * rng.uniform(0.15, 0.5, 2))
    ray = stage.point(column, row, 1.0)
    depth = camera.fx * camera.baseline / float(vector @ ray)
    frame = _frame(-_unit(vector)) @ _about_z(rng.uniform(0, 2 * np.pi))
    material = stage.dresser.backdrop(camera.fx / depth)
    if bounded or rng.random() < 0.75:
        stage.add("plane", depth * ray, frame, reach, material)
    else:
        # A cloth in front of the plane, folded.
        stage.add("plane", 1.05 * depth * ray, frame, reach, material)
        size = 1.5 * depth * camera.width / camera.fx
        _cloth(stage, depth * ray, frame, size, stage.dresser.backdrop(camera.fx / depth), 0.1)


def _cloth(stage: Stage, center: np.ndarray, frame: np.ndarray, size: float, material: int, roughness: float) -> None:
    """Put a heightfield of 3 to 6 waves; `roughness` bounds its slope."""
    rng = stage.rng
    count = int(rng.integers(3, 7))
    length = size * np.exp(rng.uniform(np.log(0.1), np.log(1.0), count))
    angle, number = rng.uniform(0, 2 * np.pi, count), 2 * np.pi / length
    slope = rng.uniform(0.2, 1.0, count) * rng.uniform(roughness, 5 * roughness) / count
    waves = np.stack(
        [slope / number, number * np.cos(angle), number * np.sin(angle), rng.uniform(0, 2 * np.pi, count)], 1
    )
    stage.add("heightfield", center, frame, (size, size), material, waves)


def _float(stage: Stage, disparity: float, pixels: float) -> None:
    """Put one object of about `pixels` half width somewhere in the image, in any orientation."""
    rng, camera = stage.rng, stage.camera
    depth = camera.fx * camera.baseline / disparity
    middle = stage.point(rng.uniform(-0.05, 1.05) * camera.width, rng.uniform(-0.05, 1.05) * camera.height, depth)
    radius = pixels * depth / camera.fx
    upright = _frame(np.array([0.0, -1.0, 0.0])) @ _about_z(rng.uniform(0, 2 * np.pi))
    rotation = upright if rng.random() < 0.4 else _any_rotation(rng)
    material = stage.dresser.thing(camera.fx / depth)
    match rng.choice(["box", "sphere", "cylinder", "capsule", "card", "cloth"], p=[0.32, 0.13, 0.17, 0.1, 0.2, 0.08]):
        case "box":
            stage.add("box", middle, rotation, tuple(radius * rng.uniform(0.2, 1.0, 3)), material)
        case "sphere":
            stage.add("sphere", middle, rotation, (radius,), material)
        case "cylinder":
            stage.add("cylinder", middle, rotation, (radius * rng.uniform(0.2, 0.8), radius), material)
        case "capsule":
            thick = radius * rng.uniform(0.1, 0.5)
            stage.add("capsule", middle, rotation, (thick, radius), material)
        case "card":
            facing = _frame(_unit(np.array([*rng.uniform(-0.9, 0.9, 2), -1.0]))) @ _about_z(rng.uniform(0, np.pi))
            stage.add("plane", middle, facing, tuple(radius * rng.uniform(0.3, 1.4, 2)), material)
        case _:
            facing = _frame(_unit(np.array([*rng.uniform(-0.7, 0.7, 2), -1.0])))
            _cloth(stage, middle, facing, 1.2 * radius, material, 0.15)


def _fine(stage: Stage, disparity: float) -> None:
    """Put a fence, a bush of twigs, or leaves: structures a few pixels wide."""
    rng, camera = stage.rng, stage.camera
    depth = camera.fx * camera.baseline / disparity
    pixel = depth / camera.fx * camera.width / 320
    middle = stage.point(rng.uniform(0, 1) * camera.width, rng.uniform(0, 1) * camera.height, depth)
    material = stage.dresser.opaque(camera.fx / depth)
    match rng.choice(["fence", "twigs", "leaves"]):
        case "fence":
            frame = _frame(_unit(np.array([*rng.uniform(-0.6, 0.6, 2), -1.0]))) @ _about_z(rng.uniform(0, np.pi))
            along = np.stack([frame[:, 2], frame[:, 0], frame[:, 1]], 1)
            count, gap = int(rng.integers(3, 12)), pixel * rng.uniform(6, 20)
            thick, length = pixel * rng.uniform(0.7, 3.0), pixel * rng.uniform(20, 110)
            for place in (np.arange(count) - (count - 1) / 2) * gap:
                stage.add("cylinder", middle + place * frame[:, 0], along, (thick, length), material)
        case "twigs":
            for _ in range(int(rng.integers(4, 16))):
                away = rng.standard_normal(3) * pixel * 14
                size = (pixel * rng.uniform(0.7, 2.5), pixel * rng.uniform(10, 60))
                stage.add("capsule", middle + away, _any_rotation(rng), size, material)
        case _:
            for _ in range(int(rng.integers(6, 22))):
                away = rng.standard_normal(3) * pixel * 22
                facing = _frame(_unit(np.array([*rng.uniform(-1.2, 1.2, 2), -1.0]))) @ _about_z(rng.uniform(0, np.pi))
                size = (pixel * rng.uniform(2, 7), pixel * rng.uniform(5, 18))
                stage.add("plane", middle + away, facing, size, material)


def _room(stage: Stage) -> tuple[np.ndarray, np.ndarray]:
    """Build floor, walls and ceiling and furnish them. Returns the up vector and the middle of the furniture."""
    rng, camera = stage.rng, stage.camera
    pitch, roll = np.radians(rng.uniform(-5, 25)), np.radians(rng.uniform(-3, 3))
    up = _unit(np.array([np.sin(roll), -np.cos(pitch), -np.sin(pitch)]))
    frame = _frame(up)
    far = camera.fx * camera.baseline / (camera.width * rng.uniform(0.012, 0.05))
    height = far * rng.uniform(0.12, 0.3)
    frame = frame @ _about_z(rng.uniform(-0.4, 0.4))
    right, forward = frame[:, 0], frame[:, 1]
    side = far * rng.uniform(0.3, 0.7, 2)
    floor = -height * up
    pixels = camera.fx / (0.5 * far)
    stage.add("plane", floor + far * forward, frame, (np.inf, np.inf), stage.dresser.backdrop(pixels))
    walls = [(forward * far, -forward), (-right * side[0], right), (right * side[1], -right), (up * 0.3 * far, -up)]
    for place, facing in walls:
        stage.add("plane", place + 1e-3 * far, _frame(facing), (np.inf, np.inf), stage.dresser.backdrop(pixels))
    low, high = stage.config.objects["room"]
    for _ in range(int(rng.integers(low, high + 1))):
        radius = far * np.exp(rng.uniform(np.log(0.02), np.log(0.12)))
        away = far * rng.uniform(0.25, 0.95)
        across = rng.uniform(-1, 1) * min(0.6 * away * camera.width / camera.fx, float(side.min()))
        _stand(stage, floor + away * forward + across * right, frame, radius, camera.fx / away)
    return up, 0.5 * far * forward


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _frame(axis: np.ndarray) -> np.ndarray:
    """Return a rotation whose third column is `axis` and whose first is as near the image's x axis as it can be."""
    seed = np.array([1.0, 0.0, 0.0]) if abs(axis[0]) < 0.9 else np.array([0.0, 0.0, 1.0])
    first = _unit(seed - (seed @ axis) * axis)
    return np.stack([first, np.cross(axis, first), axis], 1)


def _turned(vector: np.ndarray, axis: np.ndarray, angle: float) -> np.ndarray:
    """Return a vector turned about a unit axis at right angles to it."""
    return np.cos(angle) * vector + np.sin(angle) * np.cross(axis, vector)


def _about_z(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _about_x(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


def _any_rotation(rng: np.random.Generator) -> np.ndarray:
    """Return a rotation drawn uniformly: from a normalised Gaussian quaternion."""
    w, x, y, z = _unit(rng.standard_normal(4))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )

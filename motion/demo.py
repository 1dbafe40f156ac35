"""The part of `fewstep demo` on motion: somebody walks to a chair, sits and stands up, beside plain sampling."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from motion.clips import Motion
from motion.scene.loading import Scene, SceneObject, write_scene
from motion.scene.packages import require
from shared.pictures import titled
from shared.report import Code, Picture, Section, Table

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as Bitmap

WEIGHTS = "motion/base_small"
# Lowest and highest corners, m, z up: a chair whose back is to the right, and a table in the way.
FURNITURE = {
    "chair": (((0.0, -0.25, 0.0), (0.45, 0.25, 0.44)), ((0.45, -0.25, 0.0), (0.5, 0.25, 0.9))),
    "table": (((-1.5, 0.5, 0.0), (-0.9, 1.3, 0.42)),),
}
TASKS = "start: [-2.2, 1.3]\ntasks:\n- sit_on: chair\n  seconds: 1.5\n- stand_up\n"
FACES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))  # of a box, outward
EVERY = 12  # frames between two drawn bodies
PIXELS, DRAWN = 150, 2  # pixels a metre, and how many times larger it is drawn
GROUND, SOLID, EDGE = (24, 26, 30), (58, 62, 72), (96, 102, 116)
EARLY, LATE = np.array([70, 130, 255]), np.array([255, 150, 60])


def demo(folder: Path, *, seed: int, device: torch.device) -> list[Section]:
    """Write scene and tasks, make the motion with and without the policy; both folders lie in `folder`."""
    require("igl", "for distances in the scene")
    from motion.files import load_model
    from motion.policy import FAST
    from motion.scene.loading import read_scene
    from motion.synthesize import synthesize, write_synthesis
    from motion.tasks import read_tasks

    folder.mkdir(parents=True, exist_ok=True)
    write_scene(folder / "room.glb", room(), overwrite=True)
    (folder / "tasks.yaml").write_text(TASKS, encoding="utf-8")
    model, scene = load_model(WEIGHTS, device), read_scene(folder / "room.glb")
    rows, pictures = [], []
    plain = replace(FAST, corrections=0, redraws=0, returns=0)
    for name, policy in (("with the policy", FAST), ("plain sampling", plain)):
        begin = time.perf_counter()
        made = synthesize(model, scene, read_tasks(folder / "tasks.yaml"), policy=policy, seed=seed)
        seconds = time.perf_counter() - begin
        write_synthesis(folder / name.split()[-1], made, overwrite=True)
        found = made.result
        rows.append(
            (
                name, f"{found['goals_met']} of {found['goals_total']}", 100 * found["penetration_max_m"],
                found["skating_ratio"], made.drawn.network_calls, found["seconds"], seconds,
            )
        )  # fmt: skip
        pictures.append(
            Picture(draw(made.motion, name), name, alt=f"a walk to a chair, from the side and above, {name}")
        )
    return [
        Section(
            "Motion: walk, sit, stand up",
            (
                "A small transformer that knows human motion and no scene draws windows of four seconds. The policy "
                "moves the noisy motion, through the network, until feet, seat and way fit. From the side and from "
                "above, from blue to orange in time; the room is made of boxes. The folders have the motion as BVH and "
                "GLB, and a page that plays it.",
                *pictures,
                Table(
                    (
                        "",
                        "goals met",
                        "deepest in cm",
                        "skating",
                        "network calls",
                        "s of motion",
                        "s taken",
                    ),
                    rows,
                    "docs/motion_guidance.md has the scenes that it was measured in.",
                ),
                Code("fewstep motion synthesize --scene room.glb --tasks tasks.yaml -o made"),
            ),
        )
    ]


def room() -> Scene:
    """Return the furniture as a scene."""
    objects = []
    for name, boxes in FURNITURE.items():
        vertices: list[np.ndarray] = []
        faces: list[tuple[int, ...]] = []
        for box in boxes:
            first = 8 * len(vertices)
            vertices.append(np.array([[box[k >> 2][0], box[k >> 1 & 1][1], box[k & 1][2]] for k in range(8)]))
            for a, b, c, d in FACES:
                faces += [(first + a, first + b, first + c), (first + a, first + c, first + d)]
        objects.append(SceneObject(name, np.concatenate(vertices), np.array(faces)))
    return Scene(tuple(objects), 0.0, "z", "m", (), "boxes")


def draw(motion: Motion, title: str) -> Bitmap:
    """Return bodies every `EVERY` frames in the room, from the side (x, z) and from above (x, y)."""
    from PIL import Image, ImageDraw

    low, high, size = np.array([-2.8, -1.0, -0.1]), np.array([1.2, 2.0, 1.9]), PIXELS * DRAWN
    positions = motion.positions().numpy()
    bones = [(parent, joint) for joint, parent in enumerate(motion.skeleton.parents) if parent >= 0]
    views = []
    for across, up in ((0, 2), (0, 1)):
        picture = Image.new("RGB", tuple(((high - low)[[across, up]] * size).astype(int).tolist()), GROUND)
        pen = ImageDraw.Draw(picture)

        def seen(point: np.ndarray, across: int = across, up: int = up) -> tuple[float, float]:
            return (point[across] - low[across]) * size, (high[up] - point[up]) * size

        for box in (box for boxes in FURNITURE.values() for box in boxes):
            (left, bottom), (right, top) = (seen(np.array(corner)) for corner in box)
            pen.rectangle((left, top, right, bottom), fill=SOLID, outline=EDGE)
        for frame in range(0, motion.frames, EVERY):
            share = frame / motion.frames
            red, green, blue = ((1 - share) * EARLY + share * LATE).astype(int).tolist()
            for ends in bones:
                pen.line([seen(positions[frame, joint]) for joint in ends], fill=(red, green, blue), width=2 * DRAWN)
        if up == 1:
            pen.line([seen(place) for here in pairwise(positions[:, 0]) for place in here], fill=EDGE, width=DRAWN)
        views.append(picture.resize((picture.width // DRAWN, picture.height // DRAWN), Image.Resampling.BOX))
    both = Image.new("RGB", (sum(view.width for view in views) + 4, max(view.height for view in views)), GROUND)
    for place, view in enumerate(views):
        both.paste(view, (place * (views[0].width + 4), both.height - view.height))
    return titled(both, [title])

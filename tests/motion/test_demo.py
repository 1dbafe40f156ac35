"""The demo's section: its room is closed and read as it was meant, and its page compares two ways of drawing."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import torch
import trimesh

from motion import demo as module
from motion.demo import DRAWN, FURNITURE, PIXELS, SOLID, demo, draw, room
from motion.policy import FAST
from shared.report import Picture, Report, Table
from tests.motion.figures import walk


def test_the_furniture_is_closed_and_as_large_as_its_boxes():
    for item in room().objects:
        sizes = [np.diff(np.array(box), axis=0)[0] for box in FURNITURE[item.name]]
        mesh = trimesh.Trimesh(item.vertices, item.faces, process=False)
        assert mesh.is_watertight
        assert np.isclose(mesh.volume, sum(size.prod() for size in sizes))  # negative, were the faces turned inward


def test_the_picture_shows_the_chair_from_the_side_and_its_seat_from_above():
    picture = np.asarray(draw(walk(1), ""))
    bottom = picture.shape[0]
    for x, y in ((2.8 + 0.2, 0.1 + 0.3), (4.0 + 4 / PIXELS + 2.8 + 0.2, 1.0 + 0.1)):  # m from the left and the bottom
        assert tuple(picture[bottom - int(y * PIXELS), int(x * PIXELS)]) == SOLID
    assert DRAWN > 1


def test_the_page_compares_the_policy_with_plain_sampling(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TASKS", "start: [-2.2, 0]\ntasks:\n- walk_to: [-1.2, 0]\n")
    monkeypatch.setattr("motion.policy.FAST", replace(FAST, calls=3, corrections=1))
    (section,) = demo(tmp_path, seed=0, device=torch.device("cpu"))
    table = next(part for part in section.parts if isinstance(part, Table))
    assert [row[4] for row in table.rows] == [5, 3]
    assert sum(isinstance(part, Picture) for part in section.parts) == 2
    for name in ("policy", "sampling"):
        assert json.loads((tmp_path / name / "result.json").read_text())["scene"] == str(tmp_path / "room.glb")
    report = Report("x")
    report.sections.append(section)
    assert "<img" in report.html()

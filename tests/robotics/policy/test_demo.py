"""The demo's section: its picture shows the worlds, and warm starts do better than noise at equal calls."""

import numpy as np
import pytest
import torch

from robotics.policy import demo as module
from robotics.policy.demo import BAR, GROUND, LAST, SIDE, STEM, WORLD, demo, draw_episode, placed
from robotics.policy.pusht import KEYPOINTS, keypoints
from shared.report import Picture, Report, Table


def test_parts_of_the_t_lie_where_the_keypoints_do():
    pose = np.array([300.0, 200.0, 0.7])
    np.testing.assert_allclose(placed(KEYPOINTS, pose), keypoints(np.array([0, 0, *pose])))
    corners = np.concatenate([BAR, STEM])
    for point in KEYPOINTS:  # inside of the bar or of the stem, up to the line's width
        inside = [np.all((point >= part.min(0) - 4) & (point <= part.max(0) + 4)) for part in (BAR, STEM)]
        assert any(inside)
    assert np.ptp(corners, axis=0).tolist() == [120, 120]


def test_picture_shows_the_t_where_it_ended():
    states = np.tile(np.array([10.0, 10.0, 100.0, 400.0, 0.0]), (3, 1))
    states[-1, 2:] = [400.0, 100.0, np.pi]
    picture = np.asarray(draw_episode(states, ""))
    assert picture.shape == (SIDE, SIDE, 3)
    middle = placed(np.array([[0.0, 15.0]]), states[-1, 2:])[0] * SIDE / WORLD  # of the bar
    assert tuple(picture[int(middle[1]), int(middle[0])]) == LAST
    assert tuple(picture[-1, -1]) == GROUND


def test_demo_compares_both_ways_at_equal_calls(tmp_path, monkeypatch):
    pytest.importorskip("gym_pusht")
    monkeypatch.setattr(module, "WORLDS", 2)
    monkeypatch.setattr(module, "TICKS", 16)
    before = torch.get_num_threads()
    (section,) = demo(tmp_path, seed=0, device=torch.device("cpu"))
    assert torch.get_num_threads() == before
    table = next(part for part in section.parts if isinstance(part, Table))
    assert [row[1] for row in table.rows] == [4, 4]
    assert all(0 < row[2] <= 1 for row in table.rows)
    assert sum(isinstance(part, Picture) for part in section.parts) == 2
    report = Report("x")
    report.sections.append(section)
    assert "<img" in report.html()

"""Window after window: they cover all frames, go on from each other, and move with their scene."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import motion.long_motion
from motion.energies import USUAL
from motion.goals import Follow, Goals, Hint
from motion.kept import Kept, SoFar, keep, kept_of
from motion.long_motion import BACK, EDGE, HISTORY, _led_into, draw_schedule, known_way, place_on_path, seam_jerk, spans
from motion.policy import Policy
from motion.rotations import about_axis
from motion.scene.field import DistanceField
from motion.schedule import Schedule, SubTask
from motion.timing import rotated
from shared.errors import InputError
from tests.motion.gaussian import gaussian_model

POLICY = Policy(calls=4, corrections=1, keep_until=0.0)


def straight(frames: int, turn: float = 0.0, shift=(0.0, 0.0)) -> Schedule:
    """Return a walk along y, turned and moved as a whole."""
    ahead = rotated(np.array([0.0, 1.0]), np.array(turn))
    along = np.linspace(0, frames / 30, frames)
    plan = np.array(shift) + along[:, None] * ahead
    task = SubTask(
        1, "1 walk", "walk", 0, np.column_stack([plan, np.full(frames, 0.9)]), np.tile(ahead, (frames, 1)), 1.0
    )
    follow = Follow((12, 16), 0, torch.from_numpy(plan[[0, -1]]), torch.from_numpy(along))
    return Schedule((task,), Goals(frames, 30.0, follows=(follow,)), ())


def tasks_of(*lengths_and_levels):
    tasks, start = [], 0
    for frames, level in lengths_and_levels:
        tasks.append(SubTask(1, "", "walk", start, np.zeros((frames, 3)), np.zeros((frames, 2)), 0.0, level))
        start += frames
    return tasks


@pytest.mark.parametrize("frames", [20, 40, 41, 100, 817])
def test_windows_cover_all_frames_and_share_the_overlap(frames):
    found = spans(tasks_of((frames - 5, 0.0), (5, 0.0)), 40, 10)
    assert found[0][0] == 0
    assert found[-1][1] == frames
    assert all(stop - start <= 40 for start, stop, _ in found)
    assert all(after[0] == before[1] - 10 for before, after in pairwise(found))
    assert len(found) == max(1, -(-(frames - 10) // 30))


def test_windows_end_where_tasks_do_if_that_is_near():
    assert spans(tasks_of((58, 0.0), (70, 0.0)), 90, 10) == [(0, 58, 0.0), (48, 128, 0.0)]  # halves would part at 69
    assert spans(tasks_of((45, 0.0), (83, 0.0)), 100, 10)[0] == (0, 69, 0.0)  # too far
    assert spans(tasks_of((58, 0.0), (70, 0.0)), 72, 10)[0] == (0, 69, 0.0)  # the second would be too long


def test_a_body_on_a_bed_is_seen_from_the_beds_height():
    found = spans(tasks_of((50, 0.0), (45, 0.5), (12, 0.0)), 40, 10)
    assert [level for _, _, level in found] == [0.0, 0.0, 0.5, 0.5, 0.0]
    edges = {stop for _, stop, _ in found}
    assert {50, 95, 107} <= edges
    assert all(after[0] == before[1] - 10 for before, after in pairwise(found))
    model = gaussian_model()
    plan, free = straight(60), replace(POLICY, corrections=0)
    raised = replace(plan, subtasks=tuple(replace(task, level=0.4) for task in plan.subtasks))
    low, high = (draw_schedule(model, one, model.anatomy, policy=free).motion for one in (plan, raised))
    lifted = high.root - low.root
    assert torch.allclose(lifted, lifted.new_tensor([0.0, 0.0, 0.4]).expand_as(lifted), atol=1e-5)


def test_a_window_goes_on_from_the_motion_so_far(monkeypatch):
    model, pairs = gaussian_model(), []

    def watched(first, second, overlap):
        pairs.append((first.cut(first.frames - overlap), second.cut(0, overlap)))
        return replace(first, root=torch.cat([first.root, second.root[overlap:]]),
                       rotations=torch.cat([first.rotations, second.rotations[overlap:]]))  # fmt: skip

    monkeypatch.setattr(motion.long_motion, "joined", watched)
    drawn = draw_schedule(model, straight(90), model.anatomy, policy=POLICY, seed=1)
    assert drawn.motion.frames == 90
    assert len(drawn.windows) == len(pairs) + 1 == len(drawn.energies) == 3
    assert drawn.network_calls == 3 * (4 + 3)
    for before, after in pairs:
        assert before.frames == HISTORY
        assert torch.allclose(before.positions(), after.positions(), atol=1e-5)


def test_a_rough_window_is_drawn_again_and_the_smoothest_is_taken(monkeypatch):
    model, joins = gaussian_model(), []
    original, rough = motion.long_motion.joined, iter([9.0, 0.5, 3.0, 2.0, 4.0, 9.0, 9.0])

    def watched(first, second, overlap):
        joins.append((first, original(first, second, overlap)))
        return joins[-1][1]

    monkeypatch.setattr(motion.long_motion, "joined", watched)
    monkeypatch.setattr(motion.long_motion, "seam_jerk", lambda longer, seam: next(rough))
    drawn = draw_schedule(model, straight(90), model.anatomy, policy=replace(POLICY, returns=0), seed=1)
    assert drawn.network_calls == (1 + 2 + 3) * (4 + 3)
    assert drawn.motion.frames == 90
    assert joins[2][0] is joins[1][1]  # the second window's second draw goes on
    assert torch.allclose(drawn.motion.root, joins[3][1].root)
    assert not torch.allclose(drawn.motion.positions(), joins[4][1].positions(), atol=1e-3)
    once = draw_schedule(model, straight(90), model.anatomy, policy=replace(POLICY, redraws=0, returns=0), seed=1)
    assert once.network_calls == 3 * (4 + 3)


@pytest.mark.parametrize("frames", [60, 90])  # the last window is the second or the third
def test_where_no_draw_is_right_the_window_before_is_drawn_again_too(monkeypatch, frames):
    model, joins, decoded = gaussian_model(), [], []
    original, decode = motion.long_motion.joined, type(model.body).decode
    pairs = [(5.0, 4.0), (9.0, 1.0), (6.0, 4.0)] if frames == 90 else [(4.0,), (9.5,), (5.0,)]
    rough = iter([0.5] * (frames == 90) + [9.0, 8.0, 9.0] + [value for pair in pairs for value in pair])

    def watched(first, second, overlap):
        joins.append((first, original(first, second, overlap)))
        return joins[-1][1]

    def counted(*given):
        decoded.append(decode(*given))
        return decoded[-1]

    monkeypatch.setattr(motion.long_motion, "joined", watched)
    monkeypatch.setattr(motion.long_motion, "seam_jerk", lambda longer, seam: next(rough))
    monkeypatch.setattr(type(model.body), "decode", counted)
    drawn = draw_schedule(model, straight(frames), model.anatomy, policy=POLICY, seed=1)
    assert drawn.network_calls == (frames // 30 - 1 + 3 + 3 * 2) * (4 + 3) == len(decoded) * (4 + 3)
    assert next(rough, None) is None
    chosen = joins[5] if frames == 90 else joins[3]  # the first pair: its worse window is the least bad
    assert torch.equal(drawn.motion.root, chosen[1].root)
    assert len(drawn.energies) == len(drawn.windows) == frames // 30
    if frames == 90:
        assert joins[4][0] is joins[0][0]  # the second window, from the first
        assert chosen[0] is joins[4][1]


def test_a_pair_that_is_right_ends_the_returns(monkeypatch):
    model, rough = gaussian_model(), iter([0.5, 9.0, 9.0, 9.0, 0.5, 0.5])
    monkeypatch.setattr(motion.long_motion, "seam_jerk", lambda longer, seam: next(rough))
    drawn = draw_schedule(model, straight(90), model.anatomy, policy=POLICY, seed=1)
    assert drawn.network_calls == (1 + 1 + 3 + 2) * (4 + 3)


@pytest.mark.parametrize(("seam", "taken"), [(1.57, False), (1.5, True)])
def test_a_rough_seam_is_no_price_for_better_hints(monkeypatch, seam, taken):
    model, joins, original = gaussian_model(), [], motion.long_motion.joined

    def watched(first, second, overlap):
        joins.append(original(first, second, overlap))
        return joins[-1]

    hints, rough = iter([0.0, 0.7, 0.7, 0.7, 0.0, 0.6]), iter([1.0, 1.0, 1.0, seam])
    monkeypatch.setattr(motion.long_motion, "joined", watched)
    monkeypatch.setattr(motion.long_motion, "seam_jerk", lambda longer, at: next(rough))
    monkeypatch.setattr(motion.long_motion.Objective, "table", lambda *given: {"hint": next(hints)})
    drawn = draw_schedule(model, straight(60), model.anatomy, policy=replace(POLICY, returns=1), seed=1)
    assert torch.equal(drawn.motion.root, joins[3 if taken else 0].root)


def test_a_window_that_misses_its_hints_is_drawn_again():
    model, plan = gaussian_model(), straight(30)
    far, near = (Hint((3,), torch.tensor([20]), torch.tensor([[0.0, y, 1.0]]).double(), tolerance=t) for y, t in
                 ((50.0, 0.0), (0.5, 50.0)))  # fmt: skip
    for hint, draws in ((far, 3), (near, 1)):
        asked = replace(plan, goals=replace(plan.goals, hints=(hint,)))
        assert draw_schedule(model, asked, model.anatomy, policy=POLICY).network_calls == draws * (4 + 3)


def test_seams_are_measured_by_jerk_beside_the_whole_motions():
    smooth = draw_schedule(gaussian_model(), straight(40), gaussian_model().anatomy, policy=POLICY, seed=1).motion
    frames = torch.arange(smooth.frames, dtype=torch.float64)
    still = smooth.rotations[:1].expand_as(smooth.rotations).clone()
    cubic = replace(smooth, root=torch.stack([frames**3, 0 * frames, 0 * frames], 1), rotations=still)
    assert seam_jerk(cubic, 15) == pytest.approx(1.0)
    kinked = cubic.root.clone()
    kinked[20:] += 100.0
    assert seam_jerk(replace(cubic, root=kinked), 15) > 1.5
    assert seam_jerk(replace(cubic, root=kinked), 2) < 1.0


def test_hips_come_into_a_way_and_out_of_it_without_a_step():
    frames = torch.arange(60, dtype=torch.float64)
    course = torch.stack([0.04 * frames, 0.001 * frames**2, 0.9 + 0 * frames], 1)
    told = (frames >= 25) & (frames < 40)
    beside = torch.where(told[:, None], course, course + torch.tensor([0.05, -0.03, 0.0]))
    still = draw_schedule(gaussian_model(), straight(60), gaussian_model().anatomy, policy=POLICY, seed=1).motion
    found = _led_into(replace(still, root=beside), told).root
    assert torch.equal(found[told], course[told])
    assert torch.equal(found[:, 2], beside[:, 2])
    assert torch.allclose(found[: 25 - EDGE], beside[: 25 - EDGE])
    assert torch.allclose(found[40 + EDGE :], beside[40 + EDGE :])
    before, after = (float(one.diff(n=3, dim=0).norm(dim=-1).max()) for one in (beside, found))
    assert after < before / 10


def test_a_model_that_hears_hints_is_told_them_in_every_windows_own_axes(monkeypatch):
    model, heard = gaussian_model(), []
    monkeypatch.setattr(type(model), "heard", lambda self, hints: tuple(hints))
    original = type(model).network_for

    def watched(self, hints, frames):
        heard.append(hints)
        return original(self, (), frames)

    monkeypatch.setattr(type(model), "network_for", watched)
    turn = 0.6
    plan = straight(60, turn, (2.0, -1.0))
    ahead, right = rotated(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array(turn))
    target = np.r_[np.array([2.0, -1.0]) + 1.5 * ahead + 0.5 * right, 1.2]
    hint = Hint((3,), torch.tensor([20]), torch.from_numpy(target)[None])
    plan = replace(plan, goals=replace(plan.goals, hints=(hint,)))
    drawn = draw_schedule(model, plan, model.anatomy, policy=replace(POLICY, redraws=0), seed=0, floor=0.25)
    first = heard[0]
    assert len(drawn.windows) > 1
    assert np.allclose(first[0].targets.numpy(), [[0.5, 1.5, 1.2 - 0.25]], atol=1e-5)
    assert all(told == first for told in heard[:2])  # with and without the history
    assert all(not told for told in heard[2:])  # the second window has no hint


def test_same_seed_same_motion_and_a_short_schedule_is_cut():
    model = gaussian_model()
    first, again, other = (
        draw_schedule(model, straight(15), model.anatomy, policy=POLICY, seed=seed).motion for seed in (3, 3, 4)
    )
    assert first.frames == 15
    assert torch.equal(first.positions(), again.positions())
    assert not torch.allclose(first.positions(), other.positions(), atol=1e-3)


def test_turning_and_lifting_the_scene_turns_and_lifts_the_motion():
    model = gaussian_model()
    here = draw_schedule(model, straight(60), model.anatomy, policy=POLICY, seed=2).motion
    there = draw_schedule(model, straight(60, 1.1, (4.0, -3.0)), model.anatomy, policy=POLICY, seed=2, floor=0.5).motion
    turn = about_axis(2, torch.tensor(1.1, dtype=torch.float64))
    expected = here.placed(turn, torch.tensor([4.0, -3.0, 0.5], dtype=torch.float64))
    assert torch.allclose(there.positions(), expected.positions(), atol=2e-3)
    assert float((here.root[-1] - here.root[0]).norm()) > 0.5


def test_places_on_a_path_are_those_of_interpolation_by_arc_length():
    path = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 4.0], [3.0, 4.0], [0.0, 4.0]], dtype=torch.float64)
    along = torch.tensor([-1.0, 0.0, 1.5, 3.0, 5.0, 7.0, 8.5, 10.0, 12.0], dtype=torch.float64)
    ends = np.r_[0.0, np.cumsum(path.diff(dim=0).norm(dim=-1).numpy())]
    expected = np.stack([np.interp(along.numpy(), ends, path[:, axis].numpy()) for axis in range(2)], 1)
    assert np.allclose(place_on_path(path, along).numpy(), expected, atol=1e-9)


def test_the_hips_of_a_walk_are_where_the_path_is():
    model = gaussian_model()
    plan = straight(60, 0.4, (2.0, 1.0))
    there = draw_schedule(model, plan, model.anatomy, policy=POLICY, seed=0).motion
    assert np.allclose(there.root[:, :2].numpy(), plan.subtasks[0].pelvis[:, :2], atol=1e-4)
    free = draw_schedule(model, plan, model.anatomy, policy=replace(POLICY, known_ways=False), seed=0).motion
    assert not np.allclose(free.root[:, :2].numpy(), plan.subtasks[0].pelvis[:, :2], atol=1e-2)


def test_a_body_beside_its_way_comes_back_to_it_without_a_jump():
    model, plan = gaussian_model(), straight(90)
    axes, origin = torch.eye(3).double(), torch.zeros(3).double()
    course = torch.from_numpy(plan.subtasks[0].pelvis[:, :2])
    been = course[:HISTORY] + torch.tensor([0.3, -0.1])
    told = known_way(model.body, plan.goals, axes, origin, been).features[:, :2].double()
    assert torch.allclose(told[:HISTORY], been, atol=1e-6)
    assert torch.allclose(told[HISTORY + BACK :], course[HISTORY + BACK :], atol=1e-6)
    beside = told - course
    assert float(beside.diff(dim=0).norm(dim=-1).max()) < 1.01 * math.pi / 2 / BACK * math.hypot(0.3, 0.1)
    assert (beside[:, 0].diff() <= 1e-6).all()
    late = replace(
        plan.goals, follows=(replace(plan.goals.follows[0], start=40, along=plan.goals.follows[0].along[:50]),)
    )
    assert torch.equal(known_way(model.body, late, axes, origin, been).features,
                       known_way(model.body, late, axes, origin).features)  # fmt: skip


def test_keyframes_of_the_hips_tell_the_way_between_them():
    model = gaussian_model()
    axes, origin = about_axis(2, torch.tensor(0.7).double()), torch.tensor([1.0, -2.0, 0.0]).double()

    def place(frame: float) -> torch.Tensor:  # a cubic, which the spline has exactly, through the window's origin
        return torch.tensor([0.1 * frame + 1e-5 * frame**3, 0.002 * frame**2]).double()

    local = [torch.cat([place(frame), torch.tensor([0.9]).double()]) for frame in (10, 25, 40)]
    hints = [Hint((0,), torch.tensor([frame]), (axes @ at + origin)[None], name="hips") for frame, at in
             zip((10, 25, 40), local, strict=True)]  # fmt: skip
    told = known_way(model.body, Goals(64, 30.0, hints=tuple(hints)), axes, origin)
    groups = told.groups.any(1)
    assert groups[:41].all()
    assert not groups[41:].any()
    found = told.features[:41, :2].double()
    assert torch.allclose(found, torch.stack([place(frame) for frame in range(41)]), atol=1e-5)
    only_guiding = tuple(replace(hint, name="") for hint in hints)
    assert known_way(model.body, Goals(64, 30.0, hints=only_guiding), axes, origin) is None


def test_windows_that_are_done_are_kept_and_a_stopped_motion_is_the_one_that_was_not(tmp_path, monkeypatch):
    model, plan, work = gaussian_model(), straight(90), tmp_path / "work.safetensors"
    # The last window misses by far, so that the one before is drawn again as well: after a stop too.
    far = Hint((3,), torch.tensor([80]), torch.tensor([[0.0, 50.0, 1.0]]).double(), tolerance=0.0)
    asked = {"schedule": replace(plan, goals=replace(plan.goals, hints=(far,))), "policy": POLICY, "seed": 1}
    whole = draw_schedule(model, anatomy=model.anatomy, **asked)
    calls, left, real = [], [4], motion.long_motion.guided

    def stopping(*given, **more):
        if len(calls) == left[0]:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*given, **more)

    monkeypatch.setattr(motion.long_motion, "guided", stopping)
    with pytest.raises(KeyboardInterrupt):
        draw_schedule(model, anatomy=model.anatomy, **asked, work=work)
    calls[:], left[0] = [], 3 + 3 * 2  # of the third window
    rest = draw_schedule(model, anatomy=model.anatomy, **asked, work=work)
    assert torch.equal(rest.motion.root, whole.motion.root)
    assert torch.equal(rest.motion.rotations, whole.motion.rotations)
    assert (rest.windows, rest.energies, rest.network_calls) == (whole.windows, whole.energies, whole.network_calls)
    assert rest.network_calls == (2 + left[0]) * (4 + 3)
    assert rest.seconds > 0
    done = draw_schedule(model, anatomy=model.anatomy, **asked, work=work)  # nothing is left
    assert torch.equal(done.motion.root, whole.motion.root)


def test_what_is_kept_comes_back_whole(tmp_path):
    model, noise = gaussian_model(), torch.Generator().manual_seed(5)
    long = draw_schedule(model, straight(60), model.anatomy, policy=POLICY, seed=1).motion
    before, last = SoFar(long.cut(0, 40), ({"hint": 0.5},), 1.5), SoFar(long, ({"hint": 0.5}, {"path": 0.1}), 0.25)
    path = tmp_path / "work.safetensors"
    for kept in (Kept(before, last, 7, 2.5), Kept(SoFar(), before, 3, 1.0)):
        keep(path, "this", kept, noise)
        found = kept_of(path, "this", model.body.skeleton, torch.Generator())
        assert (found.draws, found.seconds) == (kept.draws, kept.seconds)
        for back, given in ((found.before, kept.before), (found.last, kept.last)):
            assert (back.energies, back.wrong) == (given.energies, given.wrong)
            assert (back.motion is None) == (given.motion is None)
            if given.motion is not None:
                assert torch.equal(back.motion.root, given.motion.root)
                assert torch.equal(back.motion.rotations, given.motion.rotations)
                assert back.motion.fps == given.motion.fps
    fresh = torch.Generator()
    kept_of(path, "this", model.body.skeleton, fresh)
    assert torch.equal(torch.rand(3, generator=fresh), torch.rand(3, generator=noise))


@pytest.mark.parametrize("other", ["seed", "schedule", "policy", "weights", "floor", "network", "scene"])
def test_kept_windows_of_another_motion_are_refused(tmp_path, other):
    work = tmp_path / "work.safetensors"
    asked = {"model": gaussian_model(), "schedule": straight(60), "policy": POLICY, "seed": 1}
    field = DistanceField(torch.ones(2, 2, 2), torch.zeros(3), 1.0)
    body = asked["model"].anatomy
    draw_schedule(**asked, anatomy=body, field=field, work=work)
    asked |= {
        "seed": {"seed": 2},
        "schedule": {"schedule": straight(60, turn=1e-3)},
        "policy": {"policy": replace(POLICY, calls=5)},
        "weights": {"weights": replace(USUAL, path=2.0)},
        "floor": {"floor": 0.01},
        "network": {"model": gaussian_model(spread=0.9)},
        "scene": {},
    }[other]
    if other == "scene":
        field = replace(field, values=torch.full((2, 2, 2), 2.0))
    with pytest.raises(InputError, match="windows of another motion"):
        draw_schedule(**asked, anatomy=body, field=field, work=work)

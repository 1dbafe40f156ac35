"""Task files and their schedules: in rooms of boxes, and in the apartment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from motion.anatomy import anatomy_of
from motion.scene.goals import PELVIS_OVER_SEAT
from motion.schedule import SPEEDS, resolve
from motion.tasks import Lie, Sit, StandUp, Wait, Walk, parse_tasks, read_tasks
from shared.errors import InputError
from tests.motion.figures import body

ANATOMY = anatomy_of(body())


@pytest.fixture(scope="module")
def room(shapes, grid_of):
    """Return a scene with a bench to sit on, a bed and a tall cupboard, its field and map."""
    scene = shapes.scene_of(
        shapes.box("floor", [-3, -3, -0.02], [3, 3, 0]),
        shapes.box("bench", [-0.6, 2.0, 0], [0.6, 2.45, 0.45]),
        shapes.box("bed", [-2.8, -2.6, 0], [-1.8, -0.6, 0.5]),
        shapes.box("cupboard", [2.0, -1.0, 0], [2.6, 0.0, 2.0]),
    )
    return scene, *grid_of(scene)


def planned(tasks, room, **options):
    return resolve(parse_tasks(tasks, source="t.yaml"), *room, ANATOMY, **options)


def test_a_file_is_a_list_of_tasks_or_a_mapping_with_a_start(tmp_path):
    file = tmp_path / "tasks.yaml"
    lines = "- walk_to: sofa\n- sit_on: sofa\n  seconds: 3\n- stand_up\n- walk_to: [1.0, 2.5]\n  speed: 1.3\n"
    file.write_text(lines + "- lie_on: bed\n- wait: 1.5\n")
    found = read_tasks(file)
    assert found.tasks == (
        Walk(walk_to="sofa"), Sit(sit_on="sofa", seconds=3), StandUp(), Walk(walk_to=(1.0, 2.5), speed=1.3),
        Lie(lie_on="bed", seconds=2), Wait(wait=1.5),
    )  # fmt: skip
    file.write_text("start: [1, 2]\nfacing: 90\ntasks:\n- stand_up:\n")
    assert (read_tasks(file).start, read_tasks(file).facing, read_tasks(file).tasks) == ((1, 2), 90, (StandUp(),))


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no tasks"), ("[]", "no tasks"), ("a: [", "no YAML"), ("- fly: sofa", "task 1.*one of walk_to"),
     ("- wait: 1\n- sit_on: sofa\n  second: 3", "task 2: found second"), ("- wait: .inf", "task 1"),
     ("- walk_to: 3", "task 1.*a name or a point"), ("- walk_to: [1]", "task 1"), ("- wait: -1", "greater than 0"),
     ("- walk_to: a\n  sit_on: b", "task 1"), ("tasks:\n- wait: 1\nbegin: 3", "begin"),
     ("- walk_to: a\n  speed: 9", "task 1: found speed")],
)  # fmt: skip
def test_what_is_no_task_is_told_by_its_number(text, message, tmp_path):
    file = tmp_path / "tasks.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=message):
        read_tasks(file)
    with pytest.raises(InputError, match="no such file"):
        read_tasks(tmp_path / "other.yaml")


def test_a_walk_takes_the_time_its_length_and_speed_ask_for(room):
    plan = planned({"start": [0, -2], "facing": 90, "tasks": [{"walk_to": [0, 1.0], "speed": 1.0}]}, room)
    (walk,) = plan.subtasks
    assert walk.action == "walk"
    assert plan.goals.frames == walk.stop == round((3.0 / 1.0 + 0.5) * 30)
    assert np.allclose(walk.pelvis[-1], [0, 1.0, ANATOMY.standing], atol=1e-9)
    speed = np.linalg.norm(np.diff(walk.pelvis, axis=0), axis=1) * 30
    assert speed.max() == pytest.approx(1.0, abs=0.02)
    assert speed[-1] < 0.1
    assert np.allclose(walk.facing, [0, 1], atol=0.05)
    (follow,) = plan.goals.follows
    assert float(follow.along[-1]) == pytest.approx(3.0, abs=1e-6)
    assert plan.goals.stances == ((0, walk.stop),)
    (outcome,) = plan.goals.outcomes
    assert (outcome.kind, outcome.stop) == ("walk", walk.stop)
    assert outcome.place == pytest.approx((0, 1.0))
    short = planned({"start": [0, 0], "facing": 90, "tasks": [{"walk_to": [0, 0.3]}]}, room)
    assert np.allclose(short.subtasks[0].pelvis[-1, :2], [0, 0.3])
    assert short.goals.frames == 30


def test_sitting_brings_the_walk_the_turn_and_the_contacts_it_needs(room):
    tasks = {"start": [0, 0], "facing": 90, "tasks": [{"sit_on": "bench", "seconds": 2}, {"walk_to": [1.5, 1.5]}]}
    plan = planned(tasks, room)
    assert [part.action for part in plan.subtasks] == ["walk", "turn", "sit", "sit", "stand_up", "turn", "walk"] or [
        part.action for part in plan.subtasks
    ] == ["walk", "turn", "sit", "sit", "stand_up", "walk"]
    assert any("gets up from bench" in note for note in plan.notes)
    down, stay = plan.subtasks[2:4]
    assert stay.pelvis[-1, 2] == pytest.approx(0.45 + PELVIS_OVER_SEAT, abs=0.02)
    assert np.allclose(down.facing[-1], [0, -1], atol=0.1)  # back to the bench
    assert SPEEDS["sit"][0] <= down.speed <= SPEEDS["sit"][1]
    assert stay.stop - stay.start == round(2.3 * 30)
    seat, *feet = plan.goals.contacts
    assert (seat.name, seat.start, seat.stop) == ("seat", stay.start, stay.stop)
    assert [contact.name for contact in feet] == ["left_foot", "right_foot"]
    kinds = [(outcome.kind, outcome.name) for outcome in plan.goals.outcomes]
    assert kinds == [("walk", "1 walk to bench"), ("sit", "1 sit on bench"), ("stand", "2 stand up from bench"),
                     ("walk", "2 walk to a place")]  # fmt: skip
    starts = [part.start for part in plan.subtasks]
    assert starts == [0, *[part.stop for part in plan.subtasks[:-1]]]
    pelvis = np.concatenate([part.pelvis for part in plan.subtasks])
    assert len(pelvis) == plan.goals.frames
    assert np.linalg.norm(np.diff(pelvis, axis=0), axis=1).max() * 30 < 1.5
    facing = np.concatenate([part.facing for part in plan.subtasks])
    assert np.degrees(np.arccos((facing[1:] * facing[:-1]).sum(1).clip(-1, 1))).max() < 9
    on_path = room[2].clearance_at(plan.subtasks[0].pelvis[:, :2])
    assert on_path.min() > 0.15


def test_lying_goes_to_the_bed_and_hints_head_and_ankles_along_it(room):
    plan = planned({"start": [0, 0], "tasks": [{"lie_on": "bed", "seconds": 1}, "stand_up", {"wait": 1}]}, room)
    actions = [part.action for part in plan.subtasks if part.action != "turn"]
    assert actions == ["walk", "lie", "lie", "get_up", "stand"]
    lie = next(outcome for outcome in plan.goals.outcomes if outcome.kind == "lie")
    assert lie.place == pytest.approx((-2.3, -1.6, 0.6), abs=0.1)
    assert abs(lie.direction[1]) == pytest.approx(1.0, abs=0.05)
    head = body().joints("head")[0]
    back, lain, forth = (hint for hint in plan.goals.hints if hint.joints == (head,))
    long = body().length("hips", "head")
    step = lain.targets[0].numpy() - np.array(lie.place)
    assert np.allclose(step, long * np.array([*lie.direction, 0]), atol=1e-6)
    for ankle in body().joints("left_ankle", "right_ankle"):
        (straight,) = (hint for hint in plan.goals.hints if hint.joints == (ankle,))
        legs = straight.targets.numpy() - np.array(lie.place)
        assert np.allclose(legs, -body().leg * np.array([*lie.direction, 0]), atol=1e-6)
        assert torch.equal(straight.frames, lain.frames)
    down = next(part for part in plan.subtasks if part.action == "lie")
    trunk = back.targets.numpy() - down.pelvis
    assert np.allclose(np.linalg.norm(trunk, axis=1), long)
    assert trunk[0, 2] > 0.99 * long
    assert np.allclose(back.targets[-1], lain.targets[0], atol=1e-6)
    assert float(forth.targets[-1, 2]) == pytest.approx(ANATOMY.standing + long, abs=1e-3)
    assert back.tolerance < forth.tolerance  # one gets up in one's own way
    assert np.allclose(down.facing, -np.array(lie.direction), atol=1e-6)  # its back to where the head will be
    levels = sorted({part.level for part in plan.subtasks})
    assert levels == [0.0, pytest.approx(0.5, abs=0.02)]
    assert plan.goals.outcomes[-1].kind == "wait"


def test_speeds_are_drawn_from_their_ranges_by_a_generator(room):
    tasks = [{"walk_to": [1.5, 1.5]}, {"sit_on": "bench"}]
    one, same, other = (planned(tasks, room, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    speeds = [[part.speed for part in plan.subtasks] for plan in (one, same, other)]
    assert speeds[0] == speeds[1] != speeds[2]
    walks = [part.speed for plan in (one, other) for part in plan.subtasks if part.action == "walk"]
    assert all(1.1 <= speed <= 1.4 for speed in walks)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [(["stand_up"], "task 1: stand_up.*stands already"),
     ([{"wait": 1}, {"sit_on": "cupboard"}], "task 2.*cupboard.*seat at"),
     ([{"lie_on": "bench"}], "task 1.*bench"),
     ([{"walk_to": "piano"}], "task 1.*bench"),
     ([{"walk_to": [2.3, -0.5]}], "task 1: goal.*cupboard.*nearest is"),
     ({"start": [-2.3, -1.6], "tasks": [{"wait": 1}]}, "start.*bed"),
     ([{"walk_to": [9, 9]}], "off the map")],
)  # fmt: skip
def test_what_cannot_be_done_is_told_with_the_task_and_what_would_do(tasks, message, room):
    with pytest.raises(InputError, match=r"t\.yaml") as caught:
        planned(tasks, room)
    assert caught.match(message)


@pytest.mark.data
def test_six_tasks_in_the_apartment_make_one_schedule(apartment):
    tasks = [{"walk_to": "sofa"}, {"sit_on": "sofa", "seconds": 3}, "stand_up", {"lie_on": "bed"},
             {"walk_to": "office_desk.002"}, {"wait": 1}]  # fmt: skip
    plan = planned(tasks, apartment)
    kinds = [outcome.kind for outcome in plan.goals.outcomes]
    assert kinds == ["walk", "sit", "stand", "walk", "lie", "stand", "walk", "wait"]
    assert 30 < plan.goals.frames / 30 < 45
    pelvis = np.concatenate([part.pelvis for part in plan.subtasks])
    assert np.linalg.norm(np.diff(pelvis, axis=0), axis=1).max() * 30 < 1.5
    walking = np.concatenate([part.pelvis[:, :2] for part in plan.subtasks if part.action == "walk"])
    assert apartment[2].clearance_at(walking).min() > 0.15  # a start nearer to a thing excuses no short cut
    assert plan.goals.cut(100, 220).frames == 120


def test_a_walk_by_way_of_places_follows_their_curve(room):
    tasks = [{"walk_to": [1.2, -2], "via": [[0, -1], [0.6, 0.5]], "speed": 1.0}]
    plan = planned({"start": [-1, -2], "tasks": tasks}, room)
    walk = plan.subtasks[-1]
    for place in ([0, -1], [0.6, 0.5], [1.2, -2]):
        assert np.linalg.norm(walk.pelvis[:, :2] - place, axis=1).min() < 0.03
    with pytest.raises(InputError, match=r"task 1: curve.*bench"):
        planned({"start": [-1, -2], "tasks": [{"walk_to": [1.2, -2], "via": [[0, 2.2]]}]}, room)

"""A branch that is its base until it has learned, hears what is told and nothing else, and goes where hints say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from motion.actions import ACTION
from motion.cli import app
from motion.collection import save_collection
from motion.control import (
    NEAR,
    POINTS,
    ControlBranch,
    ControlConfig,
    ControlledModel,
    ControlledTransformer,
    Points,
    Told,
    filled,
)
from motion.control_files import read_branch
from motion.control_training import ControlTrainer, ControlTraining, hint_distance, hinted_by_chance
from motion.features import GROUPS
from motion.files import load_model, read_model
from motion.goals import Hint
from motion.model import draw, known_poses
from motion.network import MotionTransformer
from motion.training import MotionTrainer
from shared.errors import InputError
from tests.motion.figures import body, walk
from tests.motion.test_training import SETTINGS, TINY, collection

DEEPER = TINY.model_copy(update={"depth": 3})
POINT_COUNT = len(POINTS)
RECIPE = ControlTraining(
    kind="motion_control", name="motion/tiny_control", branch=ControlConfig(depth=1), steps=6, batch=4, warmup=2,
    learning_rate=3e-3, average=0.9, log_every=3, held_out=("second",), checkpoint_minutes=0,
)  # fmt: skip


def network(depth: int = 2, *, learned: bool = False) -> ControlledTransformer:
    """Return a base of 12 features and 3 blocks with a branch, at its start or with maps that are not zero."""
    torch.manual_seed(0)
    base = MotionTransformer(DEEPER, 12)
    branch = ControlBranch(ControlConfig(depth=depth), DEEPER, torch.zeros(POINT_COUNT, 3), torch.ones(POINT_COUNT, 3))
    branch.copy_blocks(base)
    for block in (*base.blocks, *branch.blocks):
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    if learned:
        for back in branch.leave:
            torch.nn.init.normal_(back.weight, std=0.2)
    return ControlledTransformer(base, branch).eval()


def question(count: int = 2, frames: int = 10) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor], Told]:
    """Return noisy features, times, what else the base is told, and hints of two points in two frames each."""
    generator = torch.Generator().manual_seed(1)
    known = torch.zeros(count, frames, len(GROUPS), dtype=torch.bool)
    known[:, :3] = True
    places = torch.randn(count, frames, POINT_COUNT, 3, generator=generator)
    flags = torch.zeros_like(places, dtype=torch.bool)
    flags[:, [4, 8], 2] = True
    flags[:, [4, 9], 5, :2] = True
    x = torch.randn(count, frames, 12, generator=generator)
    rest = {"actions": torch.full((count, frames), ACTION["walk"]), "known": known}
    return x, torch.linspace(0.2, 0.8, count), rest, Told(places, flags)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_at_its_start_a_branch_changes_nothing(depth):
    net = network(depth)
    x, time, rest, told = question()
    assert torch.equal(net(x, time, **rest, told=told), net.base(x, time, **rest))
    learned = network(depth, learned=True)
    assert not torch.allclose(learned(x, time, **rest, told=told), net.base(x, time, **rest), atol=0.01)


def test_windows_without_hints_are_the_bases_whatever_the_branch_has_learned():
    net = network(learned=True)
    x, time, rest, told = question()
    told.flags[0] = False
    base, found = net.base(x, time, **rest), net(x, time, **rest, told=told)
    assert torch.equal(found[0], base[0])
    assert not torch.allclose(found[1], base[1], atol=1e-2)


def test_what_is_not_told_changes_nothing_and_what_is_told_does():
    net = network(learned=True)
    x, time, rest, told = question()
    usual = net(x, time, **rest, told=told)
    others = torch.where(told.flags, told.places, torch.full_like(told.places, float("nan")))
    assert torch.equal(net(x, time, **rest, told=Told(others, told.flags)), usual)
    for coordinate in told.flags[0].nonzero().tolist():
        moved = told.places.clone()
        moved[0][tuple(coordinate)] += 0.5
        found = net(x, time, **rest, told=Told(moved, told.flags))
        assert not torch.allclose(found[0], usual[0], atol=1e-4)
        assert torch.equal(found[1], usual[1])


def test_a_hint_at_the_mean_place_is_a_hint():
    net = network(learned=True)
    x, time, rest, told = question()
    zeros = torch.zeros_like(told.places)
    found = net(x, time, **rest, told=Told(zeros, told.flags))
    assert not torch.allclose(found, net.base(x, time, **rest), atol=1e-2)
    fewer = told.flags.clone()
    fewer[..., 2] = False
    assert not torch.allclose(found, net(x, time, **rest, told=Told(zeros, fewer)), atol=1e-4)


def test_gradients_reach_the_branch_alone():
    net = network(learned=True)
    x, time, rest, told = question()
    net(x, time, **rest, told=told).square().sum().backward()
    assert all(value.grad is None for value in net.base.parameters())
    assert all(float(value.grad.abs().max()) > 0 for value in net.branch.parameters())


def test_points_are_means_of_joints_and_a_waypoint_tells_no_height():
    points = Points(("pelvis", "left_hand"), body())
    positions = walk(6).positions()
    skeleton = body()
    hips = [skeleton.names.index(name) for name in ("LeftUpLeg", "RightUpLeg")]
    hand = skeleton.names.index("LeftHand")
    assert torch.allclose(points.of(positions)[:, 0], (positions[:, hips[0]] + positions[:, hips[1]]) / 2)
    assert torch.equal(points.of(positions)[:, 1], positions[:, hand])
    told = points.told([
        Hint((hips[1], hips[0]), torch.tensor([1, 4]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])),
        Hint((hand,), torch.tensor([4]), torch.tensor([[5.0, 6.0, 7.0]])),
    ], 6)  # fmt: skip
    assert told.flags.nonzero().tolist() == [
        [0, 1, 0, 0], [0, 1, 0, 1], [0, 4, 0, 0], [0, 4, 0, 1], [0, 4, 1, 0], [0, 4, 1, 1], [0, 4, 1, 2],
    ]  # fmt: skip
    assert told.places[told.flags].tolist() == [1, 2, 3, 4, 5, 6, 7]
    with pytest.raises(InputError, match="Head"):
        points.told([Hint((skeleton.names.index("Head"),), torch.tensor([1]), torch.zeros(1, 3))], 6)
    with pytest.raises(InputError, match="0 to 5"):
        points.told([Hint((hand,), torch.tensor([6]), torch.zeros(1, 3))], 6)
    with pytest.raises(InputError, match="left_foot"):
        points.index("left_foot")
    with pytest.raises(ValueError, match="left_foot"):
        ControlConfig(points=("pelvis", "left_foot"))


def test_a_hint_seen_from_a_window_is_where_the_window_has_the_joint():
    turned = walk(20).placed(torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]).double(), torch.tensor([3.0, -2, 0]))
    seen, axes, origin = turned.canonical(7)
    for size in (2, 3):
        hint = Hint((5,), torch.tensor([2, 11]), turned.positions()[[2, 11], 5, :size])
        assert torch.allclose(hint.seen_from(axes, origin).targets, seen.positions()[[2, 11], 5, :size])


def test_hints_by_chance_stay_in_the_clip_and_come_in_all_kinds():
    source, valid = np.random.default_rng(0), torch.arange(40) < 30
    drawn = torch.stack([hinted_by_chance(valid, 14, source) for _ in range(300)])
    assert drawn.flatten(1).any(1).all()
    assert not drawn[:, 30:].any()
    points = drawn.any(-1).any(1).sum(1)
    assert set(points.tolist()) == {1, 2, 3, 4, 14}
    assert float((points == 1).float().mean()) == pytest.approx(0.5, abs=0.1)
    assert int(drawn[points == 14].any(-1).any(2).sum(1).max()) <= 3
    frames = drawn[points == 1].any(-1).any(2).sum(1)
    assert int(frames.min()) == 1
    assert 20 < int(frames.max()) <= 30
    on_floor = drawn[..., 0] & ~drawn[..., 2]
    assert 0.05 < float(on_floor.flatten(1).any(1).float().mean()) < 0.4
    assert not (drawn[..., 2] & ~drawn[..., 0]).any()


def test_the_distance_counts_told_coordinates_only():
    flags = torch.zeros(1, 4, 2, 3, dtype=torch.bool)
    flags[0, 1, 0] = True
    flags[0, 2, 1, :2] = True
    made, places = torch.zeros(1, 4, 2, 3), torch.full((1, 4, 2, 3), 9.0)
    places[0, 1, 0], places[0, 2, 1, :2] = torch.tensor([1.0, 2.0, 2.0]), torch.tensor([3.0, 4.0])
    assert float(hint_distance(made, Told(places, flags))) == pytest.approx((3 + 5) / 2)


def test_between_hints_places_are_on_lines_and_nearness_fades():
    source = np.random.default_rng(0)
    flags = torch.from_numpy(source.random((3, 30, 4, 3)) < 0.1)
    flags[1, :, 2] = False
    places = torch.from_numpy(source.normal(size=(3, 30, 4, 3)))
    line, nearness = filled(Told(places, flags), 30.0)
    frames = np.arange(30)
    for window, point, axis in np.ndindex(3, 4, 3):
        at = flags[window, :, point, axis].nonzero()[:, 0].numpy()
        near = nearness[window, :, point, axis].numpy()
        if not len(at):
            assert not near.any()
            continue
        expected = np.interp(frames, at, places[window, at, point, axis].numpy())
        np.testing.assert_allclose(line[window, :, point, axis].numpy(), expected, atol=1e-6)
        away = np.abs(frames[:, None] - at).min(1) / 30
        np.testing.assert_allclose(near, np.exp(-away / NEAR), rtol=1e-6)
    assert not nearness[1, :, 2].any()


@pytest.fixture
def base(tmp_path):
    """Return the file of a base that learned a little."""
    trainer = MotionTrainer(SETTINGS, collection(), tmp_path / "base")
    trainer.run()
    trainer.export(tmp_path / "tiny.safetensors")
    return read_model(tmp_path / "tiny.safetensors")


def test_a_stopped_training_of_a_branch_goes_on_bit_for_bit_and_leaves_the_base(tmp_path, base):
    whole = ControlTrainer(RECIPE, base, collection(), tmp_path / "whole")
    whole.run()
    ControlTrainer(RECIPE, base, collection(), tmp_path / "parts").run(stop_at=2)
    second = ControlTrainer(RECIPE, base, collection(), tmp_path / "parts")
    assert second.step == 2
    second.run()
    for name, value in whole.average.average.items():
        assert torch.equal(second.average.average[name], value)
    for name, value in whole.model.network.state_dict().items():
        assert torch.equal(value, base.network[name])
    assert any(float(back.weight.abs().max()) > 0 for back in whole.network.leave)
    assert whole.held_out_loss() == second.held_out_loss()
    with pytest.raises(InputError, match="another configuration"):
        ControlTrainer(RECIPE, replace(base, sha256="0" * 64), collection(), tmp_path / "parts")
    with pytest.raises(InputError, match="leave `model` out"):
        ControlTrainer(RECIPE.model_validate(RECIPE.model_dump() | {"model": DEEPER}), base, collection(), tmp_path)
    deep = RECIPE.model_copy(update={"branch": ControlConfig(depth=2)})
    with pytest.raises(InputError, match="up to the 1"):
        ControlTrainer(deep, base, collection(), tmp_path)


def test_files_and_commands_of_a_branch(tmp_path, base):
    save_collection(tmp_path / "all.safetensors", collection())
    config, output = tmp_path / "tiny_control.yaml", tmp_path / "branch.safetensors"
    config.write_text(RECIPE.model_dump_json(exclude={"model"}))
    runner = CliRunner()

    def ran(*words: object):
        return runner.invoke(app, [str(word) for word in words])

    train = ("train", config, "--data", tmp_path / "all.safetensors", "-o", output, "-q", "--half", "--overwrite")
    run = ran(*train, "--base", base.path)
    assert run.exit_code == 0, run.output
    assert base.sha256 in output.with_suffix(".md").read_text()
    assert output.stat().st_size < base.path.stat().st_size
    model = load_model(output)
    assert isinstance(model, ControlledModel)
    stored = read_branch(output)
    assert all(name in stored.tensors and not name.startswith("base") for name in model.controlled.branch.state_dict())
    for name, value in model.controlled.branch.state_dict().items():
        assert torch.equal(value, stored.tensors[name].float())
    # It draws what its base draws, until it is told something.
    plain, hand = load_model(base.path), model.points.index("left_hand")
    hint = Hint(model.points.joints[hand], torch.tensor([10]), torch.tensor([[0.5, 0.3, 1.6]]))
    motion = walk(18).canonical()[0]
    known = known_poses(model.body, motion.cut(0, 2), [0, 1], 18)

    def drawn(which, **options):
        return draw(which, "walk", 18, known=known, calls=3, generator=torch.Generator().manual_seed(0), **options)[0]

    assert torch.equal(drawn(model).rotations, drawn(plain).rotations)
    hinted = drawn(model, hints=[hint])
    assert not torch.equal(hinted.rotations, drawn(plain).rotations)
    assert torch.allclose(hinted.positions()[:2], motion.positions()[:2], atol=1e-5)
    with pytest.raises(InputError, match="hears none"):
        drawn(plain, hints=[hint])
    ask = ("--action", "walk:0.6", "--calls", "2", "--overwrite", "-o", tmp_path / "drawn.bvh")
    assert ran("draw", output, *ask, "--hint", "left_hand:0.3:0.5,0.3,1.6", "--hint", "pelvis:0.5:0,1").exit_code == 0
    for wrong in ("left_foot:0.3:0,0,0", "left_hand:0,0,0", "left_hand:0.3:0,0,x", "pelvis:9:0,0", "pelvis:0.1:1"):
        assert isinstance(ran("draw", output, *ask, "--hint", wrong).exception, InputError)
    assert "no hints" in str(ran("draw", base.path, *ask, "--hint", "pelvis:0.5:0,1").exception)
    # Another base of the same shape is refused, and so is a file of another kind, and a base for a base's recipe.
    MotionTrainer(SETTINGS, collection(), tmp_path / "other").export(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="on which branch"):
        stored.model(base=tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="motion control 1"):
        read_branch(base.path)
    config.write_text(SETTINGS.model_dump_json())
    assert "a model of its own" in str(ran(*train, "--base", base.path).exception)


def test_a_branch_that_saw_one_clip_at_all_speeds_goes_as_far_as_it_is_told(tmp_path):
    clips = collection(40, only="walk")
    settings = SETTINGS.model_copy(update={
        "model": TINY.model_copy(update={"frames": (16, 16)}), "held_out": (), "speeds": (0.5, 1.5), "steps": 80,
        "batch": 8, "learning_rate": 1e-2, "log_every": 200, "average": 0.95, "checkpoint_minutes": 9.0,
    })  # fmt: skip
    first = MotionTrainer(settings, clips, tmp_path / "base")
    first.run()
    first.export(tmp_path / "base.safetensors")
    recipe = RECIPE.model_validate(RECIPE.model_dump(exclude={"model"}) | {
        "base": str(tmp_path / "base.safetensors"), "held_out": (), "speeds": (0.5, 1.5), "steps": 90, "batch": 8,
        "branch": {"depth": 1, "points": ("pelvis",)}, "hint_weight": 10.0, "learning_rate": 1e-2, "log_every": 200,
        "average": 0.9, "checkpoint_minutes": 9.0,
    })  # fmt: skip
    second = ControlTrainer(recipe, read_model(tmp_path / "base.safetensors"), clips, tmp_path / "branch")
    second.run()
    second.export(tmp_path / "branch.safetensors")
    model = load_model(tmp_path / "branch.safetensors")
    pelvis = model.points.joints[0]

    def missed(distance: float, hints: bool) -> float:
        target = torch.tensor([[0.0, distance]])
        told = [Hint(pelvis, torch.tensor([15]), target)] if hints else []
        found = draw(model, "walk", 16, count=8, hints=told, calls=5, generator=torch.Generator().manual_seed(0))
        ends = torch.stack([motion.positions()[15, list(pelvis), :2].mean(0) for motion in found])
        return float((ends - target).norm(dim=-1).mean())

    # The clip goes 1.2 m/s: 0.3 m at half speed, 0.9 m at one and a half.
    free, told = (sum(missed(distance, hints) for distance in (0.35, 0.85)) / 2 for hints in (False, True))
    assert free > 0.15
    assert told < 0.6 * free

"""Windows of clips, a training that is the same when it stops in between, and motions drawn with some of them known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from motion.actions import ACTION, ACTIONS
from motion.anatomy import anatomy_of
from motion.cli import app
from motion.collection import Clip, Collection, collect, load_collection, save_collection
from motion.config import MotionConfig
from motion.features import GROUPS, HEADING, PATH, Body, seen_from
from motion.files import load_model, read_model
from motion.formats import write_clip
from motion.model import draw, known_path, known_poses
from motion.training import MotionTrainer, MotionTraining
from motion.windows import WindowSource
from shared.errors import InputError
from tests.motion.figures import body, quietly, walk

TINY = MotionConfig(width=32, depth=1, heads=2, feedforward=48, embedding=16, frames=(16, 20))
SETTINGS = MotionTraining(
    name="motion/tiny", model=TINY, steps=8, batch=4, learning_rate=3e-3, warmup=2, average=0.9, log_every=4,
    held_out=("second",), checkpoint_minutes=0,
)  # fmt: skip


def collection(frames: int = 40, **names: str) -> Collection:
    """Return clips of the walking figure, by default two; their actions as given."""
    figure = Body(body())
    motion = walk(frames)
    clips = [
        Clip(name, f"made/{name}.bvh", "CC0", figure.encode(motion).float(), torch.full((frames,), ACTION[action]))
        for name, action in (names or {"first": "walk", "second": "walk"}).items()
    ]
    return Collection(figure, 30.0, tuple(clips))


def trained(folder, settings: MotionTraining = SETTINGS, clips: Collection | None = None) -> MotionTrainer:
    trainer = MotionTrainer(settings, clips or collection(), folder)
    trainer.run()
    return trainer


def test_windows_are_pieces_of_the_clip_seen_from_their_first_frame():
    clips = collection()
    features = clips.clips[0].features
    drawn = WindowSource(clips, ["second"]).draw(8, 16, np.random.default_rng(0))
    assert drawn.valid.all()
    for window in drawn.features:
        # It begins between two frames; what feet do is 0 or 1 there, so it is left out.
        misses = [
            seen_from(torch.lerp(features[k : k + 16], features[k + 1 : k + 17], share)) - window
            for k in range(40 - 16)
            for share in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
        assert min(float(miss[:, :-4].abs().max()) for miss in misses) < 0.02
        assert torch.allclose(window[0, PATH], torch.zeros(2), atol=1e-5)
        assert torch.allclose(window[0, HEADING], torch.tensor([1.0, 0.0]), atol=1e-5)


def test_windows_at_the_end_of_a_clip_have_all_their_frames():
    clips = collection()
    source = WindowSource(replace(clips, clips=clips.clips * 200), speeds=(0.8, 1.2))
    for frames in (16, 17, 23, 30):
        drawn = source.draw(200, frames, np.random.default_rng(frames))
        assert drawn.valid.all()
        assert (drawn.actions == ACTION["walk"]).all()


def test_faster_windows_go_farther():
    clips = collection(80)
    slow, fast = (
        WindowSource(clips, speeds=(speed, speed)).draw(8, 20, np.random.default_rng(0)).features
        for speed in (0.8, 1.2)
    )
    # 1.2 m/s for 19 frames, along y: the hips' way there is straight but for the sway.
    assert slow[:, -1, 1].mean() == pytest.approx(0.8 * 1.2 * 19 / 30, rel=0.1)
    assert fast[:, -1, 1].mean() == pytest.approx(1.2 * 1.2 * 19 / 30, rel=0.1)


def test_a_short_clip_is_followed_by_nothing_or_by_its_last_pose_if_that_is_still():
    moving = WindowSource(collection(20)).draw(4, 30, np.random.default_rng(0))
    assert moving.valid.sum(1).tolist() == [20] * 4
    assert (moving.actions[:, 20:] == ACTION["any"]).all()
    assert not moving.known[:, 20:].any()
    still = WindowSource(collection(20, seat="sit")).draw(4, 30, np.random.default_rng(0))
    assert still.valid.all()
    assert torch.equal(still.features[:, 20:], still.features[:, 19:20].expand(-1, 10, -1))


def test_rare_actions_are_drawn_more_often_than_they_are():
    many, few = collection(200, many="walk"), collection(20, few="sit")
    source = WindowSource(replace(many, clips=many.clips + few.clips))
    drawn = source.draw(400, 16, np.random.default_rng(0))
    share = float((drawn.actions == ACTION["sit"]).float().mean())
    assert share == pytest.approx(20**0.25 / (20**0.25 + 200**0.25), abs=0.08)  # 9 % of the frames


def test_held_out_clips_are_not_trained_on_and_must_exist():
    clips = collection(40, a="walk", b="sit")
    assert {clip.name for clip in WindowSource(clips, ["b"]).clips} == {"a"}
    assert {clip.name for clip in WindowSource(clips, ["b"], only_held_out=True).clips} == {"b"}
    with pytest.raises(InputError, match="held_out"):
        WindowSource(clips, ["c"])


def test_known_windows_come_in_all_kinds():
    drawn = WindowSource(collection()).draw(200, 24, np.random.default_rng(0)).known
    full = drawn.all(-1)
    assert 0.25 < float((~drawn.any(-1)).all(1).float().mean()) < 0.45  # nothing
    assert bool((full[:, 0] & full[:, -1] & ~full[:, 21]).any())  # both ends
    path = drawn[..., GROUPS.index("path")].all(1) & ~drawn.all(-1).all(1)
    assert 0.08 < float(path.float().mean()) < 0.25


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path):
    whole = trained(tmp_path / "whole")
    first = MotionTrainer(SETTINGS, collection(), tmp_path / "parts")
    first.run(stop_at=3)
    second = MotionTrainer(SETTINGS, collection(), tmp_path / "parts")
    assert second.step == 3
    second.run()
    for name, value in whole.average.average.items():
        assert torch.equal(second.average.average[name], value)
    rows = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8]
    assert rows[-1]["held_out"] == second.held_out_loss()
    with pytest.raises(InputError, match="another configuration"):
        MotionTrainer(SETTINGS.model_copy(update={"seed": 1}), collection(), tmp_path / "parts")


def test_a_network_that_saw_one_window_alone_draws_it(tmp_path):
    clips = collection(16, only="walk")
    settings = MotionTraining(
        name="motion/one", model=TINY.model_copy(update={"frames": (16, 16)}), speeds=(1.0, 1.0), steps=120, batch=4,
        learning_rate=2e-2, warmup=10, average=0.95, log_every=120, checkpoint_minutes=9,
    )  # fmt: skip
    trainer = trained(tmp_path, settings, clips)
    trainer.export(tmp_path / "one.safetensors")
    model = load_model(tmp_path / "one.safetensors")
    found = draw(model, "walk", 16, count=2, calls=5, generator=torch.Generator().manual_seed(0))
    truth = walk(16).canonical()[0].positions()
    for motion in found:
        error = (motion.positions() - truth).norm(dim=-1)
        assert float(error.mean()) < 0.03
    still = (truth - truth[:1]).norm(dim=-1).mean()
    assert float(still) > 0.2  # no standing body would do


def test_draws_repeat_with_the_seed_and_hold_what_is_known(tmp_path):
    trainer = trained(tmp_path)
    trainer.export(tmp_path / "tiny.safetensors", half=True)
    model = load_model(tmp_path / "tiny.safetensors")
    motion = walk(18).canonical()[0]
    parts = replace(motion, root=motion.root[[0, 1, 17]], rotations=motion.rotations[[0, 1, 17]])
    known = known_poses(model.body, parts, [0, 1, 17], 18)

    def drawn(seed: int, **options):
        generator = torch.Generator().manual_seed(seed)
        return draw(model, ["walk"] * 10 + ["stand"] * 8, 18, calls=3, generator=generator, **options)[0]

    first, again, other = drawn(0, known=known), drawn(0, known=known), drawn(1, known=known)
    assert torch.equal(first.rotations, again.rotations)
    assert torch.equal(first.root, again.root)
    assert not torch.allclose(first.root, other.root)
    places = [0, 1, 17]
    assert torch.allclose(first.positions()[places], motion.positions()[places], atol=1e-5)
    assert not torch.allclose(first.positions()[8], motion.positions()[8], atol=0.02)
    assert not torch.allclose(drawn(0).positions()[places], motion.positions()[places], atol=0.02)
    path = torch.stack([torch.linspace(0, 1, 18), torch.linspace(0, 0.5, 18)], 1)
    along = drawn(0, known=known_path(model.body, path) | known)
    assert torch.allclose(along.root[2:17, :2], path[2:17].double(), atol=1e-5)
    assert torch.allclose(along.root[places], motion.root[places], atol=1e-5)
    with pytest.raises(InputError, match="walks"):
        draw(model, "walks", 18)
    with pytest.raises(InputError, match="18 frames"):
        draw(model, "walk", 20, known=known)
    with pytest.raises(InputError, match="known frames"):
        known_poses(model.body, parts, [0, 1, 18], 18)


def test_losses_of_a_perfect_network_are_zero_but_for_feet_that_skate(tmp_path):
    trainer = MotionTrainer(SETTINGS, collection(), tmp_path)
    windows = trainer.source.draw(4, 16, np.random.default_rng(0))
    x0 = (windows.features - trainer.mean) / trainer.spread
    losses = trainer.losses(windows, np.random.default_rng(1), lambda *_, **__: x0)
    assert float(losses["features"]) < 1e-10
    assert float(losses["positions"]) < 1e-10
    assert float(losses["velocities"]) < 1e-6
    assert float(losses["rests"]) < 0.3**2 * 2  # resting feet are slower than 0.3 m/s


def test_a_folder_becomes_a_model_that_draws_a_clip(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    write_clip(folder / "first.bvh", walk(40))
    write_clip(folder / "second.bvh", walk(40))
    (folder / "broken.bvh").write_text("HIERARCHY")
    (folder / "manifest.csv").write_text("file,licence\nfirst.bvh,CC0\n")
    config = tmp_path / "tiny.yaml"
    config.write_text(SETTINGS.model_copy(update={"steps": 2}).model_dump_json())
    runner, model = CliRunner(), tmp_path / "tiny.safetensors"
    run = runner.invoke(
        app, ["collect", str(folder), "--skeleton", str(folder / "first.bvh"), "-o", f"{tmp_path}/all.safetensors"]
    )
    assert run.exit_code == 0, run.output
    assert "left out: clips/broken.bvh" in run.output
    run = runner.invoke(app, ["train", str(config), "--data", f"{tmp_path}/all.safetensors", "-o", str(model), "-q"])
    assert run.exit_code == 0, run.output
    card = model.with_suffix(".md").read_text()
    assert "| clips: CC0 | 1 | 1.3 |" in card
    assert read_model(model).training["held_out"] == ["second"]
    output = tmp_path / "drawn.bvh"
    run = runner.invoke(
        app, ["draw", str(model), "--action", "walk:0.5", "--action", "stand:0.2", "-o", str(output), "--calls", "2"]
    )
    assert run.exit_code == 0, run.output
    assert quietly(output).frames == 21


def test_a_collection_is_the_same_after_writing_it_and_holds_mirror_images(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    write_clip(folder / "walk.bvh", walk(30))
    made = collect([folder], body())
    assert [clip.name for clip in made.clips] == ["walk", "walk mirrored"]
    save_collection(tmp_path / "all.safetensors", made)
    back = load_collection(tmp_path / "all.safetensors")
    assert back.fingerprint == made.fingerprint
    assert made.seconds() == {"walk": 1.0}
    one, other = (made.body.decode(clip.features, 30.0).positions() for clip in made.clips)
    swapped = other[:, list(made.body.skeleton.mirror)] * torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(one, swapped, atol=1e-4)
    MotionTrainer(SETTINGS, collection(), tmp_path / "work").export(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="fewstep motion collect"):
        load_collection(tmp_path / "model.safetensors")


def test_ways_to_a_seat_are_collected_turned_round(data_file):
    from motion.collection import body_of, read_for, variants

    path = data_file("motion/mocap/gazebo_cmu_bvh120/sit_down.bvh.gz")
    skeleton = quietly(data_file("motion/mocap/gazebo_cmu_bvh120/stand.bvh.gz")).skeleton
    figure = body_of(skeleton)
    found = {name: [ACTIONS[k] for k in labels.unique()] for name, _, labels in variants(
        read_for(path, figure, skeleton, 30.0), figure, "sit_down"
    )}  # fmt: skip
    assert found["sit_down"] == ["stand", "sit"]
    assert found["sit_down reversed"] == ["stand", "sit", "stand_up"]
    assert set(found) == {name + end for name in ("sit_down", "sit_down reversed") for end in ("", " mirrored")}


def test_a_joint_whose_name_says_no_part_of_a_body_hinders_guidance_alone(tmp_path):
    odd = replace(body(), names=tuple("Q7" if name == "Spine" else name for name in body().names))
    figure = Body(odd)
    clips = [
        Clip(name, f"made/{name}.bvh", "CC0", figure.encode(walk(40, skeleton=odd)).float(), torch.full((40,), 2))
        for name in ("first", "second")
    ]
    trainer = MotionTrainer(SETTINGS, Collection(figure, 30.0, tuple(clips)), tmp_path)
    facts = trainer.export(tmp_path / "odd.safetensors")
    usual = anatomy_of(body(), [walk(40)]).foot_heights
    assert facts["foot_heights_m"] == pytest.approx(usual.tolist(), abs=1e-3)
    model = load_model(tmp_path / "odd.safetensors")
    assert draw(model, "walk", 16, calls=1, generator=torch.Generator().manual_seed(0))[0].frames == 16
    with pytest.raises(InputError, match="Q7"):
        _ = model.anatomy

"""A training on blocks that is the same when it stops in between; files and commands of its models."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from motion.actions import ACTION
from motion.blending import concatenated
from motion.cli import app
from motion.collection import Clip, Collection, save_collection
from motion.features import HEADING, PATH, Body, seen_from
from motion.files import load_model
from motion.recipes import read_recipe, trainer_of
from motion.streaming.commands import Command
from motion.streaming.config import StreamConfig
from motion.streaming.files import is_stream, load_stream, read_stream
from motion.streaming.model import stream
from motion.streaming.training import STEERED, StreamTrainer, StreamTraining, blocks_of, steered_by_chance
from motion.training import MotionTraining
from motion.windows import WindowSource
from shared.errors import InputError
from tests.motion.figures import body, quietly, walk

TINY = StreamConfig(width=32, depth=1, heads=2, feedforward=48, embedding=16, block=5, blocks=3, window=2)
SETTINGS = StreamTraining(
    kind="motion_stream", name="motion/tiny", model=TINY, steps=6, batch=4, learning_rate=3e-3, warmup=2, average=0.9,
    log_every=3, held_out=("second",), checkpoint_minutes=0,
)  # fmt: skip


def collection(frames: int = 40) -> Collection:
    figure = Body(body())
    features = figure.encode(walk(frames)).float()
    actions = torch.full((frames,), ACTION["walk"])
    clips = (Clip(name, f"made/{name}.bvh", "CC0", features, actions) for name in ("first", "second"))
    return Collection(figure, 30.0, tuple(clips))


def test_blocks_are_seen_from_the_frame_before_them():
    clips = collection(20)
    drawn = WindowSource(clips).draw(3, 16, np.random.default_rng(0))
    features, actions, valid = blocks_of(drawn, 5)
    assert (features.shape, actions.shape) == ((3, 3, 6, clips.body.size), (3, 3, 5))
    assert valid.all()
    for k in range(3):
        assert torch.allclose(features[:, k], seen_from(drawn.features[:, 5 * k : 5 * k + 6]), atol=1e-6)
    assert torch.allclose(features[:, :, 0, PATH], torch.zeros(2), atol=1e-6)
    assert torch.allclose(features[:, :, 0, HEADING], torch.tensor([1.0, 0.0]), atol=1e-6)
    _, _, valid = blocks_of(WindowSource(clips).draw(3, 31, np.random.default_rng(0)), 5)
    assert valid.tolist() == [[True] * 3 + [False] * 3] * 3  # 20 frames: one, and three blocks


def test_statistics_are_those_of_each_frame_of_a_block(tmp_path):
    trainer = StreamTrainer(SETTINGS, collection(), tmp_path)
    assert trainer.mean.shape == (5, trainer.body.size)
    # It walks at 1.2 m/s, recordings are played at 0.8 to 1.2 of their speed.
    assert trainer.mean[:, 1].tolist() == pytest.approx([0.04 * k for k in range(1, 6)], rel=0.1)


def test_losses_of_a_perfect_network_are_zero_but_for_feet_that_skate(tmp_path):
    trainer = StreamTrainer(SETTINGS, collection(), tmp_path)
    windows = trainer.source.draw(4, 16, np.random.default_rng(0))
    x0 = (blocks_of(windows, 5)[0][..., 1:, :] - trainer.mean) / trainer.spread
    heard = {}

    def perfect(x, time, **told):
        heard.update(told, x=x, time=time)
        return x0

    losses = trainer.losses(windows, np.random.default_rng(1), perfect)
    assert float(losses["features"]) < 1e-10
    assert float(losses["positions"]) < 1e-10
    assert float(losses["velocities"]) < 1e-5
    assert float(losses["rests"]) < 0.3**2 * 2  # resting feet are slower than 0.3 m/s
    assert heard["time"].shape == (4, 3)
    assert heard["time"].unique().numel() == 12  # every block has its own level
    steered = heard["steered"]
    assert torch.equal(heard["x"][steered][:, PATH], x0[steered][:, PATH])
    assert not torch.isclose(heard["x"][~steered][:, PATH], x0[~steered][:, PATH]).any()
    unsure = (heard["clean"] - x0).flatten(1).std(1)
    assert float(unsure.max()) < 0.1 * 1.3
    moved = x0 + (torch.arange(5) == 0)[:, None] * 0.1
    later = trainer.losses(windows, np.random.default_rng(1), lambda *_, **__: moved)
    assert float(later["velocities"]) > 1e-3  # a jump from the frame before the block counts


def test_places_are_known_in_all_ways():
    source = np.random.default_rng(0)
    drawn = torch.stack([steered_by_chance(10, source) for _ in range(2000)])
    count = drawn.sum(1)
    assert float((count == 0).float().mean()) == pytest.approx(STEERED["none"], abs=0.04)
    assert float((count == 10).float().mean()) == pytest.approx(STEERED["all"], abs=0.04)
    last = (count == 1) & drawn[:, -1]
    assert float(last.float().mean()) == pytest.approx(STEERED["last"], abs=0.04)


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path):
    whole = StreamTrainer(SETTINGS, collection(), tmp_path / "whole")
    whole.run()
    StreamTrainer(SETTINGS, collection(), tmp_path / "parts").run(stop_at=4)
    second = StreamTrainer(SETTINGS, collection(), tmp_path / "parts")
    assert second.step == 4
    second.run()
    for name, value in whole.average.average.items():
        assert torch.equal(second.average.average[name], value)
    rows = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    assert rows[-1]["held_out"] == second.held_out_loss()


def test_a_network_that_saw_one_clip_alone_walks_on(tmp_path):
    settings = SETTINGS.model_copy(update={
        "steps": 110, "learning_rate": 2e-2, "warmup": 10, "average": 0.95, "log_every": 110, "speeds": (1.0, 1.0),
        "held_out": (), "checkpoint_minutes": 9, "model": TINY.model_copy(update={"history_noise": 0.02}),
    })  # fmt: skip
    trainer = StreamTrainer(settings, collection(), tmp_path)
    trainer.run()
    trainer.export(tmp_path / "one.safetensors")
    model = load_stream(tmp_path / "one.safetensors")
    clip = walk(60)
    commands = [Command("walk")] * 4
    found = stream(model, commands, history=clip.cut(0, 31), calls=5, generator=torch.Generator().manual_seed(0))
    made, truth = concatenated(list(found)).positions(), clip.positions()[31:51]
    still = float((truth - clip.positions()[30]).norm(dim=-1).mean())
    assert still > 0.3
    assert float((made - truth).norm(dim=-1).mean()) < 0.5 * still  # no standing body would do
    steps = torch.cat([clip.positions()[30:31], made]).diff(dim=0).norm(dim=-1).mean(-1)
    assert float(steps.max()) < 3 * float(truth.diff(dim=0).norm(dim=-1).mean())  # no jump, into the first block either


def test_a_configuration_becomes_a_stream_on_disk(tmp_path):
    save_collection(tmp_path / "clips.safetensors", collection())
    config, model = tmp_path / "tiny.yaml", tmp_path / "tiny.safetensors"
    config.write_text(SETTINGS.model_copy(update={"steps": 1}).model_dump_json())
    runner = CliRunner()
    run = runner.invoke(
        app, ["train", str(config), "--data", f"{tmp_path}/clips.safetensors", "-o", str(model), "-q", "--half"]
    )
    assert run.exit_code == 0, run.output
    assert is_stream(model)
    assert read_stream(model).config == TINY
    assert "stream_transformer" in model.with_suffix(".md").read_text()
    parts = ["stream", str(model), "--action", "walk:1", "--action", "stand:0.7", "--calls", "1", "-q"]
    for name in ("a.bvh", "b.bvh", "c.glb"):
        run = runner.invoke(app, [*parts, "-o", str(tmp_path / name)])
        assert run.exit_code == 0, run.output
    assert quietly(tmp_path / "a.bvh").frames == 51
    assert (tmp_path / "a.bvh").read_bytes() == (tmp_path / "b.bvh").read_bytes()
    assert (tmp_path / "c.glb").read_bytes()[:4] == b"glTF"
    for arguments, found in (
        ([*parts, "-o", str(tmp_path / "a.bvh")], "existing output"),
        ([*parts[:2], "--action", "walk", "-o", str(tmp_path / "d.bvh")], "ACTION:SECONDS"),
        ([*parts[:2], "--action", "fly:2", "-o", str(tmp_path / "d.bvh")], "fly"),
        (["draw", *parts[1:4], "-o", str(tmp_path / "d.bvh")], "fewstep motion stream 1"),
    ):
        with pytest.raises(InputError, match=found):
            runner.invoke(app, arguments, catch_exceptions=False)
    assert not (tmp_path / "d.bvh").exists()


def test_a_recipe_is_read_by_its_kind(tmp_path):
    small = read_recipe("motion/stream_small")
    assert isinstance(small, StreamTraining)
    assert type(read_recipe("motion/base_small")) is MotionTraining
    assert type(trainer_of(SETTINGS, collection(), tmp_path)) is StreamTrainer
    (tmp_path / "bad.yaml").write_text("kind: motion_strem\n")
    with pytest.raises(InputError, match="motion_strem"):
        read_recipe(tmp_path / "bad.yaml")
    trainer_of(SETTINGS, collection(), tmp_path).export(tmp_path / "stream.safetensors")
    with pytest.raises(InputError, match="kind"):
        load_model(tmp_path / "stream.safetensors")

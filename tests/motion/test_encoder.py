"""The encoder of windows: what it may know, that its training is the same when it stops in between, and its file."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from motion.actions import ACTION
from motion.cli import app
from motion.collection import Clip, Collection, real_clips, save_collection
from motion.encoder import EncoderConfig, MotionEncoder, load_encoder, on_body, windows_of
from motion.encoder_training import EncoderTrainer, EncoderTraining
from motion.features import Body
from motion.mirror import mirrored
from motion.rotations import about_axis
from shared.errors import InputError
from tests.motion.figures import body, walk

TINY = EncoderConfig(width=8, size=3, frames=16)
SETTINGS = EncoderTraining(
    name="motion/tiny", model=TINY, steps=6, batch=4, learning_rate=3e-3, warmup=2, average=0.9, log_every=3,
    held_out=("other",), checkpoint_minutes=0,
)  # fmt: skip


def collection(frames: int = 60, names: tuple[str, ...] = ("first", "first mirrored", "other")) -> Collection:
    figure = Body(body())
    motion = walk(frames)
    clips = []
    for name in names:
        seen = mirrored(motion) if "mirrored" in name else motion
        actions = torch.full((frames,), ACTION["walk"])
        clips.append(Clip(name, f"made/{name}.bvh", "CC0", figure.encode(seen).float(), actions))
    return Collection(figure, 30.0, tuple(clips))


@pytest.fixture(scope="module")
def encoder() -> MotionEncoder:
    return load_encoder()


def test_the_packaged_encoder_is_small_and_says_what_it_is():
    encoder = load_encoder()
    parameters = sum(value.numel() for value in encoder.network.parameters())
    assert parameters == encoder.facts["parameters"] < 1_000_000
    assert encoder.facts["steps"] == encoder.facts["of_steps"]
    assert "talk_b" in encoder.facts["held_out"]


def test_features_do_not_depend_on_where_the_body_is(encoder):
    motion = walk(80)
    features, moved = on_body(motion, encoder.body, 30.0)
    assert moved
    turn = about_axis(2, torch.tensor(2.1, dtype=torch.float64))
    elsewhere, _ = on_body(motion.placed(turn, torch.tensor([3.0, -2.0, 0.0]).double()), encoder.body, 30.0)
    here, there = encoder.encode(features, 10), encoder.encode(elsewhere, 10)
    assert here.shape == (3, encoder.config.size)
    assert torch.allclose(here, there, atol=2e-3)
    assert (here[0] - here[1]).norm() > 0.1


def test_features_of_a_window_know_nothing_from_beyond_it(encoder):
    features, _ = on_body(walk(100), encoder.body, 30.0)
    whole = encoder.encode(features, 20)
    parts = torch.cat([encoder.encode(features[start : start + 60], 1) for start in (0, 20, 40)])
    assert torch.allclose(whole, parts, atol=1e-4)
    assert len(encoder.encode(features[:59], 1)) == 0


def test_windows_are_the_frames_of_the_clip():
    frames = torch.arange(20.0)[:, None].expand(-1, 3)
    assert windows_of(frames, 8, 5)[:, :, 0].tolist() == [[k + j for j in range(8)] for k in (0, 5, 10)]


def test_a_stopped_training_goes_on_bit_for_bit_and_its_features_are_standard(tmp_path):
    whole = EncoderTrainer(SETTINGS, collection(), tmp_path / "whole")
    whole.run()
    first = EncoderTrainer(SETTINGS, collection(), tmp_path / "parts")
    first.run(stop_at=2)
    second = EncoderTrainer(SETTINGS, collection(), tmp_path / "parts")
    assert second.step == 2
    second.run()
    for name, value in whole.average.average.items():
        assert torch.equal(second.average.average[name], value)
    rows = [json.loads(line) for line in (tmp_path / "whole/log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    assert {"inputs", "actions", "held_out_inputs", "held_out_actions"} <= set(rows[0])
    clips = [clip.features for clip in collection().clips[:2]]
    found = torch.cat([whole.encoder().encode(one, 15) for one in clips])
    assert torch.allclose(found.mean(0), torch.zeros(3).double(), atol=1e-5)
    assert torch.allclose(found.std(0), torch.ones(3).double(), atol=1e-4)


def test_training_tells_more_of_the_window(tmp_path):
    model = TINY.model_copy(update={"width": 32, "size": 8})
    settings = SETTINGS.model_copy(update={"model": model, "batch": 8, "steps": 40, "learning_rate": 1e-2})
    trainer = EncoderTrainer(settings, collection(), tmp_path)
    losses = [trainer.train_step()["inputs"] for _ in range(40)]
    assert max(losses[-4:]) < 0.8 * losses[0]  # which is about that of the mean


def test_only_real_clips_are_seen():
    clips = collection(30, ("a", "a mirrored", "a reversed", "a reversed mirrored", "b"))
    assert [clip.name for clip in real_clips(clips, 16)] == ["a", "a mirrored", "b"]
    assert [clip.name for clip in real_clips(clips, 16, ["a"])] == ["b"]
    assert [clip.name for clip in real_clips(clips, 16, ["a"], only_held_out=True)] == ["a", "a mirrored"]
    with pytest.raises(InputError, match="held-out clips: found c"):
        real_clips(clips, 16, ["c"])
    with pytest.raises(InputError, match="none of 31 frames"):
        real_clips(clips, 31)


def test_the_command_trains_and_writes_a_card(tmp_path):
    save_collection(tmp_path / "clips.safetensors", collection())
    config, output = tmp_path / "tiny.yaml", tmp_path / "tiny.safetensors"
    config.write_text(SETTINGS.model_dump_json())
    words = ["train-encoder", str(config), "--data", str(tmp_path / "clips.safetensors"), "-o", str(output), "-q"]
    run = CliRunner().invoke(app, [*words, "--half"])
    assert run.exit_code == 0, run.output
    card = output.with_suffix(".md").read_text()
    assert "made: CC0 | 1 | 2 |" in card
    assert "held out: other" in card
    encoder = load_encoder(output)
    features = collection().clips[0].features
    trainer = EncoderTrainer(SETTINGS, collection(), tmp_path / "tiny")
    assert torch.allclose(encoder.encode(features, 7), trainer.encoder().encode(features, 7), atol=0.02)
    with pytest.raises(InputError, match="train-encoder"):
        load_encoder(tmp_path / "clips.safetensors")
    with pytest.raises(InputError, match="on the encoder's body"):
        encoder.encode(torch.zeros(30, 7), 1)

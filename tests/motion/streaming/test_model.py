"""Streams: placed in the world without a jump, led to places, repeatable, endless; and commands for them."""

from __future__ import annotations

import gc
import math

import pytest
import torch

from motion.blending import concatenated
from motion.features import HEADING, PATH, Body, placed_at, seen_from
from motion.rotations import about_axis, geodesic
from motion.streaming.commands import Command, along, in_blocks
from motion.streaming.config import StreamConfig
from motion.streaming.model import StreamModel, stream
from motion.streaming.network import StreamTransformer
from shared.errors import InputError
from tests.motion.figures import body, walk

BLOCK = 4
CONFIG = StreamConfig(width=16, depth=1, heads=2, feedforward=24, embedding=8, block=BLOCK, window=2)


def model(network: type[StreamTransformer] = StreamTransformer) -> StreamModel:
    """Return an untrained model whose bodies are upright, more or less."""
    figure = Body(body())
    torch.manual_seed(0)
    made = network(CONFIG, figure.size).eval().requires_grad_(False)
    features = figure.encode(walk(BLOCK)).float()
    features[:, PATH] = 0.1
    features[:, HEADING] = torch.tensor([1.0, 0.05])
    return StreamModel(CONFIG, figure, made, features, torch.full_like(features, 0.1))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Recorded(StreamTransformer):
    """Makes the blocks of a recording one after the other, whatever it is given."""

    clean: list[torch.Tensor]

    def block(self, x, time, cache, **conditions):
        _, made = super().block(x, time, cache, **conditions)
        return self.clean[cache.seen // BLOCK][None], made


def turning(frames: int):
    """Return a walk on a curve, somewhere in the world."""
    motion = walk(frames)
    turn = about_axis(2, torch.linspace(0, 2.0, frames, dtype=torch.float64))
    rotations = torch.cat([(turn @ motion.rotations[:, 0])[:, None], motion.rotations[:, 1:]], 1)
    motion = type(motion)(motion.skeleton, motion.root, rotations, motion.fps)
    return motion.placed(about_axis(2, torch.tensor(2.5, dtype=torch.float64)), torch.tensor([4.0, -7.0, 0.0]).double())


@pytest.mark.parametrize("past", [0, 2])
def test_blocks_of_a_recording_come_back_where_it_was(past):
    made, clip = model(Recorded), turning(1 + 8 * BLOCK)
    features = made.body.encode(clip)
    made.network.clean = [
        made.normalised(seen_from(features[k : k + BLOCK + 1])[1:]) for k in range(0, 8 * BLOCK, BLOCK)
    ]
    history = None
    if past:
        history = clip.cut(0, 1 + past * BLOCK)
    else:  # the frame before the first block stands at the origin, facing y
        clip = clip.canonical()[0]
    blocks = list(stream(made, [Command()] * (8 - past), history=history, calls=2, generator=seeded()))
    found, expected = concatenated(blocks), clip.cut(1 + past * BLOCK)
    assert [part.frames for part in blocks] == [BLOCK] * (8 - past)
    assert torch.allclose(found.positions(), expected.positions(), atol=1e-5)
    assert float(geodesic(found.rotations, expected.rotations).max()) < 1e-3


def test_hips_are_led_to_places_in_the_world():
    made = model()
    history = turning(3 * BLOCK)
    commands, expected = [], []
    for k in range(4):
        path = torch.full((BLOCK, 2), math.nan)
        path[-1] = torch.tensor([3.0 + 0.3 * k, -6.0])
        if k == 2:
            path[1] = torch.tensor([3.5, -6.1])
        commands.append(Command("walk", path))
        expected += [*path]
    found = concatenated(list(stream(made, commands, history=history, calls=2, generator=seeded())))
    wanted = torch.stack(expected)
    told = ~wanted.isnan().any(-1)
    assert int(told.sum()) == 5
    assert torch.allclose(found.root[told, :2].float(), wanted[told], atol=1e-5)
    free = concatenated(list(stream(made, [Command("walk")] * 4, history=history, calls=2, generator=seeded())))
    assert float((free.root[told, :2].float() - wanted[told]).norm(dim=-1).min()) > 0.1


def test_streams_repeat_with_the_seed_and_hear_their_commands():
    made = model()

    def drawn(seed: int, action: str) -> torch.Tensor:
        return concatenated(list(stream(made, [Command(action)] * 3, calls=2, generator=seeded(seed)))).positions()

    usual = drawn(0, "walk")
    assert torch.equal(usual, drawn(0, "walk"))
    assert not torch.allclose(usual, drawn(1, "walk"), atol=1e-3)
    assert not torch.allclose(usual, drawn(0, "run"), atol=1e-6)


def test_a_command_is_taken_when_the_block_before_is_out():
    made, asked = model(), []

    def commands():
        for k in range(3):
            asked.append(k)
            yield Command()

    running = stream(made, commands(), calls=1, generator=seeded())
    for k in range(3):
        next(running)
        assert asked == list(range(k + 1))


def test_hundreds_of_blocks_need_no_more_memory_than_ten():
    made = model()
    caches = []
    fresh = made.network.new_cache
    made.network.new_cache = lambda: caches.append(fresh()) or caches[-1]

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    taken = {}
    for k, made_block in enumerate(stream(made, (Command() for _ in range(300)), calls=1, generator=seeded())):
        if k in (9, 299):
            last = made_block
            taken[k] = (tensors(), caches[0].bytes, len(caches[0]))
    assert taken[9] == taken[299]
    assert taken[9][1:] == (2 * 2 * 2 * BLOCK * 8 * 4, 2 * BLOCK)
    assert caches[0].seen == 300 * BLOCK
    turned = last.rotations[:, 0]
    assert torch.allclose(turned @ turned.transpose(-1, -2), torch.eye(3).double(), atol=1e-12)
    assert math.isfinite(float(last.root.abs().max()))


def test_placed_at_is_the_inverse_of_seen_from():
    features = Body(body()).encode(turning(20))
    assert torch.allclose(placed_at(seen_from(features, 7), features[7]), features, atol=1e-12)


def test_mistakes_are_told():
    made = model()
    for command, found in (
        (Command("fly"), "fly"),
        (Command(["walk"] * 3), "3 for 4 frames"),
        (Command(path=torch.zeros(3, 2)), r"shape \(3, 2\)"),
        (Command(path=torch.tensor([[math.nan, 1.0]] * BLOCK)), "both coordinates"),
    ):
        with pytest.raises(InputError, match=found):
            next(stream(made, [command]))
    with pytest.raises(InputError, match="4 frames at 30"):
        next(stream(made, [Command()], history=walk(BLOCK)))
    with pytest.raises(InputError, match="frames at 60"):
        next(stream(made, [Command()], history=walk(30, fps=60)))


def test_actions_are_cut_into_blocks():
    found = list(in_blocks(["walk"] * 5 + ["stand"] * 2, 4))
    assert [command.action for command in found] == [["walk"] * 4, ["walk", "stand", "stand", "stand"]]
    assert all(command.path is None for command in found)


def test_a_way_is_walked_at_its_speed():
    # A right angle of 3 and 4 m at 1 m/s, half a second a block: 14 blocks.
    found = list(along([(1, 1), (4, 1), (4, 1), (4, 5)], 1.0, block=15))
    places = torch.stack([command.path[-1] for command in found])
    assert len(found) == 14
    assert places[0].tolist() == pytest.approx([1.5, 1.0])
    assert places[5].tolist() == pytest.approx([4.0, 1.0])
    assert places[6].tolist() == pytest.approx([4.0, 1.5])
    assert places[-1].tolist() == pytest.approx([4.0, 5.0])
    assert all(command.path[:-1].isnan().all() and command.action == "walk" for command in found)
    ends = [float(command.path[-1, 1]) for command in along([(0, 0), (0, 1.2)], 1.0, block=15)]
    assert ends == pytest.approx([0.5, 1.0, 1.2])
    for points in ([(0, 0)], [(0, 0), (0, 0)], [(0, math.nan), (1, 0)]):
        with pytest.raises(InputError, match="way"):
            list(along(points, 1.0, block=15))
    with pytest.raises(InputError, match="speed"):
        list(along([(0, 0), (1, 0)], 0, block=15))

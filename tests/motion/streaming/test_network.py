"""That blocks from a cache are those of full recomputation, and what a block depends on."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from motion.network import frames_left
from motion.streaming.config import StreamConfig
from motion.streaming.network import StreamTransformer

SIZES = {"width": 16, "depth": 3, "heads": 2, "feedforward": 24, "embedding": 8, "block": 3}
FEATURES = 5


def network(sink: int, window: int, dtype: torch.dtype = torch.float64) -> StreamTransformer:
    torch.manual_seed(0)
    made = StreamTransformer(StreamConfig(sink=sink, window=window, **SIZES), FEATURES)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.to(dtype).eval().requires_grad_(False)


def sequence(blocks: int, dtype: torch.dtype = torch.float64, count: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    shape = (count, blocks, SIZES["block"])
    x, clean = torch.randn(2, *shape, FEATURES, generator=generator, dtype=torch.float64).to(dtype)
    return {
        "x": x,
        "clean": clean,
        "time": torch.rand(shape[:2], generator=generator, dtype=torch.float64).to(dtype),
        "actions": torch.randint(0, 14, shape, generator=generator),
        "steered": torch.randint(0, 2, shape, generator=generator),
    }


def streamed(net: StreamTransformer, parts: dict[str, torch.Tensor], start: int = 0) -> torch.Tensor:
    """Return the estimates (N, L - start, B, D) of blocks made one after the other with a cache."""
    cache, found = net.new_cache(), []
    for k in range(start, parts["x"].shape[1]):
        x, clean, time, actions, steered = (parts[name][:, k] for name in ("x", "clean", "time", "actions", "steered"))
        found.append(net.block(x, time, cache, actions=actions, steered=steered)[0])
        told = torch.ones_like(steered)
        cache.append(net.block(clean, torch.zeros_like(time), cache, actions=actions, steered=told)[1])
    return torch.stack(found, 1)


def recomputed(net: StreamTransformer, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return all estimates from one sequence [clean blocks, noisy blocks] under an explicit mask, pair by pair.

    The distance of a pair of tokens is that of their places when the key is read: a block sees its sink, its window and
    itself in one row.
    """
    config, (count, blocks, frames) = net.config, parts["actions"].shape
    block_of, copy_of = torch.arange(2 * blocks) % blocks, torch.arange(2 * blocks) // blocks
    seen = torch.zeros(2 * blocks, 2 * blocks, dtype=torch.bool)
    places = torch.zeros(2 * blocks, 2 * blocks)  # of the key's block, counted from the query's
    for query in range(2 * blocks):
        k = int(block_of[query])
        past = [j for j in range(k) if j < config.sink or j >= k - config.window]
        for place, j in enumerate(past):
            seen[query, j], places[query, j] = True, place - len(past)
        seen[query, query] = True
    mask = seen.repeat_interleave(frames, 0).repeat_interleave(frames, 1)
    inside = torch.arange(frames).repeat(2 * blocks)
    apart = places.repeat_interleave(frames, 0).repeat_interleave(frames, 1) * frames + inside - inside[:, None]
    half = config.width // config.heads // 2
    rates = 1000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    turns = torch.polar(torch.ones(1, dtype=torch.float64), apart.double()[..., None] * rates)  # of key against query

    def complexes(vectors: torch.Tensor) -> torch.Tensor:
        return torch.complex(vectors[..., :half].double(), vectors[..., half:].double())

    def one(values: torch.Tensor) -> torch.Tensor:
        return values.flatten(1, 2)

    actions = torch.cat([parts["actions"]] * 2, 1)
    steered = torch.cat([torch.ones_like(parts["steered"]), parts["steered"]], 1)
    x = torch.cat([parts["clean"], parts["x"]], 1)
    left = frames_left(actions.flatten(0, 1)).view_as(actions)
    h = net.enter(torch.cat([one(x), one(steered)[..., None].to(x)], -1))
    h = h + one(net.action(actions) + net.place.weight + net.left(left))
    times = torch.where(copy_of == 0, 0.0, torch.cat([parts["time"]] * 2, 1))
    level = net.level(times.flatten().to(x)).view(count, 2 * blocks, -1).repeat_interleave(frames, 1)
    for layer in net.layers:
        scale, shift, scale2, shift2 = layer.modulation(level).chunk(4, -1)
        parts_of = layer.project(functional.layer_norm(h, h.shape[-1:]) * (1 + scale) + shift)
        query, key, value = parts_of.unflatten(-1, (3, config.heads, -1)).permute(2, 0, 3, 1, 4)
        score = torch.einsum("nhqc,nhkc,qkc->nhqk", complexes(query).conj(), complexes(key), turns).real
        score = (score / math.sqrt(2 * half)).masked_fill(~mask, -math.inf)
        found = (score.softmax(-1).to(value) @ value).transpose(1, 2).flatten(2)
        h = h + layer.gather(found)
        h = h + layer.forward_layers(functional.layer_norm(h, h.shape[-1:]) * (1 + scale2) + shift2)
    return net.leave(net.norm(h)).unflatten(1, (2, blocks, frames))[:, 1]


@pytest.mark.parametrize(("sink", "window"), [(0, 1), (0, 3), (1, 2), (2, 2), (0, 20)])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_blocks_from_a_cache_are_those_of_full_recomputation(sink, window, dtype, within):
    net, parts = network(sink, window, dtype), sequence(9, dtype)
    expected = recomputed(net, parts)
    assert float(expected.std()) > 0.1
    assert torch.allclose(streamed(net, parts), expected, atol=within, rtol=0)
    assert torch.allclose(net(**parts), expected, atol=within, rtol=0)


def test_a_block_depends_on_its_own_noise_and_on_clean_blocks_before_it():
    net, parts = network(0, 2), sequence(8)
    usual = net(**parts)
    for name, changed in (("x", [4]), ("time", [4]), ("clean", [5, 6, 7]), ("actions", [4, 5, 6, 7])):
        other = parts | {name: parts[name].clone()}
        other[name][:, 4] = (other[name][:, 4] + 1) % 14 if name == "actions" else other[name][:, 4] * 0.5
        moved = (net(**other) - usual).abs().amax((0, 2, 3))
        assert [k for k in range(8) if moved[k] > 1e-6] == changed
        assert all(moved[k] == 0 for k in range(4))


def test_how_long_the_stream_has_run_does_not_matter():
    parts = sequence(12)
    # What a block sees reaches back window * depth blocks; older ones, and how many they were, are forgotten.
    net = network(0, 2)
    late = streamed(net, parts, 5)
    assert torch.allclose(streamed(net, parts)[:, -1], late[:, -1], atol=1e-12)
    with_sink = network(1, 2)
    assert not torch.allclose(streamed(with_sink, parts)[:, -1], streamed(with_sink, parts, 5)[:, -1], atol=1e-4)


def test_a_block_is_told_what_it_is_asked_for():
    net, parts = network(0, 2), sequence(1)
    usual = net(**parts)
    for name in ("steered", "actions"):
        other = parts | {name: 1 - parts[name].clamp(max=1)}
        assert float((net(**other) - usual).abs().max()) > 1e-3


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of twice"):
        StreamConfig(width=36, heads=4)
    assert StreamConfig(block=15, blocks=6).frames == (91, 91)

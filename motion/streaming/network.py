r"""A transformer over blocks of frames: noisy block in, estimate of the clean one out, in sight of clean ones before.

    h_k   = W [x_k, m_k] + a_k + p_k + r_k                                token of frame k of a block
    h    <- h + Attention(M_1(h), past),  h <- h + W_2 gelu(W_1 M_2(h))   in each layer, M(h) = (1 + s) LayerNorm(h) + b
    x0_k  = W_out LayerNorm(h_k)

with x the noisy features, m whether the place of the hips is known in that frame (then it is in x without noise), and
embeddings of the frame's action, of its place in the block and of how long its action goes on in the block; (s, b) are
linear in an embedding of the block's own noise level. A block sees itself and, of the clean blocks before it, the first
`sink` and the last `window`. These were written at level 0 and saw their own past in the same way.

Frames of a block are seen from where the body stands in the last frame of the block before (`motion.features`), so
features, and with them keys and values, mean the same for ever. Rotary positions are places in the cache
(`shared.reuse.rolling`).

`forward` is the training: all blocks at once, clean and noisy copies side by side. `block` is the stream: one block and
a cache. Both give the same numbers.

References:
    Chen et al., Diffusion Forcing, 2024 (a noise level for each part of a sequence).
    Feng et al., Inferix, 2025 (blocks with a cache of clean keys and values).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from motion.network import frames_left, rotary, rotated
from motion.streaming.config import StreamConfig
from shared.networks import TimeEmbedding
from shared.reuse.rolling import RollingCache, kept_tokens

# From a layer's index and the keys and values (..., H, B, w) of its tokens to all that they see: keys and values
# (..., H, T, w), their own last, and what of it is there, bool (..., 1, 1, T), or None.
Seen = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]]


class StreamTransformer(nn.Module):
    """The network of the module's formulas.

    Args:
        config: sizes.
        features: D of the body.
    """

    def __init__(self, config: StreamConfig, features: int) -> None:
        super().__init__()
        self.config = config
        self.level = TimeEmbedding(config.embedding)
        self.enter = nn.Linear(features + 1, config.width)
        self.action = nn.Embedding(len(config.actions), config.width)
        self.place = nn.Embedding(config.block, config.width)
        self.left = nn.Embedding(config.block, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, features)
        for table in (self.action, self.place, self.left):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, x: Tensor, time: Tensor, *, actions: Tensor, steered: Tensor, clean: Tensor) -> Tensor:
        """Return the estimate (N, L, B, D) of all L blocks of a sequence, each from the clean ones before it.

        Args:
            x: noisy features (N, L, B, D), normalised, known places as they are without noise.
            time: of the noise of each block, (N, L) in [0, 1].
            actions: indices (N, L, B).
            steered: whether the place of the hips is known, (N, L, B) of 0 and 1.
            clean: the blocks without noise, (N, L, B, D).
        """
        config, (count, blocks) = self.config, time.shape
        places, there = _past(blocks, config.sink, config.window)
        there = torch.cat([there, torch.ones(blocks, 1, dtype=torch.bool)], 1).repeat_interleave(config.block, 1)
        mask = there.to(x.device)[:, None, None]

        def seen(_: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            """Put before the keys of clean and noisy copies (N, 2, L, H, B, w) those of the clean ones they see."""
            found = []
            for own in (key, value):
                past = own[:, 0, places].transpose(2, 3).flatten(3, 4)  # (N, L, H, slots * B, w)
                found.append(torch.cat([past[:, None].expand(-1, 2, -1, -1, -1, -1), own], -2))
            return found[0], found[1], mask

        both = torch.stack([clean, x], 1)
        told = torch.stack([torch.ones_like(steered), steered], 1)
        times = torch.stack([torch.zeros_like(time), time], 1)
        estimate, _ = self._run(both, times, actions[:, None].expand(count, 2, -1, -1), told, seen)
        return estimate[:, 1]

    def block(
        self, x: Tensor, time: Tensor, cache: RollingCache, *, actions: Tensor, steered: Tensor
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return the estimate (N, B, D) of one block, and what `cache.append` takes: keys and values of its layers.

        Args:
            x: noisy features (N, B, D), normalised, known places as they are without noise.
            time: of its noise, (N,) in [0, 1]; 0 for a finished block that is to be written.
            cache: of the blocks before it, made by `new_cache`; it is only read.
            actions: indices (N, B).
            steered: whether the place of the hips is known, (N, B) of 0 and 1; 1 in a finished block.
        """

        def seen(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
            if not len(cache):
                return key, value, None
            keys, values = cache.read(layer)
            return torch.cat([keys, key], -2), torch.cat([values, value], -2), None

        return self._run(x, time, actions, steered, seen)

    def new_cache(self) -> RollingCache:
        """Return an empty cache for one stream (or N side by side)."""
        config = self.config
        return RollingCache(config.sink * config.block, config.window * config.block)

    def _run(
        self, x: Tensor, time: Tensor, actions: Tensor, steered: Tensor, seen: Seen
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return estimate (..., B, D), and keys and values (..., H, B, w) of each layer."""
        config = self.config
        left = frames_left(actions.reshape(-1, config.block)).view_as(actions)
        h = self.enter(torch.cat([x, steered[..., None].to(x)], -1))
        h = h + self.action(actions) + self.place.weight + self.left(left)
        level = self.level(time.flatten().to(x)).unflatten(0, time.shape)[..., None, :]
        turn = rotary((config.sink + config.window + 1) * config.block, config.width // config.heads, h)
        made = []
        for index, layer in enumerate(self.layers):
            h, pair = layer(h, level, turn, lambda key, value, index=index: seen(index, key, value))
            made.append(pair)
        return self.leave(self.norm(h)), made


class Layer(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm that the noise level scales and shifts."""

    def __init__(self, config: StreamConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.modulation = nn.Linear(config.embedding, 4 * width)
        self.project = nn.Linear(width, 3 * width)
        self.gather = nn.Linear(width, width)
        self.forward_layers = nn.Sequential(
            nn.Linear(width, config.feedforward), nn.GELU(approximate="tanh"), nn.Linear(config.feedforward, width)
        )
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        h: Tensor,
        level: Tensor,
        turn: tuple[Tensor, Tensor],
        seen: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor | None]],
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return the next tokens (..., B, width), and their keys and values (..., H, B, w) without positions.

        Args:
            h: tokens (..., B, width).
            level: embedding of the noise level, (..., 1, E).
            turn: cosines and sines of all places of the cache and of the block after them.
            seen: of this layer.
        """
        scale, shift, scale2, shift2 = self.modulation(level).chunk(4, -1)
        shape = h.shape[-1:]
        normed = functional.layer_norm(h, shape) * (1 + scale) + shift
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(-2, -3) for part in self._parts(normed))
        keys, values, mask = seen(key, value)
        found = functional.scaled_dot_product_attention(
            _at_the_end(query, turn).flatten(0, -4),
            _at_the_end(keys, turn).flatten(0, -4),
            values.flatten(0, -4),
            attn_mask=None if mask is None else mask.expand(*keys.shape[:-3], 1, -1, -1).flatten(0, -4),
        )
        h = h + self.gather(found.view_as(query).transpose(-2, -3).flatten(-2))
        return h + self.forward_layers(functional.layer_norm(h, shape) * (1 + scale2) + shift2), (key, value)

    def _parts(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.project(normed).chunk(3, -1)
        return query, key, value


def _at_the_end(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Return vectors (..., T, w) turned as the last T places are."""
    cos, sin = (part[-x.shape[-2] :] for part in turn)
    return rotated(x, (cos, sin))


def _past(blocks: int, sink: int, window: int) -> tuple[Tensor, Tensor]:
    """Return which blocks each block sees of its past, (L, sink + window), and where there is one, bool likewise."""
    places = torch.zeros(blocks, sink + window, dtype=torch.long)
    there = torch.zeros(blocks, sink + window, dtype=torch.bool)
    for block in range(blocks):
        kept = kept_tokens(block, sink, window)
        if kept:
            places[block, -len(kept) :] = torch.tensor(kept)
            there[block, -len(kept) :] = True
    return places, there

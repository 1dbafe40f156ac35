r"""A transformer over frames: noisy features in, the estimate of the clean ones out.

    h_k   = W x_k + W_m m_k + a_k + W_c c_k                        token of frame k
    h    <- h + Attention(M_1(h)),  h <- h + W_2 gelu(W_1 M_2(h))   in each block, M(h) = (1 + s) LayerNorm(h) + b
    x0_k  = W_out LayerNorm(h_k)

with x the noisy features, in which known ones are put already, m which groups of them are known (`motion.features`), a
the embedding of the frame's action, c the seconds since the window's first frame and until the action ends, both as
sines and cosines, and (s, b) linear in an embedding of the noise level. Positions enter the attention by rotation of
queries and keys (RoPE), so that it depends on distances alone, and keys of frames gone by need not be made again.

References:
    Tevet et al., Human Motion Diffusion Model, 2023 (a transformer encoder that predicts x_0).
    Su et al., RoFormer, 2021 (rotary positions).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from motion.config import MotionConfig
from motion.features import GROUPS
from shared.networks import TimeEmbedding

WAVES = 8  # sines and cosines each of a time in seconds
SLOWEST, FASTEST = 8.0, 0.1  # s, periods


class MotionTransformer(nn.Module):
    """The network of the module's formulas.

    Args:
        config: sizes.
        features: D of the body.
    """

    waves: Tensor

    def __init__(self, config: MotionConfig, features: int) -> None:
        super().__init__()
        self.fps, self.head_width = config.fps, config.width // config.heads
        periods = torch.exp(torch.linspace(math.log(SLOWEST), math.log(FASTEST), WAVES))
        self.register_buffer("waves", 2 * math.pi / periods, persistent=False)
        self.level = TimeEmbedding(config.embedding)
        self.enter = nn.Linear(features + len(GROUPS), config.width)
        self.action = nn.Embedding(len(config.actions), config.width)
        self.clock = nn.Linear(4 * WAVES, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.leave = nn.Linear(config.width, features)
        nn.init.normal_(self.action.weight, std=0.02)

    def forward(
        self, x: Tensor, time: Tensor, *, actions: Tensor, known: Tensor | None = None, visible: Tensor | None = None
    ) -> Tensor:
        """Return the estimate (N, F, D) of the clean features.

        Args:
            x: noisy features (N, F, D), normalised, the known ones as they are without noise.
            time: of the noise, (N,) in [0, 1].
            actions: indices (N, F).
            known: which groups of features are known, (N, F, G) of 0 and 1; None for none.
            visible: (N or 1, F or 1, F) bool, which frames (last) a frame may look at; None for all.
        """
        h, level, turn, mask = self.begin(x, time, actions=actions, known=known, visible=visible)
        for block in self.blocks:
            h = block(h, level, turn, mask)
        return self.leave(self.norm(h))

    def begin(
        self, x: Tensor, time: Tensor, *, actions: Tensor, known: Tensor | None = None, visible: Tensor | None = None
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], Tensor | None]:
        """Return the tokens (N, F, width) before the first block, and what every block is told: level, turn, mask."""
        if known is None:
            known = x.new_zeros(*x.shape[:2], len(GROUPS))
        h = self.enter(torch.cat([x, known.to(x)], -1)) + self.action(actions)
        since = torch.arange(x.shape[1], device=x.device).expand_as(actions)
        times = torch.stack([since, frames_left(actions)], -1).to(x) / self.fps
        angle = (times[..., None] * self.waves.to(x)).flatten(-2)
        h = h + self.clock(torch.cat([angle.sin(), angle.cos()], -1))
        turn = rotary(x.shape[1], self.head_width, h)
        return h, self.level(time.to(x)), turn, None if visible is None else visible[:, None]


class Block(nn.Module):
    """Attention and feed-forward, each behind a LayerNorm that the noise level scales and shifts."""

    def __init__(self, config: MotionConfig) -> None:
        super().__init__()
        width = config.width
        self.modulation = nn.Linear(config.embedding, 4 * width)
        self.attention = Attention(width, config.heads)
        self.forward_layers = nn.Sequential(
            nn.Linear(width, config.feedforward), nn.GELU(approximate="tanh"), nn.Linear(config.feedforward, width)
        )
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, level: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Return the next tokens (N, F, width), given the embedding (N, E) of the noise level."""
        scale, shift, scale2, shift2 = self.modulation(level)[:, None].chunk(4, -1)
        shape = h.shape[-1:]
        h = h + self.attention(functional.layer_norm(h, shape) * (1 + scale) + shift, turn, mask)
        return h + self.forward_layers(functional.layer_norm(h, shape) * (1 + scale2) + shift2)


class Attention(nn.Module):
    """Multi-head attention with rotary positions."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(width, 3 * width)
        self.leave = nn.Linear(width, width)

    def forward(self, h: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """Return (N, F, width); `mask` (N or 1, 1, F or 1, F) is True where a frame may look."""
        query, key, value = self.project(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key = rotated(query, turn), rotated(key, turn)
        if mask is not None:
            mask = mask.expand(-1, -1, h.shape[1], -1)
        found = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.leave(found.transpose(1, 2).flatten(2))


def rotary(frames: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (F, width / 2) of the angle k w_i of frame k, w_i = 1000^(-2 i / width)."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    rates = 1000.0 ** (-torch.arange(0, width, 2, device=like.device, dtype=dtype) / width)
    angle = torch.arange(frames, device=like.device, dtype=dtype)[:, None] * rates
    return angle.cos().to(like), angle.sin().to(like)


def rotated(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Return vectors (..., F, width) whose halves, as pairs, are turned by the angles of their frames."""
    cos, sin = turn
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)


def frames_left(actions: Tensor) -> Tensor:
    """Return how many frames follow in which the action of each frame goes on, (N, F)."""
    count = actions.shape[1]
    index = torch.arange(count, device=actions.device).expand_as(actions)
    last = torch.ones_like(actions, dtype=torch.bool)
    last[:, :-1] = actions[:, 1:] != actions[:, :-1]
    ends = torch.where(last, index, count)
    return ends.flip(1).cummin(1).values.flip(1) - index


def block_causal(frames: int, block: int) -> Tensor:
    """Return what `visible` is when frames come in blocks, (1, F, F): all of their own and of earlier blocks."""
    place = torch.arange(frames) // block
    return (place[None, :] <= place[:, None])[None]

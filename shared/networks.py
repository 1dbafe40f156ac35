r"""Small networks for small data: a residual MLP told the noise level.

    h   = W_in x + b_in
    h  <- h + W_2 silu(W_1 ((1 + scale) LayerNorm(h) + shift)),   (scale, shift) = M_k e(time),   for each block k
    out = W_out LayerNorm(h) + b_out

where e(time) is an MLP of sines and cosines of the time at frequencies spread geometrically. W_2 and W_out start at 0,
so an untrained network is 0 and, inside the preconditioning of EDM, the best linear denoiser of white data.

References:
    Vaswani et al., Attention Is All You Need, 2017 (sinusoidal embedding).
    Perez et al., FiLM, 2018 (scale and shift by a condition).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class TimeEmbedding(nn.Module):
    """Sines and cosines of the time through a two-layer MLP: (N,) -> (N, width).

    Args:
        width: size of the embedding, even.
        lowest: angular frequency of the slowest wave.
        highest: angular frequency of the fastest wave.
    """

    frequencies: Tensor

    def __init__(self, width: int, *, lowest: float = 0.5, highest: float = 32.0) -> None:
        super().__init__()
        waves = torch.exp(torch.linspace(math.log(lowest), math.log(highest), width // 2))
        self.register_buffer("frequencies", waves, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())

    def forward(self, time: Tensor) -> Tensor:
        """Return the embedding (N, width) of the times (N,)."""
        angle = time[:, None].to(self.frequencies.dtype) * self.frequencies
        return self.mlp(torch.cat([angle.sin(), angle.cos()], dim=1))


class ResidualBlock(nn.Module):
    """h + W_2 silu(W_1 modulated LayerNorm(h)).

    Args:
        width: size of h.
        condition: size of the embedding that modulates.
    """

    def __init__(self, width: int, condition: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(condition, 2 * width)
        first, last = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(first, nn.SiLU(), last)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return the next h (N, width), given the embedding (N, condition)."""
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        return h + self.layers((1 + scale) * self.norm(h) + shift)


class ResidualMLP(nn.Module):
    """A residual MLP over flat features, told the time.

    Args:
        features: numbers a sample; inputs of any shape (N, ...) with that many are flattened and shaped back.
        width: size of the hidden state.
        depth: number of residual blocks.
        embedding: size of the time embedding.
    """

    def __init__(self, features: int, *, width: int = 320, depth: int = 4, embedding: int = 128) -> None:
        super().__init__()
        self.time = TimeEmbedding(embedding)
        self.enter = nn.Linear(features, width)
        self.blocks = nn.ModuleList(ResidualBlock(width, embedding) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, features)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Return the output of the shape of x, given one time a sample (N,)."""
        embedding = self.time(time)
        h = self.enter(x.flatten(1))
        for block in self.blocks:
            h = block(h, embedding)
        return self.leave(self.norm(h)).reshape(x.shape)

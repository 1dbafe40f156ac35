r"""A residual MLP over the whole chunk, told step and observations: the smallest policy that works on Push-T.

    e   = TimeEmbedding(k / 100) + W_b silu(W_a o)
    h   = W_in x,   h <- h + block(h; e) for each block (`shared.networks.ResidualBlock`),   out = W_out LayerNorm(h)

A chunk of 16 planar actions is 32 numbers, so nothing is gained there by convolutions, which cost ten times more on a
CPU.
"""

from __future__ import annotations

from torch import Tensor, nn

from robotics.policy.networks.embedding import steps_of
from shared.networks import ResidualBlock, TimeEmbedding

STEP_UNIT = 100.0  # the waves of TimeEmbedding are made for times of about 1


class ConditionalMLP(nn.Module):
    """The MLP of the module docstring.

    Args:
        features: T A, numbers of a chunk.
        condition: T_o D_o, numbers of the observations.
        width: of the hidden state.
        depth: number of residual blocks.
        embedding: size of e, even.
    """

    def __init__(self, features: int, condition: int, *, width: int, depth: int, embedding: int) -> None:
        super().__init__()
        self.step = TimeEmbedding(embedding)
        self.observe = nn.Sequential(nn.Linear(condition, width), nn.SiLU(), nn.Linear(width, embedding))
        self.enter = nn.Linear(features, width)
        self.blocks = nn.ModuleList(ResidualBlock(width, embedding) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, features)

    @staticmethod
    def conditioning(observations: Tensor) -> dict[str, Tensor]:
        """Return the keyword arguments for normalised observations (N, T_o, D_o)."""
        return {"cond": observations}

    def forward(self, sample: Tensor, timestep: Tensor | float, *, cond: Tensor) -> Tensor:
        """Return the prediction (N, T, A) from the noisy chunk, the entry of the noise table and the observations."""
        told = self.step(steps_of(timestep, sample) / STEP_UNIT) + self.observe(cond.flatten(1))
        h = self.enter(sample.flatten(1))
        for block in self.blocks:
            h = block(h, told)
        return self.leave(self.norm(h)).reshape(sample.shape)

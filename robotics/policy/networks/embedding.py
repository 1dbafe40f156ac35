r"""The noise step as sines and cosines.

    e(k) = (sin(k w_0), ..., sin(k w_{h-1}), cos(k w_0), ..., cos(k w_{h-1})),  w_i = 10000^(-i / (h - 1)),  h = size/2

Reference: Vaswani et al., Attention Is All You Need, 2017, in the form that diffusion networks took from tensor2tensor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class StepEmbedding(nn.Module):
    """Map steps (N,) to (N, size); no parameters and no buffers, so that published weights load.

    Args:
        size: even.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, step: Tensor) -> Tensor:
        """Return the embedding, in float32."""
        half = self.size // 2
        frequencies = torch.exp(torch.arange(half, device=step.device) * (-math.log(10000.0) / (half - 1)))
        angle = step.float()[:, None] * frequencies
        return torch.cat([angle.sin(), angle.cos()], dim=1)


def steps_of(step: Tensor | float, x: Tensor) -> Tensor:
    """Return one step a sample, (N,), from a number, a scalar tensor or (N,)."""
    return torch.as_tensor(step, device=x.device).expand(x.shape[0])

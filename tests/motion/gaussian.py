"""A motion model whose denoiser is exact: every normalised feature is drawn from N(mean, spread^2) by itself."""

from __future__ import annotations

import torch
from torch import nn

from motion.config import MotionConfig
from motion.features import Body
from motion.model import MotionModel
from tests.motion.figures import body, walk

SMALL = MotionConfig(width=32, depth=2, heads=2, feedforward=48, embedding=16, frames=(24, 40))


class ExactGaussian(nn.Module):
    """E[x_0 | x_t] in closed form; counts how often it is asked."""

    def __init__(self, mean: float, spread: float) -> None:
        super().__init__()
        self.mean, self.spread, self.asked = mean, spread, 0
        self.register_buffer("moments", torch.tensor([mean, spread]))  # what tells it from another one
        self.process = SMALL.process()

    def forward(self, x, time, *, actions, known=None, visible=None):
        self.asked += 1
        alpha, sigma = (value.to(x).reshape(-1, 1, 1) for value in (self.process.alpha(time), self.process.sigma(time)))
        gain = self.spread**2 * alpha / (alpha**2 * self.spread**2 + sigma**2)
        return self.mean + gain * (x - alpha * self.mean)


def gaussian_model(mean: float = 0.1, spread: float = 0.8) -> MotionModel:
    """Return the model on the known body; a feature is walking's mean, and a tenth of what is drawn."""
    made = Body(body())
    features = made.encode(walk(60).canonical()[0]).float()
    return MotionModel(SMALL, made, ExactGaussian(mean, spread), features.mean(0), torch.full((made.size,), 0.1))

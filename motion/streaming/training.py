r"""Training of endless motion on windows of recordings: every block is made from noise in sight of the recorded past.

    loss = loss of `motion.training`, over the frames of all blocks; velocities also from the frame before a block

A window is cut into blocks, each seen from where the body stands in the frame before it. Each block has its own noise
level; beside the noisy blocks stand clean copies, which are the past of later ones (teacher forcing). Half of the
windows have noise of up to `history_noise` on these copies.

Mean and deviation of the features are those of each frame of a block: the first is near where the last one was, so its
place spreads less, and gets less noise, than that of the last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from motion.actions import ACTION
from motion.features import PATH, seen_from
from motion.files import save_model
from motion.streaming.config import StreamConfig
from motion.streaming.files import KIND
from motion.streaming.network import StreamTransformer
from motion.training import LEAST, STATISTICS_WINDOWS, MotionTrainer, MotionTraining, mean_square
from motion.windows import Windows

# Shares of blocks by the frames in which the place of the hips is known, and of the frames where some are.
STEERED = {"none": 0.4, "last": 0.3, "all": 0.15, "some": 0.15}
SOME = 0.3


class StreamTraining(MotionTraining):
    """Everything that decides a training: settings of `MotionTraining`, for another model.

    Attributes:
        kind: which training this is.
        model: what is trained.
    """

    kind: Literal["motion_stream"]
    model: StreamConfig = StreamConfig()  # type: ignore[assignment] # has what the trainer asks of a model


class StreamTrainer(MotionTrainer):
    """A training in progress, as `MotionTrainer`."""

    settings: StreamTraining

    def new_network(self) -> StreamTransformer:
        """Return what learns, at its start; numbers are drawn from torch's generator."""
        return StreamTransformer(self.settings.model, self.body.size).to(self.device)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (B, D) of the features of each frame of a block."""
        drawn = self.source.draw(STATISTICS_WINDOWS, self.settings.model.frames[1], self._for_statistics())
        features, _, valid = blocks_of(drawn, self.settings.model.block)
        frames = features[valid][:, 1:]
        return frames.mean(0), frames.std(0).clamp(min=LEAST)

    def losses(
        self, windows: Windows, source: np.random.Generator, network: Callable[..., Tensor]
    ) -> dict[str, Tensor]:
        """Return the four losses of windows, differentiable; everything random is drawn from `source`."""
        settings, body = self.settings, self.body
        truth, actions, valid = blocks_of(windows, settings.model.block)
        x0 = (truth[..., 1:, :] - self.mean) / self.spread
        count, blocks, frames, _ = x0.shape

        def normal() -> Tensor:
            return torch.from_numpy(source.standard_normal(x0.shape, np.float32)).to(x0)

        level = torch.from_numpy(source.uniform(self.process.t_min, 1, (count, blocks))).to(x0)
        told = torch.from_numpy(source.random(count) >= settings.unlabelled).to(self.device)
        unsure = torch.from_numpy(source.uniform(-1, 1, count) * settings.model.history_noise).to(x0).clamp(min=0)
        steered = torch.stack([steered_by_chance(frames, source) for _ in range(count * blocks)])
        steered = steered.view(count, blocks, frames).to(self.device)
        given = torch.zeros_like(x0, dtype=torch.bool)
        given[..., PATH] = steered[..., None]
        noisy = self.process.add_noise(x0.flatten(0, 1), normal().flatten(0, 1), level.flatten()).view_as(x0)
        estimate = network(
            torch.where(given, x0, noisy),
            self.process.network_time(level),
            actions=torch.where(told[:, None, None], actions, ACTION["any"]),
            steered=steered,
            clean=x0 + unsure[:, None, None, None] * normal(),
        )
        estimate = torch.where(given, x0, estimate)
        weight = valid[..., None, None]
        error = ((estimate - x0) ** 2 * weight).sum() / (weight & ~given).sum().clamp(min=1)
        with torch.no_grad():
            real = body.positions(truth)
        # With the frame before the block as it was, from which the first one has to go on.
        made = body.positions(torch.cat([truth[..., :1, :], estimate * self.spread + self.mean], -2))
        made_speed, real_speed = (positions.diff(dim=-3) * settings.model.fps for positions in (made, real))
        feet = list(body.feet)
        resting = truth[..., -len(feet) :]
        rests = resting[..., 1:, :] * resting[..., :-1, :] * weight
        relative = (made - made[..., :1, :]) - (real - real[..., :1, :])
        return {
            "features": error,
            "positions": mean_square(relative[..., 1:, :, :], weight),
            "velocities": mean_square(made_speed - real_speed, weight),
            "rests": mean_square(made_speed[..., feet, :], rests),
        }

    def export(self, path: Path, *, half: bool = False, origin: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write the averaged weights as a model file and return the facts in its header; arguments as the base's."""
        facts = self.training_facts() | dict(origin or {})
        statistics = (self.mean, self.spread)
        config, average = self.settings.model, self.average.average
        save_model(path, config, self.body, average, statistics, facts, half=half, kind=KIND)
        return facts


def blocks_of(windows: Windows, block: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return windows of 1 + L B frames cut into blocks of B, each with the frame before it, from which it is seen.

    Args:
        windows: N of them.
        block: B.

    Returns:
        Features (N, L, 1 + B, D), the first frame's path 0 and heading forward; actions (N, L, B); and which blocks
        have all their frames, (N, L) bool.
    """
    pieces = windows.features.unfold(1, block + 1, block).transpose(-1, -2)
    actions = windows.actions[:, 1:].unflatten(1, (-1, block))
    return seen_from(pieces), actions, windows.valid.unfold(1, block + 1, block).all(-1)


def steered_by_chance(frames: int, source: np.random.Generator) -> Tensor:
    """Return in which frames of a block the place of the hips is known, (B,) bool, by the shares of `STEERED`."""
    kind = source.choice(list(STEERED), p=list(STEERED.values()))
    steered = torch.zeros(frames, dtype=torch.bool)
    if kind == "last":
        steered[-1] = True
    elif kind != "none":
        steered |= torch.from_numpy(source.random(frames) < (1.0 if kind == "all" else SOME))
    return steered

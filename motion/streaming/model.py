"""Endless motion: block after block from noise, each placed where the last one ended, told what to do while it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from motion.actions import action_indices
from motion.clips import Motion
from motion.features import HEADING, PATH, Body, placed_at, seen_from
from motion.streaming.commands import Command
from motion.streaming.config import StreamConfig
from motion.streaming.network import StreamTransformer
from shared.denoiser import Denoiser, NetworkDenoiser
from shared.errors import InputError
from shared.grid import Grid, trailing_grid
from shared.process import Time
from shared.reuse.rolling import RollingCache
from shared.sampling import Solver, sample

CALLS = 10


class StreamModel:
    """A trained network with the body it moves.

    Args:
        config: of the network.
        body: whose features it makes.
        network: in evaluation mode.
        mean: of the features of each frame of a block, (B, D).
        spread: their standard deviation, (B, D).
        device: where to compute.
    """

    def __init__(
        self, config: StreamConfig, body: Body, network: StreamTransformer, mean: Tensor, spread: Tensor,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.config, self.body, self.device = config, body, torch.device(device)
        self.network = network.to(self.device)
        self.mean, self.spread = mean.to(self.device), spread.to(self.device)
        self.process = config.process()

    def normalised(self, features: Tensor) -> Tensor:
        """Return features (..., B, D) as the network sees them."""
        return (features.to(self.mean) - self.mean) / self.spread

    def features(self, x: Tensor) -> Tensor:
        """Return the features, m and so on, of what the network makes (..., B, D); differentiable."""
        return x * self.spread + self.mean

    def denoiser(self, cache: RollingCache, actions: Tensor, path: Tensor | None = None) -> Denoiser:
        """Return the estimate of a clean normalised block (N, B, D) after those in a cache; known places stay.

        Args:
            cache: of the blocks before.
            actions: indices (B,).
            path: where the hips are, (B, 2) m seen from the frame before the block, NaN where that is not known.
        """
        block, size = self.mean.shape
        given = torch.full((block, size), torch.nan, device=self.device)
        if path is not None:
            given[:, PATH] = path.to(given)
        given = self.normalised(given)
        mask = ~given.isnan()
        actions, steered = actions.to(self.device), mask[:, PATH].all(-1)

        def network(x: Tensor, time: Tensor) -> Tensor:
            count = len(x)
            return self.network.block(
                x, time, cache, actions=actions.expand(count, -1), steered=steered.expand(count, -1)
            )[0]

        denoiser = NetworkDenoiser(network, self.process, "sample")

        def denoise(x: Tensor, t: Time, /) -> Tensor:
            return torch.where(mask, given, denoiser(torch.where(mask, given, x), t))

        return denoise

    @torch.no_grad()
    def write(self, cache: RollingCache, x: Tensor, actions: Tensor) -> None:
        """Put keys and values of a finished normalised block (N, B, D) with its actions (B,) into a cache."""
        count = len(x)
        actions = actions.to(self.device).expand(count, -1)
        told = torch.ones_like(actions)
        cache.append(self.network.block(x, x.new_zeros(count), cache, actions=actions, steered=told)[1])


def stream(
    model: StreamModel,
    commands: Iterable[Command],
    *,
    history: Motion | None = None,
    calls: int = CALLS,
    grid: Grid | None = None,
    solver: Solver | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Motion]:
    """Yield a block of motion, placed in the world, for each command; one is taken when the block before is out.

    Memory does not grow with the length of the stream.

    Args:
        model: of `motion.streaming.files.load_stream`.
        commands: what to do; the stream ends with them.
        history: motion that goes on, on the model's skeleton, one block and a frame of it or more. Without it the body
            stands at the origin, facing y, in the frame before the first.
        calls: of the network for a block; one more writes it down.
        grid: levels; None for `calls` trailing ones.
        solver: None for the exponential multistep one of order 2.
        generator: source of the noise; same seed, same motion.

    Raises:
        InputError: unknown actions, a path of another size, or a history that is too short or of another body.
    """
    from shared.solvers.multistep import Multistep

    body, block = model.body, model.config.block
    levels = trailing_grid(model.process, calls) if grid is None else grid
    rule = solver or Multistep(order=2)
    cache = model.network.new_cache()
    if history is None:
        last = torch.zeros(body.size, dtype=torch.float64)
        last[HEADING.start] = 1
    else:
        last = _remembered(model, cache, history)
    for command in commands:
        actions = action_indices(command.action, block, model.config.actions)
        denoiser = model.denoiser(cache, actions, _local(command.path, last, block))
        noise = model.process.noise((1, block, body.size), generator, device=model.device)
        x = sample(denoiser, noise, levels, rule, generator=generator)
        model.write(cache, x, actions)
        features = model.features(x)[0].cpu().double()
        features[:, HEADING] = torch.nn.functional.normalize(features[:, HEADING], dim=-1)
        features = placed_at(features, last)
        last = features[-1]
        yield body.decode(features, model.config.fps)


def _remembered(model: StreamModel, cache: RollingCache, history: Motion) -> Tensor:
    """Write the blocks of a history, which end where it ends, into the cache and return its last frame, (D,)."""
    block = model.config.block
    features = model.body.encode(history).double()
    count = (history.frames - 1) // block
    if count < 1 or history.fps != model.config.fps:
        raise InputError(
            "history", found=f"{history.frames} frames at {history.fps:g} a second",
            expected=f"{block + 1} or more at {model.config.fps:g}", fix="Give more of it, resampled to that rate.",
        )  # fmt: skip
    unasked = action_indices(model.config.actions[0], block, model.config.actions)
    for start in range(history.frames - 1 - count * block, history.frames - 1, block):
        seen = seen_from(features[start : start + block + 1])[1:]
        model.write(cache, model.normalised(seen)[None], unasked)
    return features[-1]


def _local(path: Tensor | None, last: Tensor, block: int) -> Tensor | None:
    """Return places in the world (B, 2) seen from a frame (D,)."""
    if path is None:
        return None
    path = torch.as_tensor(path, dtype=torch.float64)
    if path.shape != (block, 2) or path.isinf().any() or (path.isnan()[:, 0] != path.isnan()[:, 1]).any():
        raise InputError(
            "path of a command", found=f"shape {tuple(path.shape)}",
            expected=f"({block}, 2) m, both coordinates NaN where the hips are free", fix="Correct it.",
        )  # fmt: skip
    (cos, sin), (x, y) = last[HEADING], (path - last[PATH]).unbind(-1)
    return torch.stack([cos * x + sin * y, cos * y - sin * x], -1)

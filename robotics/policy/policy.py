"""A policy: a chunk of actions drawn from the last observations by the shared sampler.

    policy = load_policy("pusht.safetensors")
    chunk = policy.act(observations, generator=torch.Generator().manual_seed(0))
    chunk.executable        # (N, T_a, A), in the units of the data

Observations and actions are in the units of the data outside, normalised inside. In a control loop, where the last
chunk is the start of the next, use `robotics.policy.rolling.RollingPolicy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robotics.policy.config import ImageField, PolicyConfig
from robotics.policy.networks import PolicyNetwork
from robotics.policy.normalise import Normaliser
from shared.denoiser import Denoiser, NetworkDenoiser, clipped
from shared.errors import InputError
from shared.grid import GRIDS, Grid, explicit_grid, trailing_grid
from shared.process import TableVP, standard_normal
from shared.sampling import Solver, sample
from shared.solvers.ancestral import Ancestral


@dataclass(frozen=True)
class Chunk:
    """Actions of consecutive ticks; entry `first` is that of the tick of the newest observation.

    Attributes:
        actions: (N, T, A) in units.
        normalised: the sample itself, (N, T, A).
        first: entry of the action of now.
        execute: actions meant to be executed.
    """

    actions: Tensor
    normalised: Tensor
    first: int
    execute: int

    @property
    def executable(self) -> Tensor:
        """Return the actions from now on that are meant to be executed, (N, execute, A)."""
        return self.actions[:, self.first : self.first + self.execute]


class Policy:
    """A network, its configuration and the normalisers of its data.

    Args:
        config: what it is.
        network: in evaluation mode, with its weights.
        observation: normaliser of one observation (D_o), its pixels included.
        action: normaliser of one action (A).
        device: where to compute.
    """

    def __init__(
        self,
        config: PolicyConfig,
        network: PolicyNetwork,
        observation: Normaliser,
        action: Normaliser,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.network = network.to(self.device)
        self.observation, self.action = observation.to(self.device), action.to(self.device)
        self.process: TableVP = config.noise.process()
        self._discrete = [(action.index, action.factor, action.rule) for action in config.action.discrete]

    @property
    def shape(self) -> tuple[int, int]:
        """Return (T, A), the shape of a chunk."""
        return self.config.chunk.horizon, self.config.action.size

    def observations(self, arrays: Mapping[str, np.ndarray | Tensor]) -> Tensor:
        """Return the observations of named arrays, (..., D_o), in the order of the configuration.

        Args:
            arrays: name to (N, T_o, ...) numbers in units.

        Raises:
            InputError: an array is absent or of another size.
        """
        return join_observations(self.config, arrays, leading=2)

    def numbers(self, observations: Tensor) -> Tensor:
        """Return the normalised numbers of observations (..., D_o) in units, without their pixels."""
        found = self.observation.apply(observations.to(self.device, torch.float32))
        parts = found.split([field.size for field in self.config.observation], dim=-1)
        kept = [
            part
            for field, part in zip(self.config.observation, parts, strict=True)
            if not isinstance(field, ImageField)
        ]
        return torch.cat(kept, dim=-1) if kept else found[..., :0]

    def denoiser(self, observations: Tensor, samples: int = 1) -> Denoiser:
        """Return the estimate of normalised chunks given the observations (N, T_o, D_o) in units.

        Args:
            observations: N of them; images among them are encoded once.
            samples: chunks of each, next to each other in the batch of chunks.

        Raises:
            InputError: observations of another shape, or not finite.
        """
        plain = self.network_denoiser(observations, samples)
        limit = self.config.clip
        return plain if limit is None else clipped(plain, -limit, limit)

    def network_denoiser(self, observations: Tensor, samples: int = 1) -> NetworkDenoiser:
        """Return the denoiser without its limits, for `shared.realtime.RealTimeSampler(..., clip=config.clip)`."""
        self._check(observations)
        told = self.network.conditioning(self.observation.apply(observations.to(self.device, torch.float32)))
        many = {name: value.repeat_interleave(samples, dim=0) for name, value in told.items()}
        return NetworkDenoiser(self.network, self.process, self.config.prediction, conditioning=many)

    def noise(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Return pure noise, (count, T, A): the start of a cold sampling."""
        return standard_normal((count, *self.shape), generator, dtype=torch.float32, device=self.device)

    def grid(self, calls: int | None = None, kind: str = "trailing") -> Grid:
        """Return the grid of a cold start with so many calls; None takes every step of the training."""
        if kind not in GRIDS:
            raise InputError("grid", found=repr(kind), expected=f"one of {', '.join(GRIDS)}", fix="Correct it.")
        if calls is None:
            return trailing_grid(self.process, self.process.steps)
        return GRIDS[kind](self.process, calls)

    def levels(self, entries: Sequence[int]) -> Grid:
        """Return the grid that asks at these entries of the noise table (0-based, falling), then ends at data.

        Raises:
            InputError: entries that do not fall, or lie outside the table.
        """
        steps = self.process.steps
        if not entries or any(not 0 <= entry < steps for entry in entries):
            raise InputError(
                "levels", found=f"{list(entries)}", expected=f"entries from 0 to {steps - 1}", fix="Correct them."
            )
        return explicit_grid(self.process, [*((entry + 1) / steps for entry in entries), 0.0])

    def act(
        self,
        observations: Tensor,
        *,
        generator: torch.Generator | None = None,
        solver: Solver | None = None,
        grid: Grid | None = None,
        x: Tensor | None = None,
    ) -> Chunk:
        """Draw a chunk.

        Args:
            observations: (N, T_o, D_o) in units, the newest last.
            generator: source of all noise.
            solver: how to step; the default is DDPM's, `Ancestral`.
            grid: noise levels; the default is every step of the training.
            x: normalised chunk (N, T, A) at the first level of the grid; the default is pure noise.

        Raises:
            InputError: observations of another shape, or not finite.
        """
        denoiser = self.denoiser(observations)
        start = self.noise(len(observations), generator) if x is None else x
        found = sample(denoiser, start, grid or self.grid(), solver or Ancestral(), generator=generator)
        return self.chunk(found)

    def chunk(self, normalised: Tensor) -> Chunk:
        """Return the chunk of a sample (N, T, A)."""
        chunk = self.config.chunk
        return Chunk(self.decode(normalised), normalised, chunk.first, chunk.execute)

    def encode(self, actions: Tensor) -> Tensor:
        """Return actions (..., A) in units as the network is trained on them."""
        normalised = self.action.apply(actions)
        for index, factor, rule in self._discrete:
            if rule == "scale":
                normalised[..., index] /= factor
        return normalised

    def decode(self, normalised: Tensor) -> Tensor:
        """Return a sample (..., A) in units; discrete actions become one of their two values, the nearer one."""
        if self._discrete:
            normalised = normalised.clone()
            for index, _, _ in self._discrete:
                normalised[..., index] = _sign(normalised[..., index])
        return self.action.undo(normalised)

    def soften(self, guess: Tensor) -> Tensor:
        """Return a guess (N, T, A) whose clipped discrete actions a few steps can flip: sign / factor (RTI-DP)."""
        guess = guess.clone()
        for index, factor, rule in self._discrete:
            if rule == "clip":
                guess[..., index] = _sign(guess[..., index]) / factor
        return guess

    def _check(self, observations: Tensor) -> None:
        expected = (self.config.chunk.observe, self.config.observation_size)
        if observations.ndim != 3 or tuple(observations.shape[1:]) != expected:
            raise InputError(
                "observations",
                found=f"shape {tuple(observations.shape)}",
                expected=f"(N, {expected[0]}, {expected[1]}): observations of {expected[0]} ticks",
                fix="Stack the last observations, the newest last.",
            )
        if not bool(torch.isfinite(observations).all()):
            raise InputError(
                "observations", found="NaN or infinity", expected="finite numbers", fix="Check the sensors."
            )


def _sign(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0)


def join_observations(config: PolicyConfig, arrays: Mapping[str, np.ndarray | Tensor], *, leading: int) -> Tensor:
    """Return the named arrays as observations (..., D_o), in the order of the configuration; pixels stay 0 to 255.

    Args:
        config: names, sizes and columns.
        arrays: name to numbers in units, `leading` axes first.
        leading: axes that are kept: 1 for frames, 2 for (environments, ticks).

    Raises:
        InputError: an array is absent or of another size.
    """
    parts = []
    for field in config.observation:
        if field.name not in arrays:
            raise InputError(
                f"observation {field.name}", found="none of that name", expected=f"one of {', '.join(sorted(arrays))}",
                fix="Correct the name in the configuration, or give the array.",
            )  # fmt: skip
        if isinstance(field, ImageField):
            parts.append(pixels_of(field, arrays[field.name], leading=leading).float())
            continue
        value = torch.as_tensor(arrays[field.name]).float().flatten(leading)
        if value.ndim == leading:
            value = value[..., None]
        width = value.shape[-1]
        if (field.columns is None and width != field.size) or max(field.columns or (0,)) >= width:
            raise InputError(
                f"observation {field.name}", found=f"{width} numbers",
                expected=f"{field.size}" if field.columns is None else f"columns {list(field.columns)}",
                fix="Correct size or columns in the configuration.",
            )  # fmt: skip
        parts.append(value if field.columns is None else value[..., list(field.columns)])
    return torch.cat(parts, dim=-1)


def pixels_of(field: ImageField, values: np.ndarray | Tensor, *, leading: int) -> Tensor:
    """Return images as rows (..., C H W), channel by channel, of their own dtype.

    Args:
        field: of the images.
        values: (..., C, H, W), (..., H, W, C), gray ones also (..., H, W), or such rows.
        leading: axes that are kept.

    Raises:
        InputError: images of another shape.
    """
    images = torch.as_tensor(values)
    channels, height, width = field.shape
    found = tuple(images.shape[leading:])
    if found == (height, width, channels):
        images = images.movedim(-1, -3)
    elif found not in (field.shape, (field.size,)) and (channels, *found) != (1, height, width):
        raise InputError(
            f"observation {field.name}", found=f"images of shape {found}",
            expected=f"{field.shape}, or {(height, width, channels)} with the channels last",
            fix="Resize them, or correct shape in the configuration.",
        )  # fmt: skip
    return images.flatten(leading)

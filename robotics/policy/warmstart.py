r"""Where a sampling starts when the last chunk is known: RTI-DP's real-time iteration as an initialiser.

The last chunk A, moved by the n actions executed since its observation, is a guess G of the next. A sampling then
starts at a low level t with

| mode | guess beyond the old chunk | start |
| --- | --- | --- |
| cold | - | pure noise at t = 1 |
| shift | repeats the last action | x = G (RTI-DP as published: neither scaled nor noised) |
| shift+renoise | repeats the last action | x = alpha(t) G + r sigma(t) z |
| extrapolate | goes on along the last difference | x = alpha(t) G + r sigma(t) z |

and asks the network only at `levels`, entries of the trained noise table. With r = 1 and G drawn from the policy, x has
the distribution that the network knows at t; with r = 0 it lacks noise, few deterministic steps hardly move it, and a
closed loop can stall. The published code replaces the trained schedule and steps through gaps as if they were single
steps; a `Grid` does neither.

Reference: Duan, Yin and Kragic, Real-Time Iteration Scheme for Diffusion Policy, IROS 2025, algorithm 1.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, ValidationError, field_validator
from torch import Tensor

from robotics.policy.config import Settings
from shared.errors import InputError
from shared.process import NoiseProcess, along_batch, standard_normal

MODES = ("cold", "shift", "shift+renoise", "extrapolate")
Mode = Literal["cold", "shift", "shift+renoise", "extrapolate"]


class WarmStart(Settings):
    """How the next sampling starts from the last chunk.

    Attributes:
        mode: a row of the module's table.
        levels: entries of the noise table (0-based) at which the network is asked, falling; the first is K'.
        renoise: r, the share of the noise of the first level; "shift" has none.
        guess_gate: start again, cold, where the first estimate differs from the guess by more (root mean square of
            normalised numbers); None never does.
        observation_gate: start cold where a normalised observation moved by more in one tick (largest number, pixels
            do not count); None never does.
        measured: what a calibration measured, for the record.
    """

    mode: Mode = "shift+renoise"
    levels: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (20, 10, 4, 0)
    renoise: Annotated[float, Field(ge=0, le=1)] = 1.0
    guess_gate: PositiveFloat | None = None
    observation_gate: PositiveFloat | None = None
    measured: dict[str, Any] = Field(default_factory=dict)

    @field_validator("levels")
    @classmethod
    def _fall(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if any(later >= earlier for earlier, later in pairwise(levels)):
            raise ValueError("levels must fall")
        return levels

    def guess(self, chunk: Tensor, executed: Tensor, limit: float | None) -> Tensor:
        """Return G, (N, T, A): the chunk moved by the executed actions.

        Args:
            chunk: the last one, normalised (N, T, A).
            executed: actions executed since its observation, (N,).
            limit: extrapolated actions stay in [-limit, limit]; None does not limit them.
        """
        moved = shifted(chunk, executed, linear=self.mode == "extrapolate")
        return moved if limit is None or self.mode != "extrapolate" else moved.clamp(-limit, limit)

    def start(self, guess: Tensor, process: NoiseProcess, t: float, generator: torch.Generator | None) -> Tensor:
        """Return x at level t from the guess (N, T, A)."""
        if self.mode == "shift":
            return guess
        alpha, sigma = along_batch(process.alpha(t), guess), along_batch(process.sigma(t), guess)
        z = standard_normal(guess.shape, generator, dtype=guess.dtype, device=guess.device)
        return alpha * guess + self.renoise * sigma * z


def warm_start_of(name: str, levels: str | None, renoise: float | None, *, source: str) -> WarmStart:
    """Return the warm start of a mode or a file, with the levels and the share of noise that were asked for.

    Args:
        name: one of `MODES`, or a file that `fewstep policy calibrate` wrote.
        levels: "20,10,4,0"; None is the default or the file's.
        renoise: r; None is the default or the file's.
        source: option or parameter, for errors.

    Raises:
        InputError: neither a mode nor such a file, or values that make no warm start.
    """
    values: dict[str, Any] = {"mode": name}
    if name not in MODES:
        try:
            values = json.loads(Path(name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                source, found=repr(name), expected=f"{', '.join(MODES)}, or a file of calibrate", fix="Correct it."
            ) from error
    if levels is not None:
        values["levels"] = [part.strip() for part in levels.split(",")]
    if renoise is not None:
        values["renoise"] = renoise
    try:
        return WarmStart.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"{source} {'.'.join(map(str, first['loc']))}", found=f"{first.get('input')!r}", expected=first["msg"],
            fix="Levels are entries of the noise table that fall, such as 20,10,4,0.",
        ) from error  # fmt: skip


def shifted(chunk: Tensor, executed: Tensor, *, linear: bool = False) -> Tensor:
    """Return entry i + n of each chunk at place i.

    Args:
        chunk: (N, T, A).
        executed: n of each, (N,), 0 or more.
        linear: entries beyond the end go on along the last difference; else they repeat the last entry.
    """
    length = chunk.shape[1]
    wanted = torch.arange(length, device=chunk.device) + executed.to(chunk.device)[:, None]
    moved = chunk.gather(1, wanted.clamp(max=length - 1)[..., None].expand_as(chunk))
    if linear and length > 1:
        beyond = (wanted - (length - 1)).clamp(min=0)[..., None].to(chunk.dtype)
        moved = moved + beyond * (chunk[:, -1:] - chunk[:, -2:-1])
    return moved


def spread_levels(highest: int, calls: int) -> tuple[int, ...]:
    """Return at most `calls` entries from `highest` down to 0, closer together near 0: highest (1 - i/(n-1))^1.5."""
    if calls < 2 or highest == 0:
        return (highest,)
    places = 1 - torch.arange(calls, dtype=torch.float64) / (calls - 1)
    return tuple(sorted({round(float(highest * place**1.5)) for place in places}, reverse=True))

r"""Bottleneck Sampling: draw at full resolution, then at low, then at full again, with noise put back in between.

Each stage is a whole sampling of its own resolution, from a level down to clean data. From one stage to the next the
estimate x0 of the clean data is resized and noise is put back,

    x = alpha(t_w) resize(x0) + sigma(t_w) eps,         sigma(t_w) / alpha(t_w) = w / (1 - w),

with the strength w in (0, 1]: for flow matching t_w = w, as published; for any other process the level with the same
ratio of noise to data, and t = 1 where that is beyond its start. w = 1 starts from pure noise.

The levels of a stage are shifted towards noise by s >= 1. For flow matching

    sigma' = s sigma / (1 + (s - 1) sigma)      which is      kappa' = s kappa,   kappa = sigma / (1 - sigma).

For other processes kappa = sigma / alpha. Where it ends at a finite K at t = 1, the same shift is applied to
q = kappa (1 + K) / (K - kappa), which is kappa for K -> infinity and keeps t = 1 where it is:

    q' = s q,     kappa' = K q' / (1 + K + q').

Networks that take several resolutions, and were trained on them, are needed. Conditioning images have to be resized by
the denoiser, which sees the shape of x.

Reference: Tian et al., Training-free Diffusion Acceleration with Bottleneck Sampling, 2025 (arXiv 2503.18940). Its code
was not at hand: that each stage runs down to clean data, and the levels of VP processes, are our reading.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor

from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.grid import Grid, trailing_grid
from shared.ledger import Ledger
from shared.process import NoiseProcess, standard_normal
from shared.resize import resize
from shared.sampling import Solver, sample

MakeGrid = Callable[[NoiseProcess, int], Grid]
SAME_LEVEL = 1e-9


@dataclass(frozen=True)
class Stage:
    """One resolution of a sampling.

    Attributes:
        size: spatial shape, without batch and channels, or its factor to that of the noise (0.5 halves each axis).
        steps: network calls, for solvers that ask once a step.
        strength: w, how much noise it starts from.
        shift: s of its levels.

    Raises:
        InputError: steps below 1, a strength outside (0, 1], a shift or size that is not positive.
    """

    size: tuple[int, ...] | float
    steps: int
    strength: float = 1.0
    shift: float = 1.0

    def __post_init__(self) -> None:
        sizes = self.size if isinstance(self.size, tuple) else (self.size,)
        for name, value, fine, expected in (
            ("size", self.size, len(sizes) > 0 and all(s > 0 and math.isfinite(s) for s in sizes), "positive numbers"),
            ("steps", self.steps, self.steps >= 1, "1 or more"),
            ("strength", self.strength, 0 < self.strength <= 1, "a number in (0, 1]"),
            ("shift", self.shift, self.shift > 0 and math.isfinite(self.shift), "a positive number"),
        ):
            if not fine:
                raise InputError(f"stage {name}", found=f"{value}", expected=expected, fix="Correct the stage.")

    def shape(self, full: Sequence[int]) -> tuple[int, ...]:
        """Return the spatial shape where the noise has the spatial shape `full`.

        Raises:
            InputError: another number of dimensions, or a factor that gives no whole numbers.
        """
        if isinstance(self.size, tuple):
            if len(self.size) != len(full):
                raise InputError(
                    "stage size", found=f"{len(self.size)} dimensions, {self.size}",
                    expected=f"{len(full)}, as the noise {tuple(full)}", fix="Leave out batch and channels.",
                )  # fmt: skip
            return self.size
        scaled = [self.size * extent for extent in full]
        if any(abs(extent - round(extent)) > 1e-6 or round(extent) < 1 for extent in scaled):
            raise InputError(
                "stage size", found=f"the factor {self.size:g} of {tuple(full)}", expected="whole numbers",
                fix="Choose another factor, or give the shape.",
            )  # fmt: skip
        return tuple(round(extent) for extent in scaled)


PUBLISHED: dict[str, tuple[Stage, ...]] = {
    "flux": (Stage(1.0, 6, 1.0, 9.0), Stage(0.5, 20, 0.8, 6.0), Stage(1.0, 8, 0.6, 9.0)),
    "hunyuan_video": (Stage(1.0, 4, 1.0, 7.0), Stage(0.75, 24, 0.8, 9.0), Stage(1.0, 16, 0.7, 9.0)),
}
"""High-low-high as published, for FLUX at 1024 and HunyuanVideo at 720p (its 544 x 960 of 720 x 1280 is 0.75 here)."""


def high_low_high(steps: int, *, like: str = "flux", shift: float | None = None) -> tuple[Stage, ...]:
    """Return published stages with another total number of steps, in the published ratios, at least one each.

    Args:
        steps: of all stages together, 3 or more.
        like: a name in `PUBLISHED`.
        shift: of all stages, instead of the published ones, which are for images of a megapixel.

    Raises:
        InputError: an unknown name, or fewer steps than stages.
    """
    if like not in PUBLISHED:
        raise InputError(like, found="no such stages", expected=f"one of {', '.join(PUBLISHED)}", fix="Correct it.")
    stages = PUBLISHED[like]
    if steps < len(stages):
        raise InputError("steps", found=f"{steps}", expected=f"{len(stages)} or more", fix="Give each stage one.")
    share = [stage.steps / sum(stage.steps for stage in stages) for stage in stages]
    first, last = (max(1, round(steps * share[0])), max(1, round(steps * share[2])))
    counts = (first, steps - first - last, last)
    return tuple(
        Stage(stage.size, count, stage.strength, stage.shift if shift is None else shift)
        for stage, count in zip(stages, counts, strict=True)
    )


def bottleneck_sample(
    denoiser: Denoiser,
    x: Tensor,
    process: NoiseProcess,
    stages: Sequence[Stage],
    solver: Solver,
    *,
    generator: torch.Generator | None = None,
    grid: MakeGrid = trailing_grid,
) -> Tensor:
    """Draw a sample through the stages.

    Args:
        denoiser: estimate of x_0 at the resolutions of all stages.
        x: noise (N, channels, ...) at t = 1, of the full resolution and 1 to 3 spatial dimensions; the first stage
            must have its shape and full strength.
        process: noise process.
        stages: in order; the last gives the shape of the result.
        solver: of every stage.
        generator: source of the noise that is put back, and of stochastic solvers.
        grid: levels of a whole sampling, of which `stage_grid` takes those of a stage.

    Raises:
        InputError: no stages, a first stage of another shape or below full strength, a wrong shape of a stage, or a
            resolution that the network does not take.
    """
    shapes = _shapes(x, stages)
    for index, (stage, shape) in enumerate(zip(stages, shapes, strict=True)):
        levels = stage_grid(process, stage, grid=grid)
        if index:
            x = renoised(x, shape, process, levels.times[0], generator)
        try:
            x = sample(denoiser, x, levels, solver, generator=generator)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise InputError(
                f"stage {index}", found=f"the spatial shape {shape}, at which the network fails ({error})",
                expected="a resolution that the network takes", fix="Choose a size in whole multiples of its strides.",
            ) from error  # fmt: skip
    return x


def renoised(
    x0: Tensor, shape: Sequence[int], process: NoiseProcess, t: float, generator: torch.Generator | None = None
) -> Tensor:
    """Return alpha(t) resize(x0) + sigma(t) eps: clean data at another resolution and level t."""
    low = resize(x0, shape)
    noise = standard_normal(low.shape, generator, dtype=low.dtype, device=low.device)
    return process.add_noise(low, noise, t)


def stage_grid(process: NoiseProcess, stage: Stage, *, grid: MakeGrid = trailing_grid) -> Grid:
    """Return the levels of a stage: `stage.steps` steps from the level of its strength, shifted.

    The nodes are those of the finest grid(process, M) that has no more than `steps` steps below the start, each
    shifted; the start itself is exact. A whole stage without shift is grid(process, steps) itself.

    Raises:
        InputError: the grid cannot start so low with so many steps.
    """
    start = strength_level(process, stage.strength)
    unshifted = _shifted(process, start, 1 / stage.shift)
    found: Grid | None = None
    for count in range(stage.steps, 1 + math.ceil(2 * stage.steps / max(unshifted, 1e-6))):
        below = [t for t in grid(process, count).times if t < unshifted * (1 - SAME_LEVEL)]
        if len(below) > stage.steps:
            break
        if len(below) == stage.steps:
            found = Grid(process, (start, *(_shifted(process, t, stage.shift) for t in below)))
    if found is None:
        raise InputError(
            "stage strength", found=f"{stage.strength:g} with {stage.steps} steps",
            expected="levels of the grid below it", fix="Take more strength, or another grid.",
        )  # fmt: skip
    return found


def strength_level(process: NoiseProcess, strength: float) -> float:
    """Return t_w, at which sigma / alpha = w / (1 - w); t = 1 where the process does not go so far."""
    if strength >= 1:
        return 1.0
    log_snr = math.log((1 - strength) / strength)
    if log_snr <= float(process.log_snr(1.0)):
        return 1.0
    return float(process.time_of_log_snr(log_snr))


def bottleneck_price(denoiser: Denoiser, x: Tensor, stages: Sequence[Stage]) -> float:
    """Return the cost of the stages and of resizing in calls at full resolution, by counted operations.

    Args:
        denoiser: a network, asked once a step.
        x: noise (N, channels, ...) of the full resolution; zeros of the shape of one sample are used.
        stages: see `bottleneck_sample`.
    """
    one = torch.zeros_like(x[:1])
    shapes = _shapes(x, stages)
    resized = {shape: resize(one, shape) for shape in shapes}
    calls = {shape: _operations(partial(denoiser, low, 0.5)) for shape, low in resized.items()}
    total = sum(stage.steps * calls[shape] for stage, shape in zip(stages, shapes, strict=True))
    total += _operations(lambda: reduce(resize, shapes, one))
    return total / calls[tuple(x.shape[2:])]


def _operations(run: Callable[[], object]) -> float:
    with Ledger(flops=True) as ledger, torch.no_grad():
        run()
    return float(ledger.flops or 0)


def _shapes(x: Tensor, stages: Sequence[Stage]) -> list[tuple[int, ...]]:
    full = tuple(x.shape[2:])
    if not 1 <= len(full) <= 3:
        raise InputError(
            "noise", found=f"shape {tuple(x.shape)}", expected="(N, channels, ...) with 1 to 3 spatial dimensions",
            fix="Add the channel axis.",
        )  # fmt: skip
    if not stages:
        raise InputError("stages", found="none", expected="one or more", fix="Use high_low_high(steps).")
    shapes = [stage.shape(full) for stage in stages]
    if shapes[0] != full or stages[0].strength != 1:
        raise InputError(
            "stages", found=f"a first stage {shapes[0]} of strength {stages[0].strength:g}",
            expected=f"{full}, the shape of the noise, and strength 1", fix="Begin at the resolution of the noise.",
        )  # fmt: skip
    return shapes


def _shifted(process: NoiseProcess, t: float, shift: float) -> float:
    """Return the level t after the shift (module docstring); 0 and 1 stay."""
    if shift == 1 or t in (0.0, 1.0):
        return t
    if float(process.alpha(1.0)) == 0:
        log_kappa = -float(process.log_snr(t)) + math.log(shift)
    else:
        end = math.exp(-float(process.log_snr(1.0)))
        kappa = math.exp(-float(process.log_snr(t)))
        q = shift * kappa * (1 + end) / (end - kappa)
        log_kappa = math.log(end * q / (1 + end + q))
    return float(process.time_of_log_snr(-log_kappa))

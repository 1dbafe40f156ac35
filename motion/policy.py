r"""The implicit policy: a sampler whose noisy motion is moved, through the network, until what it leads to fits.

At a level t the network's estimate D(x, t) is a motion, and an energy E says how far it is from what is wanted
(`motion.energies`). The noisy x itself is moved against the gradient of E(D(x, t)), as GAN inversion moves a latent:
the network turns one hint into the change of the whole motion that goes with it.

    x_mean = step of the solver from x, D(x, s) down to t          one call
    x_mean <- x_mean - eta dE(D(x_mean, t)) / dx                   `corrections` times, one call with its gradient each
    x      = x_mean + noise of the solver

| step | eta | |
| --- | --- | --- |
| Polyak | min(E / |g|^2, trust sigma_t sqrt(F D) / |g|) | every energy is 0 at its best, so E / |g|^2 is what a linear E needs; bounded by a share of the noise |
| Published | 20 / n max(variance of the step, 0.01), of the sum over the n hinted frames | DIP's |

References:
    Jiang et al., Scene-aware Human Motion Synthesis by Diffusion Implicit Policy, 2024 (the loop; `PUBLISHED`).
    Polyak, Introduction to Optimization, 1987, section 5.3 (steps where the least value is known).
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from motion.energies import Objective
from motion.features import Body
from motion.goals import Hint
from motion.kinematics import forward_kinematics
from motion.model import Known, MotionModel
from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.grid import Grid, trailing_grid
from shared.process import standard_normal
from shared.solvers.ddim import DDIM
from shared.solvers.linear import LinearPlan

Energy = Callable[[Tensor], Tensor]
"""Features (N, F, D), m and so on, seen from the window's first frame -> (N,), 0 where all is as wanted."""
LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class PlacedObjective:
    """An objective of the scene, asked of features that are seen from a window's first frame.

    Attributes:
        body: whose features they are.
        objective: in the axes of the scene.
        axes: (3, 3), of the window's first frame in the scene (`Motion.canonical`).
        origin: (3,) m, likewise.
    """

    body: Body
    objective: Objective
    axes: Tensor
    origin: Tensor

    def pose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return joints (N, F, J, 3) m and their rotations (N, F, J, 3, 3) in the scene."""
        positions, turned = forward_kinematics(self.body.skeleton, *self.body.pose(features))
        axes, origin = self.axes.to(features), self.origin.to(features)
        return positions @ axes.T + origin, axes @ turned

    def __call__(self, features: Tensor) -> Tensor:
        """Return the energy of each sample, (N,)."""
        return self.objective(*self.pose(features))


class Step(Protocol):
    """How far a correction goes."""

    def __call__(self, energy: Tensor, gradient: Tensor, sigma: float, variance: float) -> Tensor:
        """Return eta of each sample, (N,).

        Args:
            energy: E, (N,).
            gradient: g, (N, F, D).
            sigma: noise of the level.
            variance: of the noise that the solver adds after the step.
        """
        ...


@dataclass(frozen=True)
class Polyak:
    """The step of the module's table.

    Attributes:
        share: of E / |g|^2.
        trust: largest move, in units of the noise of the level.
    """

    share: float = 1.0
    trust: float = 0.1

    def __call__(self, energy: Tensor, gradient: Tensor, sigma: float, variance: float) -> Tensor:
        """Return eta."""
        norm = gradient.flatten(1).norm(dim=1).clamp_min(LEAST)
        bound = self.trust * sigma * math.sqrt(gradient[0].numel())
        return torch.minimum(self.share * energy / norm**2, bound / norm)


@dataclass(frozen=True)
class Published:
    """DIP's step: `scale` max(variance, `least`), for an energy that is a mean over hinted frames.

    DIP sums over n hinted frames and divides by n.
    """

    scale: float = 20.0
    least: float = 0.01

    def __call__(self, energy: Tensor, gradient: Tensor, sigma: float, variance: float) -> Tensor:
        """Return eta."""
        return torch.full_like(energy, self.scale * max(variance, self.least))


@dataclass(frozen=True)
class Policy:
    """How a motion is drawn so that it fits.

    Attributes:
        calls: steps of the solver.
        corrections: at each level that is corrected; 0 is plain sampling.
        lowest: time of the lowest level that is corrected.
        keep_until: time down to which known features are put into the estimate; below it the window may leave them a
            little, so that it goes on from them smoothly. At 0 they come out as they are.
        eta: noise of the solver, 0 (DDIM) to 1 (the posterior's).
        step: of a correction.
        candidates: drawn at once; the one of least energy is taken.
        redraws: how often at most a window is drawn again that misses its hints or does not go on smoothly from the
            last (`motion.long_motion`); the least wrong is taken.
        returns: how often at most, where none of these is right, the window before is drawn again with it.
        known_ways: tell the network the planned ways of the hips as known (`motion.long_motion`), not by energy alone.
    """

    calls: int = 20
    corrections: int = 2
    lowest: float = 0.0
    keep_until: float = 0.1
    eta: float = 0.0
    step: Step = Polyak()
    candidates: int = 1
    redraws: int = 2
    returns: int = 3
    known_ways: bool = True

    def __post_init__(self) -> None:
        if self.calls < 1 or self.corrections < 0 or self.candidates < 1:
            raise InputError(
                "policy", found=f"{self.calls} calls, {self.corrections} corrections, {self.candidates} candidates",
                expected="at least 1, 0 and 1", fix="20, 2 and 1 are usual.",
            )  # fmt: skip

    def network_calls(self, grid: Grid) -> int:
        """Return the calls for one candidate: of the solver, and of the corrections with their gradients."""
        return grid.steps + self.corrections * len(self.corrected(grid))

    def corrected(self, grid: Grid) -> list[int]:
        """Return the steps after which x is corrected: all but the last, down to `lowest`."""
        return [k for k in range(grid.steps - 1) if grid.times[k + 1] >= self.lowest]


FAST = Policy()
"""58 calls a window, 38 of them with gradients."""
PUBLISHED = Policy(
    calls=1000, corrections=10, lowest=0.01, keep_until=0.05, eta=1.0, step=Published(), redraws=0, returns=0,
    known_ways=False,
)  # fmt: skip
"""DIP's: 10 900 calls a window, 9 900 of them with gradients."""


def guided(
    model: MotionModel,
    actions: Tensor,
    energy: Energy,
    policy: Policy = FAST,
    *,
    known: Known | None = None,
    held: Known | None = None,
    hints: Sequence[Hint] = (),
    grid: Grid | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw candidates of one window, (N, F, D) features in m and so on, sorted by their energy, the best first.

    Args:
        model: the prior.
        actions: indices (F,).
        energy: of features; where it is not finite, a sample is left as it is.
        policy: how.
        known: what the window goes on from, let go below `Policy.keep_until`.
        held: what it must have all through, such as the way of the hips.
        hints: seen from the window's first frame, that the network is told as well; only a controlled model hears them.
        grid: levels; None for the policy's trailing ones.
        generator: source of all noise.
    """
    grid = trailing_grid(model.process, policy.calls) if grid is None else grid
    both = known if held is None else held if known is None else held | known
    free, kept = model.denoiser(actions, held, hints), model.denoiser(actions, both, hints)
    shape = (policy.candidates, len(actions), model.body.size)
    x = model.process.noise(shape, generator, device=model.device)
    corrected = set(policy.corrected(grid))
    updates = DDIM(policy.eta).plan(grid).updates
    quiet = LinearPlan(tuple(replace(update, noise=0.0) for update in updates), grid.times[-1])
    state = quiet.start(x)
    with torch.no_grad():
        for k, update in enumerate(updates):
            denoiser = kept if state.t >= policy.keep_until else free
            state = quiet.advance(state, denoiser(state.x, state.t))
            x = state.x
            if k in corrected:
                denoiser = kept if state.t >= policy.keep_until else free
                for _ in range(policy.corrections):
                    x = _corrected(model, denoiser, energy, policy.step, x, state.t, grid.sigma[k + 1], update.noise)
            if update.noise:
                z = standard_normal(x.shape, generator, dtype=x.dtype, device=x.device)
                x = torch.add(x, z, alpha=update.noise)
            state = replace(state, x=x)
        drawn = model.features(state.x)
        return drawn[energy(drawn).argsort()]


def _corrected(
    model: MotionModel, denoiser: Denoiser, energy: Energy, step: Step, x: Tensor, level: float, sigma: float,
    noise: float,
) -> Tensor:  # fmt: skip
    with torch.enable_grad():
        start = x.detach().requires_grad_(True)
        value = energy(model.features(denoiser(start, level)))
        (gradient,) = torch.autograd.grad(value.sum(), start)
    move = step(value.detach(), gradient, sigma, noise**2)[:, None, None] * gradient
    return x - torch.where(move.isfinite().all(2).all(1)[:, None, None], move, 0.0)

r"""Multistep solvers in noise prediction: DEIS and iPNDM.

With kappa = sigma / alpha and the noise eps = (x - alpha D) / sigma that an answer implies, the exact ODE is
d(x/alpha) = eps dkappa. With eps replaced by a sum of the newest answers, weights c_j for the older ones,

    x_t = alpha_t D + sigma_t eps_0 + alpha_t sum_{j>=1} c_j (eps_j - eps_0)

(the weights of all answers sum to kappa_t - kappa_s; in this form alpha_s = 0 is no exception). The rules for c:

    log_rho   int L_j(ln kappa) dkappa, L_j the Lagrange polynomial through the answers in ln kappa     DEIS, diffusers
    time      int L_j(t) dkappa, in the time of the process                                             DEIS, tAB
    fixed     (kappa_t - kappa_s) times the Adams-Bashforth numbers of equal steps, at any steps        iPNDM

The first steps use lower orders, as does the last step (or, below 15 steps, the last order - 1) of DEIS; the step to
sigma = 0 is x = D. In the limit all are of order 2 at most: of DEIS because of its first step, of iPNDM because its
numbers fit even steps in kappa only, where neighbouring steps are alike but not equal.

References:
    Zhang and Chen, Fast Sampling of Diffusion Models with Exponential Integrator, 2023, eq. 15 to 18.
    Liu et al., Pseudo Numerical Methods for Diffusion Models on Manifolds, 2022; in kappa as in Zhou et al., 2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from shared.errors import InputError
from shared.grid import Grid
from shared.process import NoiseProcess
from shared.sampling import State

FEW_STEPS = 15  # below, diffusers lowers the order of the last steps of DEIS
FIXED: tuple[tuple[float, ...], ...] = ((), (-1 / 2,), (-16 / 12, 5 / 12), (-59 / 24, 37 / 24, -9 / 24))
"""Adams-Bashforth weights of the older answers, for orders 1 to 4; those of the newest are one less their sum."""


@dataclass(frozen=True)
class NoiseMultistep:
    """Multistep in the noise, one call a step. Made by `deis` and `ipndm`.

    Attributes:
        order: how many answers are used, 1 to 4.
        weights: "log_rho", "time" or "fixed".

    Raises:
        InputError: another order or rule.
    """

    order: int
    weights: Literal["log_rho", "time", "fixed"]

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3, 4) or self.weights not in ("log_rho", "time", "fixed"):
            raise InputError(
                "multistep in the noise",
                found=f"order {self.order}, weights {self.weights!r}",
                expected="order 1 to 4, weights log_rho, time or fixed",
                fix="Use NoiseMultistep.deis() or NoiseMultistep.ipndm().",
            )

    @classmethod
    def deis(cls, order: int = 3, weights: Literal["log_rho", "time"] = "log_rho") -> NoiseMultistep:
        """Return DEIS with polynomials in ln kappa (as diffusers) or in time (tAB)."""
        return cls(order, weights)

    @classmethod
    def ipndm(cls, order: int = 4) -> NoiseMultistep:
        """Return iPNDM: Adams-Bashforth numbers of equal steps in kappa."""
        return cls(order, "fixed")

    def plan(self, grid: Grid) -> NoisePlan:
        """Return one row of weights a step."""
        rows: list[tuple[float, ...]] = []
        for k in range(grid.steps):
            order = min(self.order, k + 1)
            if self.weights != "fixed" and grid.steps < FEW_STEPS:
                order = min(order, grid.steps - k)
            if grid.sigma[k + 1] == 0 or math.isinf(grid.log_snr[k]):
                rows.append(())
            elif self.weights == "fixed":
                length = math.exp(-grid.log_snr[k + 1]) - math.exp(-grid.log_snr[k])
                rows.append(tuple(length * weight for weight in FIXED[order - 1]))
            else:
                rows.append(_polynomial_weights(grid, k, order, self.weights))
        return NoisePlan(grid.times, grid.alpha, grid.sigma, tuple(rows))


def _polynomial_weights(grid: Grid, k: int, order: int, variable: str) -> tuple[float, ...]:
    """Return int L_j dkappa over step k for the older answers j = 1 ... order - 1; none for one at kappa = inf."""
    usable = [j for j in range(order) if math.isfinite(grid.log_snr[k - j])]
    points, density = _gauss_legendre()
    top, bottom = -grid.log_snr[k], -grid.log_snr[k + 1]  # ln kappa
    u = bottom + 0.5 * (top - bottom) * (points + 1)
    measure = -0.5 * (top - bottom) * density * np.exp(u)  # dkappa, downwards
    place = u if variable == "log_rho" else _time(grid.process, u)
    nodes = [-grid.log_snr[k - j] if variable == "log_rho" else grid.times[k - j] for j in usable]
    weights = dict.fromkeys(range(1, order), 0.0)
    for j, node in zip(usable[1:], nodes[1:], strict=True):
        others = [other for other in nodes if other != node]
        weights[j] = float(measure @ np.prod([(place - other) / (node - other) for other in others], axis=0))
    return tuple(weights.values())


@cache
def _gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    """Return 64 points and weights on [-1, 1]; finding them takes longer than a whole plan otherwise."""
    return np.polynomial.legendre.leggauss(64)


def _time(process: NoiseProcess, log_kappa: np.ndarray) -> np.ndarray:
    return np.asarray(process.time_of_log_snr(torch.from_numpy(-log_kappa)))


@dataclass(frozen=True)
class NoisePlan:
    """Weights of the older answers at each step. The history is the newest estimate of x_0, then the noises.

    Attributes:
        times: nodes of the grid.
        alpha: weight of the data at the nodes.
        sigma: standard deviation of the noise at the nodes.
        rows: c_1, c_2, ... of each step.
    """

    times: tuple[float, ...]
    alpha: tuple[float, ...]
    sigma: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]

    @property
    def calls(self) -> int:
        """Return the number of network calls."""
        return len(self.rows)

    @property
    def asked(self) -> tuple[float, ...]:
        """Return the level of each call."""
        return self.times[:-1]

    def start(self, x: Tensor) -> State:
        """Return the state before the first call."""
        return State(x=x, t=self.times[0])

    def advance(self, state: State, x0: Tensor, generator: torch.Generator | None = None) -> State:
        """Return the state after the answer x0 = D(state.x, state.t); the generator is not used.

        Raises:
            InputError: the sampling is already complete.
        """
        k = state.index
        if k >= self.calls:
            raise InputError(
                "state",
                found=f"{k} calls made",
                expected=f"fewer than the {self.calls} of the plan",
                fix="Start a new sampling.",
            )
        noise = (state.x - self.alpha[k] * x0) / self.sigma[k]
        older = state.history[1 : 1 + max(map(len, self.rows))]
        x = self.alpha[k + 1] * x0
        if self.sigma[k + 1]:
            x = x + self.sigma[k + 1] * noise
        for weight, past in zip(self.rows[k], older, strict=False):
            if weight:
                x = x + (self.alpha[k + 1] * weight) * (past - noise)
        return State(x=x, t=self.times[k + 1], index=k + 1, history=(x0, noise, *older))

r"""Coefficients in closed form: least squares against the teacher, step by step, on the student's own states.

The step from level s down to level t is sought in the span of

    phi_0 = x - alpha_s D_k,     phi_1 = D_k,     phi_2 = D_k - D_{k-1},     phi_3 = D_{k-1} - D_{k-2}, ...

in which DDIM, x_t = (sigma_t / sigma_s) phi_0 + alpha_t phi_1, has the coefficients c' = (sigma_t/sigma_s, alpha_t,
0, ...) and every multistep solver has others. With the teacher's state x*_t, summed over samples and pixels,

    c = argmin |x*_t - sum_i c_i phi_i|^2 + ridge sum_i |phi_i|^2 (c_i - c'_i)^2,

so ridge -> infinity is DDIM. The student then takes the step with these coefficients, and the next fit sees the error
that is left. N steps are N systems of `history` + 1 unknowns: no gradients, N network calls.

With bands of frequencies every band of the cosine transform has coefficients of its own, and c_1 = alpha_t is not
fitted: then an answer that is the same at every step is reached exactly, whatever the other coefficients are, so the
mean of the data, which is large in low bands, plays no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from shared.cosine import SPACE, Bands, waves
from shared.denoiser import Denoiser
from shared.grid import Grid
from shared.sampling import State
from shared.solvers.banded import BandedMultistep, BandedPlan
from shared.solvers.calibrated import CalibratedMultistep
from shared.solvers.linear import LinearPlan, Update

LEAST_RIDGE = 1e-12


def fit(
    denoiser: Denoiser, x: Tensor, targets: Sequence[Tensor], grid: Grid, *, history: int = 2, ridge: float = 1e-6,
    bands: Bands | None = None,
) -> tuple[CalibratedMultistep | BandedMultistep, Tensor]:  # fmt: skip
    """Return the fitted solver, and its result from the noises x.

    Args:
        denoiser: the model.
        x: noises at the first node, (n, ...).
        targets: the teacher's states at the nodes after the first.
        grid: the nodes.
        history: how many answers a step looks at, 1 or more.
        ridge: pull towards DDIM, relative to the size of each term.
        bands: fit each by itself; x is (n, C, *space) then. None fits one set of coefficients.
    """
    if bands is not None:
        return _fit_banded(denoiser, x, targets, grid, history, ridge, bands)
    gains: list[float] = []
    rows: list[tuple[float, ...]] = []
    answers: tuple[Tensor, ...] = ()
    with torch.no_grad():
        for k in range(grid.steps):
            answers = (denoiser(x, grid.times[k]), *answers)[:history]
            gain, weights = _fit_step(x, answers, targets[k], grid, k, ridge)
            # The step of the solver itself, so that fitting and sampling agree to the bit.
            plan = LinearPlan((Update(grid.times[k], gain, weights),), grid.times[k + 1])
            x = plan.advance(State(x, grid.times[k], history=answers[1:]), answers[0]).x
            gains.append(gain)
            rows.append(weights)
    return CalibratedMultistep(grid.times, tuple(gains), tuple(rows)), x


def _fit_step(
    x: Tensor, answers: Sequence[Tensor], target: Tensor, grid: Grid, k: int, ridge: float
) -> tuple[float, tuple[float, ...]]:
    """Return gain and weights (of the answers, newest first) of the step from node k."""
    c = _solved(_basis(x, answers, grid.alpha[k]), real_vector(target), grid, k, ridge, banded=False)
    return solver_form(c, grid.alpha[k])


def _basis(x: Tensor, answers: Sequence[Tensor], alpha: float) -> Tensor:
    """Return phi_0, phi_1, ... of the module docstring as columns."""
    terms = [x - alpha * answers[0], answers[0], *(new - old for new, old in pairwise(answers))]
    return torch.stack([real_vector(term) for term in terms], dim=1)


def _solved(basis: Tensor, target: Tensor, grid: Grid, k: int, ridge: float, *, banded: bool) -> list[float]:
    """Return the coefficients of the step from node k."""
    c = torch.zeros(basis.shape[1], dtype=torch.float64)
    c[0], c[1] = grid.sigma[k + 1] / grid.sigma[k], grid.alpha[k + 1]
    rest = target - basis @ c.to(basis.device)
    free = free_terms(len(c), banded=banded)
    basis = basis[:, free]
    c[free] += ridge_solution((basis.T @ basis).cpu(), (basis.T @ rest).cpu(), ridge)
    return c.tolist()


def free_terms(count: int, *, banded: bool) -> list[int]:
    """Return which of the terms phi are fitted: all, or in bands all but phi_1."""
    return [i for i in range(count) if not (banded and i == 1)]


def _fit_banded(
    denoiser: Denoiser, x: Tensor, targets: Sequence[Tensor], grid: Grid, history: int, ridge: float, bands: Bands
) -> tuple[BandedMultistep, Tensor]:
    index = bands.index(tuple(x.shape[SPACE:])).to(x.device)
    chosen = [index == band for band in range(bands.count)]
    gains: list[tuple[float, ...]] = []
    rows: list[tuple[tuple[float, ...], ...]] = []
    answers: tuple[Tensor, ...] = ()
    with torch.no_grad():
        for k in range(grid.steps):
            answers = (denoiser(x, grid.times[k]), *answers)[:history]
            seen, target = [waves(tensor) for tensor in (x, *answers)], waves(targets[k])
            forms = []
            for among in chosen:
                state, *asked = [tensor[..., among] for tensor in seen]
                basis = _basis(state, asked, grid.alpha[k])
                c = _solved(basis, real_vector(target[..., among]), grid, k, ridge, banded=True)
                forms.append(solver_form(c, grid.alpha[k]))
            gains.append(tuple(gain for gain, _ in forms))
            rows.append(tuple(zip(*(weights for _, weights in forms), strict=True)))
            # The step of the solver itself, so that fitting and sampling agree to the bit.
            step = BandedMultistep(grid.times[: k + 2], bands.edges, tuple(gains), tuple(rows))
            x = BandedPlan(step).advance(State(x, grid.times[k], index=k, history=answers[1:]), answers[0]).x
    return BandedMultistep(grid.times, bands.edges, tuple(gains), tuple(rows)), x


def solver_form(c: Sequence[float], alpha: float) -> tuple[float, tuple[float, ...]]:
    """Return gain and weights of sum_i c_i phi_i, phi_i of the module docstring."""
    weights = [c[1] - alpha * c[0], *[0.0] * (len(c) - 2)]
    for j, slope in enumerate(c[2:]):
        weights[j] += slope
        weights[j + 1] -= slope
    return c[0], tuple(weights)


def ridge_solution(gram: Tensor, moment: Tensor, ridge: float) -> Tensor:
    """Solve (G + ridge diag G) d = m for each of a batch (..., p, p), (..., p); d = 0 along terms that are zero.

    The system is scaled to a unit diagonal first: the terms differ by orders of magnitude from level to level.
    """
    scale = torch.diagonal(gram, dim1=-2, dim2=-1).clamp_min(0).sqrt()
    scale = torch.where(scale > 0, scale, torch.inf)
    unit = gram / (scale[..., :, None] * scale[..., None, :])
    # Terms that depend on each other exactly (linear data, one sample) make the system singular without some ridge.
    pull = torch.diag_embed(torch.where(torch.isinf(scale), 1.0, max(ridge, LEAST_RIDGE)))
    solved: Tensor = torch.linalg.solve(unit + pull, (moment / scale)[..., None])[..., 0]
    return solved / scale


def real_vector(x: Tensor) -> Tensor:
    """Return all numbers of x as one float64 vector; a complex number is two."""
    return (torch.view_as_real(x.resolve_conj()) if x.is_complex() else x).double().flatten()

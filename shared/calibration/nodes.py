r"""Which nodes: shortest paths through the candidates by dynamic programming, after GITS.

Two costs of a step, both computed from the teacher's trajectories alone, without another network call:

    dev   one DDIM step i -> j against the teacher: the mean over samples of |d(x_DDIM) - d(x*_j)|, where d is the
          distance of a state from the straight line between start and end of its own trajectory (GITS);
    step  the fitted solver's own error: the mean square of what is left of x*_m after the least squares of
          `shared.calibration.coefficients` on x*_j, D_j and D_i, for every triple of nodes i -> j -> m (history 2).
          The state of the programme is the pair (i, j). With bands, the sum over bands of what is left in each.

With discount gamma, the path of N steps that minimises sum_k gamma^(N-1-k) cost_k is found exactly. Neither cost knows
how an early error grows until the end, so gamma is not one number: every value of `DISCOUNTS` gives a path, and
`shared.calibration` runs them all to the end.

Reference: Chen et al., On the Trajectory Regularity of ODE-based Diffusion Sampling, ICML 2024 (GITS), section 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared.calibration.coefficients import free_terms, real_vector, ridge_solution
from shared.calibration.teacher import Teacher
from shared.cosine import SPACE, Bands, waves

DISCOUNTS: dict[str, tuple[float, ...]] = {
    "dev": (1.0, 1.15), "step": (0.5, 0.7, 0.85, 1.0), "banded step": (0.7, 0.85, 1.0, 1.15, 1.3)
}  # fmt: skip

Path = tuple[int, ...]


def paths(teacher: Teacher, nfe: int, *, ridge: float, bands: Bands | None = None) -> dict[str, Path]:
    """Return the best path of `nfe` steps for each cost and discount: places in the teacher's grid, by name.

    Args:
        teacher: trajectories at the candidates.
        nfe: steps, at most the number of steps of the teacher's grid.
        ridge: of the fit, see `shared.calibration.coefficients`.
        bands: of the fit; None fits one set of coefficients.
    """
    deviation = deviation_costs(teacher)
    first, later = step_costs(teacher, ridge=ridge, bands=bands)
    found = {f"dev {gamma:g}": shortest_path(deviation, nfe, gamma) for gamma in DISCOUNTS["dev"]}
    step = "step" if bands is None else "banded step"
    return found | {f"{step} {gamma:g}": shortest_pair_path(first, later, nfe, gamma) for gamma in DISCOUNTS[step]}


def deviation_costs(teacher: Teacher) -> Tensor:
    """Return the cost "dev" of every step, (M + 1, M + 1), infinite where it does not lead down."""
    grid, count = teacher.grid, len(teacher.states)
    start = teacher.states[0].flatten(1).double()
    chord = teacher.states[-1].flatten(1).double() - start
    chord = chord / chord.norm(dim=1, keepdim=True).clamp_min(1e-300)

    def off_chord(x: Tensor) -> Tensor:
        offset = x.flatten(1).double() - start
        return (offset - (offset * chord).sum(1, keepdim=True) * chord).norm(dim=1)

    exact = torch.stack([off_chord(x) for x in teacher.states])
    cost = torch.full((count, count), torch.inf, dtype=torch.float64)
    for i in range(count - 1):
        noise = (teacher.states[i] - grid.alpha[i] * teacher.answers[i]) / grid.sigma[i]
        for j in range(i + 1, count):
            ddim = grid.alpha[j] * teacher.answers[i] + grid.sigma[j] * noise
            cost[i, j] = (off_chord(ddim) - exact[j]).abs().mean()
    return cost


def step_costs(teacher: Teacher, *, ridge: float, bands: Bands | None = None) -> tuple[Tensor, Tensor]:
    """Return the cost "step" of every first step 0 -> m, (M + 1,), and of every later i -> j -> m, (M + 1,) * 3.

    Everything follows from the inner products of states and answers: one Gram matrix a band, then small systems in a
    batch.
    """
    costs = [_costs(gram, teacher, ridge, banded=bands is not None) for gram in _grams(teacher, bands)]
    return torch.stack([first for first, _ in costs]).sum(0), torch.stack([later for _, later in costs]).sum(0)


def _costs(gram: Tensor, teacher: Teacher, ridge: float, *, banded: bool) -> tuple[Tensor, Tensor]:
    count = len(teacher.states)
    alpha = torch.tensor(teacher.grid.alpha, dtype=torch.float64)
    sigma = torch.tensor(teacher.grid.sigma, dtype=torch.float64)
    xx, xd, dd = gram[:count, :count], gram[:count, count:], gram[count:, count:]
    first = torch.full((count,), torch.inf, dtype=torch.float64)
    later = torch.full((count, count, count), torch.inf, dtype=torch.float64)
    for j in range(count - 1):
        m = torch.arange(j + 1, count)
        i = torch.arange(j)
        # Inner products of phi_0 = x_j - alpha_j D_j and phi_1 = D_j with each other and with the targets x_m.
        e_d = xd[j] - alpha[j] * dd[j]
        e_e = xx[j, j] - 2 * alpha[j] * xd[j, j] + alpha[j] ** 2 * dd[j, j]
        e_x = xx[j, m] - alpha[j] * xd[m, j]
        d_x = xd[m, j]
        ddim = torch.stack([sigma[m] / sigma[j], alpha[m]], dim=1)
        if j == 0:
            two = torch.stack([torch.stack([e_e, e_d[j]]), torch.stack([e_d[j], dd[j, j]])])
            first[m] = _left_over(two, torch.stack([e_x, d_x], dim=1), ddim, xx[m, m], ridge, banded=banded)
            continue
        # phi_2 = D_j - D_i, for every i at once.
        e_s, d_s = e_d[j] - e_d[i], dd[j, j] - dd[j, i]
        s_s = dd[j, j] - 2 * dd[j, i] + dd[i, i]
        s_x = d_x[None, :] - xd[m][:, i].T
        ones = torch.ones_like(e_s)
        three = torch.stack(
            [e_e * ones, e_d[j] * ones, e_s, e_d[j] * ones, dd[j, j] * ones, d_s, e_s, d_s, s_s], dim=-1
        )
        moments = torch.stack([e_x.expand(len(i), -1), d_x.expand(len(i), -1), s_x], dim=-1)
        ddim = torch.cat([ddim, torch.zeros(len(m), 1, dtype=torch.float64)], dim=1)
        gram_of_three = three.reshape(-1, 1, 3, 3)
        later[i[:, None], j, m] = _left_over(gram_of_three, moments, ddim, xx[m, m], ridge, banded=banded)
    return first, later


def _left_over(gram: Tensor, moments: Tensor, ddim: Tensor, square: Tensor, ridge: float, *, banded: bool) -> Tensor:
    """Return |x_m - sum_i c_i phi_i|^2 of the fitted c, from inner products only."""
    pull = moments - (gram @ ddim[..., None])[..., 0]
    gram = gram.expand(*pull.shape, pull.shape[-1])
    free = free_terms(pull.shape[-1], banded=banded)
    c = ddim.expand(pull.shape).clone()
    c[..., free] += ridge_solution(gram[..., free, :][..., free], pull[..., free], ridge)
    return (square - 2 * (c * moments).sum(-1) + (c * (gram @ c[..., None])[..., 0]).sum(-1)).clamp_min(0)


def _grams(teacher: Teacher, bands: Bands | None) -> list[Tensor]:
    """Return the mean inner products of all states and all answers in each band, their shares of the whole.

    One sample at a time, to bound the memory.
    """
    vectors = (*teacher.states, *teacher.answers)
    chosen: list[Tensor] | None = None
    if bands is not None:
        index = bands.index(tuple(vectors[0].shape[SPACE:])).to(vectors[0].device)
        chosen = [index == band for band in range(bands.count)]
    grams = torch.zeros(1 if chosen is None else len(chosen), len(vectors), len(vectors), dtype=torch.float64)
    numbers = 0
    for n in range(len(vectors[0])):
        one = [vector[n : n + 1] if chosen is None else waves(vector[n : n + 1]) for vector in vectors]
        for place, gram in enumerate(grams):
            parts = one if chosen is None else [vector[..., chosen[place]] for vector in one]
            rows = torch.stack([real_vector(part) for part in parts])
            gram += (rows @ rows.T).cpu()
            numbers += rows.shape[1]
    return list(grams / numbers)


def shortest_path(cost: Tensor, steps: int, gamma: float) -> Path:
    """Return the path of `steps` steps from the first node to the last that minimises the discounted sum of `cost`."""
    best, origins = cost[0], []
    for _ in range(steps - 1):
        best, origin = (gamma * best[:, None] + cost).min(0)
        origins.append(origin)
    path = [len(cost) - 1]
    for origin in reversed(origins):
        path.append(int(origin[path[-1]]))
    return (0, *reversed(path))


def shortest_pair_path(first: Tensor, later: Tensor, steps: int, gamma: float) -> Path:
    """Return the same for costs that depend on the node before: `first[m]`, then `later[i, j, m]`."""
    if steps == 1:
        return (0, len(first) - 1)
    best = torch.full(later.shape[:2], torch.inf, dtype=torch.float64)
    best[0] = first
    origins = []
    for _ in range(steps - 1):
        best, origin = (gamma * best[:, :, None] + later).min(0)
        origins.append(origin)
    path = [len(first) - 1, int(best[:, -1].argmin())]
    for origin in reversed(origins):
        path.append(int(origin[path[-1], path[-2]]))
    return tuple(reversed(path))

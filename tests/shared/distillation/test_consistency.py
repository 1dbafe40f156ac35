"""Consistency distillation on a Gaussian, where the end of the teacher's sampling is known in closed form."""

import math

import pytest
import torch

from shared.distillation.consistency import HUBER, consistency_loss
from shared.grid import trailing_grid
from shared.process import VariancePreserving, along_batch, squared_cosine_betas
from shared.sampling import sample
from shared.solvers.consistency import ConsistencySteps
from shared.solvers.ddim import DDIM
from tests.oracles.gaussian import GaussianDenoiser, ddim_moments

MEAN, STD = 0.5, 0.2
PROCESS = VariancePreserving.from_betas(squared_cosine_betas(100))
TEACHER = GaussianDenoiser(PROCESS, MEAN, STD)
GRID = trailing_grid(PROCESS, 5)


def slopes() -> torch.Tensor:
    """Return what the teacher's DDIM sampling from each node of the grid multiplies x - alpha mean by; 1 at the end."""
    ends = [ddim_moments(GRID.alpha[k:], GRID.sigma[k:], 1.0, MEAN, STD)[1] for k in range(GRID.steps)]
    return torch.tensor([*ends, 1.0], dtype=torch.float64)


def student(slope: torch.Tensor):
    """Return f(x, t) = mean + slope_k (x - alpha mean) at the nodes of the grid."""
    times = torch.tensor(GRID.times, dtype=torch.float64)

    def denoise(x, t):
        node = (torch.as_tensor(t).reshape(-1, 1) - times).abs().argmin(1)
        alpha = along_batch(PROCESS.alpha(t), x)
        return MEAN + slope[node].reshape(-1, *[1] * (x.ndim - 1)) * (x - alpha * MEAN)

    return denoise


def batch(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, count, 3, generator=generator, dtype=torch.float64)
    return MEAN + STD * x0, noise, torch.randint(GRID.steps, (count,), generator=generator)


def test_loss_is_zero_for_the_end_of_the_teachers_sampling_and_the_huber_distance_for_others():
    x0, noise, place = batch(50, 0)
    exact = slopes()
    right = consistency_loss(student(exact), TEACHER, PROCESS, x0, noise, GRID, place)
    assert float(right.max()) < 1e-9
    wrong = exact.clone()
    wrong[1] += 0.1
    found = consistency_loss(student(wrong), TEACHER, PROCESS, x0, noise, GRID, place)
    times = torch.tensor(GRID.times, dtype=torch.float64)
    x = PROCESS.add_noise(x0, noise, times[place])
    away = 0.1 * (x - along_batch(PROCESS.alpha(times[place]), x) * MEAN).norm(dim=1)
    c = HUBER * math.sqrt(3)
    at_node = place == 1
    torch.testing.assert_close(found[at_node], (torch.sqrt(away**2 + c**2) - c)[at_node])
    assert bool((found[place == 0] > 0.01 * away[place == 0]).all())  # its target is the wrong one
    assert float(found[place >= 2].max()) < 1e-9


def test_student_with_one_number_a_level_learns_the_teachers_sampling():
    free = torch.full((GRID.steps,), 0.5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([free], lr=0.03)
    steps = 300
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.03 * (1 - step / steps)
        slope = torch.cat([free, torch.ones(1, dtype=torch.float64)])
        x0, noise, place = batch(64, step)
        optimiser.zero_grad()
        consistency_loss(student(slope), TEACHER, PROCESS, x0, noise, GRID, place).mean().backward()
        optimiser.step()
    torch.testing.assert_close(free.detach(), slopes()[:-1], rtol=0, atol=0.01)


@pytest.mark.parametrize("calls", [1, 2, 3])
def test_consistency_steps_keep_the_law_of_the_data(calls):
    def exact(x, t):  # the end of the ODE
        alpha, sigma = PROCESS.alpha(t), PROCESS.sigma(t)
        return MEAN + STD / torch.sqrt(alpha**2 * STD**2 + sigma**2) * (x - alpha * MEAN)

    generator, count = torch.Generator().manual_seed(0), 20_000
    x = PROCESS.noise((count, 1), generator, dtype=torch.float64)
    found = sample(exact, x, trailing_grid(PROCESS, calls), ConsistencySteps(), generator=generator)
    assert float(found.mean()) == pytest.approx(MEAN, abs=4 * STD / count**0.5)
    assert float(found.std()) == pytest.approx(STD, rel=4 / (2 * count) ** 0.5)
    plain = sample(TEACHER, x, trailing_grid(PROCESS, calls), DDIM())
    assert float(plain.std()) < 0.5 * STD  # what so few calls of the teacher itself leave

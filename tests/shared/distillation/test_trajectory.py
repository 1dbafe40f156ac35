"""Distillation of a sampling on a Gaussian, where the end of the teacher's sampling is known in closed form."""

import math

import pytest
import torch

from shared.distillation.trajectory import HUBER, trajectory_end, trajectory_loss
from shared.grid import explicit_grid, trailing_grid
from shared.process import VariancePreserving, along_batch, squared_cosine_betas
from shared.sampling import sample
from shared.solvers.consistency import ConsistencySteps
from shared.solvers.ddim import DDIM
from tests.oracles.gaussian import GaussianDenoiser, ddim_moments

MEAN, STD, CALLS = 0.5, 0.2, 5
PROCESS = VariancePreserving.from_betas(squared_cosine_betas(100))
TEACHER = GaussianDenoiser(PROCESS, MEAN, STD)
LEVELS = torch.tensor([1.0, 0.7, 0.41, 0.2, 0.05], dtype=torch.float64)


def slopes() -> torch.Tensor:
    """Return what the teacher's DDIM sampling from each level multiplies x - alpha mean by."""
    found = []
    for level in LEVELS.tolist():
        grid = explicit_grid(PROCESS, [level * (1 - k / CALLS) for k in range(CALLS + 1)])
        found.append(ddim_moments(grid.alpha, grid.sigma, 1.0, MEAN, STD)[1])
    return torch.tensor(found, dtype=torch.float64)


def student(slope: torch.Tensor):
    """Return f(x, t) = mean + slope_k (x - alpha mean) at the levels."""

    def denoise(x, t):
        node = (torch.as_tensor(t).reshape(-1, 1) - LEVELS).abs().argmin(1)
        return MEAN + along_batch(slope[node], x) * (x - along_batch(PROCESS.alpha(t), x) * MEAN)

    return denoise


def batch(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn(2, count, 3, generator=generator, dtype=torch.float64)
    return MEAN + STD * x0, noise, torch.randint(len(LEVELS), (count,), generator=generator)


def test_the_end_is_that_of_the_samplers_ddim_from_every_level():
    x0, noise, _ = batch(4, 0)
    for level in LEVELS.tolist():
        level_of_all = torch.full((4,), level, dtype=torch.float64)
        x = PROCESS.add_noise(x0, noise, level_of_all)
        grid = explicit_grid(PROCESS, [level * (1 - k / CALLS) for k in range(CALLS + 1)])
        torch.testing.assert_close(
            trajectory_end(TEACHER, PROCESS, x, level_of_all, CALLS), sample(TEACHER, x, grid, DDIM())
        )


def test_loss_is_zero_for_the_end_of_the_teachers_sampling_and_the_huber_distance_for_others():
    x0, noise, place = batch(50, 0)
    exact = slopes()
    right = trajectory_loss(student(exact), TEACHER, PROCESS, x0, noise, LEVELS[place], calls=CALLS)
    assert float(right.max()) < 1e-9
    wrong = exact.clone()
    wrong[1] += 0.1
    found = trajectory_loss(student(wrong), TEACHER, PROCESS, x0, noise, LEVELS[place], calls=CALLS)
    x = PROCESS.add_noise(x0, noise, LEVELS[place])
    away = 0.1 * (x - along_batch(PROCESS.alpha(LEVELS[place]), x) * MEAN).norm(dim=1)
    c = HUBER * math.sqrt(3)
    torch.testing.assert_close(found[place == 1], (torch.sqrt(away**2 + c**2) - c)[place == 1])
    assert float(found[place != 1].max()) < 1e-9  # an error of one level is no other's


def test_student_with_one_number_a_level_learns_the_teachers_sampling():
    free = torch.full((len(LEVELS),), 0.5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([free], lr=0.03)
    steps = 300
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.03 * (1 - step / steps)
        x0, noise, place = batch(64, step)
        optimiser.zero_grad()
        trajectory_loss(student(free), TEACHER, PROCESS, x0, noise, LEVELS[place], calls=CALLS).mean().backward()
        optimiser.step()
    torch.testing.assert_close(free.detach(), slopes(), rtol=0, atol=0.01)


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

"""Coefficients for every band of frequencies: exact for Gaussian fields, where one set of coefficients is not."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from shared import DDIM, Grid, InputError, VariancePreserving, karras_grid, sample, step
from shared.calibration import calibrate, load_calibration
from shared.calibration.coefficients import fit
from shared.calibration.nodes import DISCOUNTS, paths, step_costs
from shared.calibration.teacher import candidates, follow
from shared.cosine import Bands, from_waves, waves
from shared.process import along_batch
from shared.solvers.banded import BandedMultistep
from shared.solvers.calibrated import CalibratedMultistep
from shared.solvers.named import solver_from_data, solver_to_data
from tests.oracles.gaussian import GaussianDenoiser

PROCESS = VariancePreserving.linear()
SPACE = (12, 10)
BANDS = Bands.geometric(SPACE, 6)
VARIANCE = torch.tensor([9.0, 4.0, 1.0, 0.2, 0.03, 0.004], dtype=torch.float64)  # of a coefficient in each band
MEAN = torch.linspace(-2, 3, 120, dtype=torch.float64).reshape(1, 1, *SPACE)


@dataclass(frozen=True)
class GaussianField:
    """E[x_0 | x_t] of a mean and independent coefficients, one variance a band; `bend` makes it nonlinear."""

    bend: float = 0.0

    def __call__(self, x: Tensor, t) -> Tensor:
        alpha, sigma = along_batch(PROCESS.alpha(t), x), along_batch(PROCESS.sigma(t), x)
        variance = VARIANCE[BANDS.index(SPACE)]
        seen = waves(x - alpha * MEAN)
        estimate = alpha * variance / (alpha**2 * variance + sigma**2) * seen
        answer = MEAN + from_waves(estimate)
        return answer + self.bend * torch.sin(answer)


def noise(seed: int, n: int = 8) -> Tensor:
    return PROCESS.noise((n, 1, *SPACE), torch.Generator().manual_seed(seed), dtype=torch.float64)


def rms(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().mean().sqrt())


def end_of_the_ode(x: Tensor) -> Tensor:
    """Return where noise ends: the field of the same coefficients, by the variances at both ends."""
    variance = VARIANCE[BANDS.index(SPACE)]
    alpha, sigma = PROCESS.alpha(1.0).item(), PROCESS.sigma(1.0).item()
    gain = (variance / (alpha**2 * variance + sigma**2)).sqrt()
    return MEAN + from_waves(gain * waves(x - alpha * MEAN))


def test_a_gaussian_field_is_solved_exactly_in_three_calls_and_not_with_one_set_of_coefficients():
    x, held_out = noise(1), noise(2)
    banded = calibrate(GaussianField(), PROCESS, x, 3, held_out=held_out, nodes=21, bands=6)
    single = calibrate(GaussianField(), PROCESS, x, 3, held_out=held_out, nodes=21)
    field = GaussianField()
    errors = [
        rms(sample(field, held_out, *fitted.bind(field, process=PROCESS)), end_of_the_ode(held_out))
        for fitted in (banded, single)
    ]
    assert errors[0] < 2e-3  # of the teacher's steps
    assert errors[1] > 20 * errors[0]
    assert banded.held_out is not None
    assert banded.held_out.calibrated < 1e-3 * min(banded.held_out.baselines.values())


def test_the_gains_of_a_gaussian_field_are_those_of_its_variances():
    """One answer a step: c_0 of a band is known where D is linear, and c_1 = alpha_t."""
    grid = karras_grid(PROCESS, 4)
    alpha, sigma = torch.tensor(grid.alpha, dtype=torch.float64), torch.tensor(grid.sigma, dtype=torch.float64)
    teacher = follow(GaussianField(), noise(1), grid)
    solver, _ = fit(GaussianField(), noise(1), teacher.states[1:], grid, history=1, bands=BANDS)
    for k in range(3):  # the teacher's own last step, to no noise at all, is a long one
        total = alpha[[k, k + 1]] ** 2 * VARIANCE[:, None] + sigma[[k, k + 1]] ** 2
        ratio = (total[:, 1] / total[:, 0]).sqrt()  # of x - alpha m at both ends
        share = alpha[k] * VARIANCE / total[:, 0]  # (D - m) of x - alpha m
        weights = torch.tensor(solver.weights[k][0], dtype=torch.float64)
        gains = torch.tensor(solver.gains[k], dtype=torch.float64)
        torch.testing.assert_close(gains + weights * share, ratio, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(gains * alpha[k] + weights, alpha[k + 1].expand(6))


def test_an_answer_that_never_changes_is_reached_whatever_the_fit():
    def constant(x: Tensor, t) -> Tensor:
        return MEAN.expand(x.shape)

    fitted, _ = fit(GaussianField(0.3), noise(1), [noise(3)] * 4, karras_grid(PROCESS, 4), history=3, bands=BANDS)
    grid, x = karras_grid(PROCESS, 4), noise(2)
    alpha = grid.alpha[0]
    torch.testing.assert_close(sample(constant, alpha * MEAN + 0 * x, grid, fitted), MEAN.expand(x.shape))


def test_an_infinite_ridge_gives_ddim():
    grid = karras_grid(PROCESS, 5)
    fitted, end = fit(GaussianField(0.2), noise(1), [noise(3)] * 5, grid, history=3, ridge=1e18, bands=BANDS)
    torch.testing.assert_close(end, sample(GaussianField(0.2), noise(1), grid, DDIM()))
    assert fitted.edges == BANDS.edges


def test_the_fit_finds_the_table_that_made_the_targets_band_by_band():
    grid, x, source = karras_grid(PROCESS, 4), noise(1), torch.Generator().manual_seed(4)
    gains, weights = [], []
    for k in range(4):
        rest = (0.3 * torch.rand(min(k, 2), 6, generator=source, dtype=torch.float64)).tolist()
        gains.append((0.2 + 0.5 * torch.rand(6, generator=source, dtype=torch.float64)).tolist())
        newest = [
            grid.alpha[k + 1] - grid.alpha[k] * gain - sum(row[b] for row in rest) for b, gain in enumerate(gains[-1])
        ]
        weights.append([newest, *rest])
    known = BandedMultistep(grid.times, BANDS.edges, gains, weights)
    denoiser, targets, plan = GaussianField(0.4), [], known.plan(grid)
    state = plan.start(x)
    for _ in range(plan.calls):
        state = step(denoiser, plan, state)
        targets.append(state.x)
    found, end = fit(denoiser, x, targets, grid, history=3, ridge=0.0, bands=BANDS)
    torch.testing.assert_close(end, state.x, rtol=0, atol=1e-6)
    for k in range(4):
        assert found.gains[k] == pytest.approx(known.gains[k], abs=1e-4)
        for got, expected in zip(found.weights[k], known.weights[k], strict=True):
            assert got == pytest.approx(expected, abs=1e-4)
    assert torch.equal(sample(denoiser, x, grid, found), end)


def test_step_costs_are_least_squares_in_every_band():
    nodes, denoiser = candidates(PROCESS, 3, 6), GaussianField(0.4)
    teacher = follow(denoiser, noise(1, 3), nodes)
    first, later = step_costs(teacher, ridge=0.0, bands=BANDS)
    index, alpha = BANDS.index(SPACE), nodes.alpha
    x, d = [waves(v) for v in teacher.states], [waves(v) for v in teacher.answers]

    def left(columns, target) -> float:
        total = 0.0
        for band in range(BANDS.count):
            basis = torch.stack([column[..., index == band].flatten() for column in columns], 1)
            goal = target[..., index == band].flatten()[:, None]
            total += float((basis @ torch.linalg.lstsq(basis, goal).solution - goal).square().sum())
        return total / target.numel()

    for m in range(1, len(x)):
        assert float(first[m]) == pytest.approx(
            left([x[0] - alpha[0] * d[0]], x[m] - alpha[m] * d[0]), rel=1e-6, abs=1e-9
        )
    for i, j, m in itertools.combinations(range(len(x)), 3):
        expected = left([x[j] - alpha[j] * d[j], d[j] - d[i]], x[m] - alpha[m] * d[j])
        assert float(later[i, j, m]) == pytest.approx(expected, rel=1e-3, abs=1e-9), (i, j, m)
    names = paths(teacher, 3, ridge=1e-6, bands=BANDS)
    assert {name.rsplit(" ", 1)[0] for name in names} == {"dev", "banded step"}
    assert len(names) == len(DISCOUNTS["dev"]) + len(DISCOUNTS["banded step"])


def test_a_saved_calibration_draws_the_same_bits_and_is_refused_on_another_grid(tmp_path):
    fitted = calibrate(GaussianField(0.3), PROCESS, noise(1, 2), 3, nodes=11, bands=5)
    fitted.save(tmp_path / "c.json")
    loaded = load_calibration(tmp_path / "c.json")
    assert loaded == fitted
    field = GaussianField(0.3)
    drawn = [sample(field, noise(2), *c.bind(field, process=PROCESS)) for c in (fitted, loaded)]
    assert torch.equal(*drawn)
    assert solver_from_data(solver_to_data(fitted.solver)) == fitted.solver
    with pytest.raises(InputError, match="3 steps of the calibration"):
        fitted.solver.plan(karras_grid(PROCESS, 4))
    plan = fitted.solver.plan(fitted.grid)
    state = plan.start(noise(2))
    for _ in range(3):
        state = plan.advance(state, noise(3))
    with pytest.raises(InputError, match="fewer than the 3"):
        plan.advance(state, noise(3))


def test_tables_and_options_that_do_not_fit_are_refused():
    table = BandedMultistep((1.0, 0.5, 0.0), (0.1,), ((1, 1), (1, 1)), (((0, 0),), ((0, 0), (0, 0))))
    assert table.grid(PROCESS) == Grid(PROCESS, (1.0, 0.5, 0.0))
    for wrong in (
        {"gains": ((1, 1),)}, {"gains": ((1, 1), (1,))}, {"edges": (0.1, 0.2)},
        {"weights": (((0, 0), (0, 0)), ((0, 0),))}, {"weights": (((0, 0),), ((0, 0), (0,)))}, {"times": (1.0, 0.0)},
    ):  # fmt: skip
        with pytest.raises(InputError, match="banded solver"):
            replace(table, **wrong)
    with pytest.raises(InputError, match="bands"):
        calibrate(GaussianField(), PROCESS, noise(1), 3, bands=0)
    with pytest.raises(InputError, match="axes of space"):
        calibrate(GaussianField(), PROCESS, noise(1).flatten(1), 3, bands=4)


def test_bands_are_not_taken_from_one_noise_or_where_they_do_not_help_noises_left_out():
    assert isinstance(
        calibrate(GaussianField(), PROCESS, noise(1, 1), 3, nodes=11, bands=6).solver, CalibratedMultistep
    )
    assert isinstance(calibrate(GaussianField(), PROCESS, noise(1, 2), 3, nodes=11, bands=6).solver, BandedMultistep)
    white = GaussianDenoiser(PROCESS)  # one variance for all: bands have nothing to tell, and numbers to get wrong
    x = PROCESS.noise((2, 1, 3, 3), torch.Generator().manual_seed(1), dtype=torch.float64)

    def bent(x: Tensor, t) -> Tensor:
        return torch.tanh(3 * white(x, t))

    assert isinstance(calibrate(bent, PROCESS, x, 3, nodes=11, history=3, bands=4).solver, CalibratedMultistep)

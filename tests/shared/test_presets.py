"""DPM-Solver++, UniPC, DEIS and iPNDM against diffusers on its own nodes, and their measured orders."""

from __future__ import annotations

import dataclasses
import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp

from shared import (
    DDIM,
    GRIDS,
    DPMSolver,
    EVODiff,
    InputError,
    Multistep,
    NoiseMultistep,
    UniPC,
    VarianceExploding,
    VariancePreserving,
    convert,
    explicit_grid,
    log_snr_grid,
    sample,
)
from tests.oracles.families import PROCESSES
from tests.oracles.gaussian import GaussianDenoiser
from tests.oracles.mixture import MixtureDenoiser

DETERMINISTIC = {
    "dpm_solver_3m": DPMSolver(3),
    **{f"unipc{p}_{v}": UniPC(p, v) for p in (1, 2, 3) for v in ("bh1", "bh2")},
    **{f"deis{p}_{w}": NoiseMultistep.deis(p, w) for p in (2, 3) for w in ("log_rho", "time")},
    **{f"ipndm{p}": NoiseMultistep.ipndm(p) for p in (1, 2, 4)},
}
ALL = {**DETERMINISTIC, "dpm_solver_2m_sde": DPMSolver(2, stochastic=True)}
by_solver = pytest.mark.parametrize("solver", ALL.values(), ids=ALL.keys())

# --- equality with diffusers ---

TABLES = {
    "linear": {"beta_schedule": "linear"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos_cap_v2": {"beta_schedule": "squaredcos_cap_v2"},
}
by_table = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())


def both(scheduler, n, solver, *, prediction, dtype=torch.float32, seed=1):
    """Sample with both on the scheduler's own sigmas."""
    process = VariancePreserving.from_alphas_cumprod(scheduler.alphas_cumprod)
    exact = MixtureDenoiser(process)
    scheduler.set_timesteps(n)
    scheduler.sigmas = scheduler.sigmas.to(dtype)
    levels = process.time_of_log_snr(-torch.log(scheduler.sigmas.double())).clamp(max=1.0)
    grid = explicit_grid(
        process, [0.0 if not sigma else float(t) for t, sigma in zip(levels, scheduler.sigmas, strict=True)]
    )
    x = theirs = torch.randn(32, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    stochastic = "sde" in str(scheduler.config.get("algorithm_type"))
    keywords = {"generator": torch.Generator().manual_seed(seed)} if stochastic else {}
    for t, timestep in zip(grid.times[:-1], scheduler.timesteps, strict=True):
        output = convert(exact(theirs, t), theirs, t, process, source="sample", target=prediction)
        theirs = scheduler.step(output, timestep, theirs, **keywords).prev_sample
    ours = sample(exact, x, grid, solver, generator=torch.Generator().manual_seed(seed))
    return float((theirs.double() - ours.double()).square().mean().sqrt())


@pytest.mark.peer
@pytest.mark.parametrize("n", [5, 10, 20])
@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize(("variant", "end"), [("bh1", "sigma_min"), ("bh2", "sigma_min"), ("bh2", "zero")])
@by_table
def test_unipc_equals_diffusers_on_its_nodes(table, variant, end, order, n):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.UniPCMultistepScheduler(
        **table, solver_order=order, solver_type=variant, prediction_type="sample", final_sigmas_type=end
    )
    assert both(scheduler, n, UniPC(order, variant), prediction="sample") < 1e-5
    assert both(scheduler, n, UniPC(5 - order, variant), prediction="sample") > 1e-4


@pytest.mark.peer
def test_unipc_bh1_ends_at_data_where_that_of_diffusers_is_not_a_number():
    diffusers = pytest.importorskip("diffusers")
    theirs = diffusers.UniPCMultistepScheduler(solver_type="bh1", prediction_type="sample")
    assert math.isnan(both(theirs, 10, UniPC(2, "bh1"), prediction="sample"))  # 0 times infinity in its last step
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    process = PROCESSES["vp_table_linear"]
    assert torch.isfinite(sample(MixtureDenoiser(process), x, log_snr_grid(process, 10), UniPC(2, "bh1"))).all()


@pytest.mark.peer
@pytest.mark.parametrize("n", [5, 10, 14, 15, 20])
@by_table
def test_3m_equals_diffusers_on_its_nodes(table, n):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(**table, solver_order=3, prediction_type="sample")
    assert both(scheduler, n, DPMSolver(3), prediction="sample") < 3e-6
    assert both(scheduler, n, Multistep(3), prediction="sample") > 1e-4


@pytest.mark.peer
@pytest.mark.parametrize("n", [5, 20])
@by_table
def test_stochastic_2m_equals_diffusers_on_its_nodes_and_noise(table, n):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **table, algorithm_type="sde-dpmsolver++", prediction_type="sample"
    )
    assert both(scheduler, n, DPMSolver(2, stochastic=True), prediction="sample") < 3e-6


@pytest.mark.peer
@pytest.mark.parametrize("n", [5, 10, 14, 15, 20])
@pytest.mark.parametrize("order", [2, 3])
@by_table
def test_deis_equals_diffusers_on_its_nodes(table, order, n):
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DEISMultistepScheduler(**table, solver_order=order)
    solver = NoiseMultistep.deis(order)
    assert both(scheduler, n, solver, prediction="epsilon", dtype=torch.float64) < 1e-6
    other = NoiseMultistep.deis(order, "time")
    assert both(scheduler, n, other, prediction="epsilon", dtype=torch.float64) > 1e-4


@pytest.mark.peer
@pytest.mark.parametrize("n", [3, 8, 20])
def test_ipndm_equals_diffusers_on_given_noise_levels(n):
    """Its `trained_betas` are sigma and its network predicts v; at alpha = 0, where its own grid starts, it drops D."""
    diffusers = pytest.importorskip("diffusers")
    process = PROCESSES["vp_linear"]
    exact = MixtureDenoiser(process)
    grid = explicit_grid(process, np.linspace(0.9, 0.02, n + 1).tolist())
    scheduler = diffusers.IPNDMScheduler(trained_betas=list(grid.sigma))
    scheduler.set_timesteps(n)
    scheduler.alphas, scheduler.betas = (torch.tensor(c, dtype=torch.float64) for c in (grid.alpha, grid.sigma))
    x = theirs = torch.randn(32, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t, timestep in zip(grid.times[:-1], scheduler.timesteps, strict=True):
        v = convert(exact(theirs, t), theirs, t, process, source="sample", target="v")
        theirs = scheduler.step(v, timestep, theirs).prev_sample
    torch.testing.assert_close(sample(exact, x, grid, NoiseMultistep.ipndm()), theirs, rtol=1e-9, atol=1e-9)


# --- order on the mixture: sigma 10 to 0.05, uniform in log_snr ---

PROCESS = VarianceExploding(sigma_min=0.05, sigma_max=10.0)


@cache
def problem():
    exact = MixtureDenoiser(PROCESS)
    x = PROCESS.noise((64, 8), torch.Generator().manual_seed(1), dtype=torch.float64)

    def slope(log_snr, flat):
        state = torch.from_numpy(flat).reshape(x.shape)
        return (exact(state, math.exp(-log_snr) / 10) - state).reshape(-1).numpy()

    span = (-math.log(10), -math.log(0.05))
    end = solve_ivp(slope, span, x.reshape(-1).numpy(), method="DOP853", rtol=1e-10, atol=1e-10).y[:, -1]
    return exact, x, torch.from_numpy(end).reshape(x.shape)


@cache
def rmse(solver, n):
    exact, x, truth = problem()
    grid = explicit_grid(PROCESS, (1.0, *(np.geomspace(10, 0.05, n + 1)[1:] / 10)))
    return float((sample(exact, x, grid, solver) - truth).square().mean().sqrt())


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("dpm_solver_3m", 1.9, 2.3),  # half of the exact third-order term
        ("unipc1_bh1", 1.9, 2.1),
        ("unipc2_bh1", 2.4, 3.1),  # three until the uncorrected last step of order one shows
        ("unipc2_bh2", 2.4, 3.1),
        ("unipc3_bh2", 1.9, 3.2),
        ("deis2_log_rho", 1.9, 2.1),
        ("deis2_time", 1.9, 2.1),
        ("deis3_log_rho", 1.9, 3.1),
        ("deis3_time", 1.9, 3.1),
        ("ipndm1", 0.9, 1.1),
        ("ipndm2", 1.9, 2.1),
        ("ipndm4", 1.9, 2.1),  # fixed numbers on uneven steps in kappa hold it at two
    ],
)
def test_solver_converges_on_the_mixture_at_its_documented_order(name, low, high):
    order = math.log2(rmse(DETERMINISTIC[name], 160) / rmse(DETERMINISTIC[name], 320))
    assert low <= order <= high


def test_third_order_predictors_gain_on_the_second_at_twenty_calls():
    assert rmse(DPMSolver(3), 20) < 0.5 * rmse(Multistep.dpm_solver_pp_2m(), 20)
    assert rmse(NoiseMultistep.deis(3), 20) < 0.5 * rmse(NoiseMultistep.deis(2), 20)
    assert rmse(UniPC(3), 20) < 0.5 * rmse(UniPC(2), 20)


# --- the weights against integrals ---


@pytest.mark.parametrize("weights", ["log_rho", "time"])
@pytest.mark.parametrize("name", ["vp_linear", "flow", "ve_edm"])
def test_deis_integrates_polynomials_of_its_variable_exactly(name, weights):
    process = PROCESSES[name]
    grid = explicit_grid(process, (0.9, 0.7, 0.62, 0.4, 0.33))
    kappa = [math.exp(-level) for level in grid.log_snr]
    row = NoiseMultistep(3, weights).plan(explicit_grid(process, (*grid.times, *np.linspace(0.3, 0.01, 12)))).rows[3]

    def variable(k):
        return math.log(k) if weights == "log_rho" else float(process.time_of_log_snr(-math.log(k)))

    def noise(k):
        return 0.3 - 0.7 * variable(k) + 0.4 * variable(k) ** 2

    exact = -quad(noise, kappa[4], kappa[3], epsabs=1e-13, epsrel=1e-12)[0]
    newest = noise(kappa[3])
    sums = [weight * (noise(kappa[3 - j]) - newest) for j, weight in enumerate(row, 1)]
    assert (kappa[4] - kappa[3]) * newest + sum(sums) == pytest.approx(exact, rel=1e-8)


def test_ipndm_of_order_two_is_adams_bashforth_on_even_steps_of_sigma():
    process = VarianceExploding(0.1, 1.0)
    grid = explicit_grid(process, np.linspace(1, 0.1, 17).tolist())
    for fixed, exact in zip(NoiseMultistep.ipndm(4).plan(grid).rows, NoiseMultistep.deis(4, "time").plan(grid).rows,
                            strict=True):  # fmt: skip
        assert fixed == pytest.approx(exact, abs=1e-10)


# --- every process, grid and number of steps ---


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_result_is_finite_and_bounded_for_every_number_of_steps_from_1_to_50(process, grid):
    """Data N(0.5, 0.2^2). Up to eight steps every solver, above them every seventh.

    So each solver meets each number of steps on some of the pairs of process and grid.
    """
    turn = 3 * list(PROCESSES.values()).index(process) + list(GRIDS.values()).index(grid)
    for n in range(1, 51):
        levels = grid(process, n)
        answers = [  # D = shift + slope x
            (sigma**2 * 0.5 / total, alpha * 0.04 / total)
            for alpha, sigma in zip(levels.alpha[:-1], levels.sigma[:-1], strict=True)
            for total in (alpha**2 * 0.04 + sigma**2,)
        ]
        for index, (name, solver) in enumerate(ALL.items()):
            if n > 8 and (index + n + turn) % 7:
                continue
            plan = without_noise(solver.plan(levels))
            assert plan.calls == n
            state = plan.start(levels.sigma[0] * torch.tensor([-2.0, 3.0], dtype=torch.float64))
            for shift, slope in answers:
                state = plan.advance(state, shift + slope * state.x)
            assert float(state.x.abs().max()) < 100, (name, n)  # false for a number that is none


def without_noise(plan):
    """The plan with the noise left out, whose standard deviations must be numbers all the same."""
    noises = [getattr(update, "noise", 0.0) for update in getattr(plan, "updates", ())]
    assert all(0 <= noise < 100 for noise in noises)
    if not any(noises):
        return plan
    return dataclasses.replace(plan, updates=tuple(dataclasses.replace(u, noise=0.0) for u in plan.updates))


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
@by_solver
def test_result_is_finite_and_keeps_its_dtype(process, solver):
    denoiser, generator = GaussianDenoiser(process), torch.Generator().manual_seed(0)
    for n, dtype in ((1, torch.float32), (2, torch.float64), (15, torch.float32)):
        x = process.noise((2, 3), generator, dtype=dtype)
        result = sample(denoiser, x, log_snr_grid(process, n), solver, generator=generator)
        assert torch.isfinite(result).all(), n
        assert result.dtype == dtype


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("solver", DETERMINISTIC.values(), ids=DETERMINISTIC.keys())
def test_gaussian_data_keep_their_spread_on_fine_log_snr_grids(name, solver):
    """The slope of the affine map from noise to sample, whose exact value is known."""
    process = PROCESSES[name]
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    low, high = sample(GaussianDenoiser(process), x, log_snr_grid(process, 300), solver)
    exact = 0.2 / math.hypot(0.2 * float(process.alpha(1.0)), float(process.sigma(1.0)))
    first_order = solver == NoiseMultistep.ipndm(1)
    last = (float(process.sigma(process.t_min)) / 0.2) ** 2  # what the last denoise takes away, relative
    assert float(high - low) == pytest.approx(exact, rel=last + (0.03 if first_order else 2e-3))


def moments_of_2m_sde(grid, mean=0.5, std=0.2):
    """Mean and standard deviation of DPM-Solver++(2M) SDE on Gaussian data, in closed form.

    On z = (x_k, D_{k-1}) a step is z' = A z + b + noise, by x_t = sigma_t/sigma_s e^-h x + alpha_t (1 - e^-2h) (D_k +
    (D_k - D_{k-1}) h / (2 h_0)) + sigma_t sqrt(1 - e^-2h) z, and x = D at the end; the first step looks at D_k alone.
    """
    center, covariance = np.zeros(2), np.diag([grid.sigma[0] ** 2, 0.0])
    for k, (alpha, sigma) in enumerate(zip(grid.alpha[:-1], grid.sigma[:-1], strict=True)):
        total = alpha**2 * std**2 + sigma**2
        answer, shift = np.array([alpha * std**2 / total, 0.0]), sigma**2 * mean / total
        if k == grid.steps - 1:
            return answer @ center + shift, math.sqrt(answer @ covariance @ answer)
        h = grid.log_snr[k + 1] - grid.log_snr[k]
        decay, older = math.exp(-h), np.array([0.0, 1.0])
        # without alpha at the start, h is infinite and the answer there says nothing of the slope
        known = k > 0 and math.isfinite(grid.log_snr[k - 1])
        half = 0.5 * h / (grid.log_snr[k] - grid.log_snr[k - 1]) if known else 0.0
        share = grid.alpha[k + 1] * (1 - decay**2)
        x = np.array([grid.sigma[k + 1] / sigma * decay, 0.0]) + share * ((1 + half) * answer - half * older)
        move, constant = np.stack([x, answer]), np.array([share * (1 + half) * shift, shift])
        center = move @ center + constant
        covariance = move @ covariance @ move.T + np.diag([grid.sigma[k + 1] ** 2 * (1 - decay**2), 0.0])
    raise AssertionError


@pytest.mark.parametrize("n", [3, 6, 200])
@pytest.mark.parametrize("name", PROCESSES)
def test_stochastic_2m_has_the_mean_and_spread_of_its_recursion_and_in_the_limit_of_the_data(name, n):
    process = PROCESSES[name]
    grid = log_snr_grid(process, n)
    generator = torch.Generator().manual_seed(0)
    x = process.noise((20_000, 1), generator, dtype=torch.float64)
    result = sample(GaussianDenoiser(process), x, grid, DPMSolver(2, stochastic=True), generator=generator)
    mean, std = moments_of_2m_sde(grid)
    assert float(result.std()) == pytest.approx(std, rel=0.02)
    assert float(result.mean()) == pytest.approx(mean, abs=0.03 * std)
    if n == 200:
        assert (mean, std) == (pytest.approx(0.5, abs=0.004), pytest.approx(0.2, rel=0.02))


@pytest.mark.parametrize("solver", DETERMINISTIC.values(), ids=DETERMINISTIC.keys())
def test_state_selected_and_cloned_between_any_two_calls_goes_on_bitwise(solver):
    process = PROCESSES["vp_linear"]
    exact = MixtureDenoiser(process)
    x = process.noise((6, 8), torch.Generator().manual_seed(0))
    grid, pick = log_snr_grid(process, 6), torch.tensor([3, 3, 0, 5])
    plan, whole = solver.plan(grid), sample(exact, x, grid, solver)
    assert plan.asked == grid.times[:-1]
    for cut in range(plan.calls):
        state = plan.start(x.clone())
        for call in range(plan.calls):
            if call == cut:
                kept = state.select(pick).clone()
                state.x.fill_(0)  # the copy must not see it
                state = kept
            state = plan.advance(state, exact(state.x, state.t))
        assert torch.equal(state.x, whole[pick])
        assert torch.equal(state.x0, state.x)


@pytest.mark.parametrize("solver", [NoiseMultistep.deis(1), NoiseMultistep.ipndm(1)])
def test_order_one_in_the_noise_is_ddim(solver):
    process = PROCESSES["flow"]
    x = process.noise((4, 8), torch.Generator().manual_seed(0), dtype=torch.float64)
    results = [sample(MixtureDenoiser(process), x, log_snr_grid(process, 7), one) for one in (solver, DDIM())]
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DPMSolver(4),
        lambda: DPMSolver(3, stochastic=True),
        lambda: UniPC(5),
        lambda: UniPC(2, "bh3"),
        lambda: NoiseMultistep(5, "fixed"),
        lambda: NoiseMultistep(2, "cubic"),
    ],
)
def test_wrong_options_are_named(make):
    with pytest.raises(InputError, match=r"found order \d"):
        make()


# --- as a scheduler of diffusers ---


@pytest.mark.peer
@pytest.mark.parametrize("solver", [*ALL.values(), EVODiff()], ids=[*ALL, "evodiff"])
def test_scheduler_for_diffusers_steps_like_the_solver_on_nodes_that_its_unipc_refuses(solver, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    from shared.interop.diffusers import as_diffusers_scheduler

    like = diffusers.UniPCMultistepScheduler(prediction_type="sample")
    scheduler = as_diffusers_scheduler(solver, like=like)
    scheduler.save_pretrained(tmp_path)
    scheduler = type(scheduler).from_pretrained(tmp_path)
    assert scheduler.solver == solver
    nodes = log_snr_grid(scheduler.process, 7).times[:-1]
    timesteps = [t * 1000 - 1 for t in nodes]
    with pytest.raises(ValueError, match="use_flow_sigmas"):
        like.set_timesteps(sigmas=timesteps)
    scheduler.set_timesteps(timesteps=timesteps)
    exact = MixtureDenoiser(scheduler.process)
    x = theirs = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for t, timestep in zip(nodes, scheduler.timesteps, strict=True):
        theirs = scheduler.step(exact(theirs, t), timestep, theirs, generator=generator).prev_sample
    grid = explicit_grid(scheduler.process, (*nodes, 0.0))
    ours = sample(exact, x, grid, solver, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(theirs, ours, rtol=1e-8, atol=1e-8)

"""The loop and its state: interleaving, selection, cloning, warm starts, early use, determinism."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import shared
from shared import (
    DDIM,
    Ancestral,
    Heun,
    InputError,
    Ledger,
    Multistep,
    counted,
    log_snr_grid,
    sample,
    step,
    steps,
    trailing_grid,
)
from tests.oracles.families import PROCESSES
from tests.oracles.gaussian import GaussianDenoiser

SOLVERS = {
    "ddim": DDIM(),
    "2m": Multistep.dpm_solver_pp_2m(),
    "ab3": Multistep(3),
    "ab2_corrected": Multistep(2, corrector=True),
    "heun": Heun(),
}
by_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
PROCESS = PROCESSES["vp_cosine"]
GRID = log_snr_grid(PROCESS, 8)


def denoiser(x, t):
    """Return a smooth nonlinear estimate that treats each sample by itself."""
    return torch.tanh(GaussianDenoiser(PROCESS)(x, t) * 3) + 0.1 * x


def noise(seed: int, n: int = 6) -> torch.Tensor:
    return PROCESS.noise((n, 16), torch.Generator().manual_seed(seed))


@by_solver
def test_interleaved_samplings_on_one_plan_equal_separate_ones_bitwise(solver):
    separate = [sample(denoiser, noise(seed), GRID, solver) for seed in (0, 1)]
    plan = solver.plan(GRID)
    states = [plan.start(noise(seed)) for seed in (0, 1)]
    for _ in range(plan.calls):
        states = [step(denoiser, plan, state) for state in states]
    for state, expected in zip(states, separate, strict=True):
        assert torch.equal(state.x, expected)


@by_solver
def test_particles_reindexed_midway_equal_separate_samplings_of_the_survivors(solver):
    x, ancestors = noise(0), torch.tensor([4, 4, 0, 5, 0, 2])
    plan = solver.plan(GRID)
    for turn in range(1, plan.calls):
        state = plan.start(x)
        for call in range(plan.calls):
            if call == turn:
                state = state.select(ancestors)
            state = step(denoiser, plan, state)
        assert torch.equal(state.x, sample(denoiser, x[ancestors], GRID, solver)), turn


def test_reindexing_x_alone_is_noticed():
    """The history belongs to the particle: this is the mistake that `select` prevents."""
    plan = Multistep(2).plan(GRID)
    state = plan.start(noise(0))
    for _ in range(4):
        state = step(denoiser, plan, state)
    whole, halved = state.select(torch.arange(5, -1, -1)), state
    halved = type(state)(state.x.flip(0), state.t, state.index, state.history, state.anchor)
    assert not torch.equal(step(denoiser, plan, whole).x, step(denoiser, plan, halved).x)


@by_solver
def test_a_clone_goes_on_when_the_original_is_overwritten(solver):
    plan = solver.plan(GRID)
    state = step(denoiser, plan, step(denoiser, plan, plan.start(noise(0))))
    copy = state.clone()
    expected = step(denoiser, plan, state).x.clone()
    for tensor in (state.x, *state.history, *([] if state.anchor is None else [state.anchor])):
        tensor.zero_()
    assert torch.equal(step(denoiser, plan, copy).x, expected)


def test_moving_a_state_moves_every_tensor():
    plan = Multistep(2, corrector=True).plan(GRID)
    state = plan.start(noise(0))
    for _ in range(3):
        state = step(denoiser, plan, state)
    moved = state.to("meta")
    assert {tensor.device.type for tensor in (moved.x, *moved.history, moved.anchor)} == {"meta"}


@pytest.mark.parametrize("solver", [Ancestral(), DDIM(0.5)])
def test_same_seed_gives_the_same_bits_and_another_seed_does_not(solver):
    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return sample(denoiser, PROCESS.noise((4, 16), generator), GRID, solver, generator=generator)

    assert torch.equal(draw(7), draw(7))
    assert not torch.equal(draw(7), draw(8))


def test_the_noise_comes_from_the_generator_alone():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    sample(denoiser, noise(0), GRID, Ancestral(), generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.random.get_rng_state(), before)


@by_solver
def test_an_estimate_is_ready_after_every_call_and_the_last_is_the_sample(solver):
    asked = []

    def watched(x, t):
        asked.append(t)
        return denoiser(x, t)

    states = list(steps(watched, noise(0), GRID, solver))
    assert [state.index for state in states] == list(range(1, len(asked) + 1))
    assert [state.t for state in states] == [*asked[1:], 0.0]
    assert all(state.x0.shape == (6, 16) for state in states)
    assert torch.equal(states[-1].x, states[-1].x0)
    assert torch.equal(states[-1].x, sample(denoiser, noise(0), GRID, solver))


def test_stopping_early_spends_no_further_calls():
    with Ledger() as ledger:
        for state in steps(counted(denoiser), noise(0), GRID, Multistep(2)):
            if state.index == 3:
                break
    assert ledger.calls == 3


@by_solver
def test_warm_start_at_a_node_of_ddim_is_the_rest_of_the_sampling(solver):
    states = list(steps(denoiser, noise(0), GRID, DDIM()))
    rest = sample(denoiser, states[2].x, GRID.from_index(3), solver)
    if solver == DDIM():
        assert torch.equal(rest, states[-1].x)
    assert torch.isfinite(rest).all()


def test_warm_start_from_the_truth_at_low_noise_returns_near_the_truth():
    exact = GaussianDenoiser(PROCESS, std=0.2)
    x0 = 0.5 + 0.2 * torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    t = float(PROCESS.time_of_log_snr(2.5))  # kappa = 0.08
    x = PROCESS.add_noise(x0, torch.randn(x0.shape, generator=torch.Generator().manual_seed(1)), t)
    result = sample(exact, x, trailing_grid(PROCESS, 50).from_time(t), Multistep(2))
    assert float((result - x0).std()) == pytest.approx(0.08, rel=0.1)


def test_callback_sees_every_state_and_sampling_keeps_no_graph():
    weight = torch.ones(1, requires_grad=True)
    seen = []
    result = sample(lambda x, t: weight * x * 0.5, noise(0), GRID, DDIM(), callback=seen.append)
    assert [state.index for state in seen] == list(range(1, 9))
    assert not result.requires_grad
    last = list(steps(lambda x, t: weight * x * 0.5, noise(0), GRID, DDIM()))[-1]
    assert last.x.requires_grad


def test_a_plan_that_is_over_says_so():
    plan = DDIM().plan(GRID)
    state = plan.start(noise(0))
    with pytest.raises(InputError, match="no call made"):
        _ = state.x0
    for _ in range(plan.calls):
        state = step(denoiser, plan, state)
    with pytest.raises(InputError, match="8 calls made"):
        step(denoiser, plan, state)


def test_progress_is_silent_on_short_runs_and_shown_on_long_ones(capfd, monkeypatch):
    sample(denoiser, noise(0), GRID, DDIM(), progress="drawing")
    assert capfd.readouterr() == ("", "")
    ticks = iter(range(0, 1000, 3))
    monkeypatch.setattr("shared.progress.time.monotonic", lambda: float(next(ticks)))
    monkeypatch.setenv("FORCE_COLOR", "1")
    sample(denoiser, noise(0), GRID, DDIM(), progress="drawing")
    out, err = capfd.readouterr()
    assert out == ""
    assert "drawing" in err


def test_importing_the_core_imports_no_torch():
    code = "import sys, shared; assert 'torch' not in sys.modules; shared.sample; assert 'torch' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_names_told_to_type_checkers_are_the_names_exported():
    tree = ast.parse(Path(shared.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in guarded.body for alias in node.names}
    assert told == shared._MODULE_OF
    assert all(getattr(shared, name) is not None for name in shared.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = shared.nothing

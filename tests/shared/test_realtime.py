"""The real-time sampler is the loop `sample`, made ready beforehand: same samples, same noise, same calls."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from shared import (
    DDIM,
    Ancestral,
    DPMSolver,
    EVODiff,
    Heun,
    InputError,
    Ledger,
    Multistep,
    NetworkDenoiser,
    NoiseMultistep,
    PreconditionedDenoiser,
    UniPC,
    clipped,
    log_snr_grid,
    sample,
    steps,
    trailing_grid,
)
from shared.realtime import RealTimeSampler, deadline, missing_compiler
from shared.solvers.calibrated import CalibratedMultistep
from shared.unrolled import unroll
from tests.oracles.families import PROCESSES

SOLVERS = {
    "ddim": DDIM(),
    "ddim_half_noisy": DDIM(0.5),
    "ancestral": Ancestral(),
    "2m": Multistep.dpm_solver_pp_2m(),
    "ab3": Multistep(3),
    "ab2_corrected": Multistep(2, corrector=True),
    "ab4_corrected": Multistep(4, corrector=True),
    "heun": Heun(),
    "3m": DPMSolver(3),
    "2m_sde": DPMSolver(2, stochastic=True),
    "unipc3": UniPC(3),
    "deis": NoiseMultistep.deis(),
    "ipndm": NoiseMultistep.ipndm(),
}
PROCESS = PROCESSES["vp_table_squaredcos_cap_v2"]
GRID = trailing_grid(PROCESS, 7).from_time(0.97)
SHAPE = (3, 4, 5)
MIXING = torch.randn(20, 20, generator=torch.Generator().manual_seed(3)) / 5


def network(x: Tensor, time: Tensor, gain: Tensor | float = 1.0) -> Tensor:
    """Return a smooth function of input, time and conditioning that mixes the entries of a sample."""
    mixed = torch.tanh(x.flatten(1) @ MIXING.to(x.dtype) + 0.3 * torch.sin(time[:, None]))
    return gain * mixed.reshape(x.shape)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(SHAPE, generator=seeded(0), dtype=dtype)


def ready(denoiser, grid=GRID, solver=DDIM(), **options) -> RealTimeSampler:  # noqa: B008 - DDIM is frozen
    return RealTimeSampler(denoiser, grid, solver, SHAPE, compile=False, **options)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v", "flow", "score"])
def test_it_equals_the_loop_for_every_linear_solver_and_prediction_also_from_a_later_node(solver, prediction):
    denoiser = NetworkDenoiser(network, PROCESS, prediction)
    for dtype, limit in ((torch.float32, 1e-5), (torch.float64, 1e-12))[: 2 if prediction == "v" else 1]:
        sampler = ready(denoiser, solver=solver, dtype=dtype, starts=(0, 3))
        for start in (0, 3):
            expected = sample(denoiser, noise(dtype), GRID.from_index(start), solver, generator=seeded())
            for _ in range(2):  # nothing is left over from the sampling before
                result = sampler(noise(dtype), start=start, generator=seeded())
                assert (result - expected).abs().max() <= limit * expected.abs().max()


@pytest.mark.parametrize("name", PROCESSES)
def test_it_equals_the_loop_for_preconditioned_networks_of_every_process(name):
    process = PROCESSES[name]
    grid = log_snr_grid(process, 6).from_time(0.95)
    denoiser = PreconditionedDenoiser(network, process, sigma_data=0.7)
    for solver in (Multistep(2, corrector=True), NoiseMultistep.deis(), DPMSolver(stochastic=True)):
        x = process.start_std() * noise(torch.float64)
        expected = sample(denoiser, x, grid, solver, generator=seeded())
        result = ready(denoiser, grid, solver, dtype=torch.float64)(x, generator=seeded())
        assert (result - expected).abs().max() <= 1e-10 * expected.abs().max()


def test_it_equals_the_loop_for_calibrated_tables_and_for_complex_data():
    solver = CalibratedMultistep(GRID.times, (0.9,) * 7, ((0.2,), *[(0.3, -0.1)] * 6))
    denoiser = NetworkDenoiser(network, PROCESS, "v")
    expected = sample(denoiser, noise(), GRID, solver)
    assert (ready(denoiser, solver=solver)(noise()) - expected).abs().max() <= 1e-5 * expected.abs().max()

    rotating = NetworkDenoiser(lambda x, time: (0.3 + 0.4j) * x * torch.cos(x.real), PROCESS, "v")
    x = noise(torch.complex128)
    for solver in (Multistep(3), Ancestral()):
        expected = sample(rotating, x, GRID, solver, generator=seeded())
        result = ready(rotating, solver=solver, dtype=torch.complex128)(x, generator=seeded())
        assert result.is_complex()
        assert (result - expected).abs().max() <= 1e-12 * expected.abs().max()


@pytest.mark.parametrize("make", [NetworkDenoiser, PreconditionedDenoiser])
def test_clipping_is_that_of_clipped(make):
    denoiser = make(network, PROCESS, "epsilon") if make is NetworkDenoiser else make(network, PROCESS)
    x = 3 * noise(torch.float64)
    for solver in (Multistep(2), Heun(), NoiseMultistep.ipndm()):
        expected = sample(clipped(denoiser, -0.5, 0.5), x, GRID, solver)
        result = ready(denoiser, solver=solver, clip=0.5, dtype=torch.float64)(x)
        assert (expected - sample(denoiser, x, GRID, solver)).abs().max() > 1e-2, "nothing was clipped"
        assert (result - expected).abs().max() <= 1e-12


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("solver", [Multistep(2, corrector=True), Heun(), DPMSolver(stochastic=True)])
def test_stopped_after_any_call_it_returns_the_estimate_that_the_loop_has_then(solver, clip):
    denoiser = NetworkDenoiser(network, PROCESS, "v")
    sampler = ready(denoiser, solver=solver, clip=clip, dtype=torch.float64)
    eager = denoiser if clip is None else clipped(denoiser, -clip, clip)
    states = list(steps(eager, noise(torch.float64), GRID, solver, generator=seeded()))
    for call, state in enumerate(states[:-1], 1):
        result = sampler(noise(torch.float64), generator=seeded(), until=lambda made, call=call: made == call)
        assert sampler.made == call
        assert (result - state.x0).abs().max() <= 1e-12
    result = sampler(noise(torch.float64), generator=seeded(), until=lambda made: False)
    assert sampler.made == len(states)
    assert (result - states[-1].x).abs().max() <= 1e-12


def test_a_deadline_lets_no_call_begin_that_would_end_after_it():
    now = 0.0
    until = deadline(10.0, clock=lambda: now)
    answers = []
    for took in (2.0, 3.0, 2.0, 1.0):  # ends at 2, 5, 7, 8
        now += took
        answers.append(until(0))
    assert answers == [False, False, False, True], "after 8 s a call of 3 s would end at 11 s"


def test_observations_are_copied_in_and_reach_the_network():
    denoiser = NetworkDenoiser(network, PROCESS, "v", conditioning={"gain": torch.ones(3, 1, 1)})
    sampler = ready(denoiser)
    gain = torch.tensor([0.2, 1.0, 3.0]).reshape(3, 1, 1)
    sampler.observe(gain=gain)
    gain_at_the_time = gain.clone()
    gain.zero_()  # the sampler has its own copy
    expected = sample(denoiser.given(gain=gain_at_the_time), noise(), GRID, DDIM())
    assert (sampler(noise()) - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(denoiser.conditioning["gain"], torch.ones(3, 1, 1)), "the denoiser keeps its own"
    with pytest.raises(InputError, match="one of: gain"):
        sampler.observe(image=gain)
    with pytest.raises(InputError, match=r"expected \(3, 1, 1\)"):
        sampler.observe(gain=torch.ones(3))


def test_results_are_the_callers_own_and_an_answer_that_is_not_finite_does_not_outlive_its_sampling():
    answers = {"value": 1.0}
    denoiser = NetworkDenoiser(lambda x, time: torch.full_like(x, answers["value"]), PROCESS, "v")
    sampler = ready(denoiser, solver=Multistep(3))
    first = sampler(noise())
    kept = first.clone()
    answers["value"] = float("nan")
    assert sampler(noise()).isnan().all()
    answers["value"] = 1.0
    assert torch.equal(sampler(noise()), kept)
    assert torch.equal(first, kept)


def test_it_makes_the_calls_of_the_plan_and_ledgers_see_them():
    sampler = ready(NetworkDenoiser(network, PROCESS, "v"), solver=Heun())
    with Ledger() as ledger:
        sampler(noise())
    assert (ledger.calls, ledger.samples) == (13, 39)


def test_unrolled_tables_are_lower_triangular_and_ddim_has_its_closed_form():
    plan = DDIM().plan(GRID)
    denoiser = NetworkDenoiser(network, PROCESS, "epsilon")
    table = unroll(plan, [denoiser.reading(t) for t in plan.asked])
    assert [len(row) for row in table.points] == list(range(1, 9))
    for k, row in enumerate(table.points[:-1]):
        # x_k / alpha_k = x_0 / alpha_0 + sum_j (kappa_{j+1} - kappa_j) eps_j
        kappa = [sigma / alpha for sigma, alpha in zip(GRID.sigma, GRID.alpha, strict=True)]
        expected = [GRID.alpha[k] / GRID.alpha[0]]
        expected += [GRID.alpha[k] * (kappa[j + 1] - kappa[j]) for j in range(k)]
        assert torch.allclose(row, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


class Stem(nn.Module):
    """A small network, to be compiled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(20, 16), nn.SiLU(), nn.Linear(16, 20))

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor]:
        return (self.layers(x.flatten(1) + time[:, None] / 1000).reshape(x.shape),)


def test_the_compiled_network_gives_the_samples_of_the_loop():
    if missing := missing_compiler():
        pytest.skip(f"torch.compile needs {missing} here")
    denoiser = NetworkDenoiser(Stem(), PROCESS, "v")
    sampler = RealTimeSampler(denoiser, GRID, Multistep(2), SHAPE)
    expected = sample(denoiser, noise(), GRID, Multistep(2))
    assert sampler.compiled
    assert (sampler(noise()) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_without_a_compiler_the_network_runs_as_it_is_and_a_warning_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    denoiser = NetworkDenoiser(network, PROCESS, "v")
    with pytest.warns(UserWarning, match=r"runs uncompiled: no C\+\+ compiler no-such-compiler"):
        sampler = RealTimeSampler(denoiser, GRID, DDIM(), SHAPE)
    assert not sampler.compiled
    assert torch.equal(sampler(noise()), ready(denoiser)(noise()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready(denoiser)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": EVODiff()}, "fixed sums"),
        ({"denoiser": clipped(NetworkDenoiser(network, PROCESS, "v"))}, "use clip="),
        ({"denoiser": NetworkDenoiser(lambda x, time: x[:, :2], PROCESS, "v")}, r"found shape \(3, 2, 5\)"),
        ({"dtype": torch.float16}, "float32, torch.float64"),
        ({"starts": (0, 7)}, "nodes from 0 to 6"),
        ({"starts": ()}, "one or more nodes"),
    ],
)
def test_what_cannot_be_made_ready_is_refused(change, message):
    options = {"denoiser": NetworkDenoiser(network, PROCESS, "v"), "grid": log_snr_grid(PROCESS, 7), **change}
    with pytest.raises(InputError, match=message):
        ready(options.pop("denoiser"), options.pop("grid"), options.pop("solver", DDIM()), **options)


def test_a_batch_of_another_shape_and_an_unprepared_start_are_refused():
    sampler = ready(NetworkDenoiser(network, PROCESS, "v"))
    with pytest.raises(InputError, match=r"expected \(3, 4, 5\)"):
        sampler(torch.zeros(1, 4, 5))
    with pytest.raises(InputError, match="start: found 2; expected one of 0"):
        sampler(noise(), start=2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("solver", [Multistep(2, corrector=True), DPMSolver(stochastic=True)])
def test_cuda_graphs_give_the_samples_of_the_loop(solver):
    denoiser = NetworkDenoiser(Stem().cuda(), PROCESS, "v")
    sampler = RealTimeSampler(denoiser, GRID, solver, SHAPE, device="cuda", compile=False, starts=(0, 3))
    for start in (0, 3):
        expected = sample(denoiser, noise().cuda(), GRID.from_index(start), solver, generator=seeded())
        for until in (None, lambda made: False):
            result = sampler(noise(), start=start, generator=seeded(), until=until)
            assert (result - expected).abs().max() <= 1e-5 * expected.abs().max()

"""Calibrated sampling: fitted to the exact ODE, better than DPM-Solver++(2M) on unseen noises, and safe to load."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys

import pytest
import torch

from shared import (
    DDIM,
    GRIDS,
    FlowMatching,
    Grid,
    InputError,
    Multistep,
    NetworkDenoiser,
    VarianceExploding,
    VariancePreserving,
    karras_grid,
    log_snr_grid,
    sample,
    step,
)  # fmt: skip
from shared.calibration import Calibration, available, calibrate, load_calibration
from shared.calibration.coefficients import fit
from shared.calibration.identity import weights_hash
from shared.calibration.nodes import shortest_pair_path, shortest_path, step_costs
from shared.calibration.teacher import candidates, follow
from shared.digits import load_digits_denoiser
from shared.models import load_model
from shared.process_data import process_from_data, process_to_data
from shared.solvers.calibrated import CalibratedMultistep
from shared.solvers.named import solver_from_data, solver_to_data
from tests.oracles.families import PROCESSES
from tests.oracles.gaussian import GaussianDenoiser
from tests.oracles.mixture import MixtureDenoiser

PROCESS = VariancePreserving.linear()
MIXTURE = MixtureDenoiser(PROCESS)


def noise(seed: int, n: int = 32, process=PROCESS) -> torch.Tensor:
    return process.noise((n, 8), torch.Generator().manual_seed(seed), dtype=torch.float64)


def rms(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).square().mean().sqrt())


@pytest.fixture(scope="module")
def calibrated() -> Calibration:
    return calibrate(MIXTURE, PROCESS, noise(1), 5, held_out=noise(2, 256), nodes=41)


def test_five_calls_beat_dpm_solver_pp_at_its_best_grid_on_noise_not_seen(calibrated):
    """Truth: an independent fine solution (AB4 with corrector, 400 steps), not the teacher of the calibration."""
    x = noise(3, 256)
    truth = sample(MIXTURE, x, log_snr_grid(PROCESS, 400), Multistep(4, corrector=True))
    error = rms(sample(MIXTURE, x, *calibrated.bind(MIXTURE, process=PROCESS)), truth)
    rivals = [
        rms(sample(MIXTURE, x, GRIDS[name](PROCESS, 5), Multistep.dpm_solver_pp_2m()), truth)
        for name in ("karras", "log_snr", "trailing", "uniform")
    ]
    assert error < 0.45 * min(rivals)
    assert calibrated.nfe == calibrated.solver.plan(calibrated.grid).calls == 5


def test_reported_errors_are_those_of_the_solver(calibrated):
    x = noise(2, 256)
    truth = sample(MIXTURE, x, log_snr_grid(PROCESS, 400), Multistep(4, corrector=True))
    assert calibrated.held_out is not None
    assert calibrated.held_out.samples == 256
    assert calibrated.held_out.calibrated == pytest.approx(
        rms(sample(MIXTURE, x, calibrated.grid, calibrated.solver), truth), rel=0.02
    )
    plain = rms(sample(MIXTURE, x, karras_grid(PROCESS, 5), Multistep.dpm_solver_pp_2m()), truth)
    assert calibrated.held_out.baselines["karras"] == pytest.approx(plain, rel=0.02)


@pytest.mark.parametrize("nfe", [1, 2, 3, 6])
def test_never_worse_than_the_plain_grids_on_the_noises_of_the_fit(nfe):
    errors = calibrate(MIXTURE, PROCESS, noise(4, 4), nfe, nodes=15).calibration
    assert errors.calibrated <= min(errors.baselines.values())


@pytest.mark.parametrize("name", ["vp_linear", "vp_table_linear", "ve_edm", "flow"])
def test_gaussian_data_are_solved_to_the_accuracy_of_the_teacher(name):
    """D is affine, so some affine update is exact; the end of the ODE is mean + std (x - alpha mean) / spread."""
    process = PROCESSES[name]
    denoiser = GaussianDenoiser(process, mean=0.0, std=0.5)
    fitted = calibrate(denoiser, process, noise(1, 16, process), 4, nodes=21, ridge=1e-10)
    x = noise(2, 16, process)
    spread = (float(process.alpha(1.0)) ** 2 * 0.25 + float(process.sigma(1.0)) ** 2) ** 0.5
    drawn = sample(denoiser, x, fitted.grid, fitted.solver)
    teacher = follow(denoiser, x, candidates(process, 4, 21)).states[-1]
    torch.testing.assert_close(drawn, teacher, rtol=0, atol=1e-6)
    torch.testing.assert_close(drawn, 0.5 * x / spread, rtol=0, atol=2e-3)  # the teacher, and its jump from t_min to 0
    plain = sample(denoiser, x, karras_grid(process, 4), Multistep.dpm_solver_pp_2m())
    assert rms(plain, 0.5 * x / spread) > 0.005


@pytest.mark.parametrize("name", ["vp_cosine", "vp_table_scaled_linear", "ve_edm", "flow"])
def test_an_infinite_ridge_gives_ddim(name):
    process = PROCESSES[name]
    grid, x = karras_grid(process, 6), noise(1, 4, process)
    solver, end = fit(MixtureDenoiser(process), x, [torch.zeros_like(x)] * 6, grid, ridge=1e18)
    for got, ddim in zip(solver.plan(grid).updates, DDIM().plan(grid).updates, strict=True):
        assert got.gain == pytest.approx(ddim.gain, abs=1e-12)
        assert got.weights[0] == pytest.approx(ddim.weights[0], abs=1e-12)
        assert all(abs(weight) < 1e-12 for weight in got.weights[1:])
    torch.testing.assert_close(end, sample(MixtureDenoiser(process), x, grid, DDIM()))


def test_the_fit_finds_the_coefficients_that_made_the_targets():
    """Targets made by a known table are reproduced, so neither terms nor history are shuffled."""
    grid, x = karras_grid(PROCESS, 5), noise(1)
    known = CalibratedMultistep(
        grid.times,
        (0.3, 0.45, 0.7, 0.2, 0.1),
        ((0.6,), (0.9, -0.2), (0.8, -0.3, 0.1), (1.1, -0.3, 0.05), (1.2, -0.4, 0.1)),
    )
    targets, plan = [], known.plan(grid)
    state = plan.start(x)
    for _ in range(plan.calls):
        state = step(MIXTURE, plan, state)
        targets.append(state.x)
    solver, end = fit(MIXTURE, x, targets, grid, history=3, ridge=0.0)
    torch.testing.assert_close(end, state.x, rtol=0, atol=1e-7)
    assert solver.gains == pytest.approx(known.gains, abs=1e-5)
    for got, expected in zip(solver.weights, known.weights, strict=True):
        assert got == pytest.approx(expected, abs=1e-5)


def test_fitting_and_sampling_agree_to_the_bit():
    grid, x = karras_grid(PROCESS, 4), noise(1).float()
    solver, end = fit(MIXTURE, x, [x * 0.5] * 4, grid)
    assert torch.equal(sample(MIXTURE, x, grid, solver), end)


def test_teacher_keeps_the_states_of_the_exact_ode_at_every_candidate():
    nodes = candidates(PROCESS, 4, 9)
    teacher = follow(MIXTURE, noise(1, 8), nodes)
    for k in (1, nodes.steps // 2, nodes.steps - 1):
        t = nodes.times[k]
        levels = [float(v) for v in torch.linspace(float(PROCESS.log_snr(1.0)), float(PROCESS.log_snr(t)), 101)]
        times = (1.0, *(float(PROCESS.time_of_log_snr(level)) for level in levels[1:-1]), t)
        expected = sample(MIXTURE, noise(1, 8), Grid(PROCESS, times), Multistep(4, corrector=True))
        assert rms(teacher.states[k], expected) < 1e-3
        torch.testing.assert_close(teacher.answers[k], MIXTURE(teacher.states[k], t))


def test_step_costs_equal_least_squares_on_the_states_themselves():
    nodes = candidates(PROCESS, 3, 6)
    teacher = follow(MIXTURE, noise(1, 8), nodes)
    first, later = step_costs(teacher, ridge=0.0)

    def left(columns, target):
        basis = torch.stack([column.flatten() for column in columns], 1)
        solution = torch.linalg.lstsq(basis, target.flatten()[:, None]).solution
        return float((basis @ solution - target.flatten()[:, None]).square().mean())

    x, d = teacher.states, teacher.answers
    for m in range(1, len(x)):
        assert float(first[m]) == pytest.approx(left([x[0], d[0]], x[m]), rel=1e-3, abs=1e-9)
    for i, j, m in itertools.combinations(range(len(x)), 3):
        assert float(later[i, j, m]) == pytest.approx(left([x[j], d[j], d[i]], x[m]), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.15])
def test_shortest_paths_are_those_of_exhaustive_search(gamma):
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(7, 7, generator=generator, dtype=torch.float64)
    cost[torch.ones(7, 7).tril().bool()] = torch.inf
    first = torch.rand(7, generator=generator, dtype=torch.float64)
    later = torch.rand(7, 7, 7, generator=generator, dtype=torch.float64)
    for i, j, m in itertools.product(range(7), repeat=3):
        if not i < j < m:
            later[i, j, m] = torch.inf
    for steps in (1, 2, 3, 4):
        every = [(0, *inner, 6) for inner in itertools.combinations(range(1, 6), steps - 1)]

        def single(path, steps=steps):
            return sum(gamma ** (steps - 1 - k) * cost[path[k], path[k + 1]] for k in range(steps))

        def pair(path, steps=steps):
            parts = [first[path[1]], *(later[path[k - 1], path[k], path[k + 1]] for k in range(1, steps))]
            return sum(gamma ** (steps - 1 - k) * part for k, part in enumerate(parts))

        assert shortest_path(cost, steps, gamma) == min(every, key=single)
        assert shortest_pair_path(torch.where(torch.arange(7) > 0, first, torch.inf), later, steps, gamma) == min(
            every, key=pair
        )


def test_particles_selected_midway_equal_separate_samplings(calibrated):
    x, ancestors = noise(5, 6), torch.tensor([4, 4, 0, 5, 0, 2])
    plan = calibrated.solver.plan(calibrated.grid)
    for turn in range(1, plan.calls):
        state = plan.start(x)
        for call in range(plan.calls):
            state = state.select(ancestors) if call == turn else state
            state = step(MIXTURE, plan, state)
        assert torch.equal(state.x, sample(MIXTURE, x[ancestors], calibrated.grid, calibrated.solver))


def test_a_saved_calibration_draws_the_same_bits(calibrated, tmp_path):
    calibrated.save(tmp_path / "c.json")
    loaded = load_calibration(tmp_path / "c.json")
    assert loaded == calibrated
    x = noise(6)
    ours, theirs = (sample(MIXTURE, x, *c.bind(MIXTURE, process=PROCESS)) for c in (calibrated, loaded))
    assert torch.equal(ours, theirs)
    with pytest.raises(InputError, match="existing output"):
        calibrated.save(tmp_path / "c.json")


def test_a_solver_as_data_comes_back(calibrated):
    data = json.loads(json.dumps(solver_to_data(calibrated.solver)))
    assert solver_from_data(data) == calibrated.solver


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())
def test_processes_as_data_come_back(process):
    assert process_from_data(json.loads(json.dumps(process_to_data(process)))) == process


@pytest.mark.parametrize("data", [{"name": "cosine"}, {"name": "flow_matching", "sigma": 3.0}, {}])
def test_processes_that_do_not_exist_are_refused(data):
    with pytest.raises(InputError, match="process: found name"):
        process_from_data(data)


def test_another_process_guidance_or_function_is_refused(calibrated):
    with pytest.raises(InputError, match="a calibration for LinearVP"):
        calibrated.bind(MIXTURE, process=VariancePreserving.linear(0.1, 19.0))
    with pytest.raises(InputError, match="FlowMatching"):
        calibrated.bind(MixtureDenoiser(FlowMatching()), process=FlowMatching())
    with pytest.raises(InputError, match="process of the denoiser"):
        calibrated.bind(lambda x, t: x)
    with pytest.raises(InputError, match="at guidance none; expected one at guidance 3"):
        calibrated.bind(MIXTURE, process=PROCESS, guidance=3.0)
    other = dataclasses.replace(MIXTURE, means=MIXTURE.means * 1.02)
    with pytest.raises(InputError, match="expected one of this model"):
        calibrated.bind(other, process=PROCESS)
    with pytest.raises(InputError, match="expected one of this model"):
        calibrated.bind(NetworkDenoiser(torch.nn.Linear(8, 8), PROCESS, "sample"))


def test_a_wrapper_that_shows_its_network_is_known_by_its_weights_and_its_scale():
    """So a conditional model may have other classes, in batches of another size, than in the fit."""
    torch.manual_seed(0)
    network = torch.nn.Linear(8, 8)
    plain = NetworkDenoiser(lambda x, time: network(x), PROCESS, "sample")

    @dataclasses.dataclass
    class Guided:
        labels: torch.Tensor
        network: torch.nn.Module

        def __call__(self, x, t):
            return plain(x, t) + 3 * self.labels[:, None]

    fitted = calibrate(Guided(torch.ones(4), network), PROCESS, noise(1, 4).float(), 2, nodes=5, guidance=3.0)
    other = Guided(torch.zeros(7), network)
    grid, solver = fitted.bind(other, process=PROCESS, guidance=3.0)
    assert sample(other, noise(2, 7).float(), grid, solver).shape == (7, 8)
    with pytest.raises(InputError, match="at guidance 3; expected one at guidance 4"):
        fitted.bind(other, process=PROCESS, guidance=4.0)
    with pytest.raises(InputError, match="with weights"):
        fitted.bind(Guided(torch.zeros(7), torch.nn.Linear(8, 8)), process=PROCESS, guidance=3.0)


def test_another_grid_or_a_part_of_it_is_refused(calibrated):
    with pytest.raises(InputError, match="the calibration's own grid"):
        calibrated.solver.plan(karras_grid(PROCESS, 5))
    with pytest.raises(InputError, match="the calibration's own grid"):
        calibrated.solver.plan(calibrated.grid.from_index(1))


def test_tables_that_do_not_fit_their_steps_are_refused():
    with pytest.raises(InputError, match="2 gains"):
        CalibratedMultistep((1.0, 0.5, 0.0), (0.5,), ((1.0,),))
    with pytest.raises(InputError, match="2 weights in step 0"):
        CalibratedMultistep((1.0, 0.0), (0.5,), ((1.0, 2.0),))


@pytest.mark.parametrize(
    ("option", "value"), [("nfe", 0), ("history", 0), ("ridge", -1.0), ("ridge", float("nan")), ("nodes", 3)]
)
def test_options_out_of_range_are_named(option, value):
    options = {"nfe": 4, option: value}
    with pytest.raises(InputError, match=f"^{option}: found"):
        calibrate(MIXTURE, PROCESS, noise(1, 2), **options)


def test_a_model_without_finite_answers_is_refused():
    with pytest.raises(InputError, match="not finite"):
        calibrate(lambda x, t: x * torch.nan, PROCESS, noise(1, 2), 2, nodes=5)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "else"}', '{"format": "fewstep calibration 1"}'])
def test_files_that_are_no_calibration_are_refused(content, tmp_path):
    (tmp_path / "c.json").write_text(content)
    with pytest.raises(InputError, match="expected a calibration written by fewstep"):
        load_calibration(tmp_path / "c.json")


def test_an_unknown_name_lists_the_packaged_ones():
    with pytest.raises(InputError, match="shared/digits_denoiser_5"):
        load_calibration("shared/digits_denoiser_4")


def test_the_hash_of_a_network_is_that_of_its_numbers_not_of_its_wrapping():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    before = weights_hash(network)
    assert weights_hash(torch.compile(network)) == before
    network[0].weight.data[0, 0] += 1e-6
    assert weights_hash(network) != before


@pytest.mark.parametrize(("name", "count"), [("digits_denoiser", 64), ("photo_unet", 8)])
def test_packaged_calibrations_keep_their_promise_on_noise_not_seen(name, count):
    if name != "digits_denoiser":
        pytest.importorskip("diffusers")
    model = load_model(f"shared/{name}")
    denoiser, process = model.denoiser, model.process
    x = process.noise((count, *model.shape), torch.Generator().manual_seed(1234))
    truth = sample(denoiser, x, log_snr_grid(process, 60), Multistep(3, corrector=True))
    for calls, bound in ((5, 0.45), (8, 0.45), (10, 0.35)):
        rivals = [
            rms(sample(denoiser, x, GRIDS[kind](process, calls), Multistep.dpm_solver_pp_2m()), truth)
            for kind in ("karras", "log_snr", "trailing")
        ]
        fitted = load_calibration(f"shared/{name}_{calls}")
        assert rms(sample(denoiser, x, *fitted.bind(denoiser)), truth) <= bound * min(rivals), calls


def test_a_packaged_calibration_refuses_weights_that_changed():
    denoiser = load_digits_denoiser()
    next(denoiser.network.parameters()).data[0] += 1e-3
    with pytest.raises(InputError, match="with weights"):
        load_calibration("shared/digits_denoiser_5").bind(denoiser)


def test_every_packaged_calibration_is_recorded_and_a_changed_one_is_refused(tmp_path):
    assert {"shared/digits_denoiser_5", "shared/digits_denoiser_8", "shared/digits_denoiser_10"} <= set(available())
    for path in available().values():
        assert path.name in (path.parent / "SHA256SUMS").read_text()
        load_calibration(path)
    source = available()["shared/digits_denoiser_5"]
    (tmp_path / "SHA256SUMS").write_text((source.parent / "SHA256SUMS").read_text())
    (tmp_path / source.name).write_text(source.read_text().replace('"ridge": 1e-06', '"ridge": 2e-06'))
    with pytest.raises(InputError, match="sha256"):
        load_calibration(tmp_path / source.name)


def test_the_command_writes_a_calibration_and_its_numbers(tmp_path):
    output, numbers = tmp_path / "c.json", tmp_path / "n.json"
    arguments = ["calibrate", "shared/digits_denoiser", "--nfe", "2", "--n", "2", "--device", "cpu"]
    code = (
        "import shared.calibration.cli as c, shared.calibration.teacher as t\n"
        "c.HELD_OUT, t.STEPS = 2, 20\nfrom shared.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "-o", str(output), "--json", str(numbers)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    fitted = load_calibration(output)
    assert fitted.nfe == 2
    assert json.loads(numbers.read_text())["calibration_rmse"] == fitted.calibration.calibrated
    denoiser = load_digits_denoiser()
    x = VarianceExploding().noise((2, 8, 8), torch.Generator().manual_seed(0))
    assert sample(denoiser, x, *fitted.bind(denoiser)).shape == (2, 8, 8)


def test_the_command_names_the_models_it_knows(tmp_path):
    from shared.calibration.cli import run

    with pytest.raises(InputError, match="shared/digits_denoiser"):
        run(
            "shared/digitz", tmp_path / "c.json", nfe=5, n=2, history=3, seed=0, device="cpu", json=None, quiet=True,
            overwrite=False,
        )  # fmt: skip

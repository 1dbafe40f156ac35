"""The bench counts what is spent, keeps its noises apart and its distances are the known ones."""

import math

import pytest
import torch

from shared import InputError, Multistep, VarianceExploding, VariancePreserving, log_snr_grid, sample
from shared.bench.case import FIT_SEED, HELD_OUT_SEED, Row, load_case, measure, plain_row
from shared.bench.core import row_numbers, slug, undominated
from shared.bench.exact import MixtureDenoiser, mixture
from shared.bench.metrics import energy_distance, frechet, rmse
from tests.oracles.mixture import MixtureDenoiser as Oracle


def row(price: float, error: float, method: str = "m") -> Row:
    return Row("exact/mixture", method, price, (error,), "plain")


def test_frechet_distance_of_gaussians_is_the_closed_form():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    b = torch.tensor([1.0, 2.0, 0.5]) * torch.randn(200_000, 3, generator=generator, dtype=torch.float64) + 1
    expected = 3 * 1.0 + sum((1 - s) ** 2 for s in (1.0, 2.0, 0.5))  # axes agree: sum of (mean and std differences)^2
    assert frechet(a, b) == pytest.approx(expected, rel=0.02)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)


def test_energy_distance_is_that_of_scipy_in_one_dimension_without_its_bias():
    from scipy.stats import energy_distance as root_of_energy

    generator = torch.Generator().manual_seed(0)
    a = torch.randn(4000, 1, generator=generator, dtype=torch.float64)
    b = torch.randn(4000, 1, generator=generator, dtype=torch.float64) + 1
    assert energy_distance(a, b) == pytest.approx(root_of_energy(a[:, 0], b[:, 0]) ** 2 * 2 / 2, rel=0.02)
    same = [
        energy_distance(*torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(seed))) for seed in range(200)
    ]
    assert abs(sum(same) / 200) < 3 * torch.tensor(same).std() / math.sqrt(200)


@pytest.mark.parametrize("process", [VariancePreserving.linear(), VarianceExploding(0.01, 80.0)])
def test_mixture_of_the_bench_is_the_independently_written_one(process):
    oracle = Oracle(process)
    ours = MixtureDenoiser(process, oracle.means, oracle.stds, oracle.weights)
    x = 3 * torch.randn(16, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for t in (0.01, 0.3, 0.9):
        torch.testing.assert_close(ours(x, t), oracle(x, t), rtol=1e-9, atol=1e-9)


def test_mixture_case_is_the_mixture_of_the_order_tests():
    process, denoiser = mixture()
    x = torch.randn(4, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(denoiser(x, 0.4), Oracle(process)(x, 0.4))


def test_price_of_plain_steps_is_their_number_and_of_an_exact_score_its_calls():
    digits, exact = load_case("shared/digits_denoiser", quick=True), load_case("exact/mixture", quick=True)
    digits.count = exact.count = 4
    digits.exact_steps = exact.exact_steps = 20
    for case in (digits, exact):
        assert plain_row(case, 7).price == pytest.approx(7)


def test_error_of_the_exact_sampling_itself_is_zero_and_of_a_constant_its_distance():
    case = load_case("exact/mixture", quick=True)
    case.count, case.exact_steps = 4, 30
    assert measure(case, "exact", case.exact_end, family="plain").errors == (0.0, 0.0)
    off = measure(case, "off", lambda x: case.exact_end(x) + 0.25, family="plain")
    assert off.rmse == pytest.approx(0.25, rel=1e-5)


def test_noises_of_the_fit_are_none_of_the_measurement():
    case = load_case("exact/mixture", quick=True)
    assert FIT_SEED not in range(HELD_OUT_SEED, HELD_OUT_SEED + case.seeds)
    assert min(rmse(case.fit_noise(case.count), x) for x in case.held_out) > 0.5


def test_plain_grid_is_the_best_of_three_on_the_noises_of_the_fit():
    case = load_case("exact/mixture", quick=True)
    case.count, case.exact_steps = 32, 100
    from shared import GRIDS

    x = case.fit_noise(32)
    end = case.exact_end(x)
    errors = {
        name: rmse(sample(case.denoiser, x, GRIDS[name](case.process, 6), Multistep.dpm_solver_pp_2m()), end)
        for name in ("karras", "log_snr", "trailing")
    }
    best = min(errors, key=lambda name: errors[name])
    assert case.grid(6).times == GRIDS[best](case.process, 6).times
    assert log_snr_grid(case.process, 6).steps == 6


def test_undominated_rows_are_those_that_nothing_beats_twice():
    rows = [row(5, 0.3), row(6, 0.2), row(6, 0.25), row(8, 0.2), row(9, 0.1)]
    assert [(r.price, r.rmse) for r in undominated(rows)] == [(5, 0.3), (6, 0.2), (9, 0.1)]


def test_numbers_have_names_with_the_calls_in_them():
    assert slug("Calibrated, 5 calls") == "calibrated.5"
    assert slug("diffusers DPM-Solver++ 2M, log-SNR, 10 calls") == "diffusers_dpm_solver_2m_log_snr.10"
    numbers = row_numbers([row(5.0, 0.25, "calibrated, 5 calls")])
    assert numbers["gmm.calibrated.5.rmse"] == 0.25
    assert numbers["gmm.calibrated.5.price"] == 5.0


def test_unknown_case_is_one_clear_error():
    with pytest.raises(InputError, match="no such case"):
        load_case("shared/nothing")

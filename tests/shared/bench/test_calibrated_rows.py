"""Rows of calibrated sampling: what they compare, and under which names their numbers are found."""

from __future__ import annotations

import dataclasses
import statistics

import pytest
import torch

from shared import GRIDS, InputError, Multistep, log_snr_grid, sample
from shared.bench import calibrated_rows
from shared.bench.case import load_case
from shared.bench.core import row_numbers
from shared.bench.metrics import frechet
from shared.calibration import load_calibration


@pytest.fixture(scope="module")
def digits():
    case = dataclasses.replace(load_case("shared/digits_denoiser", quick=True), count=24, exact_steps=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrated_rows, "CALLS", (5,))
        patch.setattr(calibrated_rows, "sample_count", lambda case, quick: 128)
        return case, calibrated_rows.rows(case, quick=True)


def test_the_ratio_is_that_of_the_packaged_calibration_to_dpm_solver_pp_on_its_best_grid(digits):
    case, rows = digits
    fitted = load_calibration("shared/digits_denoiser_5")
    ratios = []
    for seed in (10_000, 10_001):
        x = case.process.noise((24, *case.shape), torch.Generator().manual_seed(seed))
        truth = sample(case.denoiser, x, log_snr_grid(case.process, 60), Multistep(3, corrector=True))
        errors = [
            float((sample(case.denoiser, x, grid, solver) - truth).square().mean().sqrt())
            for grid, solver in [
                fitted.bind(case.denoiser),
                *((GRIDS[kind](case.process, 5), Multistep.dpm_solver_pp_2m()) for kind in ("karras", "log_snr")),
            ]
        ]
        ratios.append(errors[0] / min(errors[1:]))
    numbers = row_numbers(rows)
    assert numbers["digits.calibrated.5.rmse_ratio_to_dpmpp2m"] == pytest.approx(statistics.mean(ratios), rel=0.03)
    assert numbers["digits.calibrated.5.rmse_ratio_to_best_rival"] >= 0.99 * statistics.mean(ratios)
    assert numbers["digits.calibrated.5.price"] == 5


def test_every_rival_spends_the_same_calls(digits):
    rows = digits[1]
    rivals = [row for row in rows if row.family not in ("calibrated_sampling", "exact")]
    assert len(rivals) == len(calibrated_rows.RIVALS) + len(calibrated_rows.UNIFORM_ONLY) + 1
    assert all(row.price == pytest.approx(5) for row in rivals)
    assert all("log_snr" in row.method for row in rivals if row.family == "evodiff")


def test_distances_are_those_of_calibrated_and_exact_samples_from_the_same_noises(digits):
    case, rows = digits
    numbers = row_numbers(rows)
    data = calibrated_rows.data_of(case, 128)
    assert data.shape == (1797, 1, 8, 8)
    x = case.noise(128, calibrated_rows.DISTANCE_SEED)
    other = case.noise(128, calibrated_rows.DISTANCE_SEED + 1)
    drawn = [sample(case.denoiser, noise, *load_calibration("shared/digits_denoiser_5").bind(case.denoiser))
             for noise in (x, other)]  # fmt: skip
    expected = statistics.mean(frechet(one, data) for one in drawn)
    assert numbers["digits.calibrated.5.frechet"] == pytest.approx(expected, rel=1e-6)
    assert numbers["digits.exact_ode.frechet"] == pytest.approx(expected, rel=0.2)
    assert numbers["digits.exact_ode.frechet"] != numbers["digits.calibrated.5.frechet"]


def test_a_case_without_a_packaged_calibration_is_fitted_on_noises_that_are_not_measured(monkeypatch):
    case = dataclasses.replace(load_case("exact/mixture", quick=True), count=16, exact_steps=60)
    monkeypatch.setattr(calibrated_rows, "FIT_NOISES", 8)
    fitted = calibrated_rows.calibration_of(case, 5)
    assert fitted.nfe == 5
    assert fitted.calibration.samples == 8
    x = case.held_out[0]
    assert not any(torch.equal(row, other) for row in case.fit_noise(8) for other in x)
    error = (calibrated_rows.drawn(case, fitted, x) - case.exact[0]).square().mean().sqrt()
    plain = (sample(case.denoiser, x, case.grid(5), case.solver) - case.exact[0]).square().mean().sqrt()
    assert error < 0.6 * plain


def test_a_packaged_calibration_of_another_network_stops_the_bench():
    case = load_case("shared/digits_denoiser", quick=True)
    next(case.network.parameters()).data[0] += 1e-3
    with pytest.raises(InputError, match="with weights"):
        calibrated_rows.calibration_of(case, 5)

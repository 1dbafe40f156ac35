import numpy as np
import pytest
import torch

from robotics.policy.calibration import calibrate_warm_start
from shared.errors import InputError
from tests.oracles.gaussian import ddim_moments
from tests.robotics.policy.gaussian import gaussian_policy

TICKS = {"tick": np.arange(60, dtype=np.float32)[:, None]}
ENDS = np.array([30, 60])


def test_first_level_is_the_smallest_whose_noise_covers_the_error_and_contraction_is_that_of_the_solver():
    policy = gaussian_policy(0.2, drift=0.1)
    warm = calibrate_warm_start(policy, TICKS, ENDS, calls=3, pairs=40, exact_calls=100)
    assert warm.measured["guess_error"]["p90"] == pytest.approx(0.1, rel=0.01)
    highest, process = warm.levels[0], policy.process
    ratio = [float(process.sigma((k + 1) / 100) / process.alpha((k + 1) / 100)) for k in (highest - 1, highest)]
    assert ratio[0] < warm.measured["guess_error"]["p90"] <= ratio[1]
    grid = policy.levels(warm.levels)
    # The noise is common, so alpha is what multiplies the difference at the start.
    _, slope = ddim_moments(grid.alpha, grid.sigma, 1.0, std=0.2)
    assert warm.measured["contraction"]["p50"] == pytest.approx(grid.alpha[0] * slope, rel=1e-3)
    assert warm.measured["contraction"]["p50"] < 1


def test_guess_error_is_the_one_of_the_same_noise_moved_along():
    # One law moved by a tick, from the same moved noise: the guess is exact where the old chunk reached.
    policy = gaussian_policy(0.2)
    warm = calibrate_warm_start(policy, TICKS, ENDS, executed=2, pairs=20)
    assert warm.measured["guess_error"]["p99"] < 1e-4
    assert warm.levels == (0,)


def test_calibration_repeats_with_its_seed_and_refuses_episodes_too_short():
    policy = gaussian_policy(0.2)
    one, two = (calibrate_warm_start(policy, TICKS, ENDS, pairs=10, seed=3) for _ in range(2))
    assert one == two
    with pytest.raises(InputError, match="none long enough"):
        calibrate_warm_start(policy, {"tick": np.zeros((3, 1))}, np.array([1, 2, 3]))
    with pytest.raises(InputError, match="quantile"):
        calibrate_warm_start(policy, TICKS, ENDS, quantile=1.0)


def test_gate_of_the_observation_is_twice_what_the_recordings_do():
    warm = calibrate_warm_start(gaussian_policy(0.2), TICKS, ENDS, pairs=20)
    assert warm.observation_gate == pytest.approx(2.0)
    assert torch.isfinite(torch.tensor(warm.guess_gate))

import numpy as np
import pytest
import torch

from robotics.policy.calibration import calibrate_warm_start
from robotics.policy.warmstart import spread_levels
from shared.errors import InputError
from tests.oracles.gaussian import ddim_moments
from tests.robotics.policy.gaussian import gaussian_policy

TICKS = {"tick": np.arange(60, dtype=np.float32)[:, None]}
ENDS = np.array([30, 60])


def survival(policy, highest: int, calls: int) -> float:
    """Return what the warm sampling from this level leaves of a difference of two guesses, in closed form."""
    grid = policy.levels(spread_levels(highest, calls))
    _, slope = ddim_moments(grid.alpha, grid.sigma, 1.0, std=0.2)
    return grid.alpha[0] * slope  # the noise is common, so alpha is what multiplies the difference at the start


def test_first_level_is_the_smallest_whose_noise_covers_the_error_and_contraction_is_that_of_the_solver():
    policy = gaussian_policy(0.2, drift=0.1)
    options = {"calls": 3, "pairs": 40, "exact_calls": 100}
    warm = calibrate_warm_start(policy, TICKS, ENDS, most_contraction=1.0, **options)
    assert warm.measured["guess_error"]["p90"] == pytest.approx(0.1, rel=0.01)
    highest, process = warm.levels[0], policy.process
    ratio = [float(process.sigma((k + 1) / 100) / process.alpha((k + 1) / 100)) for k in (highest - 1, highest)]
    assert ratio[0] < warm.measured["guess_error"]["p90"] <= ratio[1]
    assert warm.measured["contraction"]["p50"] == pytest.approx(survival(policy, highest, 3), rel=1e-3)
    assert 0.5 < warm.measured["contraction"]["p90"] < 1


def test_first_level_is_the_smallest_that_also_forgets_half_of_a_wrong_guess():
    policy = gaussian_policy(0.2, drift=0.1)
    options = {"calls": 3, "pairs": 40, "exact_calls": 100}
    by_noise = calibrate_warm_start(policy, TICKS, ENDS, most_contraction=1.0, **options).levels[0]
    found = calibrate_warm_start(policy, TICKS, ENDS, **options)
    wanted = next(k for k in range(by_noise, 99) if survival(policy, k, 3) <= 0.5)
    assert by_noise < found.levels[0] == wanted
    assert survival(policy, wanted - 1, 3) > 0.5 >= found.measured["contraction"]["p90"]
    with pytest.raises(InputError, match="survives from every level"):
        calibrate_warm_start(policy, TICKS, ENDS, most_contraction=1e-9, **options)


def test_guess_error_is_the_one_of_the_same_noise_moved_along():
    # One law moved by a tick, from the same moved noise: the guess is exact where the old chunk reached.
    policy = gaussian_policy(0.2)
    warm = calibrate_warm_start(policy, TICKS, ENDS, executed=2, pairs=20, most_contraction=1.0)
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

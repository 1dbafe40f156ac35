"""Distances and permutation tests against SciPy, with controls in which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medical.brain.qc.distances import distances, mmd_p
from medical.brain.qc.permutation import compare_volumes, holm, least_p, permutation_test
from shared.bench.metrics import frechet, polynomial_mmd
from shared.errors import InputError

scipy_stats = pytest.importorskip("scipy.stats")


def groups(n: int, m: int, shift: float, spread: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    source = np.random.default_rng(seed)
    return source.normal(0, 1, (n, 3)), source.normal(shift, spread, (m, 3))


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_p_of_the_means_is_scipys(shift):
    a, b = groups(7, 6, shift)
    found, p = permutation_test(a, b, "mean", permutations=20_000, seed=1)
    exact = scipy_stats.permutation_test(
        (a, b), lambda x, y, axis: np.abs(x.mean(axis) - y.mean(axis)), vectorized=True, n_resamples=np.inf,
        alternative="greater", axis=0,
    )  # fmt: skip
    np.testing.assert_allclose(found, exact.statistic, atol=1e-12)
    np.testing.assert_allclose(p, exact.pvalue, atol=4 * 0.5 / np.sqrt(20_000))


def test_energy_is_scipys_and_so_is_its_p():
    a, b = groups(6, 5, 0.3, 2.5, seed=3)
    b[0] = a[0]  # ties
    found, p = permutation_test(a, b, "energy", permutations=20_000)
    theirs = [scipy_stats.energy_distance(x, y) ** 2 for x, y in zip(a.T, b.T, strict=True)]
    np.testing.assert_allclose(found, theirs, rtol=1e-10)
    exact = scipy_stats.permutation_test(
        (a[:, 0], b[:, 0]), scipy_stats.energy_distance, n_resamples=np.inf, alternative="greater", vectorized=False
    )
    assert p[0] == pytest.approx(exact.pvalue, abs=4 * 0.5 / np.sqrt(20_000))


def test_holm_is_that_of_the_definition_and_p_is_never_zero():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.2])), [0.04, 0.09, 0.09, 0.2])
    a, b = groups(20, 20, 50.0)
    assert permutation_test(a, b, "mean", permutations=1000)[1] == pytest.approx(1 / 1001)
    assert least_p(3, 3) == pytest.approx(1 / 10)
    assert least_p(3, 4) == pytest.approx(1 / 35)


def volumes(count: int, scale: float, seed: int) -> dict[str, np.ndarray]:
    """Volumes of three structures that grow with the brain, of heads of which the brain alone may be scaled."""
    source = np.random.default_rng(seed)
    brain = source.normal(1200, 100, count)
    parts = {name: share * brain * source.normal(1, 0.05, count) for name, share in (("a", 0.01), ("b", 0.005))}
    return {"brain": brain * scale, **{name: value * scale for name, value in parts.items()}}


def test_scaled_heads_differ_in_cm3_and_not_in_shares_while_halves_of_real_heads_differ_in_neither():
    real = volumes(60, 1.0, 1)
    half = {name: value[:30] for name, value in real.items()}, {name: value[30:] for name, value in real.items()}
    for test in compare_volumes(*half, permutations=2000):
        assert test.p_holm > 0.05, test
    tests = {
        (t.structure, t.unit, t.statistic): t for t in compare_volumes(real, volumes(40, 0.85, 2), permutations=2000)
    }
    for name in ("brain", "a", "b"):
        for statistic in ("mean", "energy"):
            assert tests[name, "cm3", statistic].p_holm < 0.01
            if name != "brain":
                assert tests[name, "share of the brain", statistic].p_holm > 0.05
    assert tests["a", "cm3", "mean"].mean_synthetic == pytest.approx(
        0.85 * tests["a", "cm3", "mean"].mean_real, rel=0.1
    )


def test_false_alarms_are_as_rare_as_p_says():
    source = np.random.default_rng(5)
    values = source.gamma(2.0, size=(24, 400))  # 400 structures without difference
    for statistic in ("mean", "energy"):
        _, p = permutation_test(values[:10], values[10:], statistic, permutations=500)
        assert np.mean(p <= 0.1) == pytest.approx(0.1, abs=4 * np.sqrt(0.09 / 400))


def test_only_the_energy_sees_a_wrong_spread():
    a, b = groups(60, 60, 0.0, 3.0, seed=4)
    assert (permutation_test(a, b, "energy", permutations=2000)[1] < 0.01).all()
    assert (permutation_test(a, b, "mean", permutations=2000)[1] > 0.01).all()


@pytest.mark.parametrize(("n", "m"), [(12, 9), (60, 50)])
def test_frechet_distance_is_that_of_the_matrix_square_root_with_fewer_and_more_samples_than_features(n, m):
    from scipy.linalg import sqrtm

    source = np.random.default_rng(0)
    a, b = source.normal(0, 1, (n, 20)), source.normal(0.2, 1.5, (m, 20))
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = sqrtm(ca @ cb + 1e-10 * np.eye(20)).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca + cb - 2 * root)
    assert frechet(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-3)
    assert frechet(torch.from_numpy(a), torch.from_numpy(a)) == pytest.approx(0, abs=1e-8)


def test_mmd_is_the_sum_over_pairs_and_zero_on_average_for_one_distribution():
    source = np.random.default_rng(0)
    a, b = source.normal(0, 1, (5, 4)), source.normal(1, 1, (7, 4))

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 4 + 1) ** 3)

    within_a = np.mean([kernel(a[i], a[j]) for i in range(5) for j in range(5) if i != j])
    within_b = np.mean([kernel(b[i], b[j]) for i in range(7) for j in range(7) if i != j])
    between = np.mean([kernel(x, y) for x in a for y in b])
    expected = within_a + within_b - 2 * between
    assert polynomial_mmd(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(expected, rel=1e-10)
    draws = [polynomial_mmd(*(torch.from_numpy(source.normal(size=(8, 4))) for _ in range(2))) for _ in range(400)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 20


def features(count: int, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(shift, 1, (count, 6)))


def test_real_heads_score_their_floor_and_shifted_ones_do_not():
    real, subjects = features(40), [str(k) for k in range(40)]
    same = distances(features(20, seed=1), real, subjects)
    assert same["n"] == 20
    assert same["fd_low"] < same["fd_real_floor"] * 1.5
    assert same["mmd_p"] > 0.02
    other = distances(features(20, 1.0, seed=1), real, subjects)
    assert other["fd_low"] > other["fd_real_floor_high"]
    assert other["mmd_p"] == pytest.approx(1 / 2001)
    assert mmd_p(features(10, seed=2), features(12, seed=3)) > 0.02


def test_two_scans_of_a_subject_are_never_in_both_halves():
    """Each subject's scans are one point: halves that shared subjects would have a floor near 0."""
    once = features(10)
    twice = distances(features(4, seed=1), once.repeat(2, 1), [str(k) for k in range(10)] * 2)
    single = distances(features(4, seed=1), once, [str(k) for k in range(10)])
    assert twice["fd_real_floor"] > 0.4 * single["fd_real_floor"]
    with pytest.raises(InputError, match="4 or more"):
        distances(features(4), features(3), ["a", "b", "c"])

r"""Whether the volumes of structures differ between real and synthetic heads: permutation tests.

For each structure a statistic T of the two groups is compared with its values when the labels are shuffled, B times:

    p = (1 + #{T_b >= T}) / (1 + B)

so p is never 0, and valid at any number of volumes. T is |mean_a - mean_b| or the energy distance

    2 integral (F_a(v) - F_b(v))^2 dv

of the empirical distributions, which also sees a wrong spread. Holm's correction is over the structures of one table
(one statistic, raw or divided by the volume of the brain). References: Phipson and Smyth, 2010; Holm, 1979; the test of
regional volumes is MedForj's, arXiv 2510.26834.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

Statistic = Literal["mean", "energy"]
Unit = Literal["cm3", "share of the brain"]
STATISTICS: tuple[Statistic, ...] = ("mean", "energy")
PERMUTATIONS = 10_000
BLOCK = 1000  # permutations in memory at a time
ROUNDING = 1e-9  # relative: equal splits may differ in the last bits


@dataclass(frozen=True)
class StructureTest:
    """One structure, one unit, one statistic.

    Attributes:
        structure: name.
        unit: of the means.
        statistic: tested.
        mean_real: mean of the real heads.
        sd_real: their standard deviation.
        mean_synthetic: mean of the synthetic heads.
        sd_synthetic: their standard deviation.
        value: of the statistic.
        p: of the permutation test.
        p_holm: corrected over the structures.
    """

    structure: str
    unit: Unit
    statistic: Statistic
    mean_real: float
    sd_real: float
    mean_synthetic: float
    sd_synthetic: float
    value: float
    p: float
    p_holm: float


def compare_volumes(
    real: Mapping[str, np.ndarray],
    synthetic: Mapping[str, np.ndarray],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> list[StructureTest]:
    """Return the tests of all structures, raw and divided by the brain, with both statistics.

    Args:
        real: structure -> (N,) cm3; "brain" is one of them.
        synthetic: structure -> (M,) cm3.
        permutations: B.
        seed: of the shuffles, which are the same for all structures.
    """
    rows = []
    for unit in ("cm3", "share of the brain"):
        names = [name for name in real if unit == "cm3" or name != "brain"]
        theirs, ours = (
            np.stack([group[name] / (1 if unit == "cm3" else group["brain"]) for name in names], axis=1)
            for group in (real, synthetic)
        )
        for statistic in STATISTICS:
            values, p = permutation_test(theirs, ours, statistic, permutations=permutations, seed=seed)
            for index, (name, corrected) in enumerate(zip(names, holm(p), strict=True)):
                a, b = theirs[:, index], ours[:, index]
                rows.append(
                    StructureTest(
                        name,
                        unit,
                        statistic,
                        float(a.mean()),
                        float(a.std(ddof=1)),
                        float(b.mean()),
                        float(b.std(ddof=1)),
                        float(values[index]),
                        float(p[index]),
                        float(corrected),
                    )
                )
    return rows


def permutation_test(
    a: np.ndarray, b: np.ndarray, statistic: Statistic, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the statistic and p of every column.

    Args:
        a: (N, R).
        b: (M, R).
        statistic: T.
        permutations: B.
        seed: of the shuffles.
    """
    values = np.concatenate([a, b])
    compute = _Means(values) if statistic == "mean" else _Energies(values)
    first = np.zeros((1, len(values)))
    first[0, : len(a)] = 1
    found = compute(first)[0]
    reached = np.zeros(values.shape[1])
    for chosen in _shuffles(len(values), len(a), permutations, seed):
        reached += (compute(chosen) >= found * (1 - ROUNDING) - 1e-12).sum(0)
    return found, (1 + reached) / (1 + permutations)


def holm(p: np.ndarray) -> np.ndarray:
    """Return p corrected for the number of tests by Holm's step-down procedure."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    corrected = np.empty_like(p, dtype=float)
    corrected[order] = np.minimum(steps, 1)
    return corrected


def least_p(n: int, m: int, permutations: int = PERMUTATIONS) -> float:
    """Return the smallest p that groups of n and m volumes can have, about: few volumes cannot show a difference."""
    from math import comb

    ways = comb(n + m, n) // (2 if n == m else 1)
    return max(1 / ways, 1 / (1 + permutations))


class _Means:
    """|mean - mean| of each column for groups given as rows of 0 and 1."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values - values.mean(0)

    def __call__(self, first: np.ndarray) -> np.ndarray:
        n, total = first.sum(1, keepdims=True), first.shape[1]
        sums = first @ self.values  # of the first group; that of the other is minus it
        result: np.ndarray = np.abs(sums / n + sums / (total - n))
        return result


class _Energies:
    """Energy distance of each column: over sorted values, both distributions are steps and the gaps are the measure."""

    def __init__(self, values: np.ndarray) -> None:
        self.order = np.argsort(values, axis=0)
        self.gaps = np.diff(np.take_along_axis(values, self.order, axis=0), axis=0)

    def __call__(self, first: np.ndarray) -> np.ndarray:
        n, total = first.sum(1, keepdims=True), first.shape[1]
        found = []
        for order, gaps in zip(self.order.T, self.gaps.T, strict=True):
            inside = np.cumsum(first[:, order], axis=1)[:, :-1]
            outside = np.arange(1, total) - inside
            found.append(2 * ((inside / n - outside / (total - n)) ** 2 @ gaps))
        return np.stack(found, axis=1)


def _shuffles(total: int, n: int, permutations: int, seed: int) -> Iterator[np.ndarray]:
    """Yield random choices of n of `total`, as rows (B, total) of 0 and 1."""
    source = np.random.default_rng(seed)
    for begin in range(0, permutations, BLOCK):
        rows = min(BLOCK, permutations - begin)
        chosen = np.argsort(source.random((rows, total)), axis=1)[:, :n]
        first = np.zeros((rows, total))
        np.put_along_axis(first, chosen, 1.0, axis=1)
        yield first

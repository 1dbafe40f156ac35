r"""How far the distribution of synthetic heads is from that of real ones, in features of whole volumes.

| number | what |
| --- | --- |
| fd | Frechet distance of n synthetic heads to a half of the real ones |
| fd_real_floor | that of n heads of the other half: what real heads score |
| mmd | squared maximum mean discrepancy, without bias, of all heads; kernel (<x, y>/d + 1)^3 |
| mmd_real_floor | the same of the halves |
| mmd_p | permutation test of mmd: share of shuffled labels that reach it |

fd and the floors are means over repeats, each with its own halves, with the 2.5 and 97.5 % quantiles over them as
`_low` and `_high`. n is the same on both sides of fd and its floor, because few volumes raise the distance: with fewer
volumes than features compare the two and nothing else. Subjects are not split between halves. The kernel is that of KID
(Binkowski et al., 2018).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shared.bench.metrics import frechet, polynomial_mmd
from shared.errors import InputError

REPEATS = 20
INTERVAL = (0.025, 0.975)
SHUFFLES = 2000


def distances(
    synthetic: Tensor, real: Tensor, subjects: Sequence[str], *, repeats: int = REPEATS, seed: int = 0
) -> dict[str, float]:
    """Return the numbers of the module and `n`.

    Args:
        synthetic: features (N, D).
        real: features (M, D).
        subjects: whose real head each is.
        repeats: of the halves.
        seed: of halves and shuffles.

    Raises:
        InputError: fewer than two synthetic heads, or fewer than four real subjects.
    """
    if len(synthetic) < 2 or len(set(subjects)) < 4:
        raise InputError(
            "volumes", found=f"{len(synthetic)} synthetic ones and {len(set(subjects))} real subjects",
            expected="2 or more and 4 or more: real ones are split into halves", fix="Give more volumes.",
        )  # fmt: skip
    source = np.random.default_rng(seed)
    rows: dict[str, list[float]] = {"fd": [], "fd_real_floor": [], "mmd_real_floor": []}
    counts = []
    for _ in range(repeats):
        first = _half(subjects, source)
        a, b = real[first], real[~first]
        n = min(len(synthetic), len(a))
        rows["fd"].append(frechet(_some(synthetic, n, source), b))
        rows["fd_real_floor"].append(frechet(_some(a, n, source), b))
        rows["mmd_real_floor"].append(polynomial_mmd(a, b))
        counts.append(n)
    numbers = {"n": float(np.mean(counts)), "mmd": polynomial_mmd(synthetic, real)}
    for name, values in rows.items():
        numbers[name] = float(np.mean(values))
        numbers[f"{name}_low"], numbers[f"{name}_high"] = (float(np.quantile(values, share)) for share in INTERVAL)
    return numbers | {"mmd_p": mmd_p(synthetic, real, seed=seed)}


def mmd_p(a: Tensor, b: Tensor, *, shuffles: int = SHUFFLES, seed: int = 0) -> float:
    """Return (1 + number of shuffled labels whose MMD reaches that of a and b) / (1 + shuffles)."""
    both = torch.cat([a, b]).double().cpu()
    kernel = ((both @ both.T) / both.shape[1] + 1) ** 3
    kernel -= torch.diag(kernel.diag())  # pairs of one head with itself do not count
    n, total = len(a), len(both)
    source = np.random.default_rng(seed)
    order = np.argsort(source.random((shuffles, total)), axis=1)
    first = torch.zeros(shuffles + 1, total, dtype=torch.float64)
    first[0, :n] = 1
    first[1:].scatter_(1, torch.from_numpy(order[:, :n].copy()), 1.0)
    second, m = 1 - first, total - n
    ours, theirs = first @ kernel, second @ kernel
    values = (
        (ours * first).sum(1) / (n * (n - 1))
        + (theirs * second).sum(1) / (m * (m - 1))
        - 2 * (ours * second).sum(1) / (n * m)
    )
    reached = int((values[1:] >= values[0] - 1e-12 * values[0].abs()).sum())
    return (1 + reached) / (1 + shuffles)


def _half(subjects: Sequence[str], source: np.random.Generator) -> Tensor:
    """Return which heads are in the first half, (M,) bool; the heads of one subject are together."""
    names = sorted(set(subjects))
    chosen = {names[k] for k in source.permutation(len(names))[: len(names) // 2]}
    return torch.tensor([subject in chosen for subject in subjects])


def _some(features: Tensor, count: int, source: np.random.Generator) -> Tensor:
    return features[torch.from_numpy(source.permutation(len(features))[:count])]

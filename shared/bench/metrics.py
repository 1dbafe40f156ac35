"""Distances between what was drawn and what should have been drawn."""

from __future__ import annotations

import torch
from torch import Tensor


def rmse(a: Tensor, b: Tensor) -> float:
    """Return the root mean square difference over samples and elements."""
    return float((a - b).double().square().mean().sqrt())


def frechet(a: Tensor, b: Tensor) -> float:
    r"""Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^{1/2}) of two sets of samples (N, ...), in their own space.

    Means and covariances come from the samples, so few samples raise it: compare only at equal numbers.
    Source: Dowson and Landau, 1982; the "FID" of Heusel et al. 2017 without a feature network.
    """
    a, b = a.flatten(1).double().cpu(), b.flatten(1).double().cpu()
    between = (a.mean(0) - b.mean(0)).square().sum()
    # With C = X^T X the trace of the root is the sum of the singular values of X_a X_b^T, a matrix of samples.
    a, b = ((s - s.mean(0)) / (len(s) - 1) ** 0.5 for s in (a, b))
    if min(len(a), len(b)) < a.shape[1]:
        root = torch.linalg.svdvals(a @ b.T).sum()
    else:
        root = torch.linalg.eigvals(a.T @ a @ b.T @ b).real.clamp_min(0).sqrt().sum()
    return float(between + a.square().sum() + b.square().sum() - 2 * root)


def polynomial_mmd(a: Tensor, b: Tensor) -> float:
    r"""Return the squared maximum mean discrepancy of two sets of samples (N, ...) with the kernel (<x, y>/d + 1)^3.

    Without bias: sum_{i != j} k(a_i, a_j) / (n (n - 1)) + the same of b - 2 mean k(a_i, b_j), so it may be slightly
    negative. Source: Gretton et al., 2012; the kernel of KID, Binkowski et al., 2018.
    """
    a, b = a.flatten(1).double().cpu(), b.flatten(1).double().cpu()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    within = [(k.sum() - k.diag().sum()) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b))]
    return float(within[0] + within[1] - 2 * kernel(a, b).mean())


def energy_distance(a: Tensor, b: Tensor) -> float:
    r"""Return 2 E|a - b| - E|a - a'| - E|b - b'| of two sets of samples (N, ...), without bias by equal pairs.

    Zero exactly where the distributions agree; an estimate can be slightly negative. Source: Szekely and Rizzo, 2013.
    """
    a, b = a.flatten(1).double().cpu(), b.flatten(1).double().cpu()
    within = [torch.cdist(s, s).sum() / (len(s) * (len(s) - 1)) for s in (a, b)]
    return float(2 * torch.cdist(a, b).mean() - within[0] - within[1])

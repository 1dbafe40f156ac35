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
    ca, cb = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.eigvals(ca @ cb).real.clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * root)


def energy_distance(a: Tensor, b: Tensor) -> float:
    r"""Return 2 E|a - b| - E|a - a'| - E|b - b'| of two sets of samples (N, ...), without bias by equal pairs.

    Zero exactly where the distributions agree; an estimate can be slightly negative. Source: Szekely and Rizzo, 2013.
    """
    a, b = a.flatten(1).double().cpu(), b.flatten(1).double().cpu()
    within = [torch.cdist(s, s).sum() / (len(s) * (len(s) - 1)) for s in (a, b)]
    return float(2 * torch.cdist(a, b).mean() - within[0] - within[1])

r"""Exact integrals of the exponential times a polynomial: the coefficients of multistep solvers.

In l = log_snr the probability-flow ODE of every process has the exact solution

    x_t = (sigma_t / sigma_s) x_s + alpha_t int_{l_s}^{l_t} exp(l - l_t) D(l) dl,

so a solver only has to approximate D between the nodes. With D replaced by the polynomial through its values at nodes
l_1, ..., l_p, the integral is a weighted sum of those values, with weights

    w_j = alpha_t int_{l_s}^{l_t} exp(l - l_t) prod_{i != j} (l - l_i) / (l_j - l_i) dl.

They sum to alpha_t (1 - exp(-(l_t - l_s))). Two limits:
    a node at l = -inf (pure noise, alpha = 0) says nothing about the slope at finite l: its weight is zero;
    t at l = +inf (data, sigma = 0): a polynomial does not reach that far, so x = D at the newest node.

References:
    Lu et al., DPM-Solver++, 2022, eq. 14; Zhang and Chen, DEIS, 2023; Hochbruck and Ostermann, 2010, section 2.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

REACH = 50.0  # exp(-50): what lies further below l_t weighs nothing in float64


def transfer(grid_sigma: Sequence[float], s: int, t: int) -> float:
    """Return sigma_t / sigma_s, the weight of x_s in x_t."""
    return grid_sigma[t] / grid_sigma[s]


def exponential_weights(nodes: Sequence[float], l_from: float, l_to: float, alpha_to: float) -> tuple[float, ...]:
    """Return w_j of the module docstring.

    Args:
        nodes: log_snr of the known values of D, newest first; distinct.
        l_from: log_snr at the start of the step.
        l_to: log_snr at its end, above l_from.
        alpha_to: alpha at its end.
    """
    finite = [node for node in nodes if math.isfinite(node)]
    if math.isinf(l_to) or not finite:
        return (alpha_to * -math.expm1(l_from - l_to), *[0.0] * (len(nodes) - 1))
    points, quadrature = _gauss_legendre()
    length = min(l_to - l_from, REACH)
    u = -0.5 * length * (1 - points)  # l - l_to, in [-length, 0]
    density = 0.5 * length * quadrature * np.exp(u)
    weights = []
    for node in nodes:
        if not math.isfinite(node):
            weights.append(0.0)
            continue
        lagrange = np.ones_like(u)
        for other in finite:
            if other != node:
                lagrange *= (u + (l_to - other)) / (node - other)
        weights.append(alpha_to * float(density @ lagrange))
    return tuple(weights)


@cache
def _gauss_legendre() -> tuple[np.ndarray, np.ndarray]:
    """Return 64 points and weights on [-1, 1]: exact to rounding for exp times a cubic over any length up to REACH."""
    return np.polynomial.legendre.leggauss(64)

"""EVODiff as its authors' code computes it, over single numbers: lists, loops and the math module, nothing shared.

Written from the recursion (k is the index of a node, m_0 and m_1 the newest answers, kappa = sigma / alpha):
r = sigma_k / sigma_{k-1}, q = sigma_{k-1} / sigma_{k-2}, h = 1/kappa_k - 1/kappa_{k-1}, b = sqrt(r / q),
rho = ln(kappa_{k-2} / kappa_{k-1}) / ln(kappa_{k-1} / kappa_k), w = (1 - ((t_k + t_end) / (t_start + t_end))^2) / 2.
"""

from __future__ import annotations

import math


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def project(a, b):
    product = norm = 0.0
    for left, right in zip(a, b, strict=True):
        product += left * right
        norm += right * right
    return min(2.0, max(-2.0, product / norm)) if norm else 0.0


def evodiff(denoiser, x, times, alpha, sigma, *, final_rule, to_data):
    """Return the sample of one noise x, a list of groups of numbers; each group has its own inner products.

    Args:
        denoiser: maps (all groups, t) to the estimates, in the same form.
        x: list of lists.
        times: nodes above data.
        alpha: weight of the data there.
        sigma: standard deviation of the noise there.
        final_rule: end with the authors' last step, otherwise with the predictor.
        to_data: end with one more D at the last node.
    """
    kappa = [s / a for s, a in zip(sigma, alpha, strict=True)]
    n, places, channels = len(times) - 1, range(len(x[0])), range(len(x))
    m1 = denoiser(x, times[0])
    if n == 0:
        return m1 if to_data else x
    h = 1 / kappa[1] - 1 / kappa[0]
    x = [[sigma[1] / sigma[0] * x[c][i] + sigma[1] * h * m1[c][i] for i in places] for c in channels]
    if n == 1:
        return denoiser(x, times[1]) if to_data else x
    m0 = denoiser(x, times[1])
    for k in range(2, n + 1):
        r, q = sigma[k] / sigma[k - 1], sigma[k - 1] / sigma[k - 2]
        h = 1 / kappa[k] - 1 / kappa[k - 1]
        x_e = [[r * x[c][i] + sigma[k] * h * m0[c][i] for i in places] for c in channels]
        if k == n and final_rule:
            g = 1 - 0.5 * math.sqrt(r) if r < 0.5 else 1 - 0.5 * math.sqrt(r - 0.5)
            keep = 1 - math.sqrt(sigma[k] * sigma[k - 1])
            x = [[keep * x_e[c][i] + 0.5 * sigma[k] * h * (m0[c][i] - g * m1[c][i]) for i in places] for c in channels]
            break
        b = math.sqrt(r / q)
        rho = math.log(kappa[k - 2] / kappa[k - 1]) / math.log(kappa[k - 1] / kappa[k])
        w = 0.5 * (1 - ((times[k] + times[-1]) / (times[0] + times[-1])) ** 2)
        beta1 = [(1 - w) * b + w * project(m0[c], m1[c]) for c in channels]
        d1 = [[m0[c][i] - beta1[c] * m1[c][i] for i in places] for c in channels]
        rho_i = [min(1.5 * rho, max(0.25 * rho, sigmoid(0.25 * abs(beta1[c])) * rho)) for c in channels]
        x_p = [[x_e[c][i] + 0.5 * sigma[k] * h * d1[c][i] / rho_i[c] for i in places] for c in channels]
        if k == n:
            x = x_p
            break
        m_plus = denoiser(x_p, times[k])
        for c in channels:
            beta2 = (1 - w) * b + w * project(m_plus[c], m0[c])
            d2 = [m_plus[c][i] - beta2 * m0[c][i] for i in places]
            plus = [rho * d2[i] / h + d1[c][i] / (rho * h) for i in places]
            minus = [rho * d2[i] / h - d1[c][i] / (rho * h) for i in places]
            eta = 0.5 * sigmoid(abs(0.5 * project(plus, minus)))
            total = [-eta / rho * d1[c][i] + rho * (1 - eta) * d2[i] for i in places]
            p = [x_p[c][i] - x_e[c][i] - 0.5 * sigma[k] * h * total[i] / rho_i[c] for i in places]
            zeta_star = abs(project(p, d1[c]) / (h * sigma[k]))
            if n <= 20:
                zeta = sigmoid(zeta_star - 0.5)
            else:
                slope = [(m0[c][i] - m1[c][i]) / h for i in places]
                zeta = sigmoid(-(zeta_star - 0.5) * sigmoid(project(m0[c], slope) * (2 - r**2)))
            x[c] = [x_e[c][i] + 0.5 * sigma[k] * h * total[i] / zeta for i in places]
        m1, m0 = m0, m_plus
    return denoiser(x, times[-1]) if to_data else x

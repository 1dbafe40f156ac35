"""DISCO by hand: the published stencils point by point, and what a polar kernel does to plane waves."""

from __future__ import annotations

import math

import torch


def hat(s: float) -> float:
    return max(0.0, 1.0 - abs(s))


def polar_function(index: int, r: float, phi: float, radius: float, rings: int, angles: int) -> float:
    """psi_index at (r, phi): index 0 is the centre, then ring by ring."""
    if r > radius * (1 + 1e-12):
        return 0.0
    dr, dphi = radius / rings, 2 * math.pi / angles
    if index == 0:
        return hat(r / dr)
    ring, angle = (index - 1) // angles + 1, (index - 1) % angles
    apart = abs(phi - angle * dphi) % (2 * math.pi)
    return hat((r - ring * dr) / dr) * hat(min(apart, 2 * math.pi - apart) / dphi)


def published_stencils(radius: float, shape: tuple[int, int], rings: int, angles: int) -> torch.Tensor:
    """NO-MRI's psi: points linspace(-radius, radius), angle atan2(second, first) + pi, one area for all functions."""
    functions = (rings - 1) * angles + 1
    size = math.floor(radius * min(shape)) + 1
    inner, n = radius * rings / (rings + 1), rings
    area = math.pi * inner**2 + math.pi * radius**2 * (2 * n / (n + 1) + 1) / (n + 1) / 3
    out = torch.zeros(functions, size, size, dtype=torch.float64)
    for i in range(size):
        for j in range(size):
            a, b = (-radius + 2 * radius * k / (size - 1) for k in (i, j))
            r, phi = math.hypot(a, b), math.atan2(b, a) + math.pi
            for index in range(functions):
                out[index, i, j] = polar_function(index, r, phi, radius, rings, angles) / area * 4 / math.prod(shape)
    return out


def wave_through_kernel(
    weights: torch.Tensor,
    radius: float,
    rings: int,
    angles: int,
    *,
    frequencies: list[tuple[int, int]],
    amplitudes: list[float],
    phases: list[float],
    fov: float,
    n: int,
) -> torch.Tensor:
    """int kappa(u) f(x + u) du for f = sum_m a_m cos(2 pi (k_m . x) / fov + p_m), on n pixels, every psi of integral 1.

    cos goes through as Re[K(k) e^{i ...}] with K(k) = int kappa(u) e^{2 pi i k.u / fov} du, integrated in polar
    coordinates (midpoint rule), in which the functions are products of hats.
    """
    radial = (torch.arange(600, dtype=torch.float64) + 0.5) / 600 * radius
    angular = (torch.arange(720, dtype=torch.float64) + 0.5) / 720 * 2 * math.pi
    r, phi = radial[:, None], angular[None, :]
    dr, dphi = radius / rings, 2 * math.pi / angles
    functions = [(1 - r / dr).clamp(min=0) * torch.ones_like(phi)]
    for ring in range(1, rings):
        for angle in range(angles):
            apart = ((phi - angle * dphi + math.pi) % (2 * math.pi) - math.pi).abs()
            functions.append((1 - (r / dr - ring).abs()).clamp(min=0) * (1 - apart / dphi).clamp(min=0))
    at = (torch.arange(n, dtype=torch.float64) - n // 2) * fov / n
    out = torch.zeros(n, n, dtype=torch.float64)
    for (ky, kx), amplitude, phase in zip(frequencies, amplitudes, phases, strict=True):
        wave = torch.exp(2j * math.pi / fov * (ky * r * torch.sin(phi) + kx * r * torch.cos(phi)))
        gain = sum(float(w) * ((f * wave * r).sum() / (f * r).sum()) for w, f in zip(weights, functions, strict=True))
        out += (
            amplitude
            * (gain * torch.exp(1j * (2 * math.pi / fov * (ky * at[:, None] + kx * at[None, :]) + phase))).real
        )
    return out

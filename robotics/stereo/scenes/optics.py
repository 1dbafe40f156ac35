"""Light at a smooth boundary: mirror reflection, Snell's law and Fresnel's equations."""

from __future__ import annotations

import torch
from torch import Tensor


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return a . b of (3, N) vectors; written out, which is several times faster on a CPU than a sum over 3 rows."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def norm(a: Tensor) -> Tensor:
    """Return |a| of (3, N) vectors."""
    return dot(a, a).sqrt()


def reflect(direction: Tensor, normal: Tensor) -> Tensor:
    """Return d - 2 (d . n) n for (3, N) unit vectors."""
    return direction - 2.0 * dot(direction, normal) * normal


def refract(direction: Tensor, normal: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Return the refracted direction (3, N) and where there is none (total reflection), (N,) bool.

    Snell: sin(theta_t) = ratio sin(theta_i); d' = ratio d + (ratio cos_i - cos_t) n.

    Args:
        direction: (3, N) unit vectors towards the surface.
        normal: (3, N) unit vectors against them, d . n < 0.
        ratio: (N,) n_incident / n_transmitted.
    """
    cos_i = -dot(direction, normal)
    square = 1.0 - ratio.square() * (1.0 - cos_i.square())
    cos_t = square.clamp_min(0.0).sqrt()
    return ratio * direction + (ratio * cos_i - cos_t) * normal, square < 0


def fresnel(cos_i: Tensor, ratio: Tensor) -> Tensor:
    """Return the reflected share of unpolarised light, (N,): the mean of R_s and R_p, 1 at total reflection.

    R_s = ((n1 cos_i - n2 cos_t) / (n1 cos_i + n2 cos_t))^2, R_p with cos_i and cos_t exchanged.

    Args:
        cos_i: (N,) cosine of the angle of incidence, 0 to 1.
        ratio: (N,) n1 / n2, of the incident and the transmitting side.
    """
    square = 1.0 - ratio.square() * (1.0 - cos_i.square())
    cos_t = square.clamp_min(0.0).sqrt()
    s = (ratio * cos_i - cos_t) / (ratio * cos_i + cos_t).clamp_min(1e-9)
    p = (ratio * cos_t - cos_i) / (ratio * cos_t + cos_i).clamp_min(1e-9)
    return torch.where(square < 0, torch.ones_like(square), 0.5 * (s.square() + p.square()))


def thin_sheet(reflectance: Tensor) -> Tensor:
    """Return the reflected share of a sheet with two equal faces and no absorption: 2 R / (1 + R)."""
    return 2.0 * reflectance / (1.0 + reflectance)


def schlick(cos_i: Tensor, at_normal: Tensor) -> Tensor:
    """Return Schlick's approximation of Fresnel's share: F0 + (1 - F0) (1 - cos_i)^5."""
    return at_normal + (1.0 - at_normal) * (1.0 - cos_i).clamp(0.0, 1.0).pow(5)

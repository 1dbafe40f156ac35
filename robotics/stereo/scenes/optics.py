"""Light at a smooth boundary: mirror reflection, Snell's law and Fresnel's equations; compiled, for one ray."""

from __future__ import annotations

import math

from robotics.stereo.scenes.compiled import compiled

Vector = tuple[float, float, float]


@compiled
def reflect(d: Vector, n: Vector) -> Vector:
    """Return d - 2 (d . n) n for unit vectors."""
    k = 2.0 * (d[0] * n[0] + d[1] * n[1] + d[2] * n[2])
    return d[0] - k * n[0], d[1] - k * n[1], d[2] - k * n[2]


@compiled
def refract(d: Vector, n: Vector, ratio: float) -> Vector:
    """Return the refracted unit direction, (0, 0, 0) at total reflection.

    Snell: sin(theta_t) = ratio sin(theta_i); d' = ratio d + (ratio cos_i - cos_t) n.

    Args:
        d: unit vector towards the surface.
        n: unit normal against it, d . n < 0.
        ratio: n_incident / n_transmitted.
    """
    cos_i = -(d[0] * n[0] + d[1] * n[1] + d[2] * n[2])
    square = 1.0 - ratio * ratio * (1.0 - cos_i * cos_i)
    if square < 0.0:
        return 0.0, 0.0, 0.0
    k = ratio * cos_i - math.sqrt(square)
    return ratio * d[0] + k * n[0], ratio * d[1] + k * n[1], ratio * d[2] + k * n[2]


@compiled
def fresnel(cos_i: float, ratio: float) -> float:
    """Return the reflected share of unpolarised light: the mean of R_s and R_p, 1 at total reflection.

    R_s = ((n1 cos_i - n2 cos_t) / (n1 cos_i + n2 cos_t))^2, R_p with cos_i and cos_t exchanged.

    Args:
        cos_i: cosine of the angle of incidence, 0 to 1.
        ratio: n1 / n2, of the incident and the transmitting side.
    """
    square = 1.0 - ratio * ratio * (1.0 - cos_i * cos_i)
    if square < 0.0:
        return 1.0
    cos_t = math.sqrt(square)
    if cos_t + cos_i < 1e-9:
        return 1.0
    s = (ratio * cos_i - cos_t) / (ratio * cos_i + cos_t)
    p = (ratio * cos_t - cos_i) / (ratio * cos_t + cos_i)
    return 0.5 * (s * s + p * p)


@compiled
def thin_sheet(reflectance: float) -> float:
    """Return the reflected share of a sheet with two equal faces and no absorption: 2 R / (1 + R)."""
    return 2.0 * reflectance / (1.0 + reflectance)


@compiled
def schlick(cos_i: float, at_normal: float) -> float:
    """Return Schlick's approximation of Fresnel's share: F0 + (1 - F0) (1 - cos_i)^5."""
    k = 1.0 - cos_i
    return at_normal + (1.0 - at_normal) * k * k * k * k * k

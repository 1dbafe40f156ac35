"""Receive coils of a simulated head array: the magnetic field of circular loops in closed form.

By reciprocity (Hoult & Richards, J Magn Reson 24:71, 1976) a coil's receive sensitivity at r is the transverse field
that unit current in it would make there, S(r) = B_x - i B_y with the main field along z. Neighbouring loops see the
same lossy tissue, so their noise is correlated (Roemer et al., MRM 16:192, 1990).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

WIRE_MM = 2.0  # the field of an infinitely thin wire has no bound


@dataclass(frozen=True)
class Loop:
    """A circular loop of wire.

    Attributes:
        centre_mm: (3,) in LPS.
        normal: (3,) unit vector.
        radius_mm: radius.
    """

    centre_mm: np.ndarray
    normal: np.ndarray
    radius_mm: float


def loop_field(points_mm: np.ndarray, loop: Loop) -> np.ndarray:
    """Return the magnetic field of a loop that carries mu_0 I = 1.

    In cylindrical coordinates (rho, z) about the loop's axis, with alpha^2 = a^2 + rho^2 + z^2 - 2 a rho,
    beta^2 = a^2 + rho^2 + z^2 + 2 a rho, m = 1 - alpha^2 / beta^2 and the complete elliptic integrals K(m), E(m):

        B_rho = z / (2 pi alpha^2 beta rho) [(a^2 + rho^2 + z^2) E - alpha^2 K]
        B_z   = 1 / (2 pi alpha^2 beta)     [(a^2 - rho^2 - z^2) E + alpha^2 K]

    Source: Smythe, Static and Dynamic Electricity, section 7.10.

    Args:
        points_mm: (..., 3) in LPS; within 2 mm of the wire the field stops growing.
        loop: the loop.

    Returns:
        (..., 3) float64 field vectors in LPS.
    """
    from scipy.special import ellipe, ellipk

    offset = points_mm - loop.centre_mm
    z = offset @ loop.normal
    radial = offset - z[..., None] * loop.normal
    rho = np.linalg.norm(radial, axis=-1)
    a, square = loop.radius_mm, rho**2 + z**2
    alpha2 = np.maximum(a**2 + square - 2 * a * rho, WIRE_MM**2)
    beta2 = a**2 + square + 2 * a * rho
    m = 1 - alpha2 / beta2
    K, E = ellipk(m), ellipe(m)
    scale = 1 / (2 * np.pi * alpha2 * np.sqrt(beta2))
    along = scale * ((a**2 - square) * E + alpha2 * K)
    # On the axis the radial field vanishes; the quotient below would be 0/0.
    off_axis = rho > 1e-6 * a
    outward = scale * z * ((a**2 + square) * E - alpha2 * K) / np.where(off_axis, rho, 1.0) ** 2
    return along[..., None] * loop.normal + np.where(off_axis, outward, 0.0)[..., None] * radial


def head_array(
    coils: int, centre_mm: np.ndarray, half_extent_mm: np.ndarray, *, clearance_mm: float = 25.0
) -> list[Loop]:
    """Return loops around a head, in rings of up to eight on an elliptic cylinder along z.

    Args:
        coils: number of loops.
        centre_mm: (3,) centre of the head in LPS.
        half_extent_mm: (3,) half of its extent along (x, y, z).
        clearance_mm: distance from the head to the cylinder.
    """
    rings = -(-coils // 8)
    sizes = [len(part) for part in np.array_split(np.arange(coils), rings)]
    a, b = half_extent_mm[0] + clearance_mm, half_extent_mm[1] + clearance_mm
    loops = []
    for ring, count in enumerate(sizes):
        height = ((ring + 0.5) / rings - 0.5) * 1.5 * half_extent_mm[2]
        radius = min(0.6 * 2 * np.pi * np.sqrt((a**2 + b**2) / 2) / count, 70.0)
        # Every second ring is turned by half a loop, as arrays are built.
        for angle in 2 * np.pi * (np.arange(count) + 0.5 * (ring % 2)) / count:
            normal = np.array([np.cos(angle) / a, np.sin(angle) / b, 0.0])
            centre = centre_mm + np.array([a * np.cos(angle), b * np.sin(angle), height])
            loops.append(Loop(centre, normal / np.linalg.norm(normal), float(radius)))
    return loops


def sensitivities(points_mm: np.ndarray, loops: list[Loop]) -> np.ndarray:
    """Return S_c(r) = B_x - i B_y, complex128 (coil, ...), at LPS points (..., 3); the main field is along z."""
    fields = [loop_field(points_mm, loop) for loop in loops]
    return np.stack([field[..., 0] - 1j * field[..., 1] for field in fields])


def noise_coupling(loops: list[Loop], centre_mm: np.ndarray, half_extent_mm: np.ndarray) -> np.ndarray:
    """Return the coils' normalised overlap in the head, G_cd = <S_c, S_d> / (|S_c| |S_d|), over an ellipsoid.

    A stand-in for the overlap of electric fields that correlates tissue noise; Hermitian, positive semidefinite,
    with ones on the diagonal. Complex128 (coil, coil).
    """
    unit = np.stack(np.meshgrid(*[np.linspace(-0.95, 0.95, 15)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    points = centre_mm + unit[(unit**2).sum(-1) <= 1] * half_extent_mm
    S = sensitivities(points, loops)
    S = S / np.linalg.norm(S, axis=1, keepdims=True)
    return S @ S.conj().T

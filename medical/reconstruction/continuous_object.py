"""The continuous object that a simulated scanner measures: small cells in patient coordinates, transformed exactly.

No pixel grid of the scan enters here; the Fourier transform of the piecewise constant object is evaluated at whatever
frequencies the scan asks for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medical.images import LPS_TO_RAS, Geometry, Image, Vector

FIELD_T = 3.0
LARMOR_HZ = 42.577e6 * FIELD_T
AIR_TISSUE_SUSCEPTIBILITY = 9.4e-6
SINUS_RADIUS_MM = 12.0


@dataclass(frozen=True)
class Plane:
    """The continuous object in one slice: square cells of side `cell_mm` with centres (u, v) mm from the position.

    Attributes:
        values: complex (v, u), rho exp(i phi).
        u: (n,) along read.
        v: (m,) along phase.
        cell_mm: side of a cell.
        frame: (3, 3) columns read, phase, slice in LPS.
        position_mm: (3,) LPS.
    """

    values: np.ndarray
    u: np.ndarray
    v: np.ndarray
    cell_mm: float
    frame: np.ndarray
    position_mm: np.ndarray

    @classmethod
    def of(cls, anatomy: Image, geometry: Geometry, position: Vector, echo_time_ms: float) -> Plane:
        """Cut an anatomy: cells of half its smallest voxel over all of its extent, averaged through the slice."""
        frame, origin = geometry.frame(), np.asarray(position, dtype=np.float64)
        cell = float(anatomy.voxel_size_mm().min()) / 2
        corners = (_corners(anatomy) - origin) @ frame
        u, v = (_cells(corners[:, axis].min(), corners[:, axis].max(), cell) for axis in (0, 1))
        mid = origin + u[:, None] * frame[:, 0] + v[:, None, None] * frame[:, 1]
        layers = 1
        if anatomy.data.shape[0] > 1:
            layers = max(1, round(geometry.fov_mm[2] / cell))
        depths = ((np.arange(layers) + 0.5) / layers - 0.5) * geometry.fov_mm[2]
        rho = np.mean([_interpolate(anatomy, mid + depth * frame[:, 2]) for depth in depths], axis=0)
        return cls(rho * np.exp(1j * _phase(anatomy, mid, echo_time_ms)), u, v, cell, frame, origin)

    @property
    def points_mm(self) -> np.ndarray:
        """Centres of the cells, (v, u, 3) in LPS."""
        return self.position_mm + self.u[:, None] * self.frame[:, 0] + self.v[:, None, None] * self.frame[:, 1]

    def pixels_mm(self, matrix: tuple[int, int], fov_mm: tuple[float, float]) -> np.ndarray:
        """Centres of the pixels of an image, (ny, nx, 3) in LPS; index N//2 lies at the position."""
        (ny, nx), (fov_y, fov_x) = matrix, fov_mm
        x, y = (np.arange(nx) - nx // 2) * fov_x / nx, (np.arange(ny) - ny // 2) * fov_y / ny
        return self.position_mm + x[:, None] * self.frame[:, 0] + y[:, None, None] * self.frame[:, 1]

    def encode(
        self,
        values: np.ndarray,
        matrix: tuple[int, int],
        fov_mm: tuple[float, float],
        lines: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return the exact Fourier transform of piecewise constant `values` (..., v, u) at the scan's frequencies.

        Args:
            values: complex, one per cell.
            matrix: (ny, nx) of the encoded plane.
            fov_mm: (phase, read) extent of the encoded plane.
            lines: bool (ny,), the lines to compute; the others are zero.

        Returns:
            complex128 (..., ny, nx), zero frequency at index N//2, scaled for orthonormal inverse transforms.
        """
        E_y = _transform(self.v, matrix[0], fov_mm[0], self.cell_mm)
        E_x = _transform(self.u, matrix[1], fov_mm[1], self.cell_mm)
        return (E_y if lines is None else E_y * lines[:, None]) @ (values @ E_x.T)


def _transform(r: np.ndarray, samples: int, fov: float, cell: float) -> np.ndarray:
    """Return (samples, cells): sqrt(N)/FOV h sinc(k h) exp(-2 pi i k r) at k = (n - N//2) / FOV."""
    k = (np.arange(samples) - samples // 2) / fov
    return (np.sqrt(samples) / fov * cell * np.sinc(k * cell))[:, None] * np.exp(-2j * np.pi * k[:, None] * r)


def _cells(low: float, high: float, cell: float) -> np.ndarray:
    count = int(np.ceil((high - low) / cell))
    return (low + high) / 2 + (np.arange(count) - (count - 1) / 2) * cell


def _corners(anatomy: Image) -> np.ndarray:
    """Return the (8, 3) outer corners of the anatomy's block of voxels in LPS."""
    nz, ny, nx = anatomy.data.shape
    corners = np.array([(x, y, z) for x in (-0.5, nx - 0.5) for y in (-0.5, ny - 0.5) for z in (-0.5, nz - 0.5)])
    return (LPS_TO_RAS @ anatomy.affine @ np.c_[corners, np.ones(8)].T)[:3].T


def bounds(anatomy: Image) -> tuple[np.ndarray, np.ndarray]:
    """Return centre and half extent of the anatomy's block of voxels along the LPS axes."""
    corners = _corners(anatomy)
    return (corners.max(0) + corners.min(0)) / 2, (corners.max(0) - corners.min(0)) / 2


def _interpolate(anatomy: Image, points_mm: np.ndarray) -> np.ndarray:
    """Return the anatomy at LPS points (..., 3) by trilinear interpolation, zero outside."""
    from scipy.ndimage import map_coordinates

    inverse = np.linalg.inv(LPS_TO_RAS @ anatomy.affine)
    voxel = np.moveaxis(points_mm @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)[::-1]
    return map_coordinates(anatomy.magnitude().numpy(), voxel, order=1, mode="constant", output=np.float64)


def _phase(anatomy: Image, points_mm: np.ndarray, echo_time_ms: float) -> np.ndarray:
    """Return the phase of a gradient echo, 2 pi TE df(r), at LPS points (..., 3).

    df is the field of an air-filled sinus below the frontal lobe, a sphere of radius a at r_0,

        df = gamma B_0 chi/3 (a / |r - r_0|)^3 (3 cos^2 theta - 1)   outside, 0 inside,

    plus a shim residual of second order that reaches 30 Hz at the edge of the anatomy.
    """
    centre, half = bounds(anatomy)
    offset = points_mm - (centre + half * (0.0, -0.75, -0.45))
    distance = np.maximum(np.linalg.norm(offset, axis=-1), 1e-6)
    dipole = (SINUS_RADIUS_MM / distance) ** 3 * (3 * (offset[..., 2] / distance) ** 2 - 1)
    sinus = LARMOR_HZ * AIR_TISSUE_SUSCEPTIBILITY / 3 * np.where(distance > SINUS_RADIUS_MM, dipole, 0.0)
    x, y, z = np.moveaxis((points_mm - centre) / half, -1, 0)
    shim = 30.0 * (x**2 - y**2 + x * z + y)
    return 2 * np.pi * echo_time_ms * 1e-3 * (sinus + shim)

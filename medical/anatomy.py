"""Anatomies to simulate scans of: a real average brain that a dependency ships, or an analytic head phantom."""

from __future__ import annotations

import numpy as np
import torch

from medical.images import Image

# Three-dimensional Shepp-Logan head (Shepp & Logan 1974; contrast of Toft 1996), ellipsoids in units of half the field:
# intensity, semi-axes (x, y, z), centre (x, y, z), rotation about z in degrees. x is right, y anterior, z superior.
SHEPP_LOGAN = (
    (1.0, (0.6900, 0.920, 0.810), (0.0, 0.0, 0.0), 0.0),
    (-0.8, (0.6624, 0.874, 0.780), (0.0, -0.0184, 0.0), 0.0),
    (-0.2, (0.1100, 0.310, 0.220), (0.22, 0.0, 0.0), -18.0),
    (-0.2, (0.1600, 0.410, 0.280), (-0.22, 0.0, 0.0), 18.0),
    (0.1, (0.2100, 0.250, 0.410), (0.0, 0.35, -0.15), 0.0),
    (0.1, (0.0460, 0.046, 0.050), (0.0, 0.1, 0.25), 0.0),
    (0.1, (0.0460, 0.046, 0.050), (0.0, -0.1, 0.25), 0.0),
    (0.1, (0.0460, 0.023, 0.050), (-0.08, -0.605, 0.0), 0.0),
    (0.1, (0.0230, 0.023, 0.020), (0.0, -0.606, 0.0), 0.0),
    (0.1, (0.0230, 0.046, 0.020), (0.06, -0.605, 0.0), 0.0),
)


def load_anatomy() -> Image:
    """Return the MNI152 T1 average brain at 1 mm, which nilearn ships, or the head phantom where nilearn is absent.

    The brain is the ICBM 2009a nonlinear symmetric template without skull (Fonov et al., NeuroImage 54:313, 2011).
    `provenance["source"]` says which of the two it is.
    """
    try:
        from nilearn.datasets import load_mni152_template
    except ImportError:
        return head_phantom()
    template = load_mni152_template(resolution=1)
    voxels = torch.from_numpy(np.ascontiguousarray(template.get_fdata(dtype=np.float32).transpose(2, 1, 0)))
    return Image(voxels, np.asarray(template.affine, dtype=np.float64), {"source": "MNI152 T1 template (ICBM 2009a)"})


def head_phantom(voxel_mm: float = 1.0, field_mm: float = 220.0, supersampling: int = 2) -> Image:
    """Return the Shepp-Logan head, centred on the origin.

    Args:
        voxel_mm: voxel size.
        field_mm: extent of the cube that holds the head.
        supersampling: points per voxel and axis at which the ellipsoids are evaluated; their mean is the voxel.

    Returns:
        Image with float32 data (z, y, x) and a RAS affine.
    """
    count = round(field_mm / voxel_mm)
    fine = (np.arange(count * supersampling) + 0.5) / supersampling - count / 2
    points = (fine * voxel_mm * 2 / field_mm).astype(np.float32)
    x, y = points[None, :], points[:, None]
    volume = np.zeros((count, count, count), dtype=np.float32)
    for plane, layer in enumerate(points.reshape(count, supersampling)):
        total = np.zeros((count * supersampling,) * 2, dtype=np.float32)
        for value, (a, b, c), (x0, y0, z0), degrees in SHEPP_LOGAN:
            cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
            radius = (((x - x0) * cos + (y - y0) * sin) / a) ** 2 + (((y - y0) * cos - (x - x0) * sin) / b) ** 2
            for z in layer:
                total += value * (radius + ((z - z0) / c) ** 2 <= 1)
        cells = total.reshape(count, supersampling, count, supersampling)
        volume[plane] = cells.mean(axis=(1, 3)) / supersampling
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    affine[:3, 3] = -(count - 1) / 2 * voxel_mm
    return Image(torch.from_numpy(volume), affine, {"source": "Shepp-Logan head phantom"})

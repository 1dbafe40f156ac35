"""Phase of an image: the smooth phase of a gradient echo in an inhomogeneous field, and that of fat under the skin."""

from __future__ import annotations

import numpy as np

from medical.reconstruction.continuous_object import AIR_TISSUE_SUSCEPTIBILITY, LARMOR_HZ
from medical.simulation.smooth import smooth_noise, unit_smooth_noise

FAT_MM = (3.0, 12.0)
"""Thinnest and thickest layer under the skin."""

LOCAL_MM = (4.0, 20.0)
"""Smallest and largest scale of a local source of phase."""


def background_phase(y_mm: np.ndarray, x_mm: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    r"""Draw a phase (y, x) in radians, unwrapped.

        phi(r) = phi_0 + g . r + p(r) + w(r) + 2 pi TE df(r)

    phi_0 is uniform, g r a linear phase of up to one turn over the field (an echo off centre), p a polynomial of second
    and third order (eddy currents, shim), w a smooth random field of scale 40 mm (flow, coils), and df the field of one
    or two air-filled spheres of radius a at (r_j, z_j) off the slice, seen from the slice,

        df = gamma B_0 chi / 3 (a / |r - r_j|)^3 (3 cos^2 theta - 1),   TE uniform in 0 to 15 ms.

    Args:
        y_mm: (m,) positions along y.
        x_mm: (n,) positions along x.
        generator: of all of it.
    """
    half = max(float(np.abs(y_mm).max()), float(np.abs(x_mm).max()), 1.0)
    y, x = y_mm[:, None] / half, x_mm[None, :] / half
    phase = generator.uniform(-np.pi, np.pi) + np.zeros((len(y_mm), len(x_mm)))
    tilt = generator.uniform(-np.pi, np.pi, 2)
    phase += tilt[0] * y + tilt[1] * x
    for order, size in ((2, 0.8), (3, 0.4)):
        for power in range(order + 1):
            phase += size * generator.standard_normal() * x**power * y ** (order - power)
    steps = (float(np.diff(y_mm[:2])[0]), float(np.diff(x_mm[:2])[0]))
    phase += generator.uniform(0, 0.4) * unit_smooth_noise(phase.shape, (40.0 / steps[0], 40.0 / steps[1]), generator)
    echo_time_s = generator.uniform(0, 15e-3)
    for _ in range(generator.integers(0, 3)):
        radius = generator.uniform(6.0, 14.0)
        centre_y, centre_x = generator.uniform(-0.8, 0.8, 2) * half
        height = radius + generator.uniform(5.0, 60.0)  # the air lies below or above the slice, not in it
        square = (y_mm[:, None] - centre_y) ** 2 + (x_mm[None, :] - centre_x) ** 2 + height**2
        dipole = (radius**2 / square) ** 1.5 * (3 * height**2 / square - 1)
        phase += 2 * np.pi * echo_time_s * LARMOR_HZ * AIR_TISSUE_SUSCEPTIBILITY / 3 * dipole
    return phase


def local_phase(y_mm: np.ndarray, x_mm: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Draw the phase (y, x) in radians of up to three small sources: Gaussians of scale 4 to 20 mm and 2 rad.

    Air in a sinus or an ear canal, blood and calcium turn the phase over a few pixels, more steeply than the
    calibration lines resolve. Networks that never saw it take what is left of the phase there for noise and darken the
    tissue.
    """
    phase = np.zeros((len(y_mm), len(x_mm)))
    reach = np.abs(y_mm).max(), np.abs(x_mm).max()
    for _ in range(generator.integers(0, 4)):
        centre_y, centre_x = generator.uniform(-1, 1, 2) * reach
        scale = np.exp(generator.uniform(*np.log(LOCAL_MM)))
        square = (y_mm[:, None] - centre_y) ** 2 + (x_mm[None, :] - centre_x) ** 2
        phase += 2 * generator.standard_normal() * np.exp(-square / (2 * scale**2))
    return phase


def fat_phase(head: np.ndarray, cell_mm: float, generator: np.random.Generator) -> np.ndarray:
    """Draw the phase (y, x) in radians that fat under the skin has more than water: a constant there, 0 inside.

    Fat turns 3.4 ppm slower than water, 440 Hz at 3 T, so any phase is as likely between usual echo times. The layer
    follows the surface of the head; its thickness is drawn from `FAT_MM` and varies by a third over 40 mm. In three of
    ten heads there is none (fat suppression, or an echo in phase). Its shift along the readout is left out.

    Args:
        head: bool (y, x), where there is tissue; holes do not matter.
        cell_mm: side of a cell.
        generator: of presence, thickness and phase.
    """
    from scipy.ndimage import binary_fill_holes, distance_transform_edt

    present = generator.uniform() < 0.7
    thickness = generator.uniform(*FAT_MM) * np.exp(0.3 * smooth_noise(head.shape, 40.0 / cell_mm, generator))
    angle = generator.uniform(-np.pi, np.pi)
    depth = distance_transform_edt(np.pad(binary_fill_holes(head), 1))[1:-1, 1:-1] * cell_mm
    return angle * ((depth <= thickness) & present)

"""A scan of an object: whitened multi-coil k-space with gaps, and what a perfect reconstruction of it would be.

    y_c(k) = M(k) [ F(S_c rho e^{i phi})(k) + eta_c(k) ],   then y <- W y with W Psi_hat W^H = I

F is the exact transform of the continuous object at the frequencies of the scan (`continuous_object.Plane.encode`), so
Gibbs ringing is that of a scanner. eta has covariance Psi between coils; Psi_hat is estimated from a noise scan, as
practice has it. After whitening everything is in units of the noise standard deviation. The truth is

    x = F_N^-1 F( sqrt(S^H Psi_hat^-1 S) rho e^{i phi} ),

the object as the whitened array receives it, limited to the frequencies of the scan, complex and free of noise.

No data crimes (Shimron et al., PNAS 119:e2117203119, 2022): k-space is never the transform of an image on the grid of
the reconstruction, nothing is zero-padded, images are complex, noise is added in k-space. What is missing: relaxation,
geometric distortion, dephasing in a voxel, and scanner imperfections. Every slice says that it is simulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.preprocess import noise_covariance, whitening_matrix
from medical.simulation.coils import Array, draw_array
from medical.simulation.motion import STILL, draw_poses, moved, shot_of_line
from medical.simulation.objects import EDGE, SliceObject, draw_object
from medical.simulation.patterns import Pattern, draw_sampling
from medical.simulation.protocol import Protocol, Ranges, draw_protocol
from medical.simulation.volumes import AnatomySlice

NOISE_SAMPLES = 4096


@dataclass(frozen=True)
class SimulatedSlice:
    """One simulated slice: what a reconstruction may see, and the truth that it may not.

    Attributes:
        kspace: complex64 (coil, y, x), zero where not acquired, whitened: noise of variance 1 in every sample.
        mask: bool (y, x), true where acquired.
        calibration: bool (y, x), fully sampled central block.
        spacing: pixel size (y, x) in mm.
        image: complex64 (y, x), truth, in units of the noise standard deviation.
        coil_maps: complex64 (coil, y, x), truth of the whitened coils, sum_c |S_c|^2 = 1.
        full_kspace: complex64 (coil, y, x), truth: all samples, without noise or motion.
        pattern: name of the sampling pattern.
        nominal_acceleration: as asked.
        acceleration: true.
        provenance: says that this is simulated, of whom and how.
    """

    kspace: Tensor
    mask: Tensor
    calibration: Tensor
    spacing: tuple[float, float]
    image: Tensor
    coil_maps: Tensor
    full_kspace: Tensor
    pattern: Pattern
    nominal_acceleration: float
    acceleration: float
    provenance: dict[str, Any]


def simulate(anatomy: AnatomySlice, ranges: Ranges, generator: torch.Generator | int) -> SimulatedSlice:
    """Draw an object from an anatomy and a protocol from its ranges, and scan the one with the other.

    Args:
        anatomy: slice to scan.
        ranges: what to draw from.
        generator: of everything random, or its seed.
    """
    draws = numpy_generator(generator)
    protocol = draw_protocol(ranges, draws)
    scanned = draw_object(anatomy, protocol.contrast, draws, variation=ranges.variation, cell_mm=protocol.cell_mm)
    return acquire(scanned, protocol, draws)


def acquire(scanned: SliceObject, protocol: Protocol, generator: np.random.Generator) -> SimulatedSlice:
    """Scan an object.

    Args:
        scanned: the object.
        protocol: matrix, field of view, array, pattern, noise and motion.
        generator: of coils, mask, noise and motion.
    """
    matrix, fov = protocol.grid(scanned.half_extent_mm)
    array = draw_array(protocol.coils, scanned.half_extent_mm, scanned.height, generator)
    sampling = draw_sampling(
        protocol.pattern, matrix, protocol.acceleration, generator, calibration=protocol.calibration
    )
    plane = scanned.plane
    S = array.sensitivities(plane.v, plane.u)
    noise_std = _noise_std(plane.values, S, array, protocol.snr)
    colour = noise_std * np.linalg.cholesky(array.covariance)
    W = _estimated_whitening(colour, generator)
    S = np.tensordot(W, S, 1)
    full = plane.encode(plane.values * S, matrix, fov)
    gain = np.sqrt((np.abs(S) ** 2).sum(0))
    image = ifft_centred(torch.from_numpy(plane.encode(plane.values * gain, matrix, fov)))
    received = full
    if protocol.shots > 1:
        received = _with_motion(scanned, S, protocol, fov, generator, full)
    noise = (W @ colour) @ _white((protocol.coils, matrix[0] * matrix[1]), generator)
    mask = sampling.mask.numpy()
    pixels = [(np.arange(n) - n // 2) * extent / n for n, extent in zip(matrix, fov, strict=True)]
    maps = np.tensordot(W, array.sensitivities(*pixels), 1)
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    return SimulatedSlice(
        kspace=_complex64((received + noise.reshape(received.shape)) * mask),
        mask=sampling.mask,
        calibration=sampling.calibration,
        spacing=(fov[0] / matrix[0], fov[1] / matrix[1]),
        image=image.to(torch.complex64),
        coil_maps=_complex64(maps),
        full_kspace=_complex64(full),
        pattern=sampling.pattern,
        nominal_acceleration=sampling.nominal_acceleration,
        acceleration=sampling.acceleration,
        provenance={
            "simulated": True,
            **scanned.facts,
            "contrast": scanned.contrast,
            "coils": protocol.coils,
            "snr": protocol.snr,
            "fov_mm": fov,
            "matrix": matrix,
            "shots_with_motion": protocol.shots if protocol.shots > 1 else 0,
        },
    )


def numpy_generator(generator: torch.Generator | int) -> np.random.Generator:
    """Return a NumPy generator seeded by the next draw of a torch generator, or by a number."""
    if isinstance(generator, torch.Generator):
        generator = int(torch.randint(2**62, (), generator=generator))
    return np.random.default_rng(generator)


def _noise_std(values: np.ndarray, S: np.ndarray, array: Array, snr: float) -> float:
    """Return sigma with which noise of covariance sigma^2 Psi gives the mean SNR of the optimal combination."""
    inside = np.abs(values) > EDGE * np.abs(values).max()
    received = S[:, inside]
    whitened = np.linalg.solve(np.linalg.cholesky(array.covariance), received)
    return float((np.abs(values[inside]) * np.linalg.norm(whitened, axis=0)).mean() / snr)


def _estimated_whitening(colour: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return W of a noise scan of this array, as a reconstruction would estimate it."""
    scan = colour @ _white((len(colour), NOISE_SAMPLES), generator)
    return whitening_matrix(noise_covariance(torch.from_numpy(scan))).numpy()


def _with_motion(
    scanned: SliceObject,
    S: np.ndarray,
    protocol: Protocol,
    fov: tuple[float, float],
    generator: np.random.Generator,
    still: np.ndarray,
) -> np.ndarray:
    """Return k-space (coil, y, x) whose lines were acquired in shots with the head at a different pose in each."""
    plane, matrix = scanned.plane, (still.shape[1], still.shape[2])
    shot = shot_of_line(matrix[0], protocol.shots)
    kspace = still.copy()
    for number, pose in enumerate(draw_poses(protocol.shots, protocol.motion_mm, protocol.motion_degrees, generator)):
        lines = shot == number
        if pose != STILL and lines.any():
            values = moved(plane.values, plane.v, plane.u, pose) * S
            kspace[:, lines] = plane.encode(values, matrix, fov, lines)[:, lines]
    return kspace


def _white(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Return complex noise whose samples have variance 1."""
    parts = generator.standard_normal((2, *shape))
    return (parts[0] + 1j * parts[1]) / np.sqrt(2)


def _complex64(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.complex64))

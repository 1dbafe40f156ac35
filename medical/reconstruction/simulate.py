"""An honest simulated acquisition: k-space of a continuous object, with phase, coils, correlated noise and gaps.

What makes it honest (Guerquin-Kern et al., IEEE TMI 31:626, 2012; Shimron et al., PNAS 119:e2117203119, 2022):

- The object is not the image. It is piecewise constant on cells finer than the anatomy's voxels (half their size) and
  much finer than the pixels of the scan, and its Fourier transform is evaluated exactly at the scan's frequencies, in
  patient coordinates. No grid is shared, so there is no inverse crime; k-space ends where the scan's does, so Gibbs
  ringing and wrap-around happen as on a scanner.
- Phase is that of a gradient echo in an inhomogeneous field; coils are wire loops (`receive_coils`); noise is
  correlated between coils and there is a noise scan; lines that the mask leaves out are never computed.

Left out: relaxation, geometric distortion by the field, motion, and dephasing within a voxel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medical.images import Geometry, Image
from medical.reconstruction.continuous_object import FIELD_T, Plane, bounds
from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.raw import RawScan
from medical.reconstruction.receive_coils import Loop, head_array, noise_coupling, sensitivities
from medical.reconstruction.sampling_masks import equispaced_lines, variable_density_lines
from shared.errors import InputError

COUPLED_NOISE = 0.7  # share of the noise variance that comes from the head and is seen by several coils
GAIN_SPREAD = 0.25  # standard deviation of the logarithm of the coils' gains
NOISE_SAMPLES = 8192


@dataclass(frozen=True)
class Truth:
    """What a perfect reconstruction of the simulated scan would give.

    Attributes:
        image: complex (slice, y, x) at the matrix of the protocol: the object as the whole array receives it,
            rho exp(i phi) sqrt(sum_c |S_c|^2), limited to the frequencies of the protocol, without noise.
        coil_maps: complex64 (slice, coil, y, x), S_c / sqrt(sum_c |S_c|^2), on the same pixels.
        shading: float32 (slice, y, x), sqrt(sum_c |S_c|^2), 1 on average over the object.
        noise_covariance: complex64 (coil, coil) of one k-space sample.
    """

    image: Image
    coil_maps: Tensor
    shading: Tensor
    noise_covariance: Tensor

    def whitened(self) -> Image:
        """Return what a perfect reconstruction gives after prewhitening, in units of the noise standard deviation.

        Prewhitening turns the coils' sensitivities S into L^-1 S with Psi = L L^H, so the array receives
        x sqrt(S^H Psi^-1 S) with S of unit norm, and every pixel is its own signal-to-noise ratio.

        Raises:
            InputError: the scan has no noise.
        """
        if not bool(self.noise_covariance.any()):
            raise InputError(
                "truth", found="a scan without noise", expected="noise to whiten", fix="Simulate with a finite SNR."
            )
        gain = _array_gain(self.coil_maps.to(torch.complex128), self.noise_covariance.to(torch.complex128))
        return replace(self.image, data=(self.image.data * gain).to(torch.complex64))


def axial_slices(
    anatomy: Image,
    *,
    fov_mm: tuple[float, float] = (240.0, 240.0),
    slices: int = 1,
    thickness_mm: float = 3.0,
    spacing_mm: float | None = None,
) -> Geometry:
    """Return a stack of axial slices through the centre of an anatomy: read to posterior, phase to the right.

    Args:
        anatomy: what to scan.
        fov_mm: field of view along (read, phase).
        slices: number of slices.
        thickness_mm: slice thickness.
        spacing_mm: distance between slices; None for touching slices.
    """
    spacing = thickness_mm if spacing_mm is None else spacing_mm
    centre, _ = bounds(anatomy)
    heights = centre[2] + spacing * (np.arange(slices) - (slices - 1) / 2)
    return Geometry(
        fov_mm=(*fov_mm, thickness_mm),
        read_dir=(0.0, 1.0, 0.0),
        phase_dir=(-1.0, 0.0, 0.0),
        slice_dir=(0.0, 0.0, 1.0),
        positions_mm=tuple((float(centre[0]), float(centre[1]), float(z)) for z in heights),
    )


def simulate_scan(
    anatomy: Image,
    geometry: Geometry | None = None,
    *,
    matrix: tuple[int, int] = (192, 192),
    coils: int = 8,
    acceleration: float = 4,
    calibration_lines: int = 24,
    sampling: Literal["equispaced", "variable-density"] = "equispaced",
    snr: float = 30.0,
    readout_oversampling: int = 2,
    echo_time_ms: float = 5.0,
    generator: torch.Generator | None = None,
) -> tuple[RawScan, Truth]:
    """Scan an anatomy with a 2-D multi-slice gradient echo and a head array.

    Sample of coil c at frequency k, relative to the slice position P, with cells of side h centred on r_j:

        y_c(k) = C h^2 sinc(k_x h) sinc(k_y h) sum_j rho_j e^{i phi_j} S_c(r_j) e^{-2 pi i k.(r_j - P)} + eta_c
        C = sqrt(N_x N_y) / (FOV_x FOV_y)

    rho_j is the mean of the anatomy over the slice thickness; N and FOV are those of the encoded plane, so that the
    inverse orthonormal transform has the units of rho.

    Args:
        anatomy: real image; negative values are not meant.
        geometry: slices with the field of view of the *image*; None takes `axial_slices(anatomy)`.
        matrix: (phase, read) pixels of the image.
        coils: number of receive coils.
        acceleration: 1 for a full scan; see `sampling_masks` for what it means. `RawScan.acceleration` is the true one.
        calibration_lines: fully sampled central lines.
        sampling: "equispaced" or "variable-density".
        snr: mean over the object of the signal-to-noise ratio that the optimal combination of a full scan has;
            infinite for no noise (and no noise scan).
        readout_oversampling: samples per pixel along read, at the same number of times the field of view.
        echo_time_ms: echo time, which scales the phase.
        generator: of coil gains, noise and random lines.

    Returns:
        The scan, labelled simulated, and its truth.

    Raises:
        InputError: a parameter out of range or an anatomy outside the slices.
    """
    geometry = geometry or axial_slices(anatomy)
    _check(anatomy, matrix, coils, snr, readout_oversampling)
    ny, nx = matrix
    lines = (
        equispaced_lines(ny, acceleration, calibration_lines)  # type: ignore[arg-type]
        if sampling == "equispaced"
        else variable_density_lines(ny, acceleration, calibration_lines, generator=generator)
    )
    centre, half = bounds(anatomy)
    loops = head_array(coils, centre, half)
    gains = torch.exp(GAIN_SPREAD * torch.randn(coils, generator=generator, dtype=torch.float64)).numpy()
    objects = [Plane.of(anatomy, geometry, position, echo_time_ms) for position in geometry.positions_mm]
    unit = _normalisation(objects, loops)
    fov_x, fov_y, _ = geometry.fov_mm
    wide = (fov_y, fov_x * readout_oversampling)
    kspace, images, maps, shadings = [], [], [], []
    for plane in objects:
        S = sensitivities(plane.points_mm, loops) * unit
        kspace.append(plane.encode(plane.values * S, (ny, nx * readout_oversampling), wide, lines.numpy()))
        received = plane.values * np.sqrt((np.abs(S) ** 2).sum(0))
        images.append(ifft_centred(torch.from_numpy(plane.encode(received, (ny, nx), (fov_y, fov_x)))))
        pixels = sensitivities(plane.pixels_mm((ny, nx), (fov_y, fov_x)), loops) * unit
        shadings.append(np.sqrt((np.abs(pixels) ** 2).sum(0)))
        maps.append(pixels / shadings[-1])
    y = torch.from_numpy(np.stack(kspace))
    truth_image, coil_maps = torch.stack(images), torch.from_numpy(np.stack(maps))
    shape = (
        gains[:, None]
        * gains
        * (COUPLED_NOISE * noise_coupling(loops, centre, half) + (1 - COUPLED_NOISE) * np.eye(coils))
    )
    covariance = torch.from_numpy(shape) * _noise_variance(truth_image, coil_maps, torch.from_numpy(shape), snr)
    noise = None
    if np.isfinite(snr):
        colour = torch.linalg.cholesky(covariance)
        y = y + torch.einsum("cd,sdyx->scyx", colour, _white((len(y), coils, *y.shape[2:]), generator))
        noise = (colour @ _white((coils, NOISE_SAMPLES), generator)).to(torch.complex64)
    mask = lines[None, :, None].expand(len(y), ny, nx * readout_oversampling).contiguous()
    source = str(anatomy.provenance.get("source", "an anatomy"))
    scan = RawScan(
        kspace=(y * mask[:, None]).to(torch.complex64),
        mask=mask,
        geometry=replace(geometry, fov_mm=(wide[1], wide[0], geometry.fov_mm[2])),
        recon_matrix=(1, ny, nx),
        recon_fov_mm=geometry.fov_mm,
        source=source,
        noise=noise,
        header={"sequence": "simulated gradient echo", "TE_ms": [echo_time_ms], "field_strength_T": FIELD_T},
        history=(f"simulated a {coils}-coil scan of {source}: {int(lines.sum())} of {ny} lines, SNR {snr:g}",),
        warnings=("Simulated k-space, computed and not measured: it says nothing about a patient or a scanner.",),
        simulated=True,
    )
    facts = {"method": "truth of the simulation", "source": source, "simulated": True, "header": scan.header}
    image = Image.placed(
        truth_image.to(torch.complex64),
        geometry,
        fov_mm=geometry.fov_mm,
        volumetric=False,
        provenance=facts,
        phase_encoding="j",
    )
    return scan, Truth(
        image,
        coil_maps.to(torch.complex64),
        torch.from_numpy(np.stack(shadings)).to(torch.float32),
        covariance.to(torch.complex64),
    )


def _normalisation(planes: list[Plane], loops: list[Loop]) -> float:
    """Return the factor that makes sqrt(sum_c |S_c|^2) equal 1 on average over the object, weighted by its signal."""
    weight = total = 0.0
    for plane in planes:
        weight += float(np.abs(plane.values[::4, ::4]).sum())
        S = sensitivities(plane.points_mm[::4, ::4], loops)
        total += float((np.abs(plane.values[::4, ::4]) * np.sqrt((np.abs(S) ** 2).sum(0))).sum())
    if weight == 0:
        raise InputError(
            "geometry",
            found="slices that do not meet the anatomy",
            expected="slices through it",
            fix="Move the slice positions; axial_slices(anatomy) gives slices through its centre.",
        )
    return weight / total


def _noise_variance(image: Tensor, maps: Tensor, shape: Tensor, snr: float) -> float:
    """Return sigma^2 with which Psi = sigma^2 Psi_0 gives the asked SNR.

    The optimal combination of the coils has SNR(r) = |x(r)| sqrt(S(r)^H Psi_0^-1 S(r)) / sigma; its mean is taken over
    the pixels above a tenth of the brightest one.
    """
    if not np.isfinite(snr):
        return 0.0
    gain = _array_gain(maps, shape)
    inside = image.abs() > 0.1 * image.abs().max()
    return float(((image.abs() * gain)[inside].mean() / snr) ** 2)


def _array_gain(maps: Tensor, covariance: Tensor) -> Tensor:
    """Return sqrt(S^H Psi^-1 S) (slice, y, x) of coil maps (slice, coil, y, x)."""
    return torch.einsum("scyx,cd,sdyx->syx", maps.conj(), torch.linalg.inv(covariance), maps).real.sqrt()


def _white(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Return complex noise whose samples have variance 1."""
    return torch.randn(shape, dtype=torch.complex128, generator=generator)


def _check(anatomy: Image, matrix: tuple[int, int], coils: int, snr: float, oversampling: int) -> None:
    asked = {"matrix": min(matrix), "coils": coils, "readout oversampling": oversampling}
    for name, value in asked.items():
        if value < 1:
            raise InputError(name, found=f"{value}", expected="1 or more", fix="Give a positive number.")
    if not snr > 0:
        raise InputError("snr", found=f"{snr}", expected="more than 0", fix="Give inf for a scan without noise.")
    if anatomy.data.dim() != 3 or not bool(torch.isfinite(anatomy.data.abs()).all()):
        raise InputError(
            "anatomy", found=f"{tuple(anatomy.data.shape)}", expected="finite voxels (z, y, x)", fix="Clean it first."
        )

"""Coil compression: few virtual coils that hold nearly all of the signal of many.

A virtual coil is a combination of coils with orthonormal weights, so whitened noise stays white. Single coil
compression (SCC; Buehrer et al., MRM 57:1131, 2007) uses one matrix for the volume, geometric coil compression (GCC;
Zhang et al., MRM 69:571, 2013) one for every readout position, aligned so that virtual sensitivities stay smooth.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from medical.reconstruction.axis_matrix import AxisMatrix
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.operators import LinearOperator
from medical.reconstruction.preprocess import require_uniform_readout, resize_centred
from medical.reconstruction.raw import RawScan
from shared.errors import InputError

DEFAULT_ENERGY = 0.99


class ReadoutCompression(LinearOperator):
    """Coil matrices that change along the readout: F A_x F^H, with F the Fourier transform along the last axis.

    Shorter readouts about the k-space centre (calibration blocks) are zero-padded to the positions x and cropped back.

    Args:
        matrices: complex (x, virtual coil, coil).
        axis: the coil axis of the k-space that it is applied to.
    """

    def __init__(self, matrices: Tensor, axis: int = 1) -> None:
        self.matrices, self.axis = matrices, axis

    def __call__(self, x: Tensor) -> Tensor:
        """Return k-space of the virtual coils from that of the coils."""
        return self._mix(self.matrices, x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^H y."""
        return self._mix(self.matrices.mH, y)

    def _mix(self, matrices: Tensor, x: Tensor) -> Tensor:
        hybrid = ifft_centred(resize_centred(x, len(matrices), -1), (-1,)).movedim(self.axis, -2)
        mixed = torch.einsum("xvc,...cx->...vx", matrices.to(x), hybrid)
        return resize_centred(fft_centred(mixed.movedim(-2, self.axis), (-1,)), x.shape[-1], -1)


def compress_coils(
    scan: RawScan, coils: int | None = None, energy: float | None = None, method: Literal["scc", "gcc"] = "scc"
) -> RawScan:
    """Replace the coils by the virtual coils of largest energy, the first p principal components.

    The retained energy, noise included, is told in the history. Prewhiten first: otherwise noisy coils count as
    signal, and GCC leaves noise whose covariance changes along the readout.

    Args:
        scan: any scan; GCC needs Cartesian readouts that were sampled completely.
        coils: p, number of virtual coils.
        energy: smallest part of the energy to keep, in (0, 1]; sets p. 0.99 when `coils` is not given either.
        method: "scc" for one matrix, "gcc" for aligned matrices along the readout.

    Raises:
        InputError: for a p or energy out of range, for both, and for scans that GCC cannot take.
    """
    _check(scan, coils, energy, method)
    gram = _gram_along_readout(scan) if method == "gcc" else _gram(scan)
    values, vectors = torch.linalg.eigh(gram)
    retained = values.flip(-1).cumsum(-1).reshape(-1, scan.coils).sum(0)
    retained = retained / retained[-1].clamp_min(torch.finfo(retained.dtype).tiny)
    if coils is None:
        wanted = DEFAULT_ENERGY if energy is None else energy
        coils = min(int((retained < wanted - 1e-12).sum()) + 1, scan.coils)
    matrices = vectors.flip(-1)[..., :coils].mH
    step = (
        f"Coils compressed from {scan.coils} to {coils} ({method.upper()}), "
        f"{100 * retained[coils - 1]:.2f} % of the energy retained."
    )
    if method == "scc":
        return _apply(scan, step, AxisMatrix(matrices, 0), AxisMatrix(matrices, 1), AxisMatrix(matrices, 2))
    matrices = align(matrices)
    centre = AxisMatrix(matrices[len(matrices) // 2], 0)
    return _apply(scan, step, centre, ReadoutCompression(matrices, 1), ReadoutCompression(matrices, 2))


def principal_coils(samples: Tensor, coils: int) -> Tensor:
    """Return the matrix (virtual coil, coil), of orthonormal rows, of the principal components of largest energy.

    Args:
        samples: complex (coil, n).
        coils: number of virtual coils; more than there are coils gives all.
    """
    return torch.linalg.eigh(samples @ samples.mH)[1].flip(-1)[:, :coils].mH


def align(matrices: Tensor) -> Tensor:
    """Rotate the virtual coils of each readout position onto those of its neighbour, from the centre outwards.

    A_x <- P_x A_x with the unitary P_x = V U^H, A_x A_{x-1}^H = U S V^H, which minimises ||P A_x - A_{x-1}||_F
    (Zhang et al. 2013, equation 6). The span of the virtual coils, and so the energy, does not change.

    Args:
        matrices: complex (x, virtual coil, coil) with orthonormal rows.
    """
    aligned = list(matrices)
    centre = len(aligned) // 2
    neighbours = [(x, x - 1) for x in range(centre + 1, len(aligned))] + [(x, x + 1) for x in range(centre - 1, -1, -1)]
    for x, neighbour in neighbours:
        u, _, vh = torch.linalg.svd(aligned[x] @ aligned[neighbour].mH)
        aligned[x] = (u @ vh).mH @ aligned[x]
    return torch.stack(aligned)


def _gram(scan: RawScan) -> Tensor:
    """Sum of y y^H over all samples: (coil, coil)."""
    gram = torch.zeros((scan.coils, scan.coils), dtype=torch.complex128, device=scan.kspace.device)
    for data in _data(scan):
        samples = data.movedim(1, 0).flatten(1).to(torch.complex128)
        gram += samples @ samples.mH
    return gram


def _gram_along_readout(scan: RawScan) -> Tensor:
    """Sum of h h^H over all lines at each readout position: (x, coil, coil)."""
    readout, coils = scan.encoded_matrix[-1], scan.coils
    gram = torch.zeros((readout, coils, coils), dtype=torch.complex128, device=scan.kspace.device)
    for data in _data(scan):
        hybrid = ifft_centred(resize_centred(data, readout, -1).to(torch.complex128), (-1,))
        lines = hybrid.movedim((-1, 1), (0, 1)).flatten(2)
        gram += lines @ lines.mH
    return gram


def _data(scan: RawScan) -> Iterator[Tensor]:
    """Yield the samples slice by slice (1, coil, ...): they are summed in double precision, which takes memory."""
    yield from scan.kspace.split(1)
    if scan.calibration is not None:
        yield from scan.calibration.split(1)


def _apply(scan: RawScan, step: str, noise: LinearOperator, kspace: LinearOperator, lines: LinearOperator) -> RawScan:
    return scan.after(
        step,
        kspace=kspace(scan.kspace),
        calibration=None if scan.calibration is None else kspace(scan.calibration),
        navigators=None if scan.navigators is None else lines(scan.navigators),
        noise=None if scan.noise is None else noise(scan.noise),
    )


def _check(scan: RawScan, coils: int | None, energy: float | None, method: str) -> None:
    if method not in ("scc", "gcc"):
        raise InputError("method", found=repr(method), expected="scc or gcc", fix="Choose one of the two.")
    if coils is not None and energy is not None:
        raise InputError("coils, energy", found="both", expected="one of the two", fix="Leave one of them out.")
    if coils is not None and not 1 <= coils <= scan.coils:
        raise InputError(
            "coils", found=str(coils), expected=f"1 to {scan.coils}", fix="The scan has no more coils than that."
        )
    if energy is not None and not 0 < energy <= 1:
        raise InputError("energy", found=str(energy), expected="a fraction in (0, 1]", fix="For example 0.99.")
    if method == "gcc":
        require_uniform_readout(scan, "GCC works")
        complete = scan.mask.all(-1) | ~scan.mask.any(-1)
        if not complete.all():
            raise InputError(
                scan.source,
                found="readouts with missing samples",
                expected="complete readouts for GCC",
                fix="Use the method scc for asymmetric echoes and for masks that change along the readout.",
            )

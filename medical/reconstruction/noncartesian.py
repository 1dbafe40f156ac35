"""Non-Cartesian k-space: the non-uniform Fourier transform, density compensation and gridding.

Trajectories are in cycles per field of view, in [-N/2, N/2], with columns (kx, ky[, kz]); images are (..., y, x) or
(..., z, y, x) with the origin at index N//2. On a Cartesian trajectory everything here equals `fft_centred`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medical.reconstruction.operators import LinearOperator
from medical.reconstruction.raw import RawScan
from shared.errors import InputError, MissingExtra

if TYPE_CHECKING:
    import finufft

# Accuracy asked of the library for each precision, near the best that it can give.
ACCURACY = {torch.complex64: 1e-6, torch.complex128: 1e-13}


class Nufft(LinearOperator):
    r"""Non-uniform Fourier transform, optionally weighted: A = sqrt(W) F.

        (F x)_j = 1/sqrt(N) sum_n x_n exp(-2 pi i sum_a k_ja (n_a - N_a//2) / N_a),      N = prod_a N_a,

    by FINUFFT (Barnett, Magland & af Klinteberg, SIAM J. Sci. Comput. 41:C479, 2019) on the CPU. `normal` is A^H A as a
    convolution on a doubled grid (Toeplitz embedding; Fessler et al., IEEE TSP 53:3393, 2005), which is several times
    faster than A and A^H in turn; compose as `Nufft @ Sense`, so that the composition finds it.

    Args:
        trajectory: real (\*samples, 2 or 3) in cycles per field of view, usually (shot, sample, 2).
        shape: image shape (y, x) or (z, y, x).
        weights: real (\*samples), w >= 0, the diagonal of W; None for ones. The data then is sqrt(w) y.

    Raises:
        InputError: for a trajectory that is not finite, beyond N/2, or of other dimension than the image.
        MissingExtra: when finufft is not installed.
    """

    def __init__(self, trajectory: Tensor, shape: tuple[int, ...], weights: Tensor | None = None) -> None:
        _check(trajectory, shape)
        self.shape, self.samples = tuple(shape), tuple(trajectory.shape[:-1])
        size = torch.tensor(shape[::-1], dtype=torch.float64)
        # Angles for the axes of the image in their order, (z,) y, x.
        self._angles = (2 * math.pi * trajectory.cpu().to(torch.float64) / size).flip(-1).flatten(0, -2).T.contiguous()
        self._weights = None if weights is None else weights.cpu().to(torch.float64).flatten()
        self._plans: dict[tuple[Any, ...], finufft.Plan] = {}
        self._kernels: dict[torch.dtype, Tensor] = {}

    def __call__(self, x: Tensor) -> Tensor:
        r"""Samples (..., \*samples) of images (..., \*shape)."""
        lead = x.shape[: -len(self.shape)]
        y = self._execute(2, x.reshape(-1, *self.shape), self.shape)
        return (self._root(y) * y).reshape(*lead, *self.samples).to(x.device)

    def adjoint(self, y: Tensor) -> Tensor:
        r"""Images (..., \*shape) from samples (..., \*samples)."""
        lead = y.shape[: -len(self.samples)]
        flat = y.reshape(-1, self._angles.shape[1]).cpu()
        return self._execute(1, self._root(flat) * flat, self.shape).reshape(*lead, *self.shape).to(y.device)

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x by circular convolution with the point spread function on the doubled grid."""
        axes = tuple(range(-len(self.shape), 0))
        doubled = [2 * n for n in self.shape]
        kernel = self._kernel(x.dtype).to(x.device)
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        for source, target in zip(x.reshape(-1, *self.shape), out.view(-1, *self.shape), strict=True):
            spectrum = torch.fft.fftn(source, s=doubled, dim=axes)
            spectrum *= kernel
            target.copy_(torch.fft.ifftn(spectrum, dim=axes)[tuple(slice(n) for n in self.shape)])
        return out

    def _root(self, like: Tensor) -> Tensor:
        if self._weights is None:
            return torch.ones((), dtype=like.real.dtype)
        return self._weights.sqrt().to(like.real.dtype)

    def _kernel(self, dtype: torch.dtype) -> Tensor:
        """Fourier transform of t(l) = 1/N sum_j w_j exp(2 pi i k_j l / N) for |l| < N; it is real."""
        if dtype not in self._kernels:
            count = self._angles.shape[1]
            weights = torch.ones(count, dtype=torch.float64) if self._weights is None else self._weights
            doubled = tuple(2 * n for n in self.shape)
            spread = self._execute(1, weights.to(torch.complex128)[None], doubled)[0]
            # `_execute` divides by the root of the doubled size; t has the full size of the image.
            spread *= math.sqrt(math.prod(doubled)) / math.prod(self.shape)
            for axis in range(spread.ndim):
                spread.select(axis, 0).zero_()
            spectrum = torch.fft.fftn(torch.fft.ifftshift(spread)).real
            self._kernels[dtype] = spectrum.to(torch.empty((), dtype=dtype).real.dtype)
        return self._kernels[dtype]

    def _execute(self, kind: int, batch: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Run the transform of type 1 (adjoint) or 2 (forward) on a batch, scaled to be orthonormal on a grid."""
        finufft = _finufft()
        dtype = batch.dtype
        key = (kind, len(batch), dtype, shape)
        if key not in self._plans:
            threads = torch.get_num_threads()
            name = "complex64" if dtype == torch.complex64 else "complex128"
            sign = 1 if kind == 1 else -1
            plan = finufft.Plan(
                kind, shape, n_trans=len(batch), eps=ACCURACY[dtype], isign=sign, dtype=name, nthreads=threads
            )
            real = torch.float32 if dtype == torch.complex64 else torch.float64
            plan.setpts(*(angle.to(real).numpy() for angle in self._angles))
            self._plans[key] = plan
        out = torch.from_numpy(self._plans[key].execute(batch.detach().cpu().resolve_conj().contiguous().numpy()))
        out = out.reshape(len(batch), *(shape if kind == 1 else (self._angles.shape[1],)))
        return out / math.sqrt(math.prod(shape))


def density_compensation(trajectory: Tensor, shape: tuple[int, ...], iterations: int = 30) -> Tensor:
    r"""Weights w_j ~ the k-space area of each sample (Pipe & Menon, MRM 41:179, 1999).

    Iterates w <- w / (psi * w) at the samples. The kernel psi >= 0 is the transform of the autocorrelation of a disc
    (ball) whose diameter is the field of view, scaled to integral one (Johnson & Pipe, MRM 61:439, 2009): it responds
    to no alias of a trajectory that samples the field of view. The unit is the cell of the Cartesian grid, so w = 1
    there, and A^H W A ~ 1 for a trajectory without gaps.

    Args:
        trajectory: real (\*samples, 2 or 3) in cycles per field of view.
        shape: image shape (y, x) or (z, y, x).
        iterations: number of iterations.

    Returns:
        float32 (\*samples).
    """
    convolve = _convolution(trajectory, shape)
    weights = torch.ones(trajectory.shape[:-1], dtype=torch.float64)
    for _ in range(iterations):
        weights = weights / convolve(weights).clamp_min(1e-12)
    return weights.to(torch.float32)


def gridding(scan: RawScan, shape: tuple[int, ...]) -> Tensor:
    r"""Coil images by the adjoint with density compensation, x = F^H W y (gridding).

    Uses the weights of the file, scaled so that F^H W F ~ 1, or else `density_compensation`.

    Args:
        scan: non-Cartesian.
        shape: image shape (y, x) or (z, y, x) over the encoded field of view; see `image_shape`.

    Returns:
        complex (slice, coil, \*shape).
    """
    trajectory = _trajectory(scan)
    return torch.stack(
        [
            Nufft(trajectory[s], shape).adjoint(scan.kspace[s] * sample_weights(scan, s, shape).to(scan.kspace.real))
            for s in range(scan.slices)
        ]
    )


def sample_weights(scan: RawScan, index: int, shape: tuple[int, ...]) -> Tensor:
    """Density compensation (shot, sample) of one slice: that of the file, or computed; zero where not acquired."""
    trajectory, acquired = _trajectory(scan)[index], scan.mask[index]
    if scan.density is None:
        weights = torch.zeros(acquired.shape)
        weights[acquired] = density_compensation(trajectory[acquired], shape)
        return weights
    weights = (scan.density[index] * acquired).to(torch.float64)
    # The file's unit is unknown: the sum of the kernel around a sample should be one, on average over k-space.
    local = _convolution(trajectory, shape)(weights)
    return (weights * weights.sum() / (weights * local).sum().clamp_min(1e-12)).to(torch.float32)


def compensate_density(scan: RawScan) -> RawScan:
    """Give a non-Cartesian scan density compensation if it has none; slices of one trajectory share the computation."""
    trajectory = _trajectory(scan)
    if scan.density is not None:
        return scan
    shape = image_shape(scan)
    weights: list[Tensor] = []
    for s in range(scan.slices):
        twin = next((t for t in range(s) if _same_samples(scan, s, t)), None)
        weights.append(sample_weights(scan, s, shape) if twin is None else weights[twin])
    return scan.after(
        f"Density compensation computed for {trajectory.shape[1]} shots (Pipe and Menon).", density=torch.stack(weights)
    )


def _same_samples(scan: RawScan, s: int, t: int) -> bool:
    trajectory = _trajectory(scan)
    return torch.equal(trajectory[s], trajectory[t]) and torch.equal(scan.mask[s], scan.mask[t])


def image_shape(scan: RawScan) -> tuple[int, ...]:
    """Image shape (y, x) or (z, y, x) that covers the encoded field of view in the pixels that the protocol asks for.

    N_a = round(M_a FOV_a / FOV'_a), with M_a pixels over the reconstruction field of view FOV'_a.
    """
    dimensions = _trajectory(scan).shape[-1]
    axes = range(dimensions - 1, -1, -1)
    return tuple(max(round(scan.recon_matrix[2 - a] * scan.geometry.fov_mm[a] / scan.recon_fov_mm[a]), 1) for a in axes)


def _convolution(trajectory: Tensor, shape: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """Return the function w -> psi * w at the samples."""
    doubled = Nufft(trajectory * 2, tuple(2 * n for n in shape))
    axes = [(torch.arange(2 * n, dtype=torch.float64) - n) / n for n in shape]
    rho = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt().clamp(max=1)
    # Overlap of two discs (balls) of diameter one at the distance rho.
    overlap = 2 / math.pi * (rho.acos() - rho * (1 - rho**2).sqrt()) if len(shape) == 2 else 1 - 1.5 * rho + rho**3 / 2
    # F^H and F each divide by the root of the doubled size; psi divides by the size of the image.
    overlap = overlap * 2 ** len(shape)

    def convolve(weights: Tensor) -> Tensor:
        return doubled(overlap * doubled.adjoint(weights.to(torch.complex128))).real

    return convolve


def _trajectory(scan: RawScan) -> Tensor:
    if scan.trajectory is None:
        raise InputError(
            scan.source,
            found="a Cartesian scan",
            expected="a scan with a trajectory",
            fix="Use the Fourier transform of Cartesian scans.",
        )
    return scan.trajectory


def _check(trajectory: Tensor, shape: tuple[int, ...]) -> None:
    if trajectory.shape[-1] != len(shape):
        raise InputError(
            "trajectory",
            found=f"{trajectory.shape[-1]} columns for an image with {len(shape)} axes",
            expected="one column per axis",
            fix="Columns are kx, ky[, kz].",
        )
    limit = torch.tensor(shape[::-1], device=trajectory.device) / 2
    if not bool(torch.isfinite(trajectory).all()) or bool((trajectory.abs() > limit + 0.5).any()):
        raise InputError(
            "trajectory",
            found=f"values that are not finite or beyond N/2 = {limit.tolist()}",
            expected="cycles per field of view",
            fix="Scale the trajectory, or reconstruct on a finer grid.",
        )


def _finufft() -> Any:
    try:
        import finufft
    except ImportError as error:
        raise MissingExtra("finufft", extra="medical", purpose="for non-Cartesian scans") from error
    return finufft

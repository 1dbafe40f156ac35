r"""What was measured of a volume: forward models, their noise, and how well a volume explains the data.

x is a volume (N, 1, X, Y, Z), -1 (air) to 1; magnitudes are m = (x + 1)/2, and `noise` is a standard deviation in units
of m everywhere, so 2 noise in units of x.

| task             | data                                                                       | noise    |
| ---------------- | -------------------------------------------------------------------------- | -------- |
| inpaint          | y = W x, W 0/1                                                             | Gaussian |
| slices           | y = P x along z: Gaussian slice profiles, thick and apart (`slice_profile`)  | Gaussian |
| blocks           | y = means over blocks of voxels                                            | Gaussian |
| kspace           | y = M F x, complex, F unitary; with `RealVolume` any encoding of MRI        | Gaussian |
| kspace-magnitude | y = 2 \|F^-1 M F m\| - 1, as MedForj has it: not linear                      | none     |
| denoise          | y = \|m + noise (n_1 + i n_2)\|: Rician                                      | Rician   |

Linear operators are those of `medical.reconstruction`, and all have exact transposes.

Reference: piksl-research/medforj, `medforj/forward_ops.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from medical.reconstruction.axis_matrix import AxisMatrix
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.operators import Fourier, LinearOperator, Mask
from shared.errors import InputError
from shared.guidance.likelihood import GaussianLikelihood, inner
from shared.process import standard_normal

VOLUME_DIM = (-3, -2, -1)
FWHM = 2 * math.sqrt(2 * math.log(2))  # of a Gaussian, in standard deviations
QUADRATURE = 24  # nodes of the voxelwise integrals
REACH = 6.0  # of them, in standard deviations
FIXED_POINT = 10  # iterations that place them


@dataclass(frozen=True, eq=False)
class LinearMeasurement:
    """y = A x + n of one volume, n Gaussian.

    Attributes:
        operator: A.
        data: y, of a batch of one; 0 where not measured.
        noise: see the module docstring.
        measured: number of real numbers measured.
    """

    operator: LinearOperator
    data: Tensor
    noise: float
    measured: int

    @property
    def likelihood(self) -> GaussianLikelihood:
        """Return p(y | x)."""
        return GaussianLikelihood(self.operator, self.data, 2 * self.noise)

    def distance(self, x0: Tensor) -> Tensor:
        """Return |A x - y|, (N,): what gradient methods descend."""
        return inner(rho := self.data - self.operator(x0), rho).sqrt()

    def misfit(self, x0: Tensor) -> Tensor:
        """Return the root mean square of the residual over the noise, (N,): about 1 at the truth."""
        return (self.likelihood.chi_squared(x0) / self.measured).sqrt()


@dataclass(frozen=True, eq=False)
class RicianMeasurement:
    """A noisy magnitude image of one volume.

    Attributes:
        data: y in units of m, (1, 1, X, Y, Z), not below 0.
        noise: standard deviation of the real and of the imaginary part.
    """

    data: Tensor
    noise: float

    @property
    def likelihood(self) -> RicianMeasurement:
        """Return itself: it has a `correction`."""
        return self

    def distance(self, x0: Tensor) -> Tensor:
        """Return -ln p(y | x) up to a constant, summed over voxels, (N,): m^2 / 2 s^2 - ln I_0(y m / s^2)."""
        m = (x0 + 1) / 2
        return (m.square() / (2 * self.noise**2) - log_i0(self.data * m / self.noise**2)).flatten(1).sum(1)

    def correction(self, x0: Tensor, variance: float) -> Tensor:
        r"""Return E[x | y] - D for x ~ N(D, v), m not below 0, at every voxel on its own: one-dimensional integrals.

        Gauss-Legendre quadrature around the result of a few fixed-point steps m = (y A(m) / s^2 + d / v_m) / (1 / s^2 +
        1 / v_m), A = I_1 / I_0 (expectation maximisation over the phase), six deviations to either side.
        """
        s2, spread, d = self.noise**2, variance / 4, (x0 + 1) / 2
        precision = 1 / s2 + 1 / spread
        centre = d.clamp_min(self.noise)
        for _ in range(FIXED_POINT):
            centre = (self.data * bessel_ratio(self.data * centre / s2) / s2 + d / spread) / precision
            centre = centre.clamp_min(0)
        low, high = (centre - REACH * precision**-0.5).clamp_min(0), centre + REACH * precision**-0.5
        level = self._log_posterior(centre, d, spread)
        total, moment = torch.zeros_like(d), torch.zeros_like(d)
        nodes, weights = np.polynomial.legendre.leggauss(QUADRATURE)
        for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
            m = torch.lerp(low, high, (1 + node) / 2)
            share = weight * torch.exp(self._log_posterior(m, d, spread) - level)
            total += share
            moment += share * (m - d)
        return 2 * moment / total

    def misfit(self, x0: Tensor) -> Tensor:
        """Return the root mean square of (y - E[y | x]) / deviation of y given x, (N,): about 1 at the truth."""
        m = ((x0 + 1) / 2).double()
        z = m.square() / (4 * self.noise**2)
        mean = self.noise * math.sqrt(math.pi / 2) * ((1 + 2 * z) * torch.special.i0e(z) + 2 * z * torch.special.i1e(z))
        variance = 2 * self.noise**2 + m.square() - mean.square()
        return ((self.data.double() - mean).square() / variance.clamp_min(1e-12)).flatten(1).mean(1).sqrt()

    def _log_posterior(self, m: Tensor, d: Tensor, spread: float) -> Tensor:
        s2 = self.noise**2
        return log_i0(self.data * m / s2) - m.square() / (2 * s2) - (m - d).square() / (2 * spread)


@dataclass(frozen=True, eq=False)
class MagnitudeMeasurement:
    """The magnitude of the zero-filled image of undersampled k-space, as MedForj has it.

    Attributes:
        mask: of k-space, bool, broadcasting against (X, Y, Z).
        data: y, (1, 1, X, Y, Z), -1 is no signal.
    """

    mask: Tensor
    data: Tensor
    noise: float = field(default=0.0, init=False)
    likelihood: None = field(default=None, init=False)

    def distance(self, x0: Tensor) -> Tensor:
        """Return |A(x) - y|, (N,)."""
        return (zero_filled_magnitude(x0, self.mask) - self.data).flatten(1).norm(dim=1)

    def misfit(self, x0: Tensor) -> Tensor:
        """Return |A(x) - y| / |y + 1|, (N,): 0 at the truth, since no noise is modelled."""
        return self.distance(x0) / (self.data + 1).norm()


Measurement = LinearMeasurement | RicianMeasurement | MagnitudeMeasurement


def linear_measurement(
    operator: LinearOperator, data: Tensor, noise: float, support: Tensor | None = None
) -> LinearMeasurement:
    """Return the measurement of data (1, ...).

    Args:
        operator: A.
        data: y, 0 where `support` is not set.
        noise: in units of m, above 0.
        support: bool, broadcasting against the data of one volume, true where measured; None is everywhere.
    """
    if not noise > 0:
        raise InputError("noise", found=f"{noise:g}", expected="a number above 0", fix="0.01 is little noise.")
    count = data[0].numel() if support is None else int(support.expand_as(data[0]).sum())
    return LinearMeasurement(operator, data, noise, count * (2 if data.is_complex() else 1))


def simulated(
    operator: LinearOperator,
    x: Tensor,
    noise: float,
    generator: torch.Generator | None,
    support: Tensor | None = None,
) -> LinearMeasurement:
    """Return a simulated measurement of the volume x (1, 1, X, Y, Z); arguments as of `linear_measurement`."""
    clean = operator(x)
    z = standard_normal(
        torch.view_as_real(clean).shape if clean.is_complex() else clean.shape,
        generator, dtype=x.dtype, device=x.device,
    )  # fmt: skip
    z = torch.view_as_complex(z) if clean.is_complex() else z
    noisy = clean + 2 * noise * (z if support is None else z * support)
    return linear_measurement(operator, noisy, noise, support)


def rician(x: Tensor, noise: float, generator: torch.Generator | None) -> RicianMeasurement:
    """Return a simulated noisy magnitude image of the volume x (1, 1, X, Y, Z)."""
    if not noise > 0:
        raise InputError("noise", found=f"{noise:g}", expected="a number above 0", fix="MedForj takes 0.1.")
    real, imaginary = noise * standard_normal((2, *x.shape), generator, dtype=x.dtype, device=x.device)
    return RicianMeasurement(torch.hypot((x + 1) / 2 + real, imaginary), noise)


def zero_filled_magnitude(x: Tensor, mask: Tensor) -> Tensor:
    """Return 2 |F^-1 M F m| - 1."""
    return 2 * ifft_centred(fft_centred((x + 1) / 2, VOLUME_DIM) * mask, VOLUME_DIM).abs() - 1


class RealVolume(LinearOperator):
    """An encoding of complex images, given real volumes: A^T y = Re A^H y.

    Args:
        encoding: from images (N, 1, X, Y, Z), such as `CartesianSense` of one set of maps, whose phase is then that of
            the image; its `normal` need only take N = 1.
    """

    def __init__(self, encoding: LinearOperator) -> None:
        self.encoding = encoding

    def __call__(self, x: Tensor) -> Tensor:
        """Return A x, complex."""
        return self.encoding(x.to(x.dtype.to_complex()))

    def adjoint(self, y: Tensor) -> Tensor:
        """Return Re A^H y."""
        return self.encoding.adjoint(y).real

    def normal(self, x: Tensor) -> Tensor:
        """Return Re A^H A x."""
        return torch.cat([self.encoding.normal(one.to(x.dtype.to_complex())).real for one in x.split(1)])


def kspace_operator(mask: Tensor) -> RealVolume:
    """Return M F on real volumes; `mask` is bool and broadcasts against (X, Y, Z)."""
    return RealVolume(Mask(mask) @ Fourier(3))


def slice_operator(profiles: Tensor) -> AxisMatrix:
    """Return the operator of slice profiles (slices, Z) along z."""
    return AxisMatrix(profiles, -1)


def slice_profile(
    voxels: int, spacing_mm: float, *, thickness_mm: float = 7.0, separation_mm: float = 9.5, slices: int | None = None
) -> Tensor:
    """Return Gaussian slice profiles (slices, voxels), float64: thick slices centred on the volume.

    The full width at half maximum of profile and voxel together is the thickness, as MedForj has it. Rows sum to 1, so
    air stays air at the ends of the volume, where MedForj's rows lose what lies outside.

    Args:
        voxels: along the slice axis.
        spacing_mm: their size.
        thickness_mm: of a slice, above that of a voxel.
        separation_mm: between the centres of neighbouring slices.
        slices: None is as many as fit into the volume.

    Raises:
        InputError: slices thinner than a voxel, or none that fits.
    """
    count = int(voxels * spacing_mm / separation_mm + 1e-9) if slices is None else slices
    if thickness_mm <= spacing_mm or count < 1:
        raise InputError(
            "slices", found=f"{thickness_mm:g} mm thick, {separation_mm:g} mm apart",
            expected=f"thicker than the {spacing_mm:g} mm of a voxel, less apart than {voxels * spacing_mm:g} mm",
            fix="Correct the slices, or take another task.",
        )  # fmt: skip
    std = math.sqrt(thickness_mm**2 - spacing_mm**2) / FWHM
    fine = (torch.arange(voxels, dtype=torch.float64) - (voxels - 1) / 2) * spacing_mm
    coarse = (torch.arange(count, dtype=torch.float64) - (count - 1) / 2) * separation_mm
    rows = torch.exp(-0.5 * ((coarse[:, None] - fine) / std) ** 2)
    return rows / rows.sum(1, keepdim=True)


def block_operator(size: Sequence[int], factors: Sequence[int]) -> LinearOperator:
    """Return means over blocks of factors[0] x factors[1] x factors[2] voxels.

    Raises:
        InputError: sides that are no multiples of the factors.
    """
    if len(factors) != 3 or any(f < 1 or n % f for n, f in zip(size, factors, strict=True)):
        raise InputError(
            "blocks", found="x".join(map(str, factors)), expected=f"divisors of {'x'.join(map(str, size))}",
            fix="Choose others.",
        )  # fmt: skip
    x, y, z = (
        AxisMatrix(torch.eye(n // f, dtype=torch.float64).repeat_interleave(f, 1) / f, axis)
        for n, f, axis in zip(size, factors, VOLUME_DIM, strict=True)
    )
    return x @ y @ z


def phase_encode_mask(
    shape: tuple[int, int],
    acceleration: float,
    *,
    centre: float = 0.08,
    power: float = 4.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return which lines along z of a 3-D scan are acquired, bool (X, Y, 1), with round(X Y / R) true.

    The centre is full; the others are drawn without replacement with weight (1 - r / r_max)^power, r the distance from
    the centre in units of half the plane (MedForj's density).

    Raises:
        InputError: R below 1, or so high that the centre does not fit.
    """
    h, w = shape
    rows, columns = round(h * centre), round(w * centre)
    more = round(h * w / acceleration) - rows * columns if acceleration >= 1 else -1
    if more < 0:
        raise InputError(
            "acceleration", found=f"{acceleration:g}", expected=f"1 to {h * w / max(1, rows * columns):.3g}, "
            f"which leaves room for the {rows} x {columns} lines of the centre", fix="Change it, or the centre.",
        )  # fmt: skip
    mask = torch.zeros(shape, dtype=torch.bool)
    top, left = h // 2 - rows // 2, w // 2 - columns // 2
    mask[top : top + rows, left : left + columns] = True
    a, b = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    radius = torch.hypot(a, b)
    weight = (1 - radius / radius.max()).clamp_min(0) ** power + 1e-8
    if more:
        chosen = torch.multinomial(torch.where(mask, 0.0, weight).flatten(), more, generator=generator)
        mask.view(-1)[chosen] = True
    return mask[..., None]


def log_i0(z: Tensor) -> Tensor:
    """Return ln I_0(z) without overflow: |z| + ln(exp(-|z|) I_0(z))."""
    return z.abs() + torch.log(torch.special.i0e(z))


def bessel_ratio(z: Tensor) -> Tensor:
    """Return I_1(z) / I_0(z), the derivative of ln I_0."""
    return torch.special.i1e(z) / torch.special.i0e(z)

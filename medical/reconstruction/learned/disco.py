r"""Discrete-continuous convolution (DISCO): a convolution of functions, not of pixels.

The kernel is a function on the plane, a sum of K fixed functions with learned weights, and the layer is its integral

    (kappa * f)(x) = int kappa(y - x) f(y) dy,      kappa = sum_l w_l psi_l,

discretised on whatever grid f comes on. A radius in millimetres (in k-space: in 1/mm) and the pixel spacing from the
header make the same layer on every grid, so a network of such layers can be asked at other matrix sizes and fields of
view than it was trained at. A CNN cannot: its kernel is fixed in pixels.

The functions are piecewise linear in polar coordinates: a hat at the centre, and n_r - 1 rings of n_phi hats,

    psi_0 = hat(r / dr),      psi_ij = hat((r - i dr) / dr) hat((phi - j dphi) / dphi),      dr = R / n_r,

hat(s) = max(0, 1 - |s|), K = (n_r - 1) n_phi + 1. On a grid each becomes the share of its integral that falls into
every pixel, so its stencil is odd, centred, sums to one on every grid, and the stencil of a coarse grid is that of a
fine one summed over pixels. If the stencils are linearly dependent on a grid, some directions of the weights would not
be trained there and would appear as noise on a finer one: such grids are refused.

Reference: Liu-Schiaffini et al., Neural operators with localized integral and differential kernels, ICML 2024
(arXiv 2402.16845); Ocampo et al., ICLR 2023 (arXiv 2209.13603).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from shared.errors import InputError

Spacing = tuple[float, float]

_SUBPIXELS = 16
"""Points a pixel side (fewer in fine stencils) at which the functions are integrated."""

MOST_CONDITION = 200.0
"""Largest condition number of a basis that trains: beyond, weights move the kernel by less than a part in 200."""


class Basis(Protocol):
    """K functions on the plane and their stencils on a grid."""

    @property
    def functions(self) -> int:
        """Return K."""

    def stencils(self, spacing: Spacing, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return psi (K, S_y, S_x), quadrature weights included, on a grid of pixel size `spacing` (y, x)."""


@dataclass(frozen=True)
class PolarBasis:
    """The piecewise linear polar functions of the module docstring.

    Attributes:
        radius: R, in the unit of the grid's spacing: mm in image space, 1/mm in k-space.
        rings: n_r, the centre among them.
        angles: n_phi.
    """

    radius: float
    rings: int = 3
    angles: int = 4

    @property
    def functions(self) -> int:
        """Return K = (n_r - 1) n_phi + 1."""
        return (self.rings - 1) * self.angles + 1

    def stencils(
        self, spacing: Spacing, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return psi (K, S_y, S_x), S odd, each function summing to one.

        Raises:
            InputError: the functions are linearly dependent, or nearly so, on this grid.
        """
        ratios = tuple(round(self.radius / h, 9) for h in spacing)
        stencils, condition = _polar_stencils(self.rings, self.angles, ratios[0], ratios[1])
        if condition > MOST_CONDITION:
            raise InputError(
                "pixel spacing",
                found=f"{spacing[0]:g} x {spacing[1]:g} for a DISCO radius of {self.radius:g}: its {self.functions} "
                f"functions are linearly dependent on such pixels (condition number {condition:.2g})",
                expected=f"a condition number below {MOST_CONDITION:g}",
                fix="Choose finer pixels, a larger radius, or fewer rings and angles.",
            )
        return stencils.to(dtype=dtype, device=device)

    def values(self, y: Tensor, x: Tensor) -> Tensor:
        """Return the functions (K, ...) at offsets (y, x) from the centre, before normalisation."""
        return _polar_functions(y / self.radius, x / self.radius, self.rings, self.angles)


@dataclass(frozen=True)
class WhitenedBasis:
    """The span of a `PolarBasis`, with functions that are orthonormal as stencils on a grid of reference.

        psi' = G^(-1/2) psi,      G_kl = sum_pixels psi_k psi_l on pixels of size `reference`

    Hats on pixels about as large as themselves overlap so much that sharp kernels need large weights of opposite sign,
    which gradient steps find slowly. These functions span the same kernels, but on the grid of reference weights are as
    good a coordinate as the pixels of a plain convolution; on other grids the layer is still one operator.

    Attributes:
        polar: the basis.
        reference: pixel size, in the unit of its radius.
    """

    polar: PolarBasis
    reference: float

    @property
    def functions(self) -> int:
        """Return K."""
        return self.polar.functions

    def stencils(
        self, spacing: Spacing, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return psi' (K, S_y, S_x); errors as in `PolarBasis.stencils`."""
        ratio = round(self.polar.radius / self.reference, 9)
        psi = self.polar.stencils(spacing)
        mixed = torch.einsum("kl,lyx->kyx", _whitening(self.polar.rings, self.polar.angles, ratio), psi)
        return mixed.to(dtype=dtype, device=device)


@lru_cache(maxsize=64)
def _whitening(rings: int, angles: int, ratio: float) -> Tensor:
    """Return G^(-1/2) (K, K) for a radius of `ratio` pixels."""
    psi = _polar_stencils(rings, angles, ratio, ratio)[0].flatten(1)
    values, vectors = torch.linalg.eigh(psi @ psi.T)
    return (vectors / values.sqrt()) @ vectors.T


@dataclass(frozen=True)
class UnitSquareBasis:
    """The stencils of the published NO-MRI weights: fixed for a matrix size on [-1, 1]^2, whatever the pixels' size.

    The stencil has S = floor(R min(H, W)) + 1 points spread evenly over [-R, R], even or odd. The functions are
    divided by pi R^2 [(n_r / (n_r + 1))^2 + (2 n_r / (n_r + 1) + 1) / (3 (n_r + 1))] and weighted by 4 / (H W). Unlike
    `PolarBasis` it is not checked for rank, and is not the same operator on other grids: it serves published weights.

    Attributes:
        radius: R in units of half the image.
        shape: matrix size (H, W).
        rings: n_r.
        angles: n_phi.
    """

    radius: float
    shape: tuple[int, int]
    rings: int = 6
    angles: int = 7

    @property
    def functions(self) -> int:
        """Return K = (n_r - 1) n_phi + 1."""
        return (self.rings - 1) * self.angles + 1

    def stencils(
        self, spacing: Spacing, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Return psi (K, S, S); the spacing is ignored."""
        points = math.floor(self.radius * min(self.shape)) + 1
        n = self.rings
        area = math.pi * self.radius**2 * ((n / (n + 1)) ** 2 + (2 * n / (n + 1) + 1) / (3 * (n + 1)))
        offsets = torch.linspace(-1, 1, points, dtype=torch.float64)
        # The published angle is atan2(x, y) + pi: counted from the negative first axis towards the second.
        values = _polar_functions(-offsets[None, :], -offsets[:, None], self.rings, self.angles)
        return (values * (4 / (math.prod(self.shape) * area))).to(dtype=dtype, device=device)


class Disco(nn.Module):
    """The layer: (B, Cin, H, W) and the spacing of its grid to (B, Cout, H, W), zero beyond the border, no bias.

    Args:
        in_channels: Cin.
        out_channels: Cout.
        basis: K functions; the weights are (Cout, Cin, K).
    """

    def __init__(self, in_channels: int, out_channels: int, basis: Basis) -> None:
        super().__init__()
        self.basis = basis
        # The spread of torch.nn.Conv2d, so that one learning rate suits both.
        deviation = (3 * in_channels * basis.functions) ** -0.5
        self.weight = nn.Parameter(deviation * torch.randn(out_channels, in_channels, basis.functions))
        self._cached: tuple[tuple[object, ...], Tensor] | None = None

    def kernel(self, spacing: Spacing) -> Tensor:
        """Return kappa (Cout, Cin, S_y, S_x) on a grid; kept while the layer is evaluated on one grid."""
        weight = self.weight
        if self.training or torch.is_grad_enabled() or weight.is_inference():
            return self._kernel(spacing)
        key = (spacing, weight.data_ptr(), weight._version, weight.dtype, weight.device)
        if self._cached is None or self._cached[0] != key:
            self._cached = (key, self._kernel(spacing))
        return self._cached[1]

    def _kernel(self, spacing: Spacing) -> Tensor:
        psi = self.basis.stencils(spacing, self.weight.dtype, self.weight.device)
        return (self.weight @ psi.flatten(1)).reshape(*self.weight.shape[:2], *psi.shape[1:])

    def forward(self, x: Tensor, spacing: Spacing) -> Tensor:
        """Return kappa * x."""
        kernel = self.kernel(spacing)
        height, width = kernel.shape[-2:]
        if height % 2 and width % 2:
            return functional.conv2d(x, kernel, padding=(height // 2, width // 2))
        # Only published stencils are even; they look one pixel further back than ahead.
        before, after = (height // 2, width // 2), ((height - 1) // 2, (width - 1) // 2)
        return functional.conv2d(functional.pad(x, (before[1], after[1], before[0], after[0])), kernel)


def _polar_functions(y: Tensor, x: Tensor, rings: int, angles: int) -> Tensor:
    """The functions (K, ...) at offsets in units of the radius."""
    y, x = torch.broadcast_tensors(y, x)
    r, phi = torch.hypot(y, x) * rings, torch.atan2(y, x) % (2 * math.pi)
    inside = r <= rings * (1 + 1e-12)
    out = [(1 - r).clamp(min=0)]
    turn = 2 * math.pi / angles
    for ring in range(1, rings):
        radial = (1 - (r - ring).abs()).clamp(min=0) * inside
        for j in range(angles):
            apart = (phi - j * turn).abs()
            out.append(radial * (1 - torch.minimum(apart, 2 * math.pi - apart) / turn).clamp(min=0))
    return torch.stack(out)


@lru_cache(maxsize=512)
def _polar_stencils(rings: int, angles: int, ratio_y: float, ratio_x: float) -> tuple[Tensor, float]:
    """Return stencils normalised to sum one, and their condition number, for a radius of (y, x) pixels."""
    half = [max(math.ceil(ratio - 0.5), 0) for ratio in (ratio_y, ratio_x)]
    fine = [max(_SUBPIXELS // max(h, 1), 4) for h in half]
    offsets = [
        (torch.arange((2 * h + 1) * s, dtype=torch.float64) + 0.5) / s - (h + 0.5)
        for h, s in zip(half, fine, strict=True)
    ]
    values = _polar_functions(offsets[0][:, None] / ratio_y, offsets[1][None, :] / ratio_x, rings, angles)
    shares = values.reshape(len(values), 2 * half[0] + 1, fine[0], 2 * half[1] + 1, fine[1]).sum((2, 4))
    totals = shares.sum((1, 2), keepdim=True)
    stencils = shares / totals.clamp(min=torch.finfo(torch.float64).tiny)
    singular = torch.linalg.svdvals(stencils.flatten(1))
    independent = len(stencils) <= math.prod(stencils.shape[1:])
    condition = float(singular[0] / singular[-1]) if independent and singular[-1] > 0 else math.inf
    return stencils, condition

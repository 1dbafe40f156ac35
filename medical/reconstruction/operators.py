r"""Linear operators of MR reconstruction: forward, adjoint, composition, and fast normal operators.

Data layout, batch first. An image is (slice, set, \*encodes): one complex image for each set of coil maps (one set
usually, two for soft SENSE). Coil images and k-space are (slice, coil, \*encodes), where encodes is (y, x) or
(z, y, x). Maps are (slice, set, coil, \*encodes). The signal model is

    y = M F S x,        (S x)_c = sum_j S_jc x_j,

with the unitary centred Fourier transform F and the 0/1 sampling mask M (Pruessmann et al., MRM 46:638, 2001; soft
SENSE: Uecker et al., MRM 71:990, 2014).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from medical.reconstruction.fourier import fft_centred, ifft_centred


class LinearOperator(ABC):
    """A linear map A with its adjoint A^H: <A x, y> = <x, A^H y>.

    `A(x)` applies it, `A.H` is the adjoint as an operator, `(A @ B)(x) = A(B(x))`, and `A.normal(x) = A^H A x`, which
    subclasses override where a shortcut exists; a composition uses the shortcut of its left factor.
    """

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Return A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^H y."""

    def normal(self, x: Tensor) -> Tensor:
        """Return A^H A x."""
        return self.adjoint(self(x))

    @property
    def H(self) -> LinearOperator:  # noqa: N802 - the field writes A.H
        """The adjoint operator A^H."""
        return _Adjoint(self)

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        return _Composition(self, other)


class _Adjoint(LinearOperator):
    def __init__(self, operator: LinearOperator) -> None:
        self.operator = operator

    def __call__(self, x: Tensor) -> Tensor:
        return self.operator.adjoint(x)

    def adjoint(self, y: Tensor) -> Tensor:
        return self.operator(y)

    @property
    def H(self) -> LinearOperator:  # noqa: N802
        return self.operator


class _Composition(LinearOperator):
    def __init__(self, left: LinearOperator, right: LinearOperator) -> None:
        self.left, self.right = left, right

    def __call__(self, x: Tensor) -> Tensor:
        return self.left(self.right(x))

    def adjoint(self, y: Tensor) -> Tensor:
        return self.right.adjoint(self.left.adjoint(y))

    def normal(self, x: Tensor) -> Tensor:
        return self.right.adjoint(self.left.normal(self.right(x)))


class Fourier(LinearOperator):
    """Unitary centred Fourier transform F over the last `ndim` axes; F^H F = 1."""

    def __init__(self, ndim: int = 2) -> None:
        self.dim = tuple(range(-ndim, 0))

    def __call__(self, x: Tensor) -> Tensor:
        """Return F x."""
        return fft_centred(x, self.dim)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return F^-1 y."""
        return ifft_centred(y, self.dim)

    def normal(self, x: Tensor) -> Tensor:
        """Return x."""
        return x


class Mask(LinearOperator):
    """Multiplication with real weights that broadcast against the data: a 0/1 sampling mask M, or sqrt(density).

    Args:
        weights: bool or real; a scan's mask (slice, *encodes) enters as `mask[:, None]` for its coil axis.
    """

    def __init__(self, weights: Tensor) -> None:
        self.weights = weights

    def __call__(self, x: Tensor) -> Tensor:
        """Return M x."""
        return x * self.weights

    def adjoint(self, y: Tensor) -> Tensor:
        """Return M y."""
        return y * self.weights


class Sense(LinearOperator):
    r"""Coil encoding S: image (slice, set, \*encodes) to coil images (slice, coil, \*encodes), sum_j S_jc x_j.

    Args:
        maps: complex (slice, set, coil, \*encodes); two sets make soft SENSE.
    """

    def __init__(self, maps: Tensor) -> None:
        self.maps = maps

    def __call__(self, x: Tensor) -> Tensor:
        """Return the coil images S x."""
        return (self.maps * x.unsqueeze(2)).sum(1)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return sum_c conj(S_jc) y_c."""
        return (self.maps.conj() * y.unsqueeze(1)).sum(2)


class CartesianSense(LinearOperator):
    r"""A = M F S on a Cartesian grid, with a normal operator that transforms only the undersampled axes.

    Along an axis where the mask is constant the Fourier transforms of A^H A cancel, and along the others F^H M F is
    a circular convolution, for which the shifts of the centred transforms cancel too. So with DFT the plain
    transform over the undersampled axes,

        A^H A x = S^H DFT^-1 ifftshift(M) DFT S x.

    Args:
        maps: complex (slice, set, coil, \*encodes).
        mask: bool (slice or 1, \*encodes), true where sampled.
    """

    def __init__(self, maps: Tensor, mask: Tensor) -> None:
        ndim = maps.ndim - 3
        self.maps, self.mask = maps, mask
        self._encoding = Mask(mask[:, None]) @ Fourier(ndim) @ Sense(maps)
        encodes = range(-ndim, 0)
        sampled_alike = {axis: bool((mask == mask.narrow(axis, 0, 1)).all()) for axis in encodes}
        self._order = sorted(encodes, key=lambda axis: not sampled_alike[axis])
        axes = tuple(axis for axis in encodes if not sampled_alike[axis])
        # The transformed axes come last in memory, so that every 1-D transform runs over neighbouring samples.
        self._dim = tuple(range(-len(axes), 0))
        self._maps = self._permute(maps)
        self._conj_maps = self._maps.conj().resolve_conj()
        shifted = torch.fft.ifftshift(mask, axes) if axes else mask
        self._weights = self._permute(shifted).to(maps.real.dtype)
        self._all_sampled = not axes

    def __call__(self, x: Tensor) -> Tensor:
        """Return the zero-filled k-space M F S x."""
        return self._encoding(x)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return S^H F^H M y."""
        return self._encoding.adjoint(y)

    def normal(self, x: Tensor) -> Tensor:
        """Return S^H F^H M F S x."""
        x = self._permute(x)
        return self._permute_back(self._coil_by_coil(x) if x.device.type == "cpu" else self._all_coils(x))

    def _coil_by_coil(self, x: Tensor) -> Tensor:
        out = torch.zeros_like(x)
        slices, sets, coils = self._maps.shape[:3]
        for s in range(slices):
            weights = self._weights[s if len(self._weights) > 1 else 0]
            # One coil at a time stays in the cache; the whole coil stack would travel through memory at every step.
            for c in range(coils):
                coil = self._maps[s, 0, c] * x[s, 0]
                for j in range(1, sets):
                    coil.addcmul_(self._maps[s, j, c], x[s, j])
                if self._all_sampled:
                    coil *= weights
                else:
                    spectrum = torch.fft.fftn(coil, dim=self._dim)
                    spectrum *= weights
                    coil = torch.fft.ifftn(spectrum, dim=self._dim)
                for j in range(sets):
                    out[s, j].addcmul_(self._conj_maps[s, j, c], coil)
        return out

    def _all_coils(self, x: Tensor) -> Tensor:
        """The same in few large operations: what an accelerator waits for is their number, not memory."""
        coils = (self._maps * x.unsqueeze(2)).sum(1)
        weights = self._weights.unsqueeze(1)
        if self._all_sampled:
            coils = coils * weights
        else:
            coils = torch.fft.ifftn(torch.fft.fftn(coils, dim=self._dim) * weights, dim=self._dim)
        return (self._conj_maps * coils.unsqueeze(1)).sum(2)

    def squared_norm_bound(self) -> float:
        """Return an upper bound on the largest eigenvalue of A^H A; it is 1 for orthonormal sets of maps.

        Since ||M F|| <= 1 it is the largest eigenvalue of S^H S over all pixels, bounded by its row sums (Gershgorin).
        """
        gram = (self.maps.conj().unsqueeze(2) * self.maps.unsqueeze(1)).sum(3)
        return float(gram.abs().sum(2).max())

    def _permute(self, x: Tensor) -> Tensor:
        lead = list(range(x.ndim - len(self._order)))
        return x.permute(*lead, *self._order).contiguous()

    def _permute_back(self, x: Tensor) -> Tensor:
        ndim = len(self._order)
        lead = list(range(x.ndim - ndim))
        inverse = [self._order.index(axis) - ndim for axis in range(-ndim, 0)]
        return x.permute(*lead, *inverse).contiguous()


class FiniteDifference(LinearOperator):
    """Periodic forward differences D over the last `ndim` axes, stacked in a new leading axis.

    (D x)[a] = x shifted by one sample along axis a, minus x: shape (...) to (ndim, ...).
    """

    def __init__(self, ndim: int = 2) -> None:
        self.dim = tuple(range(-ndim, 0))

    def __call__(self, x: Tensor) -> Tensor:
        """Return D x."""
        return torch.stack([x.roll(-1, axis) - x for axis in self.dim])

    def adjoint(self, y: Tensor) -> Tensor:
        """Return the negative divergence D^H y."""
        out = torch.zeros_like(y[0])
        for component, axis in zip(y, self.dim, strict=True):
            out += component.roll(1, axis) - component
        return out

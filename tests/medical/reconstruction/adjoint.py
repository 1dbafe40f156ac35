"""One check for every linear operator."""

from __future__ import annotations

import torch

from medical.reconstruction.operators import LinearOperator

TOLERANCE = {torch.complex128: 1e-12, torch.complex64: 1e-5}


def complex_noise(shape: tuple[int, ...], dtype: torch.dtype = torch.complex128, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def assert_adjoint(
    operator: LinearOperator,
    domain_shape: tuple[int, ...],
    range_shape: tuple[int, ...],
    dtype: torch.dtype = torch.complex128,
    seed: int = 0,
) -> None:
    """Assert shapes, <A x, y> = <x, A^H y>, linearity over complex numbers, and A.normal = A^H A.

    Tolerances are 1e-12 for complex128 and 1e-5 for complex64, relative to ||A x|| ||y||.
    """
    x, y, z = (complex_noise(s, dtype, seed + i) for i, s in enumerate((domain_shape, range_shape, domain_shape)))
    ax, ahy = operator(x), operator.adjoint(y)
    assert ax.shape == range_shape
    assert ahy.shape == domain_shape
    assert ax.dtype == ahy.dtype == dtype
    tolerance = TOLERANCE[dtype]
    forward, backward = torch.sum(ax.conj() * y), torch.sum(x.conj() * ahy)
    assert abs(forward - backward) <= tolerance * ax.norm() * y.norm()
    scale = 0.3 - 1.7j
    assert (operator(scale * x + z) - scale * ax - operator(z)).norm() <= tolerance * 10 * ax.norm()
    normal = operator.adjoint(operator(x))
    assert (operator.normal(x) - normal).norm() <= tolerance * 10 * normal.norm()
    assert torch.equal(operator.H(y), ahy)
    assert torch.equal(operator.H.H(x), ax)

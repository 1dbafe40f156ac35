r"""Iterative solvers for y = A x + n with any `LinearOperator` A, one independent problem a slice.

Images are (slice, set, \*encodes) as in `medical.reconstruction.operators`; every inner product runs over all axes but
the first, so slices in a batch do not influence each other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medical.reconstruction.operators import LinearOperator


def conjugate_gradient(
    normal: Callable[[Tensor], Tensor], rhs: Tensor, *, iterations: int, tolerance: float = 0.0
) -> Tensor:
    r"""Solve B x = b for Hermitian positive definite B from x = 0 (Hestenes and Stiefel, 1952).

    Args:
        normal: x -> B x.
        rhs: b, (slice, \*); slices are separate problems.
        iterations: most iterations.
        tolerance: stop when ||b - B x|| <= tolerance ||b|| in every slice.
    """
    x = torch.zeros_like(rhs)
    r, p = rhs.clone(), rhs.clone()
    energy = _square(r)
    enough = tolerance**2 * energy
    for _ in range(iterations):
        if bool((energy <= enough).all()):
            break
        q = normal(p)
        curvature = _inner(p, q)
        # A slice that has converged to machine precision has energy and curvature zero and must stay where it is.
        alpha = _safe_ratio(energy, curvature)
        x += alpha * p
        r -= alpha * q
        previous, energy = energy, _square(r)
        p = r + _safe_ratio(energy, previous) * p
    return x


def fista(
    gradient: Callable[[Tensor], Tensor],
    prox: Callable[[Tensor, float], Tensor],
    start: Tensor,
    *,
    lipschitz: float,
    iterations: int,
) -> Tensor:
    r"""Minimise f(x) + g(x) by accelerated proximal gradients with adaptive restart.

    With step s = 1 / L,

        x_k+1 = prox(z_k - s grad f(z_k), s),     z_k+1 = x_k+1 + (t_k - 1) / t_k+1 (x_k+1 - x_k),

    t_k+1 = (1 + sqrt(1 + 4 t_k^2)) / 2 (Beck and Teboulle, SIAM J. Imaging Sci. 2:183, 2009). A slice whose last step
    points against the momentum, Re <z_k - x_k+1, x_k+1 - x_k> > 0, starts its momentum anew (O'Donoghue and Candes,
    Found. Comput. Math. 15:715, 2015).

    Args:
        gradient: x -> grad f(x).
        prox: (v, s) -> argmin_x ||x - v||^2 / 2 + s g(x).
        start: first x, (slice, \*).
        lipschitz: L, an upper bound on the curvature of f.
        iterations: number of gradient evaluations.
    """
    step = 1.0 / lipschitz
    x, z = start, start
    t = torch.ones((len(start), *[1] * (start.ndim - 1)), dtype=start.real.dtype, device=start.device)
    for _ in range(iterations):
        new = prox(z - step * gradient(z), step)
        move = new - x
        t = torch.where(_inner(z - new, move) > 0, torch.ones_like(t), t)
        t_next = (1 + (1 + 4 * t * t).sqrt()) / 2
        z = new + ((t - 1) / t_next) * move
        x, t = new, t_next
    return x


def largest_eigenvalue(operator: LinearOperator, like: Tensor, *, iterations: int = 30) -> float:
    """Estimate the largest eigenvalue of A^H A by power iteration from a fixed random image shaped as `like`."""
    noise = torch.randn(like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(0))
    x = noise.to(like.device)
    value = 0.0
    for _ in range(iterations):
        x = operator.normal(x / x.norm())
        value = float(x.norm())
    return value


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Real part of <a, b> of every slice, shaped to broadcast."""
    a, b = torch.view_as_real(a.contiguous()), torch.view_as_real(b.contiguous())
    products = torch.stack([torch.dot(u.flatten(), v.flatten()) for u, v in zip(a, b, strict=True)])
    return products.reshape(-1, *[1] * (a.ndim - 2))


def _square(a: Tensor) -> Tensor:
    return _inner(a, a)


def _safe_ratio(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b.clamp_min(torch.finfo(b.dtype).tiny), torch.zeros_like(a))

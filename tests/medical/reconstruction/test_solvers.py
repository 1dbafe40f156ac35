"""Solvers find solutions that are known in closed form, slice by slice."""

from __future__ import annotations

import torch

from medical.reconstruction.operators import FiniteDifference, LinearOperator, Mask
from medical.reconstruction.solvers import conjugate_gradient, fista, largest_eigenvalue
from tests.medical.reconstruction.adjoint import complex_noise


def positive_matrix(n: int, condition: float) -> torch.Tensor:
    basis = torch.linalg.qr(complex_noise((n, n)))[0]
    return (basis * torch.logspace(0, -torch.log10(torch.tensor(condition)), n, dtype=torch.float64)) @ basis.mH


def test_conjugate_gradient_is_exact_after_as_many_steps_as_unknowns():
    B, x = positive_matrix(12, 100.0), complex_noise((3, 12), seed=2)
    x[1] *= 1e6
    solved = conjugate_gradient(lambda v: v @ B.T, x @ B.T, iterations=14)
    assert ((solved - x).norm(dim=1) <= 1e-9 * x.norm(dim=1)).all()


def test_conjugate_gradient_keeps_slices_apart_and_survives_an_empty_slice():
    B, b = positive_matrix(10, 50.0), complex_noise((3, 10), seed=3)
    b[1] = 0
    together = conjugate_gradient(lambda v: v @ B.T, b, iterations=40)
    alone = conjugate_gradient(lambda v: v @ B.T, b[2:], iterations=40)
    assert together.isfinite().all()
    assert together[1].abs().max() == 0
    torch.testing.assert_close(together[2:], alone)


def test_conjugate_gradient_stops_at_the_tolerance():
    B, b = positive_matrix(40, 100.0), complex_noise((1, 40))
    calls = []

    def normal(v: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return v @ B.T

    x = conjugate_gradient(normal, b, iterations=1000, tolerance=1e-2)
    assert (b - x @ B.T).norm() <= 1.01e-2 * b.norm()
    assert len(calls) < 40


def test_fista_finds_the_soft_thresholded_solution_of_a_diagonal_problem():
    """min sum_i d_i^2 |x_i - b_i|^2 / 2 + |x_i| has x_i = b_i max(0, 1 - 1 / (d_i^2 |b_i|))."""
    d, b = torch.linspace(0.2, 1, 30, dtype=torch.float64), 5 * complex_noise((2, 30))
    found = fista(
        lambda x: d**2 * (x - b),
        lambda v, step: v * (1 - step / v.abs()).clamp_min(0),
        torch.zeros_like(b),
        lipschitz=1.0,
        iterations=400,
    )
    expected = b * (1 - 1 / (d**2 * b.abs())).clamp_min(0)
    torch.testing.assert_close(found, expected, atol=1e-8, rtol=0)


def test_largest_eigenvalue_of_known_operators():
    weights = torch.linspace(0.1, 3.0, 64).reshape(8, 8)
    image = torch.zeros(1, 1, 8, 8, dtype=torch.complex128)
    operator: LinearOperator = Mask(weights)
    assert abs(largest_eigenvalue(operator, image, iterations=300) - 9) < 1e-3
    assert abs(largest_eigenvalue(FiniteDifference(), image, iterations=300) - 8) < 1e-3

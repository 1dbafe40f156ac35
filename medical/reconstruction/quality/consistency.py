r"""Agreement of an image with the measurement it was made from, and the step that enforces it.

With prewhitened data y = A x + n every complex sample of n has variance 1, real and imaginary part 1/2 each, so the
residual energy of the true image is a sum of m unit exponentials,

    ||A x - y||^2 ~ Gamma(m, 1),      2 ||A x - y||^2 ~ chi^2 with 2 m degrees of freedom,

and that of the best fit with p free complex pixels ~ Gamma(m - p, 1). A reconstruction lies between the two unless it
explains less than noise would leave, or fits noise.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medical.reconstruction.operators import LinearOperator
from medical.reconstruction.solvers import conjugate_gradient

TAIL = 0.025  # on either side of the range in which a residual is expected
ITERATIONS = 60


@dataclass(frozen=True)
class ChiSquare:
    """A residual energy against what noise alone leaves.

    Attributes:
        ratio: ||A x - y||^2 / m, about 1 where only noise is left.
        low: ratio below which less than 2.5 % of best fits with `unknowns` free pixels fall.
        high: ratio above which less than 2.5 % of true images fall.
        p_value: probability that noise leaves the true image a larger residual; 0 when something is not explained.
        samples: m, complex samples.
        unknowns: p, complex pixels that a fit could choose.
    """

    ratio: float
    low: float
    high: float
    p_value: float
    samples: int
    unknowns: int

    @property
    def verdict(self) -> str:
        """One of "consistent", "unexplained data" and "fits noise"."""
        if self.ratio > self.high:
            return "unexplained data"
        return "fits noise" if self.ratio < self.low else "consistent"


def chi_square(energy: float, samples: int, unknowns: int) -> ChiSquare:
    """Judge a residual energy of prewhitened data.

    Args:
        energy: ||A x - y||^2 over the acquired samples, in noise variances of one complex sample.
        samples: number of complex samples m, all coils; 1 or more.
        unknowns: complex pixels inside the support, p; a best fit cannot free more than m - 1 of the samples.
    """
    from scipy.special import gammaincc, gammainccinv, gammaincinv

    free = max(samples - unknowns, 1)
    return ChiSquare(
        ratio=energy / samples,
        low=float(gammaincinv(free, TAIL)) / samples,
        high=float(gammainccinv(samples, TAIL)) / samples,
        p_value=float(gammaincc(samples, energy)),
        samples=samples,
        unknowns=unknowns,
    )


def residual_map(operator: LinearOperator, data: Tensor, image: Tensor) -> Tensor:
    """Return |A^H (y - A x)|, real like `image`: where in the image the unexplained part of the data would go."""
    return operator.adjoint(data - operator(image)).abs()


def consistent_image(
    operator: LinearOperator,
    data: Tensor,
    image: Tensor,
    *,
    lamda: float = 0.0,
    iterations: int = ITERATIONS,
    tolerance: float = 1e-6,
) -> Tensor:
    r"""Return the image nearest to `image` that agrees with the data.

        lamda = 0:   x + A^+ (y - A x)                                  hard data consistency
        lamda > 0:   argmin_z ||A z - y||^2 + lamda ||z - x||^2

    The hard form leaves (I - A^+ A) x, which the data say nothing about, as it is and replaces A^+ A x by A^+ y, noise
    included: where coils barely separate aliased pixels it amplifies noise as SENSE without regularisation does. Solved
    by conjugate gradients on the normal equations, which, stopped early, leave such directions nearer to `image`.

    Args:
        operator: A.
        data: y.
        image: x.
        lamda: weight of the image, as in `least_squares.tikhonov`.
        iterations: most iterations.
        tolerance: relative residual of the normal equations at which to stop.
    """
    correction = conjugate_gradient(
        lambda d: operator.normal(d) + lamda * d,
        operator.adjoint(data - operator(image)),
        iterations=iterations,
        tolerance=tolerance,
    )
    return image + correction

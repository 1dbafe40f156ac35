r"""How much of an image the data determine, and how much comes from elsewhere (a prior, a network).

With the pseudo-inverse A^+ every image is the sum of two orthogonal parts,

    x = A^+ A x + (I - A^+ A) x,

of which a scan without noise determines the first and says nothing about the second. With noise of variance 1 and pixel
signals of variance s^2 the Wiener filter (A^H A + s^-2)^-1 A^H A takes the place of A^+ A: a direction that the coils
see with gain g is determined to the degree g^2 / (g^2 + s^-2).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from medical.reconstruction.operators import LinearOperator
from medical.reconstruction.quality.consistency import ITERATIONS
from medical.reconstruction.solvers import conjugate_gradient


@dataclass(frozen=True)
class Split:
    """The two parts of an image; their sum is the image.

    Attributes:
        measured: A^+ A x, or what the Wiener filter leaves of x.
        unmeasured: the rest.
    """

    measured: Tensor
    unmeasured: Tensor

    @property
    def fraction(self) -> float:
        """||unmeasured|| / ||image||: how much of the image, in amplitude, is not in the data."""
        whole = float((self.measured + self.unmeasured).norm())
        return float(self.unmeasured.norm()) / whole if whole > 0 else 0.0


def split(
    operator: LinearOperator,
    image: Tensor,
    *,
    lamda: float = 0.0,
    iterations: int = ITERATIONS,
    tolerance: float = 1e-6,
) -> Split:
    """Part an image into what the data determine and what they do not.

    Args:
        operator: A.
        image: x.
        lamda: 0 for the projection A^+ A; s^-2 for prewhitened data whose pixels have signals of variance s^2.
        iterations: most iterations of conjugate gradients, which find the directions seen with high gain first.
        tolerance: relative residual of the normal equations at which to stop.
    """
    measured = conjugate_gradient(
        lambda z: operator.normal(z) + lamda * z, operator.normal(image), iterations=iterations, tolerance=tolerance
    )
    return Split(measured, image - measured)

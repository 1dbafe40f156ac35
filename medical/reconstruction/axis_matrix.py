"""A matrix along one axis, the linear map behind whitening, coil compression and readout regridding."""

from __future__ import annotations

import torch
from torch import Tensor

from medical.reconstruction.operators import LinearOperator


class AxisMatrix(LinearOperator):
    """Matrix M along one axis of a tensor: (A x)[..., i, ...] = sum_j M_ij x[..., j, ...].

    Args:
        matrix: complex (rows, columns); cast to the dtype of what it is applied to.
        axis: the axis of x that has `columns` entries and gets `rows` entries.
    """

    def __init__(self, matrix: Tensor, axis: int) -> None:
        self.matrix, self.axis = matrix, axis

    def __call__(self, x: Tensor) -> Tensor:
        """Return A x."""
        return _along(self.matrix.to(x), x, self.axis)

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^H y."""
        return _along(self.matrix.mH.to(y), y, self.axis)


def _along(matrix: Tensor, x: Tensor, axis: int) -> Tensor:
    return torch.tensordot(matrix, x, dims=([1], [axis])).movedim(0, axis)

"""A small encoding as a matrix, so that linear algebra of NumPy can judge iterative code."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medical.reconstruction.operators import CartesianSense
from tests.medical.reconstruction.phantom import coil_maps


def small_encoding(acceleration: int = 4, coils: int = 2) -> tuple[CartesianSense, Tensor, np.ndarray]:
    """Two coils, five of the lines of 12 x 9: fewer samples than pixels.

    Returns:
        The operator in double precision, its mask, and A as a matrix over the acquired samples.
    """
    shape = (12, 9)
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[:, ::acceleration] = True
    mask[:, 5:7] = True
    operator = CartesianSense(coil_maps(shape, coils)[None, None], mask)
    pixels = shape[0] * shape[1]
    columns = [operator(unit.reshape(1, 1, *shape)) for unit in torch.eye(pixels, dtype=torch.complex128)]
    sampled = mask.expand(coils, *shape)[None]
    matrix = torch.stack([column[sampled] for column in columns], dim=1).numpy()
    return operator, sampled, matrix


def random_image(shape: tuple[int, ...] = (1, 1, 12, 9), seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))

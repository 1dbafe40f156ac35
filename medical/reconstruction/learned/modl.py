r"""MoDL: conjugate-gradient data consistency and one denoiser, in turns.

    x_0 = A^H y,     z_k = x_k - N_w(x_k),     x_{k+1} = argmin_x ||A x - y||^2 + lambda ||x - z_k||^2
                                                      = (A^H A + lambda)^-1 (A^H y + lambda z_k),

A = M F S. The weights w and lambda are the same in every step. Gradients pass through the inner problem as in the
paper: with B = A^H A + lambda, the derivative of B^-1 b is B^-1 times that of b - B x, whatever the iterations did.

Reference: Aggarwal, Mani and Jacob, MoDL, IEEE Trans. Med. Imaging 38:394, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.learned.disco import Spacing
from medical.reconstruction.learned.normalise import ComplexNetwork, ImageNetwork
from medical.reconstruction.learned.output import LearnedOutput, combine, expand, normalised
from medical.reconstruction.learned.sensitivity import SensitivityNetwork, in_reference_phase
from medical.reconstruction.learned.varnet import check_input
from medical.reconstruction.solvers import conjugate_gradient


class ConvolutionStack(ImageNetwork):
    """N_w: `layers` 3 x 3 convolutions with ReLU between them.

    The paper's batch normalisation is left out: batches of one slice have no statistics.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        channels: between the convolutions.
        layers: number of convolutions.
    """

    pools = 0

    def __init__(self, in_channels: int, out_channels: int, *, channels: int, layers: int) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * (layers - 1)]
        self.hidden = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def output_layer(self) -> nn.Module:
        """Return the last convolution."""
        return self.last

    def forward(self, x: Tensor, spacing: Spacing) -> Tensor:
        """Return the estimate of noise and aliasing in x."""
        for layer in self.hidden:
            x = torch.relu(layer(x))
        return self.last(x)


class MoDL(nn.Module):
    """The alternation above, with coil maps from the calibration box.

    Args:
        sensitivity: estimates the coil maps.
        denoiser: N_w, complex image to complex image.
        steps: number of alternations.
        iterations: of conjugate gradients in each.
        regularisation: lambda at the start of training; it is learned as its logarithm.
    """

    def __init__(
        self,
        sensitivity: SensitivityNetwork,
        denoiser: ComplexNetwork,
        *,
        steps: int,
        iterations: int,
        regularisation: float = 0.05,
    ) -> None:
        super().__init__()
        self.sensitivity, self.denoiser = sensitivity, denoiser
        self.steps, self.iterations = steps, iterations
        self.log_regularisation = nn.Parameter(torch.tensor(math.log(regularisation)))

    def forward(self, kspace: Tensor, mask: Tensor, calibration: Tensor, spacing: Spacing) -> LearnedOutput:
        """Reconstruct a batch of slices; arguments and errors as in `UnrolledNetwork.forward`."""
        check_input(kspace, mask, calibration)
        measured, scale = normalised(kspace * mask[:, None])
        coil_maps = self.sensitivity(measured, calibration, spacing)
        strength = self.log_regularisation.exp()
        back = combine(measured, coil_maps)
        x = back
        for _ in range(self.steps):
            z = x - self.denoiser(x, spacing)
            x = consistent(back + strength * z, coil_maps, mask, strength, self.iterations)
        k = expand(x, coil_maps) * scale
        coil_maps = in_reference_phase(coil_maps, measured, calibration)
        return LearnedOutput(combine(k, coil_maps), coil_maps, k)


def consistent(right: Tensor, coil_maps: Tensor, mask: Tensor, strength: Tensor, iterations: int) -> Tensor:
    """Return (A^H A + lambda)^-1 b (B, H, W), differentiable in b, in the maps and in lambda.

    Args:
        right: b, complex (B, H, W).
        coil_maps: complex (B, C, H, W).
        mask: bool (B, H, W).
        strength: lambda, a positive scalar.
        iterations: of conjugate gradients, forwards and backwards.
    """

    def normal(x: Tensor) -> Tensor:
        sampled = fft_centred(coil_maps * x[:, None]) * mask[:, None]
        return (coil_maps.conj() * ifft_centred(sampled)).sum(1) + strength * x

    with torch.no_grad():
        x = conjugate_gradient(normal, right, iterations=iterations)
    if not torch.is_grad_enabled():
        return x
    return x + _ImplicitSolution.apply(right - normal(x), normal, iterations)


class _ImplicitSolution(torch.autograd.Function):
    """B^-1 r of a residual taken for zero: no change forwards, B^-1 times the gradient backwards (B is Hermitian)."""

    @staticmethod
    def forward(ctx: Any, residual: Tensor, normal: Callable[[Tensor], Tensor], iterations: int) -> Tensor:
        ctx.normal, ctx.iterations = normal, iterations
        return torch.zeros_like(residual)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        with torch.no_grad():
            return conjugate_gradient(ctx.normal, gradients[0], iterations=ctx.iterations), None, None

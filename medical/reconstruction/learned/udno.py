"""The U-shaped DISCO neural operator (UDNO): the U-Net of fastMRI with DISCO layers for its convolutions.

Where the grid is halved the radius doubles, so every level of the U covers as many of its own pixels. The grid is
doubled by bilinear interpolation and a DISCO layer. Every layer is the discretisation of an operator on functions, so
the whole is one.

Reference: Jatyani, Wang et al., A unified model for compressed sensing MRI across undersampling patterns, CVPR 2025
(arXiv 2410.16290).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from medical.reconstruction.learned.disco import Basis, Disco, Spacing
from medical.reconstruction.learned.ushaped import UShaped


def udno(
    in_channels: int,
    out_channels: int,
    *,
    channels: int,
    pools: int,
    basis: Callable[[int], Basis],
    conditions: int = 0,
    dropout: float = 0.0,
    align_corners: bool = False,
) -> UShaped:
    """Return the operator.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        channels: of the finest level.
        pools: number of times that the grid is halved.
        basis: function level -> basis, its radius doubling with the level.
        conditions: how many numbers modulate the features of all blocks.
        dropout: probability to drop a channel in training.
        align_corners: how levels lie on each other. False: by the areas of the pixels, as averaging 2 x 2 of them puts
            them. True: corner on corner, which shifts features by up to half a pixel, as published weights expect.
    """
    return UShaped(
        in_channels,
        out_channels,
        channels=channels,
        pools=pools,
        convolution=lambda enter, leave, level: Disco(enter, leave, basis(level)),
        rise=lambda enter, leave, level: Rise(Disco(enter, leave, basis(level)), align_corners),
        conditions=conditions,
        dropout=dropout,
    )


class Rise(nn.Module):
    """Bilinear interpolation to twice the grid, and a DISCO layer there.

    Args:
        disco: the layer on the finer grid.
        align_corners: as in `udno`.
    """

    def __init__(self, disco: Disco, align_corners: bool) -> None:
        super().__init__()
        self.disco, self.align_corners = disco, align_corners

    def forward(self, x: Tensor, spacing: Spacing) -> Tensor:
        """Return features on twice the grid of x; `spacing` is that of the finer grid."""
        finer = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=self.align_corners)
        return self.disco(finer, spacing)

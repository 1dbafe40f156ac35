r"""MR encoding as an operator on the prior's images: real channels, the prior's scale, a padded grid.

The prior knows real images z (N, 2, H', W'), real and imaginary part, in units of its own scale, H' and W' multiples
of what its network needs. The data are complex k-space y with white noise of variance 1 a complex sample, which
prewhitening makes. Between them stands

    A z = M F S (scale C z),        (z_0 + i z_1) complex,   C cuts H' x W' to the H x W of the scan,

linear over the reals with <u, v> = Re sum conj(u) v, so that A^T y = scale (Re, Im) C^T S^H F^H M y. A complex sample
of variance 1 has variance 1/2 in each real part: the noise of a likelihood is `NOISE_STD` = 1/sqrt(2).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from medical.reconstruction.operators import LinearOperator

NOISE_STD = math.sqrt(0.5)


def to_channels(image: Tensor) -> Tensor:
    """Return a complex image (N, H, W) as real (N, 2, H, W): real part, imaginary part."""
    return torch.view_as_real(image).movedim(-1, 1).contiguous()


def to_complex(channels: Tensor) -> Tensor:
    """Return real (N, 2, H, W) as a complex image (N, H, W): the inverse of `to_channels`."""
    return torch.view_as_complex(channels.movedim(1, -1).contiguous())


class ChannelsOperator(LinearOperator):
    """A of the module docstring.

    Args:
        encoding: complex operator of one slice from images (N, 1, H, W) to k-space, such as `CartesianSense` of one
            set of maps; its `normal` need only take N = 1.
        shape: (H, W) of the scan.
        scale: value of the scan's images that is 1 in units of the prior.
        multiple: H' and W' are the next multiples of it.
    """

    def __init__(self, encoding: LinearOperator, shape: tuple[int, int], *, scale: float = 1.0, multiple: int = 1):
        self.encoding, self.shape, self.scale = encoding, shape, scale
        self.padded = (-(-shape[0] // multiple) * multiple, -(-shape[1] // multiple) * multiple)

    def image(self, x: Tensor) -> Tensor:
        """Return real (N, 2, H', W') in units of the prior as complex (N, H, W) in units of the scan."""
        top, left = self._margins()
        return self.scale * to_complex(x)[:, top : top + self.shape[0], left : left + self.shape[1]]

    def channels(self, image: Tensor) -> Tensor:
        """Return complex (N, H, W) in units of the scan as real (N, 2, H', W') in units of the prior, padded by 0."""
        return self._pad(to_channels(image)) / self.scale

    def __call__(self, x: Tensor) -> Tensor:
        """Return A x."""
        return self.encoding(self.image(x)[:, None])

    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y."""
        return self.scale * self._pad(to_channels(self.encoding.adjoint(y)[:, 0]))

    def normal(self, x: Tensor) -> Tensor:
        """Return A^T A x, by the shortcut of the encoding."""
        images = self.image(x)[:, None].split(1)
        return self.scale * self._pad(to_channels(torch.cat([self.encoding.normal(image) for image in images])[:, 0]))

    def _margins(self) -> tuple[int, int]:
        """Return rows above and columns left of the scan's image: centres (index N//2) fall on each other."""
        return self.padded[0] // 2 - self.shape[0] // 2, self.padded[1] // 2 - self.shape[1] // 2

    def _pad(self, x: Tensor) -> Tensor:
        top, left = self._margins()
        bottom, right = self.padded[0] - self.shape[0] - top, self.padded[1] - self.shape[1] - left
        return F.pad(x, (left, right, top, bottom))

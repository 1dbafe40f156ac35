r"""Complex brain slices for training a prior: what a scanner's coil array would show of simulated objects, noise-free.

    x = F_N^-1 F( sqrt(S^H Psi^-1 S) rho e^{i phi} ),      then x <- x / scale(x)

as in `medical.simulation.acquisition`: real anatomies in random contrast, place, shading and phase, transformed as
continuous objects, so the images ring and are band-limited as scanned ones are. They are simulated: a prior says so.

Scale contract: the unit of the prior is the 99th percentile of an image's magnitude (`magnitude_scale`). Every
reconstruction that uses a prior estimates that number from its data; training varies it a little.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medical.reconstruction.fourier import ifft_centred
from medical.simulation.coils import draw_array
from medical.simulation.objects import draw_object
from medical.simulation.protocol import Ranges, draw_protocol
from medical.simulation.volumes import AnatomyCache

QUANTILE = 0.99
SCALE_JITTER = 0.1  # standard deviation of the logarithm of the scale in training

Make = Callable[[np.random.Generator], Tensor]
"""generator -> one clean complex image (H, W)."""


def magnitude_scale(image: Tensor) -> Tensor:
    """Return the 99th percentile of the magnitude of each image (N, ...), float (N,): the unit of the prior."""
    return torch.quantile(image.flatten(1).abs(), QUANTILE, dim=1)


def draw_truth(anatomies: AnatomyCache, ranges: Ranges, generator: np.random.Generator) -> Tensor:
    """Draw the noise-free image of a simulated scan, complex64 (H, W), in units of the prior.

    Args:
        anatomies: what is scanned.
        ranges: of protocols; pattern, rate and SNR play no part.
        generator: of everything random.
    """
    anatomy = anatomies.draw(generator, float(generator.uniform(*ranges.thickness_mm)))
    protocol = draw_protocol(ranges, generator)
    scanned = draw_object(anatomy, protocol.contrast, generator, variation=ranges.variation, cell_mm=protocol.cell_mm)
    array = draw_array(protocol.coils, scanned.half_extent_mm, scanned.height, generator)
    plane = scanned.plane
    S = np.linalg.solve(
        np.linalg.cholesky(array.covariance), array.sensitivities(plane.v, plane.u).reshape(protocol.coils, -1)
    )
    gain = np.sqrt((np.abs(S) ** 2).sum(0)).reshape(plane.values.shape)
    spectrum = plane.encode(plane.values * gain, *protocol.grid(scanned.half_extent_mm))
    image = ifft_centred(torch.from_numpy(spectrum))
    return (image / float(magnitude_scale(image[None]))).to(torch.complex64)


class SlicePool:
    """Training images from a pool that is renewed while it is used, since making an image takes as long as a step.

    Each image is drawn with a new constant phase, scale, mirroring and, where it is square, quarter turn.

    Args:
        make: makes an image.
        size: number of images kept; the oldest are replaced.
        start: images made before the first draw.
        fresh: images made anew at each draw.
        seed: of the images made.
    """

    def __init__(self, make: Make, *, size: int = 4096, start: int = 256, fresh: int = 2, seed: int = 0) -> None:
        self.make, self.size, self.start, self.fresh = make, size, start, fresh
        self.generator = np.random.default_rng(seed)
        self.images: list[Tensor] = []
        self.made = 0

    def __call__(self, count: int, generator: torch.Generator) -> Tensor:
        """Return complex64 images (count, H, W)."""
        for _ in range(self.fresh if self.images else max(1, self.start)):
            image = self.make(self.generator)
            if len(self.images) < self.size:
                self.images.append(image)
            else:
                self.images[self.made % self.size] = image
            self.made += 1
        chosen = torch.randint(len(self.images), (count,), generator=generator).tolist()
        return torch.stack([varied(self.images[index], generator) for index in chosen])


def varied(image: Tensor, generator: torch.Generator) -> Tensor:
    """Return a complex image (H, W) mirrored, turned, scaled and with another constant phase, all at random."""
    coins = torch.rand(4, generator=generator).tolist()
    image = image.flip(0) if coins[0] < 0.5 else image
    image = image.flip(1) if coins[1] < 0.5 else image
    if image.shape[0] == image.shape[1] and coins[2] < 0.5:
        image = image.T
    scale = math.exp(SCALE_JITTER * float(torch.randn((), generator=generator)))
    return image * torch.polar(torch.tensor(scale), torch.tensor(2 * math.pi * coins[3]))

r"""A stereo model: a pair to samples of its disparity, by the core's samplers.

    model  = load_stereo("robotics/stereo_small")
    found  = model.draw(pair, first, max_disparity=80, calls=4, samples=1, generator=...)
    found.disparity      # (samples, height, width) in pixels

What makes of these samples a map with a confidence, and of a map metres, is elsewhere: this is the posterior.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from robotics.stereo.confidence import Confidence
from robotics.stereo.config import StereoConfig
from robotics.stereo.networks import Prepared, StereoNetwork
from robotics.stereo.networks.upsample import FACTOR
from robotics.stereo.sgbm import fill_from_background
from shared.denoiser import Denoiser, NetworkDenoiser, clipped
from shared.errors import InputError
from shared.grid import Grid, trailing_grid
from shared.process import TableVP, standard_normal
from shared.sampling import Solver, sample
from shared.solvers.ddim import DDIM

MARGIN = 2  # quarter pixels searched beyond the largest disparity
Change = Callable[[Denoiser, "View"], Denoiser]
"""Guidance: from the estimate to a better one, given what it is of."""


@dataclass(frozen=True)
class View:
    """What a pair is to the sampler.

    Attributes:
        model: that looks.
        prepared: the pair, as often as it is sampled.
        height: of the images before padding, px.
        width: likewise.
        glass: share of the picture that is expected to be glass or mirrors.
    """

    model: StereoModel
    prepared: Prepared
    height: int
    width: int
    glass: float = 0.0

    def disparity(self, x: Tensor) -> Tensor:
        """Return the disparity of estimates x_0, (N, height, width) in pixels, at least 0."""
        full = self.model.network.full(x, self.prepared, self.glass)
        return full[:, 0, : self.height, : self.width].clamp(min=0)


@dataclass(frozen=True)
class Drawn:
    """Samples of one pair.

    Attributes:
        disparity: (K, height, width) float32, px.
        x: the samples themselves, (K, 1, h, w), to start the next frame from.
        view: what they are of.
    """

    disparity: Tensor
    x: Tensor
    view: View


class StereoModel:
    """A network with its noise process.

    Args:
        config: sizes.
        network: in evaluation mode, with its weights.
        device: where to compute.
        confidence: fitted to the errors of this network; None before a fit.
    """

    def __init__(
        self,
        config: StereoConfig,
        network: StereoNetwork,
        device: torch.device | str = "cpu",
        confidence: Confidence | None = None,
    ) -> None:
        self.config, self.device, self.confidence = config, torch.device(device), confidence
        self.network = network.to(self.device)
        self.process: TableVP = config.process()

    @torch.no_grad()
    def look(
        self,
        left: np.ndarray,
        right: np.ndarray,
        first: np.ndarray | None,
        max_disparity: float,
        glass: float = 0.0,
    ) -> View:
        """Prepare a pair.

        Args:
            left: (height, width, 3) uint8.
            right: likewise.
            first: a map to begin from, (height, width) in pixels, NaN in holes; None begins from the best match of the
                cost volume.
            max_disparity: largest one to search, px.
            glass: share of the picture that is expected to be glass or mirrors; 0 does not look for them.

        Raises:
            InputError: sizes that differ, a maximum that is not positive, a share that is none, or one that is asked
                of a model without a branch for glass.
        """
        height, width = left.shape[:2]
        if right.shape != left.shape:
            raise InputError(
                "right image", found=f"shape {right.shape}", expected=f"{left.shape} as the left one",
                fix="Give two images of one rectified pair.",
            )  # fmt: skip
        if first is not None and first.shape != (height, width):
            raise InputError(
                "first map", found=f"shape {first.shape}", expected=f"{(height, width)} as the images",
                fix="Resample it to the images; a disparity scales with the width.",
            )  # fmt: skip
        if not 0 < max_disparity < math.inf:
            raise InputError(
                "max_disparity", found=f"{max_disparity:g}", expected="a positive number of pixels", fix="Correct it."
            )
        self.require_glass(glass)
        start, known = first_map(first, (height, width))
        images = [torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None] / 255 for image in (left, right)]
        maps = [torch.from_numpy(value)[None, None] for value in (start, known)]
        seen, other, begin, measured = (self.padded(value).to(self.device) for value in (*images, *maps))
        disparities = self.disparities(max_disparity, width)
        return View(self, self.network.prepare(seen, other, begin, measured, disparities), height, width, glass)

    def draw(
        self,
        view: View,
        *,
        calls: int = 4,
        samples: int = 1,
        generator: torch.Generator | None = None,
        solver: Solver | None = None,
        grid: Grid | None = None,
        x: Tensor | None = None,
        guidance: Change | None = None,
    ) -> Drawn:
        """Sample the disparity of a pair.

        Args:
            view: from `look`.
            calls: of the network, without `grid`.
            samples: K, in one batch.
            generator: source of all noise.
            solver: how to step; the default is DDIM.
            grid: noise levels; the default is `trailing_grid` with `calls` steps.
            x: (K, 1, h, w) at the first level of the grid; the default is pure noise.
            guidance: see `robotics.stereo.guidance`.
        """
        many = replace(view, prepared=view.prepared.repeated(samples))
        shape = (samples, *view.prepared.start.shape[1:])
        start = standard_normal(shape, generator, dtype=torch.float32, device=self.device) if x is None else x
        denoiser = self.denoiser(many)
        if guidance is not None:
            denoiser = guidance(denoiser, many)
        chosen = grid or trailing_grid(self.process, calls)
        found = sample(denoiser, start, chosen, solver or DDIM(), generator=generator)
        with torch.no_grad():
            return Drawn(many.disparity(found), found, view)

    def denoiser(self, view: View) -> Denoiser:
        """Return the estimate of x_0 given a pair, within its limits."""
        plain = NetworkDenoiser(self.network, self.process, "sample", conditioning={"prepared": view.prepared})
        return clipped(plain, -1.0, 1.0)

    def require_glass(self, glass: float) -> None:
        """Raise `InputError` unless a share of glass and mirrors is one, and the model has a branch for them."""
        if not 0 <= glass < 1:
            raise InputError("glass", found=f"{glass:g}", expected="a share from 0 to below 1", fix="Correct it.")
        if glass and self.network.surfaces is None:
            raise InputError(
                "glass", found=f"{glass:g}, and a model without a branch for glass and mirrors", expected="0",
                fix="Train one with `fewstep stereo train-surfaces`, or leave it out.",
            )  # fmt: skip

    def disparities(self, max_disparity: float, width: int) -> int:
        """Return the size of the cost volume of images so wide, quarter pixels."""
        # A volume wider than the image compares nothing with nothing.
        most = (width + -width % self.config.multiple) // FACTOR
        return min(math.ceil(max_disparity / FACTOR) + MARGIN, most)

    def padded(self, value: Tensor) -> Tensor:
        """Return (N, C, H, W) with the last row and column repeated up to the next multiples that the network needs."""
        height, width = value.shape[-2:]
        more = -height % self.config.multiple, -width % self.config.multiple
        return functional.pad(value, (0, more[1], 0, more[0]), mode="replicate")


def first_map(first: np.ndarray | None, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return a first map without holes and where it was measured, (height, width) float32; NaN all over for None.

    What would lie left of the right image counts as a hole: there a matcher guesses.

    Args:
        first: (height, width) in pixels, NaN in holes; None, or one of holes alone, is no map.
        size: height, width.
    """
    if first is not None:
        with np.errstate(invalid="ignore"):
            first = np.where(np.arange(size[1]) >= first, first, np.float32(np.nan))
    if first is None or not np.isfinite(first).any():
        return np.full(size, np.nan, np.float32), np.zeros(size, np.float32)
    return fill_from_background(first), np.isfinite(first).astype(np.float32)

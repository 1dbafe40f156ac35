r"""The next frame begins from the last one: its map, noised to a level from which a few calls lead back.

    x_t = alpha_t encode(d_last - d_0) + sigma_t eps,    d_0 the first map of the new frame

A cut is noticed before the sampling: where the last map explains the new pair much worse than the new first map does,
the frame starts cold, from noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional

from robotics.stereo.config import Settings
from robotics.stereo.guidance import photometric
from robotics.stereo.model import Change, Drawn, StereoModel, View
from robotics.stereo.networks import reduced
from robotics.stereo.networks.upsample import FACTOR, warped
from shared.grid import explicit_grid
from shared.process import standard_normal


class VideoSettings(Settings):
    """How a frame starts from the last one.

    Attributes:
        levels: times at which the network is asked, falling, in (0, 1].
        cut: the photometric cost of the last map, in units of that of the new first map, above which there was a cut.
    """

    levels: Annotated[tuple[float, ...], Field(min_length=1)] = (0.5, 0.2)
    cut: PositiveFloat = 1.5


@dataclass(frozen=True)
class Frame:
    """What a frame gave.

    Attributes:
        drawn: samples.
        warm: whether it started from the last frame.
    """

    drawn: Drawn
    warm: bool


class VideoStereo:
    """A model that remembers the last frame of one camera pair.

    Args:
        model: that draws.
        settings: how a frame starts from the last one.
        calls: of a cold start.
    """

    def __init__(self, model: StereoModel, settings: VideoSettings | None = None, *, calls: int = 4) -> None:
        self.model, self.settings, self.calls = model, settings or VideoSettings(), calls
        self._last: Tensor | None = None

    def reset(self) -> None:
        """Forget the last frame."""
        self._last = None

    def draw(
        self,
        left: np.ndarray,
        right: np.ndarray,
        first: np.ndarray | None,
        max_disparity: float,
        *,
        glass: float = 0.0,
        samples: int = 1,
        generator: torch.Generator | None = None,
        guidance: Change | None = None,
    ) -> Frame:
        """Sample a frame; arguments as of `StereoModel.look` and `draw`.

        Raises:
            InputError: as `StereoModel.look`.
        """
        view = self.model.look(left, right, first, max_disparity, glass)
        last = self._last
        warm = last is not None and last.shape[-2:] == view.prepared.first.shape[-2:] and not self._cut(view, last)
        if warm:
            assert last is not None
            process = self.model.process
            grid = explicit_grid(process, [*self.settings.levels, 0.0])
            known = self.model.network.encode(reduced(last) / FACTOR - view.prepared.start).clamp(-1, 1)
            known = known.expand(samples, -1, -1, -1)
            noise = standard_normal(known.shape, generator, dtype=torch.float32, device=self.model.device)
            x = process.add_noise(known, noise, grid.times[0])
            drawn = self.model.draw(view, samples=samples, generator=generator, grid=grid, x=x, guidance=guidance)
        else:
            drawn = self.model.draw(view, samples=samples, generator=generator, calls=self.calls, guidance=guidance)
        height, width = view.prepared.first.shape[-2:]
        median = drawn.disparity.median(0, keepdim=True).values[:, None]
        # Padded as the images were, so that the next frame can be compared with it.
        self._last = functional.pad(median, (0, width - view.width, 0, height - view.height), mode="replicate")
        return Frame(drawn, warm)

    def _cut(self, view: View, last: Tensor) -> bool:
        prepared = view.prepared
        left, right = ((image + 2) / 4 for image in (prepared.left, prepared.right))
        costs = [float(photometric(left, warped(right, value)).mean()) for value in (last, prepared.first)]
        return costs[0] > self.settings.cut * costs[1]


@dataclass(frozen=True)
class VideoPair:
    """What is remembered of a pair of cameras: both maps of the last frame.

    Attributes:
        left: of the left images.
        right: of the right ones, mirrored as `robotics.stereo.estimation` sees them.
    """

    left: VideoStereo
    right: VideoStereo

    @classmethod
    def of(cls, model: StereoModel, settings: VideoSettings | None = None, *, calls: int = 4) -> VideoPair:
        """Return the memory of a model, empty; arguments as of `VideoStereo`."""
        return cls(*(VideoStereo(model, settings, calls=calls) for _ in range(2)))

    def reset(self) -> None:
        """Forget the last frame."""
        self.left.reset()
        self.right.reset()

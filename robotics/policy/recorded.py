"""The observations of recorded episodes as a training keeps them: numbers as float32, images as uint8.

A frame of 96 x 96 colours is 27 kB as uint8 and four times that as numbers, which for 25 000 frames decides whether a
training fits into memory.
"""

from __future__ import annotations

from copy import copy
from itertools import groupby

import torch
from torch import Tensor

from robotics.policy.config import ImageField, PolicyConfig
from robotics.policy.episodes import Episodes
from robotics.policy.normalise import Normaliser
from robotics.policy.policy import join_observations, pixels_of
from shared.errors import InputError


class RecordedObservations:
    """Observations of all frames, in units; index them with frames of any shape.

    Args:
        config: of the policy.
        episodes: with the arrays that it names.

    Raises:
        InputError: an array is absent, of another size, or has pixels that are not 0 to 255.
    """

    def __init__(self, config: PolicyConfig, episodes: Episodes) -> None:
        self.config = config
        self.parts: list[Tensor] = []
        """(frames, numbers) each: an image, or all numbers between two images."""
        for is_image, fields in groupby(config.observation, lambda field: isinstance(field, ImageField)):
            run = tuple(fields)
            if is_image:
                self.parts += [_pixels(field, episodes) for field in run if isinstance(field, ImageField)]
            else:
                only = config.model_copy(update={"observation": run})
                self.parts.append(join_observations(only, episodes.arrays, leading=1))

    def fit(self) -> Normaliser:
        """Return the normaliser of one observation (D_o)."""
        kind = self.config.normalise
        return Normaliser.join(
            [
                Normaliser.of_pixels(1).spread([part.shape[1]])
                if part.dtype == torch.uint8
                else Normaliser.fit(part, kind)
                for part in self.parts
            ]
        )

    def to(self, device: torch.device | str) -> RecordedObservations:
        """Return the observations on a device."""
        moved = copy(self)
        moved.parts = [part.to(device) for part in self.parts]
        return moved

    def __getitem__(self, frames: Tensor) -> Tensor:
        """Return the observations (..., D_o) of frames (...), in units, float32."""
        return torch.cat([part[frames].float() for part in self.parts], dim=-1)


def _pixels(field: ImageField, episodes: Episodes) -> Tensor:
    if field.name not in episodes.arrays:
        raise InputError(
            f"observation {field.name}", found="none of that name",
            expected=f"one of {', '.join(sorted(episodes.arrays))}", fix="Correct the name in the configuration.",
        )  # fmt: skip
    values = pixels_of(field, episodes.arrays[field.name], leading=1)
    if values.dtype != torch.uint8:
        low, high = float(values.min()), float(values.max())
        if low < 0 or not 1 < high <= 255:
            raise InputError(
                episodes.path, found=f"pixels of {field.name} from {low:g} to {high:g}", expected="0 to 255",
                fix="Store the images as uint8.",
            )  # fmt: skip
        values = values.round().to(torch.uint8)
    return values.contiguous()

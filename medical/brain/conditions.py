"""What a network is told beside the level of noise: numbers and words, each of which may stay unknown.

Values are one row of float32 a volume, (N, K) in the order of `BrainConfig.conditions`: a number as -1 ... 1 over its
range, a word as its index, NaN where unknown. Trained with some values hidden, one network is conditional and
unconditional, and classifier-free guidance goes beyond what it was told (Ho and Salimans, 2022):

    D(x, t) + (s - 1) (D(x, t) - D_unknown(x, t)),      s = 1 is D.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medical.brain.config import BrainConfig, Condition
from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.process import Time

if TYPE_CHECKING:
    from medical.brain.stationary import StationaryModel

WAVES = 6  # pairs of sine and cosine of a number
BEYOND = 0.05  # of the range, by which a number may leave it


def encoded(config: BrainConfig, given: Mapping[str, float | str]) -> Tensor:
    """Return the row (1, K) of some conditions; the others are unknown.

    Raises:
        InputError: a name that the model does not know, a word that it does not know, or a number out of its range.
    """
    known = {condition.name: condition for condition in config.conditions}
    if unknown := [name for name in given if name not in known]:
        raise InputError(
            "--condition", found=unknown[0],
            expected=f"one of {', '.join(known)}" if known else "none: this model has no conditions",
            fix="Correct it, or choose another model.",
        )  # fmt: skip
    row = [
        _number(condition, given[condition.name]) if condition.name in given else math.nan
        for condition in known.values()
    ]
    return torch.tensor([row], dtype=torch.float32)


def parsed(texts: Sequence[str], config: BrainConfig) -> dict[str, float | str]:
    """Return the conditions of texts "name=value".

    Raises:
        InputError: a text of another form, or a name twice; the rest as `encoded`.
    """
    given: dict[str, float | str] = {}
    numbers = {condition.name for condition in config.conditions if condition.between is not None}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value or name in given:
            raise InputError(
                "--condition", found=repr(text), expected="NAME=VALUE, each name once", fix="Such as ventricles_cm3=30."
            )
        given[name] = value
        if name in numbers:
            try:
                given[name] = float(value)
            except ValueError:
                raise InputError("--condition", found=repr(text), expected="a number", fix="Correct it.") from None
    encoded(config, given)
    return given


def are_spread(config: BrainConfig, heads: StationaryModel | None) -> bool:
    """Return whether a model knows how its conditions are spread: numbers all, in a Gaussian model of the heads."""
    return heads is not None and bool(config.conditions) and all(c.between is not None for c in config.conditions)


def completed(
    config: BrainConfig, heads: StationaryModel | None, given: Mapping[str, float | str], generator: torch.Generator
) -> dict[str, float | str]:
    """Return conditions with those that are not given drawn as in the training, given the others.

    Numbers are taken as normal, and limited to their range.

    Args:
        config: of the model.
        heads: its Gaussian model; None where it has none.
        given: by name.
        generator: of what is drawn.

    Raises:
        InputError: a model without a Gaussian model or conditions, or one with words; and as of `encoded`.
    """
    if heads is None or not are_spread(config, heads):
        raise InputError(
            "--draw-conditions", found="a model that does not know how its conditions are spread",
            expected="one with numbers as conditions and skip: stationary", fix="Tell them with --condition.",
        )  # fmt: skip
    row = heads.draw_numbers(encoded(config, given)[0], generator).clamp(-1, 1).tolist()
    drawn: dict[str, float | str] = {}
    for condition, value in zip(config.conditions, row, strict=True):
        low, high = condition.between or (0.0, 0.0)
        drawn[condition.name] = round(low + (value + 1) / 2 * (high - low), 3)
    return drawn | dict(given)


def _number(condition: Condition, value: float | str) -> float:
    if condition.between is None:
        if value not in condition.words:
            raise InputError(
                condition.name, found=repr(value), expected=f"one of {', '.join(condition.words)}", fix="Correct it."
            )
        return float(condition.words.index(str(value)))
    low, high = condition.between
    share = (float(value) - low) / (high - low)
    if not -BEYOND <= share <= 1 + BEYOND:
        raise InputError(
            condition.name, found=f"{float(value):g}", expected=f"{low:g} to {high:g}, the range of the training",
            fix="Choose a value within.",
        )  # fmt: skip
    return 2 * share - 1


def told(condition: Condition, values: Sequence[float] | Sequence[str]) -> Tensor:
    """Return values of the training as (N,) numbers; what is unknown or out of range is NaN."""
    if condition.between is None:
        index = {word: float(place) for place, word in enumerate(condition.words)}
        return torch.tensor([index.get(str(value), math.nan) for value in values])
    low, high = condition.between
    share = (torch.tensor([float(value) for value in values]) - low) / (high - low)
    return torch.where((share >= -BEYOND) & (share <= 1 + BEYOND), 2 * share - 1, math.nan)


def numbers_told(conditions: Sequence[Condition], values: Tensor) -> Tensor:
    """Return values (N, K) as numbers (N, columns): a word is 1 in its column, 0 in the others'; NaN where unknown."""
    columns = []
    for condition, value in zip(conditions, values.split(1, dim=1), strict=True):
        words = torch.arange(len(condition.words), device=values.device)
        columns.append(torch.where(value.isnan(), value, (value == words).to(values)) if condition.words else value)
    return torch.cat(columns, dim=1)


class ConditionEmbedding(nn.Module):
    """(N, K) values -> (N, width), added to the embedding of the noise level; zero before training.

    Args:
        conditions: what the K values are.
        width: of the embedding.
    """

    def __init__(self, conditions: Sequence[Condition], width: int) -> None:
        super().__init__()
        self.words = [len(condition.words) for condition in conditions]
        self.parts = nn.ModuleList(nn.Linear((count or 1 + 2 * WAVES) + 1, width) for count in self.words)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, values: Tensor) -> Tensor:
        """Return the embedding of values."""
        known = ~values.isnan()
        filled = torch.where(known, values, 0.0)
        waves = math.pi / 2 * torch.arange(1, WAVES + 1, device=values.device)
        total: Tensor | float = 0.0
        for place, (count, part) in enumerate(zip(self.words, self.parts, strict=True)):
            value, there = filled[:, place, None], known[:, place, None].to(values)
            if count:
                features = (value == torch.arange(count, device=values.device)).to(values)
            else:
                features = torch.cat([value, torch.sin(waves * value), torch.cos(waves * value)], dim=1)
            total = total + part(torch.cat([features * there, 1 - there], dim=1))
        embedding: Tensor = self.out(nn.functional.silu(torch.as_tensor(total)))
        return embedding


def guided(conditional: Denoiser, unconditional: Denoiser, scale: float) -> Denoiser:
    """Return classifier-free guidance of this scale; 1 is `conditional` itself, 0 `unconditional`."""
    if scale == 1:
        return conditional

    def denoise(x: Tensor, t: Time, /) -> Tensor:
        base = unconditional(x, t)
        return base if scale == 0 else torch.lerp(base, conditional(x, t), scale)

    return denoise

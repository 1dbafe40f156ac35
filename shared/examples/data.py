r"""The data of the example networks, drawn anew by a generator: paths, patches of photographs, labelled digits.

Paths (N, 2, 16) are generated: from (-1, s) to (1, g) in 16 points, above or below an obstacle at the origin,

    y(u) = (1 - u) s + u g + sin(pi u)^2 (side b - (s + g)/2),   x(u) = -1 + 2 v(u),   v(u) = u + a sin(2 pi u)/(2 pi),

with s, g ~ U(-0.6, 0.6), side = +-1, b ~ U(0.35, 0.85) and a ~ U(-0.6, 0.6). Both sides are equally probable: the mean
path runs through the obstacle, so a policy that averages fails.

Photographs: scikit-learn's china.jpg and flower.jpg (CC BY 2.0, danielbuechele and vultilion). Digits: scikit-learn's
digits (UCI, CC BY 4.0).
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from shared.errors import MissingExtra

POINTS = 16
TRAIN_DIGITS = 1500


def paths(count: int, generator: torch.Generator) -> Tensor:
    """Return `count` paths (N, 2, 16) of x and y in [-1, 1]."""
    u = torch.linspace(0, 1, POINTS)
    draw = torch.rand(count, 5, generator=generator)
    start, goal = 1.2 * draw[:, 0:1] - 0.6, 1.2 * draw[:, 1:2] - 0.6
    side = torch.where(draw[:, 2:3] < 0.5, -1.0, 1.0)
    height, ease = 0.35 + 0.5 * draw[:, 3:4], 1.2 * draw[:, 4:5] - 0.6
    y = (1 - u) * start + u * goal + torch.sin(math.pi * u) ** 2 * (side * height - (start + goal) / 2)
    x = -1 + 2 * (u + ease * torch.sin(2 * math.pi * u) / (2 * math.pi))
    return torch.stack([x, y], dim=1)


def patches(
    count: int, generator: torch.Generator, *, side: int = 16, shrink: int = 2, held_out: bool = False
) -> Tensor:
    """Return `count` grey patches (N, 1, side, side) in [-1, 1], half of them mirrored.

    Args:
        count: number of patches.
        generator: draws photograph, place and mirroring.
        side: pixels.
        shrink: pixels of the photograph that are averaged to one, along each axis.
        held_out: from the rightmost fifth of each photograph, which no training patch touches.
    """
    photographs = [F.avg_pool2d(image[None], shrink)[0] for image in _photographs()]
    which = torch.randint(len(photographs), (count,), generator=generator)
    place, mirror = torch.rand(count, 2, generator=generator), torch.rand(count, generator=generator) < 0.5
    found = []
    for index, (down, right), flip in zip(which.tolist(), place.tolist(), mirror.tolist(), strict=True):
        image = photographs[index]
        cut = int(0.8 * image.shape[2])
        image = image[..., cut:] if held_out else image[..., :cut]
        top = int(down * (image.shape[1] - side + 1))
        left = int(right * (image.shape[2] - side + 1))
        patch = image[:, top : top + side, left : left + side]
        found.append(patch.flip(2) if flip else patch)
    return torch.stack(found)


def labelled_digits(*, held_out: bool = False) -> tuple[Tensor, Tensor]:
    """Return digits (N, 1, 8, 8) in [-1, 1] and their classes (N,): 1500 for training or the other 297."""
    datasets = _datasets()
    bunch = datasets.load_digits()
    data = torch.from_numpy(bunch.data).float().reshape(-1, 1, 8, 8) / 8 - 1
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    chosen = order[TRAIN_DIGITS:] if held_out else order[:TRAIN_DIGITS]
    return data[chosen], labels[chosen]


@cache
def _photographs() -> tuple[Tensor, ...]:
    """Return the photographs as grey images (1, H, W) in [-1, 1]; weights of ITU-R BT.601."""
    weights = torch.tensor([0.299, 0.587, 0.114])
    images = [torch.from_numpy(image.copy()).float() for image in _datasets().load_sample_images().images]
    return tuple((image @ weights)[None] / 127.5 - 1 for image in images)


def _datasets():  # type: ignore[no-untyped-def]  # scikit-learn has no types
    try:
        from sklearn import datasets
    except ImportError as error:
        raise MissingExtra("sklearn", extra="bench", purpose="for the data of the example networks") from error
    return datasets

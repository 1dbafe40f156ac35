"""What a frozen stereo network says of random crops, computed once and kept on disk, for the training of its branch.

A file holds `SHARD` crops; crop i depends on the seed and i alone, so that a stopped run goes on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from robotics.stereo.crops import Crops
from robotics.stereo.model import StereoModel
from robotics.stereo.networks import reduced
from robotics.stereo.networks.upsample import FACTOR
from shared.errors import InputError
from shared.files import atomic_path
from shared.progress import tracked

SHARD = 100


@dataclass(frozen=True)
class Looked:
    """N crops; h = H / 4, w = W / 4.

    Attributes:
        maps: what the branch sees beside the image, (N, C, h, w) float16.
        left: images in [0, 255], (N, 3, H, W) uint8.
        place: the estimate, (N, 1, h, w) float32, quarter pixels.
        truth: likewise.
        hard: share of glass and mirrors in a place, (N, 1, h, w) float32.
    """

    maps: Tensor
    left: Tensor
    place: Tensor
    truth: Tensor
    hard: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Looked]) -> Looked:
        """Return several as one."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


class LookedCrops:
    """Crops of generated scenes with what a model says of them; they stay on disk.

    Args:
        model: whose branch, if it has one, is not asked.
        crops: to draw from.
        folder: of the files; those that are there and of the same origin are kept.
        count: of crops.
        size: height and width of a crop, px, multiples of the model's `multiple`.
        max_disparity: of the cost volume, px.
        raw: share of crops that begin from the raw map, as `Crops.draw` has it.
        enlarged: share of crops that are enlarged, likewise.
        seed: of the crops.
        origin: what else they depend on: model and scenes.
        progress: label of a progress bar; None is silent.

    Raises:
        InputError: a file of another origin.
    """

    def __init__(
        self,
        model: StereoModel,
        crops: Crops,
        folder: Path,
        *,
        count: int,
        size: tuple[int, int],
        max_disparity: float,
        raw: float,
        enlarged: float,
        seed: int,
        origin: str,
        progress: str | None = None,
    ) -> None:
        from safetensors import safe_open
        from safetensors.torch import save_file

        self.count = count
        self._shards: list[Any] = []
        folder.mkdir(parents=True, exist_ok=True)
        facts = {"origin": f"{origin} {size} {max_disparity:g} {raw:g} {enlarged:g} {seed}"}

        def one(index: int) -> Looked:
            source = np.random.default_rng(np.random.SeedSequence([seed, index]))
            cut = crops.draw(1, size, raw, enlarged, source, upside_down=0)  # tables stand below what is on them
            return _look(model, [torch.from_numpy(value) for value in cut], max_disparity, source)

        for begin in tracked(range(0, count, SHARD), progress):
            path = folder / f"looked-{begin // SHARD:05d}.safetensors"
            indices = range(begin, min(begin + SHARD, count))
            if not (path.is_file() and _holds(path, facts, len(indices))):
                looked = Looked.joined([one(index) for index in indices])
                with atomic_path(path, overwrite=True) as scratch:
                    stored = {field.name: getattr(looked, field.name).contiguous() for field in fields(looked)}
                    save_file(stored, scratch, facts)
            self._shards.append(safe_open(path, "pt"))

    def share(self) -> float:
        """Return the share of glass and mirrors in all crops."""
        parts = [shard.get_tensor("hard") for shard in self._shards]
        return float(torch.cat(parts).double().mean())

    def batch(self, indices: Sequence[int]) -> Looked:
        """Return crops."""
        parts = []
        for index in indices:
            shard, place = self._shards[index // SHARD], index % SHARD
            parts.append(Looked(*(shard.get_slice(field.name)[place : place + 1] for field in fields(Looked))))
        return Looked.joined(parts)


def _holds(path: Path, facts: dict[str, str], count: int) -> bool:
    """Return whether a file has so many crops; a shorter one is made again."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        if file.metadata() != facts:
            raise InputError(
                path, found="crops of other scenes or settings, or of another network", expected="those of this run",
                fix="Give another folder with --work, or delete this one.",
            )  # fmt: skip
        return int(file.get_slice("place").get_shape()[0]) >= count


@torch.no_grad()
def _look(model: StereoModel, cut: Sequence[Tensor], max_disparity: float, source: np.random.Generator) -> Looked:
    """Return what one call says, beginning from noise, of arrays as `Crops.draw` gives them."""
    network, device = model.network, model.device
    left, right, truth, first, known, _, hard = (value.to(device) for value in cut)
    prepared = network.prepare(left, right, first, known, math.ceil(max_disparity / FACTOR) + 1)
    noise = torch.from_numpy(source.standard_normal(prepared.start.shape, np.float32)).to(device)
    x = network(noise, model.config.steps - 1, prepared=prepared).clamp(-1, 1)
    place = prepared.start + network.decode(x)
    return Looked(
        maps=network.seen(place, prepared).half().cpu(),
        left=(255 * left).round().byte().cpu(),
        place=place.cpu(),
        truth=(reduced(truth) / FACTOR).cpu(),
        hard=functional.avg_pool2d(hard, FACTOR).cpu(),
    )

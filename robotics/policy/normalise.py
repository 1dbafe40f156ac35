r"""Units to about [-1, 1] and back: n = scale x + offset, one scale and offset for each number.

    limits     n = 2 (x - min) / (max - min) - 1         a number that never changes is only moved to 0
    gaussian   n = (x - mean) / std                      a number that never changes is only moved to 0

A pixel 0 ... 255 becomes [0, 1]. The statistics stay beside the scale, under the names of the published checkpoints.

Reference: `LinearNormalizer` of real-stanford/diffusion_policy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import InputError

STATISTICS = ("min", "max", "mean", "std")
SMALLEST_RANGE = 1e-4  # a number that varies less is a constant


@dataclass(frozen=True)
class Normaliser:
    """An affine map of the last axis.

    Attributes:
        scale: (D,).
        offset: (D,).
        statistics: min, max, mean and std of the data, (D,) each, in its units.
    """

    scale: Tensor
    offset: Tensor
    statistics: Mapping[str, Tensor]

    @staticmethod
    def fit(data: Tensor, kind: str = "limits") -> Normaliser:
        """Return the normaliser of the data (frames, D).

        Raises:
            InputError: data that is not finite, or fewer than two frames.
        """
        if data.ndim != 2 or len(data) < 2 or not bool(torch.isfinite(data).all()):
            raise InputError(
                "data",
                found=f"shape {tuple(data.shape)}, {int((~torch.isfinite(data)).sum())} numbers not finite",
                expected="two frames or more of finite numbers",
                fix="Remove the broken frames.",
            )
        data = data.float()
        low, high = data.amin(0), data.amax(0)
        mean, std = data.double().mean(0).float(), data.double().std(0).float()
        if kind == "limits":
            constant = high - low < SMALLEST_RANGE
            scale = torch.where(constant, 1.0, 2 / torch.where(constant, 1.0, high - low))
            offset = torch.where(constant, -low, -1 - scale * low)
        else:
            constant = std < SMALLEST_RANGE
            scale = 1 / torch.where(constant, 1.0, std)
            offset = -mean * scale
        return Normaliser(scale, offset, {"min": low, "max": high, "mean": mean, "std": std})

    @staticmethod
    def of_pixels(channels: int) -> Normaliser:
        """Return the normaliser that maps 0 ... 255 to [0, 1], one entry a channel; its statistics are the limits'."""
        full = torch.full((channels,), 255.0)
        statistics = {"min": 0 * full, "max": full, "mean": full / 2, "std": full / 12**0.5}
        return Normaliser(1 / full, 0 * full, statistics)

    @staticmethod
    def join(parts: Sequence[Normaliser]) -> Normaliser:
        """Return the normaliser of the numbers of all parts, one after the other."""
        return Normaliser(
            torch.cat([part.scale for part in parts]),
            torch.cat([part.offset for part in parts]),
            {name: torch.cat([part.statistics[name] for part in parts]) for name in STATISTICS},
        )

    def spread(self, repeats: Sequence[int]) -> Normaliser:
        """Return the normaliser whose entry i counts for `repeats[i]` numbers, such as the pixels of a channel."""
        counts = torch.tensor(repeats, device=self.scale.device)
        return self._mapped(lambda value: value.repeat_interleave(counts))

    def gathered(self, repeats: Sequence[int]) -> Normaliser:
        """Return the normaliser of which this one is the `spread`."""
        firsts = torch.tensor([0, *repeats[:-1]], device=self.scale.device).cumsum(0)
        return self._mapped(lambda value: value[firsts])

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Normaliser:
        statistics = {name: change(value) for name, value in self.statistics.items()}
        return Normaliser(change(self.scale), change(self.offset), statistics)

    def apply(self, x: Tensor) -> Tensor:
        """Return x (..., D) in normalised numbers."""
        return x * self.scale + self.offset

    def undo(self, n: Tensor) -> Tensor:
        """Return n (..., D) in units."""
        return (n - self.offset) / self.scale

    def to(self, device: torch.device | str) -> Normaliser:
        """Return the normaliser on a device."""
        return self._mapped(lambda value: value.to(device))

    def tensors(self, prefix: str) -> dict[str, Tensor]:
        """Return the tensors by their published names behind `prefix`."""
        return {
            f"{prefix}.scale": self.scale,
            f"{prefix}.offset": self.offset,
            **{f"{prefix}.input_stats.{name}": self.statistics[name] for name in STATISTICS},
        }

    @staticmethod
    def from_tensors(tensors: Mapping[str, Tensor], prefix: str, size: int, source: str) -> Normaliser:
        """Return the normaliser that `tensors` holds behind `prefix`.

        Raises:
            InputError: a tensor is absent, of another size than `size`, not finite, or a scale is 0.
        """
        names = [f"{prefix}.scale", f"{prefix}.offset", *(f"{prefix}.input_stats.{name}" for name in STATISTICS)]
        found = {name: tensors.get(name) for name in names}
        wrong = [
            name
            for name, value in found.items()
            if value is None or value.shape != (size,) or not bool(torch.isfinite(value).all())
        ]
        if not wrong and bool((tensors[names[0]] == 0).any()):
            wrong = names[:1]
        if wrong:
            value = found[wrong[0]]
            raise InputError(
                source,
                found=f"{wrong[0]}: {'absent' if value is None else f'shape {tuple(value.shape)}'}",
                expected=f"{size} finite numbers, scales not 0",
                fix="Give the weights and the configuration that belong together.",
            )
        kept = [tensors[name].float() for name in names]
        return Normaliser(kept[0], kept[1], dict(zip(STATISTICS, kept[2:], strict=True)))

"""What a sampling needs of memory, and whether it is there.

The activations of the network grow with the voxels and with nothing else, since its attention is fused. Two small
calls, in which every tensor is watched from its making to its end, give the line

    live bytes at the peak = fixed + a voxel * voxels

and the need is the weights, the peak times `OVERHEAD`, and the few volumes of the sampler. `OVERHEAD` is for what torch
does inside a convolution: measured once (docs/brain.md).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from medical.brain.config import BrainConfig
from shared.errors import InputError

OVERHEAD = 1.25
SAMPLER_VOLUMES = 6  # x, the estimates of two calls, fresh noise, and room for the result's numpy copies
FLOAT_BYTES = 4


class LiveBytes(TorchDispatchMode):
    """While open, counts the bytes of the tensors that operators make; `peak` is the most that lived at once."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, torch.Tensor) and (key := value.untyped_storage()._cdata) not in self._seen:
                storage = value.untyped_storage()
                self._seen.add(key)
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
                weakref.finalize(storage, self._end, key, storage.nbytes())
        return result

    def _end(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


@dataclass(frozen=True)
class Need:
    """Bytes as a line over the voxels of a volume.

    Attributes:
        fixed: of the weights and of what does not grow.
        a_voxel: of the activations and of the sampler.
    """

    fixed: float
    a_voxel: float

    def bytes(self, size: tuple[int, int, int]) -> float:
        """Return the bytes for a volume of this size."""
        return self.fixed + self.a_voxel * size[0] * size[1] * size[2]


def measure(config: BrainConfig, network: nn.Module) -> Need:
    """Return what a network needs, from two calls on small volumes."""
    parameter = next(network.parameters())
    side = 2 * config.multiple
    peaks = []
    for long in (side, 2 * side):
        with torch.no_grad(), LiveBytes() as watched:
            x = torch.zeros((1, 1, long, side, side), device=parameter.device)
            network(x, torch.zeros(1, device=parameter.device))
        peaks.append(watched.peak)
    a_voxel = (peaks[1] - peaks[0]) / side**3
    weights = sum(value.numel() * value.element_size() for value in network.parameters())
    return Need(weights + max(0.0, peaks[0] - a_voxel * side**3), OVERHEAD * a_voxel + SAMPLER_VOLUMES * FLOAT_BYTES)


def available(device: torch.device) -> float | None:
    """Return the free bytes of a device; None where they cannot be told."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        names = getattr(os, "sysconf_names", {})
        if "SC_PHYS_PAGES" not in names:
            return None
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def check_memory(
    config: BrainConfig, need: Need, size: tuple[int, int, int], free: float | None, *, spacing_mm: float
) -> None:
    """Raise `InputError` if a volume of this size does not fit into `free` bytes; it names a size that would.

    That size keeps the field of view as nearly as the multiples of the network allow, with coarser voxels. It fits, but
    a network draws well only on the grid of its training.
    """
    wanted = need.bytes(size)
    if free is None or wanted <= free:
        return
    gigabytes = f"{wanted / 2**30:.1f} GiB for {'x'.join(map(str, size))}"
    fix = "Free memory or use another device: no size of this network fits."
    if (smaller := largest_size(config, need, size, free)) is not None:
        spacing = max(spacing_mm * old / new for old, new in zip(size, smaller, strict=True))
        fix = (
            f"{'x'.join(map(str, smaller))} would fit (--size; {spacing:.3g} mm voxels for the same field of view), "
            "of a model trained for that."
        )
    raise InputError("memory", found=f"{free / 2**30:.1f} GiB free", expected=gigabytes, fix=fix)


def largest_size(
    config: BrainConfig, need: Need, size: tuple[int, int, int], free: float
) -> tuple[int, int, int] | None:
    """Return the largest size of about the same proportions that fits into `free` bytes, or None."""
    multiple = config.multiple
    longest = max(size)
    for side in range(longest - longest % multiple, 0, -multiple):
        x, y, z = (max(multiple, multiple * round(side * old / longest / multiple)) for old in size)
        if need.bytes((x, y, z)) <= free:
            return x, y, z
    return None

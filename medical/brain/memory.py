"""What the drawing of a volume needs of memory, whether it is there, and in how many slabs it fits.

At a given length along x the activations of the network grow with y z and with nothing else, since its attention is
fused. Two calls on thin volumes of the full length, in which every tensor is watched from its making to its end, give

    bytes of a call = fixed + a * y z

for the network as it is, and for the network in slabs (`shared.memory.sliced`: the same results). The need is that, the
weights, and the few volumes of the sampler.
"""

from __future__ import annotations

import os
from copy import copy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from medical.brain.config import BrainConfig
from medical.brain.model import BrainModel
from shared.errors import InputError
from shared.memory import call_bytes, sliceable, sliced

if TYPE_CHECKING:
    from medical.brain.latent import Autoencoder

SLABS = (0, 4, 8, 16, 32, 64)  # what is tried, the fewest first; 0 is the network as it is
SAMPLER_VOLUMES = 6  # x, the estimates of two calls, fresh noise, and room for the result's numpy copies
FLOAT_BYTES = 4
THIN = 8  # voxels along y of the volumes of the measurement, at least


@dataclass(frozen=True)
class Plan:
    """Bytes that drawing a volume takes at most, and how the network is called.

    Attributes:
        size: voxels of the volume.
        slabs: of the network, see `shared.memory.sliced`; 0 is the network as it is.
        weights: bytes of the network.
        call: bytes of a call of it at its peak.
        sampler: bytes of the volumes around it.
    """

    size: tuple[int, int, int]
    slabs: int
    weights: float
    call: float
    sampler: float

    @property
    def total(self) -> float:
        """Return all bytes."""
        return self.weights + self.call + self.sampler

    def __str__(self) -> str:
        how = f"in {self.slabs} slabs" if self.slabs else "in one piece"
        return (
            f"memory planned: {gib(self.total)} for {'x'.join(map(str, self.size))} {how} "
            f"(network {gib(self.call)}, its weights {gib(self.weights)}, sampling {gib(self.sampler)})"
        )

    def applied(self, model: BrainModel) -> BrainModel:
        """Return the model that draws in these slabs; the given one is not changed."""
        network = model.network
        if not self.slabs or not isinstance(network, nn.Module):
            return model
        model = copy(model)
        model.network = sliced(network, self.slabs)
        return model


def gib(amount: float) -> str:
    """Return bytes for people."""
    return f"{amount / 2**30:.2f} GiB"


def measure(
    config: BrainConfig,
    network: nn.Module,
    size: tuple[int, int, int],
    slabs: int = 0,
    autoencoder: Autoencoder | None = None,
) -> Plan:
    """Return what a volume of this size needs, from two calls on thin ones, or from one of a network of one size.

    The autoencoder of a latent model decodes once the network is done, so the larger of the two counts.

    Args:
        config: of the network.
        network: (x, times) -> prediction.
        size: voxels, multiples of `config.multiple`.
        slabs: 0 is the network as it is.
        autoencoder: of a latent model.
    """
    parameter = next(network.parameters())
    called = sliced(network, slabs) if slabs else network

    def peak(y: int, z: int) -> float:
        x = torch.zeros((1, *config.sampled((size[0], y, z))), device=parameter.device)
        return call_bytes(lambda: called(x, torch.zeros(1, device=parameter.device)))

    side = max(config.multiple, THIN)
    if config.skip == "stationary":
        call = peak(*size[1:])
    else:
        thin, wide = peak(side, side), peak(side, 2 * side)
        call = thin + (wide - thin) / side**2 * (size[1] * size[2] - side**2)
    modules = [network]
    if autoencoder is not None:  # its slabs depend on y, so its thin volumes are thin along z alone
        z = [torch.zeros((1, *config.sampled((size[0], size[1], n * side))), device=parameter.device) for n in (1, 2)]
        thin, wide = (call_bytes(partial(autoencoder.decode, latents)) for latents in z)
        call = max(call, thin + (wide - thin) / side * (size[2] - side))
        modules.append(autoencoder.network)
    weights = sum(value.numel() * value.element_size() for module in modules for value in module.parameters())
    return Plan(
        size=size,
        slabs=slabs,
        weights=weights,
        call=call,
        sampler=SAMPLER_VOLUMES * FLOAT_BYTES * size[0] * size[1] * size[2],
    )


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


def choose(
    config: BrainConfig,
    network: nn.Module,
    size: tuple[int, int, int],
    free: float | None,
    *,
    spacing_mm: float,
    autoencoder: Autoencoder | None = None,
) -> Plan:
    """Return the plan with the fewest slabs that fits into `free` bytes; None is any amount.

    Args:
        config: of the network.
        network: in one piece where it fits; only MONAI's `DiffusionModelUNet` can be cut.
        size: voxels.
        free: bytes.
        spacing_mm: voxel size, for the message.
        autoencoder: as of `measure`.

    Raises:
        InputError: nothing fits; it names a size that would. That size keeps the field of view as nearly as the
            multiples of the network allow, with coarser voxels. It fits, but a network draws well only on the grid of
            its training.
    """
    tried = SLABS if sliceable(network) else SLABS[:1]
    for slabs in tried:
        plan = measure(config, network, size, slabs, autoencoder)
        if free is None or plan.total <= free:
            return plan
    assert free is not None
    fix = "Free memory or use another device: no size of this network fits."
    if (smaller := largest_size(config, network, size, free, tried[-1], autoencoder)) is not None:
        spacing = max(spacing_mm * old / new for old, new in zip(size, smaller, strict=True))
        fix = (
            f"{'x'.join(map(str, smaller))} would fit (--size; {spacing:.3g} mm voxels for the same field of view), "
            "of a model trained for that."
        )
    raise InputError("memory", found=f"{gib(free)} free", expected=str(plan).partition(": ")[2], fix=fix)


def largest_size(
    config: BrainConfig,
    network: nn.Module,
    size: tuple[int, int, int],
    free: float,
    slabs: int,
    autoencoder: Autoencoder | None = None,
) -> tuple[int, int, int] | None:
    """Return the largest size of about the same proportions that fits into `free` bytes in so many slabs, or None."""
    if config.skip == "stationary":
        return None
    multiple = config.multiple
    longest = max(size)
    fits, refused = 0, longest // multiple  # in multiples along the longest side
    best = None
    while refused - fits > 1:
        middle = (fits + refused) // 2
        x, y, z = (max(multiple, multiple * round(middle * old / longest)) for old in size)
        if measure(config, network, (x, y, z), slabs, autoencoder).total <= free:
            fits, best = middle, (x, y, z)
        else:
            refused = middle
    return best

"""The trained slice prior as a file and as a denoiser.

A prior is one safetensors file: the averaged weights of a `SliceUNet` in float16 and, in its header, all that is
needed to use it and to know where it came from (`PriorFacts`).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medical.reconstruction.posterior.network import SliceUNet, SliceUNetConfig
from shared.denoiser import PreconditionedDenoiser
from shared.errors import InputError
from shared.files import atomic_path
from shared.process import VarianceExploding

KIND = "fewstep slice prior 1"
DEFAULT = "medical/slice_prior"


@dataclass(frozen=True)
class PriorFacts:
    """What a prior is.

    Attributes:
        sigma_data: standard deviation of a real channel of the training images, in units of the prior.
        sigma_min: noise at the last network call.
        sigma_max: noise from which samplings start.
        widths: channels of the network's levels.
        blocks: residual blocks a level.
        embedding: size of the embedding of the noise level.
        training: what it was trained on and how, for the model card; includes `matrix`, `fov_mm` and `volumes`.
    """

    sigma_data: float
    sigma_min: float
    sigma_max: float
    widths: tuple[int, ...]
    blocks: int
    embedding: int
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def network(self) -> SliceUNetConfig:
        """Return the size of the network."""
        return SliceUNetConfig(tuple(self.widths), self.blocks, self.embedding)

    @property
    def process(self) -> VarianceExploding:
        """Return the noise process: x_t = x_0 + sigma eps."""
        return VarianceExploding(self.sigma_min, self.sigma_max)


@dataclass(frozen=True)
class SlicePrior:
    """A network with the facts needed to ask it.

    Attributes:
        network: in evaluation mode.
        facts: process, scale and training.
        name: the file or name it was loaded from.
    """

    network: SliceUNet
    facts: PriorFacts
    name: str = ""

    def denoiser(self, process: VarianceExploding | None = None) -> PreconditionedDenoiser:
        """Return D(x, t) over real images (N, 2, H, W) in units of the prior.

        Args:
            process: in which t is given; None is that of the training.
        """
        return PreconditionedDenoiser(self.network, process or self.facts.process, sigma_data=self.facts.sigma_data)


def save_prior(path: str | os.PathLike[str], tensors: dict[str, Tensor], facts: PriorFacts) -> None:
    """Write a prior; an existing file is replaced as a whole.

    Args:
        path: ending in .safetensors.
        tensors: the state of a `SliceUNet`; stored in float16.
        facts: stored in the header.
    """
    from safetensors.torch import save_file

    half = {name: value.detach().cpu().to(torch.float16).contiguous() for name, value in tensors.items()}
    with atomic_path(path, overwrite=True) as scratch:
        save_file(half, scratch, metadata={"kind": KIND, "facts": json.dumps(asdict(facts))})


def load_prior(name: str | os.PathLike[str] = DEFAULT, device: torch.device | str = "cpu") -> SlicePrior:
    """Read a prior by name or path; it runs in float32.

    Raises:
        InputError: no such weights, or weights of another kind.
    """
    from shared.weights import load

    weights = load(name)
    if weights.metadata.get("kind") != KIND:
        raise InputError(
            weights.path,
            found=f"kind {weights.metadata.get('kind')!r}",
            expected=repr(KIND),
            fix="Give a file that `fewstep mri train-prior` wrote.",
        )
    values = json.loads(weights.metadata["facts"])
    facts = PriorFacts(**{**values, "widths": tuple(values["widths"])})
    network = SliceUNet(facts.network)
    network.load_state_dict({key: value.float() for key, value in weights.tensors.items()})
    return SlicePrior(network.to(device).eval().requires_grad_(False), facts, Path(name).name)

"""Stereo models on disk: one safetensors file that describes itself."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from robotics.stereo.config import StereoConfig
from robotics.stereo.model import StereoModel
from robotics.stereo.networks import StereoNetwork
from shared.errors import InputError
from shared.files import atomic_path

KIND = "fewstep stereo 1"


def save_stereo(
    path: str | os.PathLike[str],
    config: StereoConfig,
    network: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    half: bool = False,
) -> None:
    """Write a model; an existing file is replaced as a whole.

    Args:
        path: ending in .safetensors.
        config: of the model.
        network: state of its network.
        facts: what it was trained on and how, JSON types.
        half: store in float16, half of the size.
    """
    from safetensors.torch import save_file

    dtype = torch.float16 if half else torch.float32
    tensors = {name: value.detach().cpu().to(dtype).contiguous().clone() for name, value in network.items()}
    header = {"kind": KIND, "config": config.model_dump_json(), "training": json.dumps(dict(facts))}
    with atomic_path(path, overwrite=True) as scratch:
        save_file(tensors, scratch, metadata=header)


def load_stereo(name: str | os.PathLike[str], device: torch.device | str = "cpu") -> StereoModel:
    """Read a model by name or path, in evaluation mode; it runs in float32.

    Raises:
        InputError: no such weights, weights of another kind, or tensors that do not fit the configuration.
    """
    from shared.weights import load

    weights = load(name)
    if weights.metadata.get("kind") != KIND:
        raise InputError(
            weights.path, found=f"kind {weights.metadata.get('kind')!r}", expected=repr(KIND),
            fix="Give a stereo model: a packaged name, or what `fewstep stereo train` wrote.",
        )  # fmt: skip
    try:
        config = StereoConfig.model_validate_json(weights.metadata["config"])
    except (KeyError, ValidationError) as error:
        raise InputError(
            weights.path, found="a damaged header", expected=repr(KIND), fix="Write the file again."
        ) from error
    network = StereoNetwork(config)
    try:
        network.load_state_dict({name: value.float() for name, value in weights.tensors.items()})
    except RuntimeError as error:
        raise InputError(
            weights.path, found=str(error).replace("\n", " ")[:200], expected="the tensors of its configuration",
            fix="Give the weights and the configuration that belong together.",
        ) from error  # fmt: skip
    return StereoModel(config, network.eval().requires_grad_(False), device)


def stereo_facts(name: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the facts of the training that a model file holds.

    Raises:
        InputError: no such weights.
    """
    from shared.weights import load

    return dict(json.loads(load(name).metadata.get("training", "{}")))

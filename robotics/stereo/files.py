"""Stereo models on disk: one safetensors file that describes itself.

The header holds the kind, the configuration, the facts of the training and, once fitted, the confidence with what it
was fitted on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robotics.stereo.confidence import FittedConfidence
from robotics.stereo.config import StereoConfig
from robotics.stereo.model import StereoModel
from robotics.stereo.networks import StereoNetwork
from robotics.stereo.networks.surfaces import PREFIX
from shared.errors import InputError
from shared.files import atomic_path

KIND = "fewstep stereo 1"


@dataclass(frozen=True)
class StereoFile:
    """What a model file holds.

    Attributes:
        path: of the file.
        sha256: of the file, hexadecimal.
        config: of the model.
        tensors: of its network, as stored.
        training: facts, JSON types.
        fitted: confidence and what it was fitted on; None before `fewstep stereo calibrate`.
    """

    path: Path
    sha256: str
    config: StereoConfig
    tensors: dict[str, Tensor]
    training: dict[str, Any]
    fitted: FittedConfidence | None

    def plain(self) -> StereoFile:
        """Return it without the branch for glass and mirrors, and without a confidence that may be of it."""
        kept = {name: value for name, value in self.tensors.items() if not name.startswith(PREFIX)}
        return replace(self, config=self.config.model_copy(update={"surfaces": ()}), tensors=kept, fitted=None)

    def model(self, device: torch.device | str = "cpu") -> StereoModel:
        """Return the model in evaluation mode; it runs in float32.

        Raises:
            InputError: the tensors do not fit the configuration.
        """
        network = StereoNetwork(self.config)
        try:
            network.load_state_dict({name: value.float() for name, value in self.tensors.items()})
        except RuntimeError as error:
            raise InputError(
                self.path, found=str(error).replace("\n", " ")[:200], expected="the tensors of its configuration",
                fix="Give the weights and the configuration that belong together.",
            ) from error  # fmt: skip
        confidence = None if self.fitted is None else self.fitted.numbers
        return StereoModel(self.config, network.eval().requires_grad_(False), device, confidence)


def save_stereo(
    path: str | os.PathLike[str],
    config: StereoConfig,
    network: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    half: bool = False,
    fitted: FittedConfidence | None = None,
) -> None:
    """Write a model; an existing file is replaced as a whole.

    Args:
        path: ending in .safetensors.
        config: of the model.
        network: state of its network.
        facts: what it was trained on and how, JSON types.
        half: store in float16, half of the size.
        fitted: a confidence that holds for it.
    """
    dtype = torch.float16 if half else torch.float32
    _write(path, config, {name: value.detach().cpu().to(dtype) for name, value in network.items()}, facts, fitted)


def save_fitted(path: str | os.PathLike[str], file: StereoFile, fitted: FittedConfidence) -> None:
    """Write a model again with a confidence; tensors and facts stay bit for bit. An existing file is replaced."""
    _write(path, file.config, file.tensors, file.training, fitted)


def read_stereo(name: str | os.PathLike[str]) -> StereoFile:
    """Read a model file by name or path.

    Raises:
        InputError: no such weights, weights of another kind, or a header that cannot be read.
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
        training = dict(json.loads(weights.metadata.get("training", "{}")))
        stored = weights.metadata.get("confidence")
        fitted = None if stored is None else FittedConfidence.model_validate_json(stored)
    except (KeyError, ValueError) as error:  # pydantic's and json's errors are ValueErrors
        raise InputError(
            weights.path, found="a damaged header", expected=repr(KIND), fix="Write the file again."
        ) from error
    return StereoFile(weights.path, weights.sha256, config, weights.tensors, training, fitted)


def load_stereo(name: str | os.PathLike[str], device: torch.device | str = "cpu") -> StereoModel:
    """Return the model of a file, with its confidence if one was fitted: `read_stereo(name).model(device)`."""
    return read_stereo(name).model(device)


def _write(
    path: str | os.PathLike[str],
    config: StereoConfig,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    fitted: FittedConfidence | None,
) -> None:
    from safetensors.torch import save_file

    header = {"kind": KIND, "config": config.model_dump_json(), "training": json.dumps(dict(facts))}
    if fitted is not None:
        header["confidence"] = fitted.model_dump_json()
    with atomic_path(path, overwrite=True) as scratch:
        save_file({name: value.contiguous().clone() for name, value in tensors.items()}, scratch, metadata=header)

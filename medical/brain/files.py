"""Brain models on disk: one safetensors file that describes itself, and MedForj's files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medical.brain.config import BrainConfig, Strategy
from medical.brain.model import BrainModel
from shared.errors import InputError
from shared.files import atomic_path

KIND = "fewstep brain 1"


def save_brain(
    path: str | os.PathLike[str],
    config: BrainConfig,
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


def load_brain(
    name: str | os.PathLike[str],
    strategy: Strategy | None = None,
    device: torch.device | str = "cpu",
    *,
    autoencoder: str | os.PathLike[str] | None = None,
) -> BrainModel:
    """Return the model of a file of ours or of MedForj, in evaluation mode; it runs in float32.

    Args:
        name: a path, or a packaged name.
        strategy: of a file of MedForj whose name does not say it.
        device: where to compute.
        autoencoder: file of a latent model's, see `medical.brain.latent`.

    Raises:
        InputError: no such weights, weights of another kind, tensors that do not fit, a strategy that does not, or an
            autoencoder for a model of voxels.
        MissingExtra: MONAI or einops is not installed.
    """
    from medical.brain.latent import load_autoencoder

    model = _loaded(name, strategy, device)
    if autoencoder is not None:
        if model.config.latent == "none":
            raise InputError(
                "--autoencoder", found=f"one for {model.name}", expected="none: it is a model of voxels", fix="Drop it."
            )
        model.autoencoder = load_autoencoder(autoencoder, device)
    return model


def _loaded(name: str | os.PathLike[str], strategy: Strategy | None, device: torch.device | str) -> BrainModel:
    from medical.brain.official import load_official, network_of
    from shared.weights import find, load

    path = find(name)
    if path.suffix != ".safetensors":
        return load_official(path, strategy, device)
    header = _metadata(path)
    if "kind" not in header:
        return load_official(path, strategy, device)
    if header["kind"] != KIND:
        raise InputError(
            path, found=f"kind {header['kind']!r}", expected=repr(KIND), fix="Give a model of brain volumes."
        )
    try:
        config = BrainConfig.model_validate_json(header["config"])
    except (KeyError, ValueError) as error:  # pydantic's errors are ValueErrors
        raise InputError(path, found="a damaged header", expected=repr(KIND), fix="Write the file again.") from error
    if strategy is not None and strategy != config.strategy:
        raise InputError(
            path, found=f"a model of strategy {config.strategy}", expected=strategy, fix="Drop --strategy."
        )
    weights = load(path)
    network = network_of(config, weights.tensors, path).eval().requires_grad_(False)
    training = json.loads(header.get("training", "{}"))
    return BrainModel(
        config, network, name=path.name, sha256=weights.sha256, training=training, device=device
    )  # fmt: skip


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except SafetensorError as error:
        raise InputError(
            path, found=f"no safetensors file ({error})", expected="safetensors weights", fix="Give another file."
        ) from error

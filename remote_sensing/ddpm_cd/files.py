"""Networks as files: safetensors that describe themselves.

The header holds the kind, the whole configuration and the facts of the training (JSON); the tensors have the published
names behind `unet.` and `head.`. A file of the diffusion network alone has no head.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from remote_sensing.ddpm_cd.config import DetectorConfig, DiffusionConfig, from_data
from remote_sensing.ddpm_cd.detector import ChangeDetector
from remote_sensing.ddpm_cd.unet import UNet
from shared.errors import InputError
from shared.files import atomic_path

DETECTOR = "fewstep change detector 1"
DIFFUSION = "fewstep image diffusion 1"

Module = TypeVar("Module", bound=nn.Module)


def save_detector(
    path: str | os.PathLike[str],
    config: DetectorConfig,
    tensors: Mapping[str, Tensor],
    training: Mapping[str, Any],
    *,
    half: bool = True,
) -> None:
    """Write a detector; an existing file is replaced as a whole.

    Args:
        path: ending in .safetensors.
        config: of the detector.
        tensors: state of a `ChangeDetector`.
        training: what it was trained on and how.
        half: store float16, half of the size, instead of float32.
    """
    _save(path, DETECTOR, config.model_dump_json(), tensors, training, half=half)


def load_detector(
    name: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> tuple[ChangeDetector, dict[str, Any]]:
    """Read a detector by name or path, in evaluation mode, and the facts of its training; it runs in float32.

    Raises:
        InputError: no such weights, weights of another kind, or tensors that do not fit the configuration.
    """
    config, tensors, training = _load(name, DETECTOR)
    detector = ChangeDetector(from_data(DetectorConfig, config))
    return filled(detector, tensors, name).to(device).eval().requires_grad_(False), training


def save_diffusion(
    path: str | os.PathLike[str],
    config: DiffusionConfig,
    tensors: Mapping[str, Tensor],
    training: Mapping[str, Any],
    *,
    half: bool = True,
) -> None:
    """Write a diffusion network, the state of a `UNet`; arguments as for `save_detector`."""
    _save(path, DIFFUSION, config.model_dump_json(), tensors, training, half=half)


def load_diffusion(name: str | os.PathLike[str]) -> tuple[UNet, DiffusionConfig, dict[str, Any]]:
    """Read a diffusion network, in evaluation mode, its configuration and the facts of its training.

    Raises:
        InputError: as for `load_detector`.
    """
    values, tensors, training = _load(name, DIFFUSION)
    config = from_data(DiffusionConfig, values)
    return filled(UNet(config.unet), tensors, name).eval(), config, training


def filled(module: Module, tensors: Mapping[str, Tensor], source: str | os.PathLike[str]) -> Module:
    """Return the module with exactly these tensors, in float32; the module may live on the meta device.

    Raises:
        InputError: a tensor is unknown, missing or of another shape.
    """
    own = module.state_dict()
    problems = [f"unknown {key}" for key in sorted(set(tensors) - set(own))]
    problems += [f"no {key}" for key in sorted(set(own) - set(tensors))]
    problems += [
        f"{key} {tuple(tensors[key].shape)}, not {tuple(value.shape)}"
        for key, value in own.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    if problems:
        raise InputError(
            source,
            found=f"{'; '.join(problems[:3])}{f' and {len(problems) - 3} more' if len(problems) > 3 else ''}",
            expected=f"the {len(own)} tensors of this network",
            fix="Give the weights and the configuration that belong together.",
        )
    module.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
    return module


def fingerprint(module: nn.Module, *facts: str) -> str:
    """Return a hash of all weights, and of the facts that go with them."""
    digest = hashlib.sha256(" ".join(facts).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _save(
    path: str | os.PathLike[str],
    kind: str,
    config: str,
    tensors: Mapping[str, Tensor],
    training: Mapping[str, Any],
    *,
    half: bool,
) -> None:
    from safetensors.torch import save_file

    dtype = torch.float16 if half else torch.float32
    stored = {name: value.detach().cpu().to(dtype).contiguous() for name, value in tensors.items()}
    with atomic_path(path, overwrite=True) as scratch:
        save_file(stored, scratch, metadata={"kind": kind, "config": config, "training": json.dumps(dict(training))})


def _load(name: str | os.PathLike[str], kind: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]]:
    from shared.weights import load

    weights = load(name)
    if weights.metadata.get("kind") != kind:
        raise InputError(
            weights.path,
            found=f"kind {weights.metadata.get('kind')!r}",
            expected=repr(kind),
            fix="Give a file of that kind.",
        )
    try:
        return json.loads(weights.metadata["config"]), weights.tensors, json.loads(weights.metadata["training"])
    except (KeyError, json.JSONDecodeError) as error:
        raise InputError(
            weights.path, found=f"a damaged header ({error})", expected=repr(kind), fix="Write the file again."
        ) from error

"""Policies as files: safetensors that describe themselves.

The header holds the kind, the whole configuration and the facts of the training (JSON). The tensors have the published
names of Diffusion Policy: `model.*` and `normalizer.params_dict.{obs,action}.*`, and with images LeRobot's
`rgb_encoder.*`. The normaliser of the observations has one entry a number and one a channel of an image.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from robotics.policy.config import PolicyConfig
from robotics.policy.networks import build_network
from robotics.policy.normalise import Normaliser
from robotics.policy.policy import Policy
from shared.errors import InputError
from shared.files import atomic_path

KIND = "fewstep policy 1"
MODEL, ENCODER = "model.", "rgb_encoder."
OBSERVATION, ACTION = "normalizer.params_dict.obs", "normalizer.params_dict.action"


def save_policy(
    path: str | os.PathLike[str],
    config: PolicyConfig,
    network: Mapping[str, Tensor],
    observation: Normaliser,
    action: Normaliser,
    facts: Mapping[str, Any],
    *,
    half: bool = False,
) -> None:
    """Write a policy; an existing file is replaced as a whole.

    Args:
        path: ending in .safetensors.
        config: of the policy.
        network: state of its network.
        observation: normaliser of one observation, as `Policy.observation`.
        action: normaliser of one action.
        facts: what it was trained on and how, JSON types.
        half: store the network in float16, half of the size; the normalisers stay float32.
    """
    from safetensors.torch import save_file

    def plain(value: Tensor, dtype: torch.dtype) -> Tensor:
        return value.detach().cpu().to(dtype).contiguous().clone()

    dtype = torch.float16 if half else torch.float32
    tensors = {f"{_prefix(config)}{name}": plain(value, dtype) for name, value in network.items()}
    for normaliser, prefix in ((observation.gathered(config.observation_repeats), OBSERVATION), (action, ACTION)):
        tensors |= {name: plain(value, torch.float32) for name, value in normaliser.tensors(prefix).items()}
    header = {"kind": KIND, "config": config.model_dump_json(), "training": json.dumps(dict(facts))}
    with atomic_path(path, overwrite=True) as scratch:
        save_file(tensors, scratch, metadata=header)


def load_policy(name: str | os.PathLike[str], device: torch.device | str = "cpu") -> Policy:
    """Read a policy by name or path, in evaluation mode; it runs in float32.

    Raises:
        InputError: no such weights, weights of another kind, or tensors that do not fit the configuration.
    """
    from shared.weights import load

    weights = load(name)
    if weights.metadata.get("kind") != KIND:
        raise InputError(
            weights.path,
            found=f"kind {weights.metadata.get('kind')!r}",
            expected=repr(KIND),
            fix="Give a policy, or convert a checkpoint of others with `fewstep policy convert`.",
        )
    try:
        config = PolicyConfig.model_validate_json(weights.metadata["config"])
    except (KeyError, ValidationError) as error:
        raise InputError(
            weights.path, found="a damaged header", expected=repr(KIND), fix="Write the file again."
        ) from error
    return policy_from_tensors(config, weights.tensors, source=str(weights.path), device=device)


def policy_facts(name: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the facts of the training that a policy file holds.

    Raises:
        InputError: no such weights.
    """
    from shared.weights import load

    return dict(json.loads(load(name).metadata.get("training", "{}")))


def policy_from_tensors(
    config: PolicyConfig, tensors: Mapping[str, Tensor], *, source: str, device: torch.device | str = "cpu"
) -> Policy:
    """Return the policy with exactly these tensors, whose names are those of the module docstring.

    Raises:
        InputError: a tensor is unknown, missing or of another shape.
    """
    given = network_state(config, tensors)
    known = {*(f"{_prefix(config)}{name}" for name in given)}
    repeats = config.observation_repeats
    observation = Normaliser.from_tensors(tensors, OBSERVATION, len(repeats), source)
    action = Normaliser.from_tensors(tensors, ACTION, config.action.size, source)
    known |= {*observation.tensors(OBSERVATION), *action.tensors(ACTION)}
    with torch.device("meta"):
        network = build_network(config)
    own = network.state_dict()
    problems = [f"unknown {name}" for name in sorted({*given} - {*own} | ({*tensors} - known))]
    problems += [f"no {name}" for name in sorted({*own} - {*given})]
    problems += [
        f"{name} {tuple(given[name].shape)}, not {tuple(value.shape)}"
        for name, value in own.items()
        if name in given and given[name].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise InputError(
            source,
            found=f"{'; '.join(problems[:3])}{more}",
            expected=f"the {len(own)} tensors of this {config.network.kind}",
            fix="Give the weights and the configuration that belong together.",
        )
    network.load_state_dict({name: value.float() for name, value in given.items()}, assign=True)
    _refill_constants(network)
    network.eval().requires_grad_(False)
    return Policy(config, network, observation.spread(repeats), action, device=device)


def network_state(config: PolicyConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a policy's network from tensors with the names of the module docstring."""
    prefixes = (MODEL, ENCODER) if config.images else (MODEL,)
    return {name.removeprefix(_prefix(config)): value for name, value in tensors.items() if name.startswith(prefixes)}


def _prefix(config: PolicyConfig) -> str:
    """Return what a file's names have before those of the network's state; a network with images has it inside."""
    return "" if config.images else MODEL


def _refill_constants(network: torch.nn.Module) -> None:
    """Compute again what a network made on the meta device lacks: constants that are not part of its state."""
    from shared.networks import TimeEmbedding

    for module in network.modules():
        if isinstance(module, TimeEmbedding):
            module.frequencies = TimeEmbedding(2 * len(module.frequencies)).frequencies

"""All state of a training in one safetensors file, so that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import InputError
from shared.files import atomic_path
from shared.training import AveragedWeights


def save_checkpoint(
    path: Path,
    network: nn.Module,
    averaged: AveragedWeights,
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
) -> None:
    """Write network, average, optimiser moments and `facts` (JSON types; "step" and "fingerprint" among them)."""
    from safetensors.torch import save_file

    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in averaged.average.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    facts = {**facts, "average_updates": averaged.updates}
    with atomic_path(path, overwrite=True) as scratch:
        save_file({name: _plain(value) for name, value in tensors.items()}, scratch, {"facts": json.dumps(facts)})


def load_checkpoint(
    path: str | os.PathLike[str],
    network: nn.Module,
    averaged: AveragedWeights,
    optimizer: torch.optim.Optimizer,
    fingerprint: str,
) -> dict[str, Any]:
    """Put a checkpoint's state into network, average and optimiser; return its facts.

    Raises:
        InputError: the file is damaged or belongs to another configuration.
    """
    from shared.weights import load

    stored = load(path)
    facts = json.loads(stored.metadata.get("facts", "{}"))
    if facts.get("fingerprint") != fingerprint:
        raise InputError(
            path,
            found="a checkpoint of another configuration",
            expected="one of this configuration",
            fix="Give another work folder, or the configuration that made the checkpoint.",
        )
    network.load_state_dict(_under(stored.tensors, "network."))
    device = next(network.parameters()).device
    averaged.average = {name: value.to(device) for name, value in _under(stored.tensors, "average.").items()}
    averaged.updates = facts["average_updates"]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _under(stored.tensors, "optimizer.").items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return facts


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _plain(value: Any) -> Tensor:
    """Return a tensor of its own storage, as safetensors wants them."""
    return torch.as_tensor(value).detach().clone().contiguous().cpu()

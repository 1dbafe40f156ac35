"""Control branches on disk: one safetensors file with the branch alone, which names its base and the base's hash."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from motion.control import ControlBranch, ControlConfig, ControlledModel
from motion.files import ModelFile, read_model
from shared.errors import InputError
from shared.files import atomic_path
from shared.weights import Weights, load

KIND = "fewstep motion control 1"
STATISTICS = ("mean", "spread")


@dataclass(frozen=True)
class BranchFile:
    """What a branch file holds.

    Attributes:
        path: of the file.
        config: of the branch.
        base: name of the model that it steers.
        base_sha256: of that model's file.
        tensors: of the branch, as stored.
        training: facts, JSON types.
    """

    path: Path
    config: ControlConfig
    base: str
    base_sha256: str
    tensors: dict[str, Tensor]
    training: dict[str, Any]

    def model(
        self, device: torch.device | str = "cpu", *, base: str | os.PathLike[str] | None = None
    ) -> ControlledModel:
        """Return the base with this branch, in evaluation mode; it runs in float32.

        Args:
            device: where to compute.
            base: file of the base; None for the one of its name, or of its stem beside this file.

        Raises:
            InputError: no base, another base, or tensors that do not fit the configuration.
        """
        beside = self.path.parent / f"{Path(self.base).stem}.safetensors"
        file = read_model(base or (beside if beside.is_file() else self.base))
        if file.sha256 != self.base_sha256:
            raise InputError(
                file.path, found=f"sha256 {file.sha256[:16]}...",
                expected=f"{self.base_sha256[:16]}... of {self.base}, on which {self.path.name} was trained",
                fix="Give that base, or train the branch again.",
            )  # fmt: skip
        try:
            statistics = (self.tensors[name].float() for name in STATISTICS)
            branch = ControlBranch(self.config, file.config, *statistics)
            branch.load_state_dict({name: value.float() for name, value in self.tensors.items()})
        except (RuntimeError, KeyError) as error:
            raise InputError(
                self.path, found=str(error).replace("\n", " ")[:200], expected="the tensors of its configuration",
                fix="Train the branch again.",
            ) from error  # fmt: skip
        return ControlledModel(file.model(device), self.config, branch.eval().requires_grad_(False))


def save_branch(
    path: str | os.PathLike[str],
    config: ControlConfig,
    base: ModelFile,
    name: str,
    branch: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    *,
    half: bool = False,
) -> None:
    """Write a branch; an existing file is replaced as a whole.

    Args:
        path: ending in .safetensors.
        config: of the branch.
        base: file of the model that it steers.
        name: under which that is found.
        branch: its state.
        facts: what it was trained on and how, JSON types.
        half: store it in float16, but for the statistics of places.
    """
    from safetensors.torch import save_file

    def stored(name: str, value: Tensor) -> Tensor:
        dtype = torch.float16 if half and name not in STATISTICS else torch.float32
        return value.detach().cpu().to(dtype).contiguous().clone()

    header = {
        "kind": KIND,
        "config": config.model_dump_json(),
        "base": name,
        "base_sha256": base.sha256,
        "training": json.dumps(dict(facts)),
    }
    with atomic_path(path, overwrite=True) as scratch:
        save_file({key: stored(key, value) for key, value in branch.items()}, scratch, metadata=header)


def is_branch(weights: Weights) -> bool:
    """Return whether weights are those of a control branch."""
    return weights.metadata.get("kind") == KIND


def read_branch(name: str | os.PathLike[str]) -> BranchFile:
    """Read a branch file by name or path.

    Raises:
        InputError: no such weights, weights of another kind, or a header that cannot be read.
    """
    weights = load(name)
    if not is_branch(weights):
        raise InputError(
            weights.path, found=f"kind {weights.metadata.get('kind')!r}", expected=repr(KIND),
            fix="Give what `fewstep motion train` wrote for a branch.",
        )  # fmt: skip
    try:
        return BranchFile(
            weights.path,
            ControlConfig.model_validate_json(weights.metadata["config"]),
            weights.metadata["base"],
            weights.metadata["base_sha256"],
            weights.tensors,
            dict(json.loads(weights.metadata.get("training", "{}"))),
        )
    except (KeyError, ValueError) as error:  # pydantic's and json's errors are ValueErrors
        raise InputError(
            weights.path, found="a damaged header", expected=repr(KIND), fix="Write the file again."
        ) from error

"""Motion models on disk: one safetensors file that describes itself.

Its tensors are those of the network and the statistics of the features; its header holds the kind, the configuration,
the skeleton and the facts of the training.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from motion.config import MotionConfig, Settings
from motion.features import Body
from motion.model import MotionModel
from motion.network import MotionTransformer
from motion.skeleton_data import skeleton_from_data, skeleton_to_data
from shared.errors import InputError
from shared.files import atomic_path

if TYPE_CHECKING:
    from shared.weights import Weights

KIND = "fewstep motion 1"
Config = TypeVar("Config", bound=Settings)
NETWORK, STATISTICS = "network.", "statistics."


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds.

    Attributes:
        path: of the file.
        sha256: of the file, hexadecimal.
        config: of the model.
        body: that it moves.
        tensors: of network and statistics, as stored.
        training: facts, JSON types.
    """

    path: Path
    sha256: str
    config: MotionConfig
    body: Body
    tensors: dict[str, Tensor]
    training: dict[str, Any]

    @property
    def network(self) -> dict[str, Tensor]:
        """Return the network's state, float32."""
        return {
            name.removeprefix(NETWORK): value.float()
            for name, value in self.tensors.items()
            if name.startswith(NETWORK)
        }

    @property
    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the features, (D,) each."""
        return self.tensors[STATISTICS + "mean"], self.tensors[STATISTICS + "spread"]

    def model(self, device: torch.device | str = "cpu") -> MotionModel:
        """Return the model in evaluation mode; it runs in float32.

        Raises:
            InputError: the tensors do not fit the configuration.
        """
        network = MotionTransformer(self.config, self.body.size)
        try:
            network.load_state_dict(self.network)
            mean, spread = self.statistics
        except (RuntimeError, KeyError) as error:
            raise InputError(
                self.path, found=str(error).replace("\n", " ")[:200], expected="the tensors of its configuration",
                fix="Give the weights and the configuration that belong together.",
            ) from error  # fmt: skip
        heights = self.training.get("foot_heights_m")
        return MotionModel(
            self.config, self.body, network.eval().requires_grad_(False), mean, spread, device,
            foot_heights=None if heights is None else torch.tensor(heights, dtype=torch.float64),
        )  # fmt: skip


def save_model(
    path: str | os.PathLike[str],
    config: Settings,
    body: Body,
    network: Mapping[str, Tensor],
    statistics: tuple[Tensor, Tensor],
    facts: Mapping[str, Any],
    *,
    half: bool = False,
    kind: str = KIND,
) -> None:
    """Write a model; an existing file is replaced as a whole.

    Args:
        path: ending in .safetensors.
        config: of the model.
        body: that it moves.
        network: state of its network.
        statistics: mean and standard deviation of the features, (D,) each; they stay float32.
        facts: what it was trained on and how, JSON types.
        half: store the network in float16, half of the size.
        kind: of the file.
    """
    from safetensors.torch import save_file

    dtype = torch.float16 if half else torch.float32
    tensors = {NETWORK + name: value.detach().cpu().to(dtype).contiguous().clone() for name, value in network.items()}
    for name, value in zip(("mean", "spread"), statistics, strict=True):
        tensors[STATISTICS + name] = value.detach().cpu().float().contiguous().clone()
    header = {
        "kind": kind,
        "config": config.model_dump_json(),
        "skeleton": json.dumps(skeleton_to_data(body.skeleton)),
        "training": json.dumps(dict(facts)),
    }
    with atomic_path(path, overwrite=True) as scratch:
        save_file(tensors, scratch, metadata=header)


def read_model(name: str | os.PathLike[str]) -> ModelFile:
    """Read a model file by name or path.

    Raises:
        InputError: no such weights, weights of another kind, or a header that cannot be read.
    """
    from shared.weights import load

    weights = load(name)
    config, body, training = read_header(weights, KIND, MotionConfig)
    return ModelFile(weights.path, weights.sha256, config, body, weights.tensors, training)


def read_header(weights: Weights, kind: str, model: type[Config]) -> tuple[Config, Body, dict[str, Any]]:
    """Return configuration, body and facts of the training from the header of weights.

    Args:
        weights: as stored.
        kind: which they must be of.
        model: of their configuration.

    Raises:
        InputError: weights of another kind, or a header that cannot be read.
    """
    if weights.metadata.get("kind") != kind:
        raise InputError(
            weights.path, found=f"kind {weights.metadata.get('kind')!r}", expected=repr(kind),
            fix="Give a motion model of that kind: a packaged name, or what `fewstep motion train` wrote.",
        )  # fmt: skip
    try:
        config = model.model_validate_json(weights.metadata["config"])
        skeleton = json.loads(weights.metadata["skeleton"])
        training = dict(json.loads(weights.metadata.get("training", "{}")))
    except (KeyError, ValueError) as error:  # pydantic's and json's errors are ValueErrors
        raise InputError(
            weights.path, found="a damaged header", expected=repr(kind), fix="Write the file again."
        ) from error
    return config, Body(skeleton_from_data(skeleton)), training


def load_model(name: str | os.PathLike[str], device: torch.device | str = "cpu") -> MotionModel:
    """Return the model of a file; of a control branch's, its base with it (`motion.control_files`).

    Raises:
        InputError: as `read_model`, or a branch whose base is not found or is another.
    """
    from motion.control_files import is_branch, read_branch
    from shared.weights import load

    return read_branch(name).model(device) if is_branch(load(name)) else read_model(name).model(device)

"""Models of endless motion on disk: as `motion.files`, of their own kind."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from motion.features import Body
from motion.files import NETWORK, STATISTICS, read_header
from motion.streaming.config import StreamConfig
from motion.streaming.model import StreamModel
from motion.streaming.network import StreamTransformer
from shared.errors import InputError

KIND = "fewstep motion stream 1"


@dataclass(frozen=True)
class StreamFile:
    """What a model file holds.

    Attributes:
        path: of the file.
        config: of the model.
        body: that it moves.
        tensors: of network and statistics, as stored.
        training: facts, JSON types.
    """

    path: Path
    config: StreamConfig
    body: Body
    tensors: dict[str, Tensor]
    training: dict[str, Any]

    def model(self, device: torch.device | str = "cpu") -> StreamModel:
        """Return the model in evaluation mode; it runs in float32.

        Raises:
            InputError: the tensors do not fit the configuration.
        """
        network = StreamTransformer(self.config, self.body.size)
        try:
            network.load_state_dict({
                name.removeprefix(NETWORK): value.float()
                for name, value in self.tensors.items()
                if name.startswith(NETWORK)
            })  # fmt: skip
            mean, spread = (self.tensors[STATISTICS + name] for name in ("mean", "spread"))
        except (RuntimeError, KeyError) as error:
            raise InputError(
                self.path, found=str(error).replace("\n", " ")[:200], expected="the tensors of its configuration",
                fix="Give the weights and the configuration that belong together.",
            ) from error  # fmt: skip
        return StreamModel(self.config, self.body, network.eval().requires_grad_(False), mean, spread, device)


def read_stream(name: str | os.PathLike[str]) -> StreamFile:
    """Read a model file by name or path.

    Raises:
        InputError: no such weights, weights of another kind, or a header that cannot be read.
    """
    from shared.weights import load

    weights = load(name)
    config, body, training = read_header(weights, KIND, StreamConfig)
    return StreamFile(weights.path, config, body, weights.tensors, training)


def is_stream(name: str | os.PathLike[str]) -> bool:
    """Return whether a file, by name or path, holds a model of endless motion.

    Raises:
        InputError: no such weights.
    """
    from shared.weights import load

    return load(name).metadata.get("kind") == KIND


def load_stream(name: str | os.PathLike[str], device: torch.device | str = "cpu") -> StreamModel:
    """Return the model of a file: `read_stream(name).model(device)`."""
    return read_stream(name).model(device)

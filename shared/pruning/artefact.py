"""A pruned network as one safetensors file: its weights, and in the header what was cut from which model.

    save_pruned("small.safetensors", pruned, source=network)
    small = load_pruned("small.safetensors", network).network

The architecture comes from the source network at loading, so nothing in the file is run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from shared.calibration.identity import weights_hash
from shared.errors import InputError
from shared.files import atomic_path
from shared.jsontext import json_text
from shared.pruning.surgery import Cut, Pruned, apply_cut
from shared.reuse.interception import Block, check_blocks
from shared.weights import load

FORMAT = "fewstep pruned network 1"


def save_pruned(
    path: str | os.PathLike[str],
    pruned: Pruned,
    *,
    source: nn.Module,
    measured: Mapping[str, float] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a pruned network.

    Args:
        path: file to write, `.safetensors`.
        pruned: the network and its cut.
        source: the whole network that it was made from; the file belongs to its weights.
        measured: numbers for the reader, by name.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists and may not be replaced.
    """
    from safetensors.torch import save_file

    facts = {
        "format": FORMAT,
        "source": {"name": type(source).__name__, "weights": weights_hash(source)},
        "blocks": [asdict(block) for block in pruned.blocks],
        "kept": list(pruned.kept),
        "cut": asdict(pruned.cut),
        "measured": dict(measured or {}),
    }
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in pruned.network.state_dict().items()}
    with atomic_path(path, overwrite=overwrite) as scratch:
        save_file(tensors, scratch, metadata={"pruned": json_text(facts)})


def load_pruned(path: str | os.PathLike[str], source: nn.Module) -> Pruned:
    """Read a pruned network.

    Args:
        path: file written by `save_pruned`, or a name of `shared.weights`.
        source: the whole network, with its weights; not changed.

    Raises:
        InputError: no such file, one that is not a pruned network, or one of another source.
    """
    stored = load(path)
    try:
        facts: dict[str, Any] = json.loads(stored.metadata["pruned"])
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']!r}")
        blocks = tuple(Block(one["name"], tuple(one["modules"]), one["residual"]) for one in facts["blocks"])
        kept = tuple(bool(bit) for bit in facts["kept"])
        passed = {str(name): tuple(parts) for name, parts in facts["cut"]["passed"].items()}
        cut = Cut(tuple(facts["cut"]["dropped"]), passed)
        name, weights = str(facts["source"]["name"]), str(facts["source"]["weights"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            stored.path, found=f"no pruned network ({error})", expected="a file written by save_pruned",
            fix="Check the name and the file.",
        ) from error  # fmt: skip
    if weights_hash(source) != weights:
        raise InputError(
            stored.path, found=f"a pruned {name} with weights {weights[:12]}",
            expected=f"one of this model, {type(source).__name__} with weights {weights_hash(source)[:12]}",
            fix="Load the model that it was made from, or prune this one.",
        )  # fmt: skip
    check_blocks(source, blocks)
    network, names = apply_cut(source, cut)
    try:
        network.load_state_dict(stored.tensors)
    except RuntimeError as error:
        raise InputError(
            stored.path, found=f"weights that do not fit the cut ({str(error).splitlines()[-1].strip()})",
            expected="a file written by save_pruned", fix="Prune the model again.",
        ) from error  # fmt: skip
    return Pruned(network, blocks, kept, cut, names)

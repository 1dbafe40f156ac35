"""State dicts of others: safetensors, or PyTorch files of tensors alone. No code in a file is run."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import torch
from torch import Tensor

from shared.errors import InputError


def read_state_dict(
    path: str | os.PathLike[str], *, fix: str = "Give the file of the weights.", under: str = "state_dict"
) -> dict[str, Tensor]:
    """Read named tensors; of a file that holds them under a key, these.

    Args:
        path: .safetensors, or a file of `torch.save`.
        fix: what the user can do about another file.
        under: the key, if the file has it; Lightning's is "state_dict".

    Raises:
        InputError: the file is absent, damaged, or holds anything else than tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        raise InputError(
            path, found=f"no readable weights ({' '.join(str(error).split())[:120]})",
            expected="a state dict or safetensors, holding tensors only", fix=fix,
        ) from error  # fmt: skip
    if isinstance(content, dict) and isinstance(content.get(under), dict):
        content = content[under]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(path, found="something else than named tensors", expected="a state dict", fix=fix)
    return dict(content)

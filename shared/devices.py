"""The device that a `--device` option names."""

from __future__ import annotations

import torch

from shared.errors import InputError


def resolve_device(name: str = "auto") -> torch.device:
    """Return the torch device called `name`; "auto" takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        InputError: the name is no device, or the machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        present = ["cpu"]
        present += [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        present += ["mps"] if torch.backends.mps.is_available() else []
        raise InputError(
            f"--device {name}",
            found="no such device on this machine",
            expected=f"one of {', '.join(present)}, or auto",
            fix="Choose a device that is present.",
        ) from error
    return device

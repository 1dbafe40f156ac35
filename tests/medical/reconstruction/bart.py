"""BART as a peer: one command on arrays in BART's dimension order, with the files in a temporary folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

needs_bart = pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not installed")


def bart(command: str, *inputs: np.ndarray, outputs: int = 1) -> np.ndarray | list[np.ndarray]:
    """Run `bart command in0 in1 ... out0 ...`; arrays are in BART's order (dimension 0 varies fastest).

    An input that belongs to an option is named in the command as "@in0"; the others follow the command in their order.
    Trailing dimensions of length one are left out of the results.
    """
    with tempfile.TemporaryDirectory() as folder:
        names = [str(Path(folder) / f"in{i}") for i in range(len(inputs))]
        results = [str(Path(folder) / f"out{i}") for i in range(outputs)]
        for name, array in zip(names, inputs, strict=True):
            _write(name, array)
        environment = {**os.environ, "OMP_NUM_THREADS": "2"}
        options = [str(Path(folder) / word[1:]) if word.startswith("@") else word for word in command.split()]
        named = [name for name in names if name not in options]
        call = ["bart", *options, *named, *results]
        subprocess.run(call, check=True, capture_output=True, text=True, env=environment, timeout=120)
        arrays = [_read(name) for name in results]
    return arrays[0] if outputs == 1 else arrays


def _write(name: str, array: np.ndarray) -> None:
    dims = " ".join(str(n) for n in array.shape)
    Path(name + ".hdr").write_text(f"# Dimensions\n{dims}\n")
    array.astype(np.complex64).ravel(order="F").tofile(name + ".cfl")


def _read(name: str) -> np.ndarray:
    dims = [int(n) for n in Path(name + ".hdr").read_text().splitlines()[1].split()]
    while len(dims) > 1 and dims[-1] == 1:
        dims.pop()
    return np.fromfile(name + ".cfl", np.complex64).reshape(dims, order="F")

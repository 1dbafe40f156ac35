"""Trained weights by name: `load("shared/digits_denoiser")`.

A name is "<package>/<stem>". It resolves, in this order, to a local `.safetensors` file, to a file packaged in
`<package>/weights/`, and to one in the user's weights folder (`FEWSTEP_WEIGHTS`, default `~/.cache/fewstep/weights`).
Every packaged file has a line in `<package>/weights/SHA256SUMS` (the format of `sha256sum`) that is checked on loading,
and a model card `<stem>.md` beside it. Only safetensors are read: loading never runs code from a file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shared.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

PACKAGES = ("shared", "medical", "remote_sensing", "robotics", "motion")


@dataclass(frozen=True)
class Weights:
    """Tensors and the facts stored beside them in the safetensors header."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    path: Path
    sha256: str


def load(name: str | os.PathLike[str]) -> Weights:
    """Read the weights called `name`, onto the CPU.

    Raises:
        InputError: no such weights, a file that is not safetensors, or a file that differs from its recorded hash.
    """
    from safetensors import SafetensorError, safe_open

    path = find(name)
    digest = check_recorded_hash(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            return Weights(tensors, dict(file.metadata() or {}), path, digest)
    except SafetensorError as error:
        raise InputError(
            path, found=f"no safetensors file ({error})", expected="safetensors weights", fix="Convert the checkpoint."
        ) from error


def find(name: str | os.PathLike[str]) -> Path:
    """Return the file that `name` resolves to.

    Raises:
        InputError: nothing of that name; the packaged names are listed.
    """
    if Path(name).is_file():
        return Path(name)
    package, _, stem = os.fspath(name).replace("\\", "/").rpartition("/")
    for folder in (_package_folder(package) if package in PACKAGES else None, user_folder() / package):
        if folder is not None and (folder / f"{stem}.safetensors").is_file():
            return folder / f"{stem}.safetensors"
    raise InputError(
        os.fspath(name),
        found="no such weights",
        expected=f"a .safetensors file or one of {', '.join(available()) or '(none installed)'}",
        fix=f"Check the name, or put the file under {user_folder()}.",
    )


def available() -> dict[str, Path]:
    """Return every packaged or user-installed weights file by name, without importing any domain."""
    found: dict[str, Path] = {}
    for package in PACKAGES:
        for folder in (user_folder() / package, _package_folder(package)):
            for path in _files(folder):
                found[f"{package}/{path.stem}"] = path
    return dict(sorted(found.items()))


def user_folder() -> Path:
    """Return the folder in which users put weights that are not packaged."""
    return Path(os.environ.get("FEWSTEP_WEIGHTS", Path.home() / ".cache" / "fewstep" / "weights"))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def check_recorded_hash(path: Path) -> str:
    """Return the SHA-256 of a file.

    Raises:
        InputError: the `SHA256SUMS` beside the file records another.
    """
    digest, recorded = sha256(path), _recorded_hash(path)
    if recorded is not None and recorded != digest:
        raise InputError(
            path,
            found=f"sha256 {digest[:16]}...",
            expected=f"{recorded[:16]}...",
            fix="The file is damaged: install again.",
        )
    return digest


def package_folder(package: str) -> Path | None:
    """Return the folder of one of our packages without importing it, None where it is not installed."""
    spec = importlib.util.find_spec(package)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _files(folder: Path | None) -> Iterator[Path]:
    if folder is not None and folder.is_dir():
        yield from sorted(folder.glob("*.safetensors"))


def _package_folder(package: str) -> Path | None:
    folder = package_folder(package)
    return None if folder is None else folder / "weights"


def _recorded_hash(path: Path) -> str | None:
    sums = path.parent / "SHA256SUMS"
    if not sums.is_file():
        return None
    lines = (line.split() for line in sums.read_text(encoding="ascii").splitlines() if line.strip())
    return {name.lstrip("*"): digest for digest, name in lines}.get(path.name)

"""Outputs appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from shared.errors import InputError


@contextmanager
def atomic_path(
    path: str | os.PathLike[str], *, overwrite: bool = False, kinds: Collection[str] = ()
) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is renamed to `path`, else it is removed.

    The temporary path keeps the full suffix (`.nii.gz`), because libraries choose the format by it. The body may
    create a file or a folder there.

    Args:
        path: the final path. Its parent folder is made when missing.
        overwrite: replace an existing output instead of refusing. A folder is replaced only if it holds no kind of
            file that the new one does not.
        kinds: suffixes of files that may go with an old folder although the new one has none of them.

    Raises:
        InputError: `path` exists and `overwrite` is false, or its parent cannot be written.
    """
    final = Path(path)
    refuse_existing(final, overwrite=overwrite)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{final.name}.", dir=final.parent))
    except OSError as error:
        raise InputError(
            final,
            found=f"a folder that cannot be written ({error.strerror})",
            expected="a writable folder",
            fix="Choose another output path.",
        ) from error
    try:
        yield scratch / final.name
        if final.is_dir():
            _refuse_foreign_files(final, scratch / final.name, kinds)
            final.rename(scratch / f"{final.name}.old")
        (scratch / final.name).replace(final)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def refuse_existing(path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Raise `InputError` if `path` exists and may not be replaced. Call it before long work, not only after."""
    if Path(path).exists() and not overwrite:
        raise InputError(
            path,
            found="an existing output",
            expected="a new path",
            fix="Give another path or pass --overwrite.",
        )


def require_writable(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` if `path` could not be made: call it before long work. Nothing is created."""
    parent = next(folder for folder in Path(path).absolute().parents if folder.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
        raise InputError(
            path,
            found=f"{parent}, {'a folder without write permission' if parent.is_dir() else 'which is a file'}",
            expected="a writable folder",
            fix="Choose another output path.",
        )


def require_new_weights(output: Path, *, overwrite: bool = False) -> None:
    """Raise `InputError` unless weights, with their card in .json and .md, may be written. Call it before training."""
    if output.suffix != ".safetensors":
        raise InputError(output, found=f"the suffix {output.suffix!r}", expected=".safetensors", fix="Rename it.")
    for path in (output, output.with_suffix(".json"), output.with_suffix(".md")):
        refuse_existing(path, overwrite=overwrite)
        require_writable(path)


def _refuse_foreign_files(old: Path, new: Path, more: Collection[str]) -> None:
    """Replacing a folder must not delete what we did not write: only kinds of files that the new one has may go."""
    kinds = {path.suffix for path in new.rglob("*") if path.is_file()} | set(more)
    foreign = sorted(path.name for path in old.rglob("*") if path.is_file() and path.suffix not in kinds)
    if foreign:
        raise InputError(
            old,
            found=f"a folder with other files in it ({foreign[0]})",
            expected=f"a new folder or one with only {', '.join(sorted(kinds))} files",
            fix="Choose another folder; nothing was deleted.",
        )

"""Clips on disk: BVH, AMC with its ASF, DeepMimic's JSON in, each plain or gzipped; BVH and animated GLB out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from motion.clips import Motion
from motion.formats.files import kind_of
from shared.errors import InputError

READ = (".bvh", ".amc", ".json")
WRITTEN = (".bvh", ".glb")


def read_clip(
    path: str | os.PathLike[str], *, units: str = "auto", up: str = "auto", fps: float | None = None,
    roles: Mapping[str, str] | None = None, rest_frame: bool | None = None, asf: str | os.PathLike[str] | None = None,
) -> Motion:  # fmt: skip
    """Read a clip by its suffix; what had to be guessed is told in a warning.

    Args:
        path: .bvh, .amc or .json (DeepMimic), with or without .gz.
        units: of BVH and AMC: m, cm, mm, in, cmu (inches / 0.45), or auto.
        up: of BVH and AMC: y, z, or auto.
        fps: frames a second that the file should have said; None to believe it.
        roles: joints by role, where names do not tell them (`motion.roles`).
        rest_frame: of BVH and AMC: whether frame 0 is a rest pose and no motion; None to look.
        asf: skeleton of an AMC file; None for the one beside it.

    Raises:
        InputError: no reader for this suffix, or the file is damaged.
    """
    match kind_of(path):
        case ".bvh":
            from motion.formats.bvh import read_bvh

            return read_bvh(path, units=units, up=up, fps=fps, roles=roles, rest_frame=rest_frame)
        case ".amc":
            from motion.formats.asf import read_amc

            return read_amc(path, asf, units=units, up=up, fps=fps, roles=roles, rest_frame=rest_frame)
        case ".json":
            from motion.formats.deepmimic import read_deepmimic

            return read_deepmimic(path, fps=fps, roles=roles)
    raise InputError(
        path, found=f"the suffix {kind_of(path)!r}", expected=", ".join(READ), fix="Give a clip, with or without .gz."
    )


def write_clip(path: str | os.PathLike[str], motion: Motion, *, overwrite: bool = False) -> None:
    """Write a clip by its suffix: .bvh in the conventions of its skeleton, or .glb.

    Raises:
        InputError: no writer for this suffix, or the file exists.
    """
    require_writer(path)
    if kind_of(path) == ".bvh":
        from motion.formats.bvh import write_bvh as write
    else:
        from motion.formats.gltf import write_glb as write
    write(path, motion, overwrite=overwrite)


def require_writer(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` unless a clip can be written by this name. Call it before long work."""
    if Path(path).suffix.lower() not in WRITTEN:
        raise InputError(
            path, found=f"the suffix {Path(path).suffix!r}", expected=", ".join(WRITTEN), fix="Rename the output."
        )

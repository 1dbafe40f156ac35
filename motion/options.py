"""Clips and roles as the command line names them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from shared.errors import InputError

if TYPE_CHECKING:
    from motion.clips import Motion


def clip_of(path: Path, **options: Any) -> Motion:
    """Read a clip and print what had to be guessed as notes on standard error."""
    from motion.formats import read_clip

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        motion = read_clip(path, **options)
    for warning in caught:
        typer.echo(f"note: {warning.message}", err=True)
    return motion


def roles_of(given: list[str] | None) -> dict[str, str]:
    """Return the joint of each role, by name, from texts such as left_toe=Ball_L."""
    pairs = [text.partition("=") for text in given or []]
    for role, mark, name in pairs:
        if not (role and mark and name):
            found = repr(role + mark + name)
            raise InputError("--role", found=found, expected="ROLE=JOINT", fix="Such as left_toe=Ball_L.")
    return {role: name for role, _, name in pairs}

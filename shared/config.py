"""Configurations are data: a YAML file becomes a validated pydantic model.

Packaged configurations live in the repository folder `configs/` (inside a wheel: `shared/configs/`) and are named
"<domain>/<name>". A wrong key or value is an error that names it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from shared.errors import InputError

Model = TypeVar("Model", bound=BaseModel)


def packaged_configs() -> Path:
    """Return the folder of packaged configurations, in a wheel or in a checkout."""
    here = Path(__file__).resolve().parent
    return here / "configs" if (here / "configs").is_dir() else here.parent / "configs"


def find_config(name: str | os.PathLike[str]) -> Path:
    """Return the path of a configuration given as a file or as a packaged name such as "medical/demo".

    Raises:
        InputError: neither exists; the packaged names are listed.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = packaged_configs() / f"{os.fspath(name)}.yaml"
    if packaged.is_file():
        return packaged
    known = sorted(
        p.relative_to(packaged_configs()).with_suffix("").as_posix() for p in packaged_configs().rglob("*.yaml")
    )
    raise InputError(
        path, found="no such configuration", expected=f"a YAML file or one of {', '.join(known)}", fix="Check the name."
    )


def load_config(name: str | os.PathLike[str], model: type[Model]) -> Model:
    """Read a configuration and validate it as `model`.

    Args:
        name: a YAML file, or the name of a packaged configuration.
        model: the pydantic model; make it `extra="forbid"` so that a misspelt key is an error.

    Raises:
        InputError: the file is absent, is not YAML, or has a wrong key or value.
    """
    path = find_config(name)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise InputError(
            path, found=f"no YAML ({line})", expected="key: value lines", fix="Correct the file."
        ) from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise InputError(
            path,
            found=f"a {type(values).__name__}",
            expected="key: value lines at the top level",
            fix="Correct the file.",
        )
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "top level"
        raise InputError(
            path,
            found=f"{key}: {first.get('input')!r}",
            expected=first["msg"],
            fix=f"Known keys: {', '.join(model.model_fields)}.",
        ) from error

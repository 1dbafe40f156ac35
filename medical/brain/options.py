"""Options that several commands of `fewstep brain` have, and what becomes of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.errors import InputError

if TYPE_CHECKING:
    from medical.brain.model import BrainModel

Model = Annotated[
    str, typer.Option(metavar="FILE", help="Model: of fewstep (.safetensors, or a packaged name) or MedForj.")
]
Condition = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="What the model is told, such as ventricles_cm3=30; repeatable."),
]
Guidance = Annotated[float, typer.Option(min=0, help="Scale of classifier-free guidance; 1: none.")]
Strategy = Annotated[
    str | None, typer.Option(help="noise, clean, velocity, flow or rflow, if the name of a MedForj file is silent.")
]


def three(text: str, source: str) -> tuple[int, int, int]:
    """Return the numbers of "XxYxZ"."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(source, found=repr(text), expected="XxYxZ, whole numbers", fix="Such as 192x224x192.")
    x, y, z = map(int, parts)
    return x, y, z


def loaded_model(name: str, strategy: str | None, device: str, autoencoder: Path | None = None) -> BrainModel:
    """Return the model of a file.

    Raises:
        InputError: an unknown strategy, or as of `load_brain`.
    """
    from medical.brain.files import load_brain
    from medical.brain.model import PREDICTIONS
    from shared.devices import resolve_device

    chosen = next((known for known in PREDICTIONS if known == strategy), None)
    if chosen != strategy:
        raise InputError(
            "--strategy", found=repr(strategy), expected=f"one of {', '.join(PREDICTIONS)}", fix="Correct it."
        )
    return load_brain(name, chosen, resolve_device(device), autoencoder=autoencoder)

"""Models by name, ready to be sampled: what `fewstep calibrate MODEL` opens.

A domain, or a third party, adds its models through the entry-point group `fewstep.models`: the entry's name is the
name of the model, its value a function (name, device) -> `Model`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points

import torch

from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.process import NoiseProcess

GROUP = "fewstep.models"
OURS = {
    "shared/digits_denoiser": "shared.digits:digits_model",
    "shared/action_unet": "shared.examples:load_example",
    "shared/photo_unet": "shared.examples:load_example",
    "shared/digits_dit": "shared.examples:load_example",
}


@dataclass(frozen=True)
class Model:
    """A denoiser with all that a sampling needs.

    Attributes:
        name: as given to `load_model`.
        denoiser: the estimate of clean data.
        process: its noise process.
        shape: of one sample, without the batch.
        guidance: guidance scale in the denoiser, None without guidance.
    """

    name: str
    denoiser: Denoiser
    process: NoiseProcess
    shape: tuple[int, ...]
    guidance: float | None = None


def load_model(name: str, *, device: torch.device | str = "cpu") -> Model:
    """Return the model called `name`.

    Raises:
        InputError: no such model; the known ones are listed.
    """
    loaders: dict[str, Callable[[], Callable[..., Model]]] = {
        entry.name: entry.load for entry in entry_points(group=GROUP)
    }
    if name in OURS:
        module, _, function = OURS[name].partition(":")
        return getattr(import_module(module), function)(name, device)
    if name in loaders:
        return loaders[name]()(name, device)
    raise InputError(
        name,
        found="no such model",
        expected=f"one of {', '.join(sorted({*OURS, *loaders}))}",
        fix=f"Check the name; a package adds models through the entry-point group {GROUP}.",
    )

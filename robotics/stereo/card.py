"""The card beside a stereo model: what its header says, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robotics.stereo.confidence import FittedConfidence
from robotics.stereo.files import read_stereo
from shared.files import atomic_path


def write_card(model: Path, *, overwrite: bool = False) -> Path:
    """Write `<model>.md` from the header of a model file, and return its path.

    Args:
        model: a .safetensors path.
        overwrite: replace an existing card.

    Raises:
        InputError: no stereo model, or a card that may not be replaced.
    """
    file = read_stereo(model)
    facts = file.training
    start = facts.get("start")
    parameters = sum(value.numel() for value in file.tensors.values())
    lines = [
        f"# {model.stem}",
        "",
        "Disparity of a rectified stereo pair by residual diffusion: a first map is made better in a few network "
        "calls.",
        "",
        f"- **Network**: {file.config.kind}, {parameters} parameters, `{file.config.model_dump_json()}`.",
        f"- **Data**: {_scenes(facts.get('data', []), facts['scenes'])}, simulated (`fewstep stereo generate`).",
        *([] if start is None else [f"- **Start**: the weights of `{start['name']}` (sha256 {start['sha256'][:16]})."]),
        f"- **Recipe**: {facts['steps']} of {facts['of_steps']} steps of AdamW, batch {facts['batch']}, crops of "
        f"{facts['crop'][1]}x{facts['crop'][0]} pixels, rate {facts['learning_rate']:g} falling along a half cosine, "
        f"average of weights {facts['average']:g}, seed {facts['seed']}, {facts['seconds']} s.",
        f"- **Command**: `fewstep stereo train {facts['name']} --data SCENES -o {model.name}`",
        *_branch(facts.get("surfaces"), model),
        "",
        "## Losses",
        *_table(facts["losses"]),
        "",
        "## Confidence",
        *_confidence(file.fitted),
        "",
        "## Limits",
        "It has seen simulated pairs alone. Measure it on pairs of your cameras: `fewstep stereo evaluate`.",
        "",
    ]
    path = model.with_suffix(".md")
    with atomic_path(path, overwrite=overwrite) as scratch:
        scratch.write_text("\n".join(lines), encoding="utf-8")
    return path


def _scenes(data: Sequence[Mapping[str, Any]], count: int) -> str:
    parts = []
    for part in data:
        width, height = part["size"]
        parts.append(f"`{part['folder']}` ({part['scenes']} pairs of {width}x{height} pixels, seed {part['seed']})")
    return f"{count} pairs" + (f": {', '.join(parts)}" if parts else "")


def _branch(facts: Mapping[str, Any] | None, model: Path) -> list[str]:
    """Return what is known of the branch for glass and mirrors."""
    if facts is None:
        return []
    start = facts["start"]
    return [
        f"- **Glass and mirrors**: a branch of {facts['parameters']} parameters, the rest frozen (`{start['name']}`, "
        f"sha256 {start['sha256'][:16]}): {facts['crops']} crops of {facts['crop'][1]}x{facts['crop'][0]} pixels, "
        f"{facts['share']:.1%} of them glass and mirrors, from "
        f"{_scenes(facts['data'], facts['scenes'])}; {facts['steps']} of {facts['of_steps']} steps of AdamW, batch "
        f"{facts['batch']}, rate {facts['learning_rate']:g} falling along a half cosine, average of weights "
        f"{facts['average']:g}, seed {facts['seed']}, {facts['seconds']} s; losses "
        f"{', '.join(f'{name} {value:.4g}' for name, value in facts['losses'].items())}. "
        f"`fewstep stereo train-surfaces CONFIG --start {start['name']} --data SCENES -o {model.name}`",
    ]


def _table(numbers: Mapping[str, float]) -> list[str]:
    return [
        "",
        "| measure | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4g} |" for name, value in numbers.items()),
    ]


def _confidence(fitted: FittedConfidence | None) -> list[str]:
    if fitted is None:
        return ["", "Not fitted: `fewstep stereo calibrate`."]
    settings = ", ".join(f"{name} {value}" for name, value in fitted.settings.items())
    return [
        "",
        f"Of {_scenes(fitted.data['folders'], fitted.data['scenes'])} fitted to every second one and calibrated on "
        f"the others, for {settings}; measured on the former.",
        *_table(fitted.measured),
    ]

"""The card beside a brain model: what its header says, for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from medical.brain.config import BrainConfig
from medical.brain.files import KIND
from shared.errors import InputError
from shared.files import atomic_path
from shared.weights import load


def write_card(model: Path, *, overwrite: bool = False) -> Path:
    """Write `<model>.md` from the header of a model's file, and return its path.

    Args:
        model: a .safetensors path.
        overwrite: replace an existing card.

    Raises:
        InputError: no brain model, one of an older training, or a card that may not be replaced.
    """
    header = load(model).metadata
    facts: dict[str, Any] = json.loads(header.get("training", "{}"))
    if header.get("kind") != KIND or "data" not in facts:
        raise InputError(
            model, found=f"kind {header.get('kind')!r}", expected=f"{KIND!r}, with the facts of its training",
            fix="Give a model that `fewstep brain train` wrote.",
        )  # fmt: skip
    config = BrainConfig.model_validate_json(header["config"])
    path = model.with_suffix(".md")
    with atomic_path(path, overwrite=overwrite) as scratch:
        scratch.write_text("\n".join([f"# {model.stem}", "", *_lines(config, facts), ""]), encoding="utf-8")
    return path


def _lines(config: BrainConfig, facts: dict[str, Any]) -> list[str]:
    losses = facts["losses"]
    size = " x ".join(map(str, config.size))
    folded = ", on the Haar coefficients of 2 x 2 x 2 voxels" if config.fold == "haar" else ""
    if config.skip == "stationary":
        folded += ", around the estimate of a Gaussian model of the heads"
    begun = "--start FIRST.safetensors " if "begun_with" in facts else ""
    made = "simulated from label maps" if facts["simulated"] else "prepared volumes"
    conditions = [
        f"{name} {low:g} to {high:g} (median {middle:g})" for name, (low, middle, high) in facts["conditions"].items()
    ]
    conditions += [f"{c.name}: {', '.join(c.words)}" for c in config.conditions if c.words]
    return [
        f"Whole heads of {size} voxels of {config.spacing_mm:g} mm from noise, for `fewstep brain generate`. "
        "Not for diagnosis.",
        "",
        f"- **Network**: MONAI's `DiffusionModelUNet`{folded}; channels {config.channels}, {facts['parameters']} "
        f"parameters; strategy {config.strategy}.",
        f"- **Data**: {facts['heads']} heads, {made}:",
        *(
            f"    - `{source['files']}`, licence {source['licence']}: {', '.join(source['subjects']) or 'held out'}"
            for source in facts["data"]
        ),
        f"- **Held out**: {', '.join(facts['held_out']) or 'nothing'} ({facts['held_out_heads']} heads).",
        f"- **Conditions**: {'; '.join(conditions) or 'none'}.",
        *_recipes(facts),
        f"- **Losses** at the end: {', '.join(f'{name} {value:.4f}' for name, value in losses.items())}. `seen` and "
        "`held_out` are of the averaged weights, on heads trained on and of held-out subjects.",
        f"- **Command**: `fewstep brain train {facts['name']} {begun}--data FOLDER "
        f"-o {Path(facts['name']).name}.safetensors`",
        "",
        "Left and right mean nothing where the training mirrors. "
        + ("No scan was seen: the contrast and texture are those of the simulation." if facts["simulated"] else ""),
    ]  # fmt: skip


def _recipes(facts: dict[str, Any]) -> list[str]:
    """Return a line for the training, after those of what it began with."""
    recipe, first = facts["recipe"], facts.get("begun_with")
    levels = recipe["levels"]
    if levels == "logit_normal":
        levels = f"levels logit-normal {recipe['logit_mean']:g}, {recipe['logit_std']:g}"
    before = _recipes(first) if first and "recipe" in first else []
    called = f"**Then**, by `{facts['name']}`" if first else f"**Recipe**, `{facts['name']}`"
    return [
        *before,
        f"- {called}: {facts['steps']} of {facts['of_steps']} steps of AdamW, batch {recipe['batch']}, rate "
        f"{recipe['learning_rate']:g} falling along a half cosine, weight decay {recipe['weight_decay']:g}, average of "
        f"weights {recipe['average']:g}, {levels}, {recipe['precision']}, seed {recipe['seed']}, {facts['seconds']} s.",
    ]

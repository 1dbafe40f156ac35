"""The model card beside trained weights: `<stem>.json` for programs and `<stem>.md` for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remote_sensing.ddpm_cd.loop import Trainer
from remote_sensing.training.config import About, PretrainConfig, TrainConfig
from shared.files import atomic_path
from shared.jsontext import json_text

LIMITS = {
    "pretrain": "Features of the images that it was trained on; it was not made to generate images.",
    "train": "Changes of the kind that was labelled, at the pixel size and with the sensor of the training pairs. The "
    "probability is calibrated on the pairs that were held out, if any; without them it only orders pixels. 1/2 is the "
    "boundary.",
}


def write_weights(
    output: Path,
    trainer: Trainer,
    config: PretrainConfig | TrainConfig,
    about: About,
    *,
    command: str,
    files: Mapping[str, list[str]],
    scores: Mapping[str, float],
    overwrite: bool = False,
) -> list[Path]:
    """Write weights and card; return their paths.

    Args:
        output: a `.safetensors` path.
        trainer: at its end.
        config: of the training.
        about: what the card says of data and licence.
        command: that makes these weights.
        files: names of what was trained on, held out and so on.
        scores: measured on what was held out.
        overwrite: replace existing files.
    """
    described = {"name": config.name, **about.model_dump(mode="json")}
    card: dict[str, Any] = {
        **described,
        "method": "ddpm-cd",
        "kind": "train" if isinstance(config, TrainConfig) else "pretrain",
        "network": trainer.settings.model_dump(mode="json"),
        "command": command,
        "measured": {**trainer.facts(), "parameters": _parameters(trainer), **scores},
        "files": dict(files),
    }
    texts = {output.with_suffix(".json"): json_text(card), output.with_suffix(".md"): _markdown(card)}
    with atomic_path(output, overwrite=overwrite) as scratch:
        trainer.export_to(scratch, described)
    for target, text in texts.items():
        with atomic_path(target, overwrite=overwrite) as scratch:
            scratch.write_text(text, encoding="utf-8")
    return [output, *texts]


def _parameters(trainer: Trainer) -> int:
    return sum(parameter.numel() for parameter in trainer.network.parameters())


def _markdown(card: Mapping[str, Any]) -> str:
    network, measured = card["network"], card["measured"]
    pretraining = card["kind"] == "pretrain"
    diffusion = network["diffusion"] if pretraining else network["detector"]["diffusion"]
    unet = diffusion["unet"]
    what = "Diffusion network over images" if pretraining else "Change detector on the features of a diffusion network"
    lines = [
        f"# {card['name'].rpartition('/')[2]}",
        "",
        f"{what} (docs/methods/ddpm_cd.md). {card['warning']}".rstrip(),
        "",
        f"- **Network**: {measured['parameters']} parameters, stored in float16; {unet['bands']} bands between "
        f"{diffusion['low']} and {diffusion['high']}; `{unet}`"
        + ("." if pretraining else f"; head `{network['detector']['head']}`."),
        f"- **Data**: {card['data']}",
        f"- **Licence**: {card['licence']}",
        f"- **Recipe**: {measured['steps']} steps of AdamW with {network['batch']} crops of {network['crop']} x "
        f"{network['crop']}, rate {network['rate']:g} falling along a half cosine"
        + ("" if pretraining else f", {network['unet_share']:g} of it for the UNet")
        + f"; average of weights {network['average']:g}, {network['precision']}, seed {network['seed']}; "
        f"{measured['seconds']} s.",
        f"- **Command**: `{card['command']}`",
        "",
        "## Files",
        "",
        *(f"- {name}: {', '.join(names)}" for name, names in card["files"].items() if names),
        "",
    ]
    scores = {
        name: value
        for name, value in measured.items()
        if isinstance(value, float) and name not in {"seconds", "unet_share"}
    }
    if scores:
        lines += ["## Scores on what was held out", "", "| measure | value |", "| --- | --- |"]
        lines += [f"| {name} | {value:.4g} |" for name, value in scores.items()]
        lines += [""]
    return "\n".join([*lines, "## Limits", LIMITS[card["kind"]], ""])

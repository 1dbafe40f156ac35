"""Trained weights with their model card: `<stem>.safetensors`, `<stem>.json` for programs and `<stem>.md` for people.

The card's ranges are measured on the slices that the network was trained on, not copied from the configuration: what
counts for the question whether a scan lies outside is the true acceleration, the pixel size that the field of view led
to, and the signal-to-noise ratio of the data themselves.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from medical.reconstruction.quality.domain import facts_of
from medical.simulation.protocol import Ranges
from medical.simulation.volumes import subjects
from medical.training.config import TrainingConfig
from medical.training.dataset import SimulatedSlices
from shared.files import atomic_path
from shared.jsontext import json_text

MEASURED_SLICES = 300
WEIGHTING = {"T1w": "T1", "T2w": "T2"}  # as the gate of `quality.domain` names them
SENTENCE = (
    "Simulated multi-coil scans of real T1-weighted brain volumes and of painted head label maps under open licences; "
    "no measured k-space."
)


def trained_on(slices: SimulatedSlices) -> dict[str, Any]:
    """Return what the slices cover: every number as [lowest, highest], names as sorted lists."""
    seen = [slices[number] for number in range(len(slices))]
    facts = [facts_of(s.kspace, s.mask, s.spacing, white=True) for s in seen]
    numbers: dict[str, list[float]] = {
        "acceleration": [s.acceleration for s in seen],
        "coils": [len(s.kspace) for s in seen],
        "matrix": [n for s in seen for n in s.mask.shape],
        "spacing_mm": [size for s in seen for size in s.spacing],
        "fov_mm": [size for s in seen for size in s.provenance["fov_mm"]],
        "snr": [f.snr for f in facts if f.snr is not None],
        "calibration": [f.calibration for f in facts],
    }
    return {
        "patterns": sorted({s.pattern for s in seen}),
        **{name: [min(values), max(values)] for name, values in numbers.items()},
        "contrasts": sorted({WEIGHTING.get(s.provenance["contrast"], s.provenance["contrast"]) for s in seen}),
        "anatomy": ["brain"],
    }


def write_weights(
    output: str | os.PathLike[str],
    network: nn.Module,
    config: TrainingConfig,
    covered: dict[str, Any],
    measured: dict[str, Any],
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write weights, card and card draft; return their paths.

    Args:
        output: a `.safetensors` path.
        network: with the weights to keep.
        config: of the training.
        covered: from `trained_on`.
        measured: steps, seconds, validation scores.
        overwrite: replace existing files.
    """
    from safetensors.torch import save_file

    path = Path(output)
    card = {
        "name": config.name,
        "method": config.method,
        "network": config.network,
        "licence": "Apache-2.0",
        "data": SENTENCE,
        "simulated": True,
        "trained_on": covered,
        "measured": {"parameters": sum(p.numel() for p in network.parameters()), **measured},
        "subjects": [{"name": s.name, "file": s.file, "licence": s.licence} for s in subjects("train")],
        "warning": "Trained on simulated data. For research, not for diagnosis.",
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    text = {path: None, path.with_suffix(".json"): json_text(card), path.with_suffix(".md"): _markdown(card, config)}
    for target, content in text.items():
        with atomic_path(target, overwrite=overwrite) as scratch:
            if content is None:
                save_file(tensors, scratch, {"card": json_text(card)})
            else:
                scratch.write_text(content, encoding="utf-8")
    return list(text)


def range_sample(
    config: TrainingConfig, data: str | os.PathLike[str], cache: str | os.PathLike[str]
) -> SimulatedSlices:
    """Return the first slices of a training, on which the card's ranges are measured."""
    length = min(MEASURED_SLICES, config.steps * config.slices_per_step)
    return SimulatedSlices("train", config.ranges, data, cache, length=length, seed=config.seed)


def _markdown(card: dict[str, Any], config: TrainingConfig) -> str:
    ranges: Ranges = config.ranges
    covered, measured = card["trained_on"], card["measured"]
    stem = card["name"].rpartition("/")[2]
    lines = [
        f"# {stem}",
        "",
        "Learned reconstruction of undersampled multi-coil brain MRI, trained on simulated scans. Not for diagnosis.",
        "",
        f"- **Network**: `{card['network']}`, {measured['parameters']} parameters.",
        f"- **Data**: {card['data']} Subjects: {', '.join(s['name'] for s in card['subjects'])} (licences: "
        f"{', '.join(sorted({s['licence'] for s in card['subjects']}))}).",
        f"- **Recipe**: {measured.get('steps', config.steps)} steps of AdamW with {config.slices_per_step} slice(s) "
        f"each, rate {config.learning_rate:g} falling along a half cosine, average of weights {config.average:g}, seed "
        f"{config.seed}; loss 1 - SSIM + {config.complex_weight:g} x L1 of coil images and magnitude.",
        f"- **Command**: `fewstep mri train {config.name} --data BRAINS --output {stem}.safetensors`",
        "",
        "## What it has seen",
        "",
        "| | lowest | highest |",
        "| --- | --- | --- |",
        *(
            f"| {name} | {values[0]:.3g} | {values[1]:.3g} |"
            for name, values in covered.items()
            if isinstance(values[0], (int, float))
        ),
        "",
        *(
            f"- {name}: {', '.join(map(str, values))}"
            for name, values in covered.items()
            if not isinstance(values[0], (int, float))
        ),
        f"- share of scans with motion between shots: {ranges.motion:g}",
        "",
        "## Scores on held-out simulated slices",
        "",
        "| measure | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4g} |" for name, value in measured.get("validation", {}).items()),
        "",
        "## Limits",
        "Axial slices of adult heads; contrasts are made by signal curves and painted tissues, not by relaxation. No "
        "measured k-space was seen.",
        "",
    ]
    return "\n".join(lines)

"""The card beside a motion model: what its header says, for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from motion.control_files import BranchFile, is_branch, read_branch
from motion.files import ModelFile, read_model
from motion.streaming.files import StreamFile, is_stream, read_stream
from shared.files import atomic_path
from shared.weights import load


def write_card(model: Path, *, overwrite: bool = False) -> Path:
    """Write `<model>.md` from the header of a model's or a branch's file, and return its path.

    Args:
        model: a .safetensors path.
        overwrite: replace an existing card.

    Raises:
        InputError: no motion model, or a card that may not be replaced.
    """
    file: BranchFile | StreamFile | ModelFile
    if is_branch(load(model)):
        file = read_branch(model)
    else:
        file = read_stream(model) if is_stream(model) else read_model(model)
    lines = _branch(file) if isinstance(file, BranchFile) else _model(file)
    path = model.with_suffix(".md")
    with atomic_path(path, overwrite=overwrite) as scratch:
        scratch.write_text(
            "\n".join([f"# {model.stem}", "", *lines, *_made_of(model.name, file.training)]), encoding="utf-8"
        )
    return path


def _model(file: ModelFile | StreamFile) -> list[str]:
    config, facts = file.config, file.training
    shortest, longest = config.frames
    return [
        "Human motion from noise, an action for each frame: a transformer that estimates clean frames.",
        "",
        f"- **Network**: {config.kind}, {facts['parameters']} parameters, `{config.model_dump_json()}`.",
        f"- **Body**: {len(file.body.skeleton)} joints, {len(file.body.driven) + 1} of them driven; {file.body.size} "
        f"features a frame, {config.fps:g} frames a second, windows of {shortest} to {longest} frames.",
    ]


def _branch(file: BranchFile) -> list[str]:
    return [
        "A branch that steers a motion model to hints: places of points of the body in some frames. It draws nothing "
        "without its base.",
        "",
        f"- **Base**: {file.base}, sha256 {file.base_sha256}.",
        f"- **Network**: {file.config.kind}, {file.training['parameters']} parameters, "
        f"`{file.config.model_dump_json()}`.",
    ]


def _made_of(name: str, facts: dict[str, Any]) -> list[str]:
    teacher = facts.get("teacher")
    verb = f"train {facts['name']}"
    if teacher is not None:
        verb = f"distil {teacher['file']} --steps {facts['of_steps']} --calls {teacher['calls']}"
    return [
        f"- **Data**: {facts['clips']} clips, with their mirror images; held out: "
        f"{', '.join(facts['held_out']) or 'none'}. The licences of the data hold for what is made of them.",
        f"- **Recipe**: {facts['steps']} of {facts['of_steps']} steps of AdamW, batch {facts['batch']}, rate "
        f"{facts['learning_rate']:g} falling along a half cosine, average of weights {facts['average']:g}, seed "
        f"{facts['seed']}, {facts['seconds']} s.",
        *(
            []
            if teacher is None
            else [
                f"- **Teacher**: `{teacher['file']}`, sha256 {teacher['sha256']}; one call goes where its DDIM of "
                f"{teacher['calls']} calls ends."
            ]
        ),
        f"- **Command**: `fewstep motion {verb} --data {facts.get('collection', 'CLIPS')} -o {name}`",
        "",
        "## Data",
        "",
        "| folder: licence | clips | s |",
        "| --- | --- | --- |",
        *(f"| {folder} | {entry['clips']:g} | {entry['s']:g} |" for folder, entry in facts["data"].items()),
        "",
        "The data from CMU were obtained from mocap.cs.cmu.edu. The database was created with funding from NSF "
        "EIA-0196217." if any("CMU" in folder for folder in facts["data"]) else "",
        "",
        "## Recorded time of each action, held-out clips with it",
        "",
        "| action | s |",
        "| --- | --- |",
        *(f"| {action} | {seconds:g} |" for action, seconds in facts["action_seconds"].items()),
        "",
        "## Losses",
        "",
        "| measure | value |",
        "| --- | --- |",
        *(f"| {loss} | {value:.4g} |" for loss, value in facts["losses"].items()),
        "",
        "## Limits",
        "It knows what it was shown, and of rare actions that is seconds. It knows no scene: goals and obstacles are "
        "the work of guidance. Judge its motions beside recordings: `fewstep motion evaluate`.",
        "",
    ]  # fmt: skip

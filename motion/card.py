"""The card beside a motion model: what its header says, for people."""

from __future__ import annotations

from pathlib import Path

from motion.files import read_model
from shared.files import atomic_path


def write_card(model: Path, *, overwrite: bool = False) -> Path:
    """Write `<model>.md` from the header of a model file, and return its path.

    Args:
        model: a .safetensors path.
        overwrite: replace an existing card.

    Raises:
        InputError: no motion model, or a card that may not be replaced.
    """
    file = read_model(model)
    facts, config = file.training, file.config
    shortest, longest = config.frames
    teacher = facts.get("teacher")
    verb = f"train {facts['name']}" if teacher is None else f"distil {teacher['file']} --steps {facts['of_steps']}"
    lines = [
        f"# {model.stem}",
        "",
        "Human motion from noise, an action for each frame: a transformer that estimates clean frames.",
        "",
        f"- **Network**: {config.kind}, {facts['parameters']} parameters, `{config.model_dump_json()}`.",
        f"- **Body**: {len(file.body.skeleton)} joints, {len(file.body.driven) + 1} of them driven; {file.body.size} "
        f"features a frame, {config.fps:g} frames a second, windows of {shortest} to {longest} frames.",
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
        f"- **Command**: `fewstep motion {verb} --data {facts.get('collection', 'CLIPS')} -o {model.name}`",
        "",
        "## Data",
        "",
        "| folder: licence | clips | s |",
        "| --- | --- | --- |",
        *(f"| {name} | {entry['clips']:g} | {entry['s']:g} |" for name, entry in facts["data"].items()),
        "",
        "The data from CMU were obtained from mocap.cs.cmu.edu. The database was created with funding from NSF "
        "EIA-0196217." if any("CMU" in name for name in facts["data"]) else "",
        "",
        "## Recorded time of each action, held-out clips with it",
        "",
        "| action | s |",
        "| --- | --- |",
        *(f"| {name} | {seconds:g} |" for name, seconds in facts["action_seconds"].items()),
        "",
        "## Losses",
        "",
        "| measure | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4g} |" for name, value in facts["losses"].items()),
        "",
        "## Limits",
        "It knows what it was shown, and of rare actions that is seconds. It knows no scene: goals and obstacles are "
        "the work of guidance. Judge its motions beside recordings: `fewstep motion evaluate`.",
        "",
    ]  # fmt: skip
    path = model.with_suffix(".md")
    with atomic_path(path, overwrite=overwrite) as scratch:
        scratch.write_text("\n".join(lines), encoding="utf-8")
    return path

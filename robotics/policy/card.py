"""The model card beside a trained policy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robotics.policy.training import PolicyTraining
from shared.files import atomic_path


def write_card(
    output: Path,
    settings: PolicyTraining,
    facts: Mapping[str, Any],
    *,
    data: str,
    teacher: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `<output>.md` and return its path.

    Args:
        output: the policy's .safetensors path.
        settings: of the training.
        facts: from `PolicyTrainer.export`.
        data: name of the demonstrations.
        teacher: name of the policy that was distilled; None for a training from scratch.
        overwrite: replace an existing card.
    """
    policy, scores = settings.policy, facts["scores"]
    verb = f"train {settings.name}" if teacher is None else f"distil {teacher} --steps {settings.steps}"
    parts = ", ".join(f"{field.name} ({field.size})" for field in policy.observation)
    lines = [
        f"# {output.stem}",
        "",
        f"A diffusion policy: {policy.action.size} actions at {policy.action.rate_hz:g} Hz from {parts}.",
        "",
        f"- **Network**: {policy.network.kind}, {facts['parameters']} parameters, `{policy.network.model_dump_json()}`;"
        f" predicts {policy.prediction} over {policy.noise.steps} {policy.noise.kind} steps.",
        f"- **Chunk**: {policy.chunk.observe} observations, {policy.chunk.horizon} actions, {policy.chunk.execute} "
        "executed.",
        *([] if teacher is None else [f"- **Teacher**: `{teacher}`; one call goes where its sampling ends."]),
        f"- **Data**: `{data}`, {facts['episodes']} episodes"
        f"{' and their mirror images' * (settings.mirror is not None)} ({facts['windows']} windows), "
        f"{facts['held_out_episodes']} held out. The licence of the data holds for what is made of them.",
        f"- **Recipe**: {facts['steps']} of {settings.steps} steps of AdamW, batch {settings.batch}, rate "
        f"{settings.learning_rate:g} falling along a half cosine, average of weights {settings.average:g}, seed "
        f"{settings.seed}, {facts['seconds']} s.",
        f"- **Command**: `fewstep policy {verb} --data {data} -o {output.name}`",
        "",
        "## Losses",
        "",
        "| measure | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4g} |" for name, value in scores.items()),
        "",
        "## Limits",
        "It has seen one task in one world; a loss says little about success: run `fewstep policy evaluate`.",
        "",
    ]
    path = output.with_suffix(".md")
    with atomic_path(path, overwrite=overwrite) as scratch:
        scratch.write_text("\n".join(lines), encoding="utf-8")
    return path

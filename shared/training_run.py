"""The beginning of a training, its course, which logs, saves and resumes, and the step of its optimiser."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shared.checkpoint import load_checkpoint, save_checkpoint
from shared.errors import InputError
from shared.training import AveragedWeights, rate_share

CHECKPOINT = "checkpoint.safetensors"
MAY_DIFFER = {"name", "checkpoint_minutes", "log_every"}  # between a run and its continuation


class Rhythm(Protocol):
    """The settings of a training that its course needs."""

    @property
    def steps(self) -> int:
        """Return those of the whole training."""
        ...

    @property
    def learning_rate(self) -> float:
        """Return the largest, after the warm-up; it then falls to zero along a half cosine."""
        ...

    @property
    def warmup(self) -> int:
        """Return the steps in which the rate rises from zero."""
        ...

    @property
    def clip_gradient(self) -> float:
        """Return the largest norm of the gradient."""
        ...

    @property
    def log_every(self) -> int:
        """Return the steps between two lines of the log."""
        ...

    @property
    def checkpoint_minutes(self) -> float:
        """Return the time between two checkpoints."""
        ...


class Recipe(Rhythm, Protocol):
    """The settings of a training, all of which decide it but for `MAY_DIFFER`."""

    @property
    def weight_decay(self) -> float:
        """Return that of AdamW."""
        ...

    @property
    def average(self) -> float:
        """Return the largest decay of the average of weights."""
        ...

    def model_dump_json(self, *, exclude: Any = None) -> str:
        """Return the settings as text, as pydantic does."""
        ...


class Trainer(Protocol):
    """A training in progress.

    Attributes:
        folder: for checkpoint and log.
        average: of the network's weights.
        facts: "step" and "seconds" so far, "losses" of the last line of the log, "fingerprint".
    """

    folder: Path
    average: AveragedWeights
    facts: dict[str, Any]

    @property
    def settings(self) -> Rhythm:
        """Return the settings."""
        ...

    @property
    def network(self) -> nn.Module:
        """Return what learns."""
        ...

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """Return what moves its weights."""
        ...

    def train_step(self) -> dict[str, float]:
        """Make one step, count it in the facts, and return its losses."""
        ...


def begin_training(
    network: nn.Module, settings: Recipe, folder: Path, *origin: bytes
) -> tuple[AveragedWeights, torch.optim.Optimizer, dict[str, Any]]:
    """Return average, optimiser and facts of a training at its start, or where the checkpoint of its folder stopped.

    Args:
        network: what learns, on its device; a checkpoint's weights are put into it.
        settings: of the training.
        folder: of the checkpoint.
        origin: what decides the training beside the settings: a checkpoint fits no other.

    Raises:
        InputError: the folder holds another training.
    """
    average = AveragedWeights(network, settings.average)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    digest = hashlib.sha256(settings.model_dump_json(exclude=MAY_DIFFER).encode())
    for part in origin:
        digest.update(part)
    facts: dict[str, Any] = {"step": 0, "seconds": 0.0, "fingerprint": digest.hexdigest(), "losses": {}}
    if (path := folder / CHECKPOINT).is_file():
        facts |= load_checkpoint(path, network, average, optimiser, facts["fingerprint"])
    return average, optimiser, facts


def take_step(trainer: Trainer, loss: Tensor) -> None:
    """Make the step of the optimiser that a loss asks for, at the rate of this step, and count it.

    Args:
        trainer: whose network, average and step count change.
        loss: one number, differentiable.
    """
    settings, facts = trainer.settings, trainer.facts
    for group in trainer.optimiser.param_groups:
        group["lr"] = settings.learning_rate * rate_share(int(facts["step"]), settings.steps, settings.warmup)
    trainer.optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trainer.network.parameters(), settings.clip_gradient)
    trainer.optimiser.step()
    trainer.average.update(trainer.network)
    facts["step"] += 1


def run_training(
    trainer: Trainer,
    told: str,
    *,
    stop_at: int | None = None,
    tell: Callable[[int, float], None] | None = None,
    measure: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Train to the end, or to step `stop_at`, with checkpoints and a line in `log.jsonl` now and then.

    Args:
        trainer: what to run.
        told: name of the loss that `tell` hears.
        stop_at: step after which to stop, with a checkpoint.
        tell: called with step and the mean loss at every line of the log.
        measure: more numbers for every line of the log.

    Raises:
        InputError: a loss is not finite.
    """
    settings, facts = trainer.settings, trainer.facts
    last = settings.steps if stop_at is None else min(stop_at, settings.steps)
    trainer.folder.mkdir(parents=True, exist_ok=True)
    begin, saved = time.monotonic() - facts["seconds"], time.monotonic()
    rows: list[dict[str, float]] = []
    while (step := int(facts["step"])) < last:
        rows.append(trainer.train_step())
        step += 1
        if not all(map(math.isfinite, rows[-1].values())):
            raise InputError(
                "loss", found=f"{rows[-1]} at step {step}", expected="finite numbers", fix="Lower the rate."
            )
        facts["seconds"] = time.monotonic() - begin
        if step % settings.log_every == 0 or step == last:
            means = {name: fmean(row[name] for row in rows) for name in rows[0]}
            means |= {} if measure is None else measure()
            rows, facts["losses"] = [], means
            with (trainer.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "seconds": round(facts["seconds"]), **means}) + "\n")
            if tell is not None:
                tell(step, means[told])
        if time.monotonic() - saved >= 60 * settings.checkpoint_minutes or step == last:
            save_checkpoint(trainer.folder / CHECKPOINT, trainer.network, trainer.average, trainer.optimiser, facts)
            saved = time.monotonic()

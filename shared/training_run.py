"""The course of a training that logs, saves and resumes, and the step of its optimiser."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from shared.checkpoint import save_checkpoint
from shared.errors import InputError
from shared.training import AveragedWeights, rate_share

CHECKPOINT = "checkpoint.safetensors"


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

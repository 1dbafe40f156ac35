"""What the trainings of all domains share: a recipe's fields, and a run that logs, saves and resumes."""

from __future__ import annotations

import hashlib
import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from shared.checkpoint import load_checkpoint, save_checkpoint
from shared.errors import InputError
from shared.training import AveragedWeights, rate_share

CHECKPOINT = "checkpoint.safetensors"
MAY_DIFFER = {"name", "checkpoint_minutes", "log_every"}  # between a run and its continuation
Share = Annotated[float, Field(ge=0, le=1)]


class Recipe(BaseModel):
    """Settings of a training; a domain's recipe adds its own, and other defaults.

    Attributes:
        name: of the weights, "<package>/<stem>".
        steps: of the optimiser.
        batch: samples a step.
        learning_rate: largest, after the warm-up; it then falls to zero along a half cosine.
        warmup: steps in which the rate rises from zero.
        weight_decay: of AdamW.
        clip_gradient: largest norm of the gradient.
        average: largest decay of the average of weights that is exported.
        log_every: steps between two lines of the log.
        checkpoint_minutes: time between two checkpoints.
        seed: of weights, batches and whatever is drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z_]+/[a-z0-9_]+$")
    steps: PositiveInt
    batch: PositiveInt = 4
    learning_rate: PositiveFloat = 1e-3
    warmup: NonNegativeInt = 100
    weight_decay: NonNegativeFloat = 1e-4
    clip_gradient: PositiveFloat = 1.0
    average: Share = 0.999
    log_every: PositiveInt = 100
    checkpoint_minutes: NonNegativeFloat = 3.0
    seed: NonNegativeInt = 0


class TrainingRun(ABC):
    """A training in progress; it goes on where the folder's checkpoint stopped.

    Attributes:
        shown: name of the loss that a progress bar shows.
        settings: what to train.
        folder: for checkpoint and log.
        network: what learns.
        average: of its weights.
        optimiser: what moves them.
        facts: "step" and "seconds" so far, "losses" of the last line of the log, "fingerprint".
    """

    shown: ClassVar[str]
    settings: Recipe
    folder: Path
    network: nn.Module
    average: AveragedWeights
    optimiser: torch.optim.Optimizer
    facts: dict[str, Any]

    def begin(self, *origin: bytes) -> None:
        """Set average, optimiser and facts to those of the start, or of the folder's checkpoint.

        Settings, folder and network, on its device, are there before; a checkpoint's weights are put into it.

        Args:
            origin: what decides the training beside the settings: a checkpoint fits no other.

        Raises:
            InputError: the folder holds another training.
        """
        settings = self.settings
        self.average = AveragedWeights(self.network, settings.average)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        digest = hashlib.sha256(settings.model_dump_json(exclude=MAY_DIFFER).encode())
        for part in origin:
            digest.update(part)
        self.facts = {"step": 0, "seconds": 0.0, "fingerprint": digest.hexdigest(), "losses": {}}
        if (path := self.folder / CHECKPOINT).is_file():
            self.facts |= load_checkpoint(
                path, self.network, self.average, self.optimiser, self.facts["fingerprint"]
            )  # fmt: skip

    @property
    def step(self) -> int:
        """Return the number of steps made."""
        return int(self.facts["step"])

    @abstractmethod
    def train_step(self) -> dict[str, float]:
        """Make one step and return its losses."""

    def measured(self) -> dict[str, float]:
        """Return more numbers for a line of the log; none here."""
        return {}

    def take_step(self, loss: Tensor) -> None:
        """Make the step of the optimiser that a loss asks for, at the rate of this step, and count it.

        Args:
            loss: one number, differentiable.
        """
        settings = self.settings
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * rate_share(self.step, settings.steps, settings.warmup)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_gradient)
        self.optimiser.step()
        self.average.update(self.network)
        self.facts["step"] += 1

    def run(self, *, stop_at: int | None = None, tell: Callable[[int, float], None] | None = None) -> None:
        """Train to the end, or to step `stop_at`, with checkpoints and a line in `log.jsonl` now and then.

        Args:
            stop_at: step after which to stop, with a checkpoint.
            tell: called with step and the mean of the shown loss at every line of the log.

        Raises:
            InputError: a loss is not finite.
        """
        settings, facts = self.settings, self.facts
        last = settings.steps if stop_at is None else min(stop_at, settings.steps)
        self.folder.mkdir(parents=True, exist_ok=True)
        begin, saved = time.monotonic() - facts["seconds"], time.monotonic()
        rows: list[dict[str, float]] = []
        while self.step < last:
            rows.append(self.train_step())
            step = self.step
            if not all(map(math.isfinite, rows[-1].values())):
                raise InputError(
                    "loss", found=f"{rows[-1]} at step {step}", expected="finite numbers", fix="Lower the rate."
                )
            facts["seconds"] = time.monotonic() - begin
            if step % settings.log_every == 0 or step == last:
                means = {name: fmean(row[name] for row in rows) for name in rows[0]} | self.measured()
                rows, facts["losses"] = [], means
                with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"step": step, "seconds": round(facts["seconds"]), **means}) + "\n")
                if tell is not None:
                    tell(step, means[self.shown])
            if time.monotonic() - saved >= 60 * settings.checkpoint_minutes or step == last:
                save_checkpoint(self.folder / CHECKPOINT, self.network, self.average, self.optimiser, facts)
                saved = time.monotonic()

    def recipe_facts(self) -> dict[str, Any]:
        """Return what every model file says of its training, JSON types."""
        settings = self.settings
        return {
            **settings.model_dump(include={"name", "batch", "learning_rate", "average", "seed"}),
            "steps": self.step,
            "of_steps": settings.steps,
            "seconds": round(self.facts["seconds"]),
            "parameters": sum(value.numel() for value in self.network.parameters()),
            "losses": self.facts["losses"],
        }


def training_folder(output: Path, work: Path | None, *, export: bool) -> Path:
    """Return the folder of a training that writes a model.

    Args:
        output: of the model.
        work: the folder, if one was named; None is the output's path without its suffix.
        export: whether it must hold a checkpoint.

    Raises:
        InputError: it holds none.
    """
    folder = work or output.with_suffix("")
    if export and not (folder / CHECKPOINT).is_file():
        raise InputError(folder, found="no checkpoint", expected="one to export", fix="Train first, or give --work.")
    return folder

"""The loop of both trainings: AdamW, an average of the weights, checkpoints, exact resumption.

Step k draws everything random from the seed and k alone. So a resumed run is the uninterrupted one, bit for bit on the
same machine and threads, with no state of a generator to keep.

A folder holds a training: `state.pt` (weights, average, optimiser), the exported network and `log.jsonl`.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from remote_sensing.ddpm_cd.config import Settings, Share
from shared.errors import InputError
from shared.files import atomic_path
from shared.progress import tracked
from shared.training import AveragedWeights, rate_share

Module = TypeVar("Module", bound=nn.Module)

MAY_DIFFER = ("steps", "checkpoint_seconds")  # between a run and its resumption
CLIP = 1.0  # largest norm of a gradient


class LoopSettings(Settings):
    """What both trainings need.

    Attributes:
        crop: height and width of the training images.
        batch: images or pairs a step.
        steps: number of steps.
        rate: learning rate of AdamW at its height.
        warm_up: steps of linear rise; half a cosine falls to 0 over the rest.
        weight_decay: of AdamW.
        average: decay of the average of weights, which is what is exported.
        precision: of the convolutions.
        checkpoint_seconds: time between checkpoints.
        seed: of everything random.
    """

    crop: PositiveInt = 256
    batch: PositiveInt = 8
    steps: PositiveInt = 20_000
    rate: PositiveFloat = 1e-4
    warm_up: Annotated[int, Field(ge=0)] = 100
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    average: Share = 0.999
    precision: Literal["float32", "bfloat16"] = "float32"
    checkpoint_seconds: PositiveFloat = 300.0
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Trainer(ABC):
    """A training in progress; resumed from if the folder holds `state.pt`.

    Args:
        settings: of the training.
        trained: the module whose weights are learned, averaged and kept.
        folder: where the files lie.
        device: where to compute.
        shares: parameters, and their learning rate in units of the settings'.
        identity: what must be the same in a resumed run besides the settings.

    Raises:
        InputError: the folder holds another training.
    """

    output: str

    def __init__(
        self,
        settings: LoopSettings,
        trained: nn.Module,
        folder: Path,
        *,
        device: torch.device | str,
        shares: list[tuple[list[nn.Parameter], float]],
        identity: dict[str, Any],
    ) -> None:
        self.settings, self.trained, self.folder, self.device = settings, trained, Path(folder), torch.device(device)
        self.average = AveragedWeights(trained, settings.average)
        self._shares = [share for _, share in shares]
        groups = [{"params": parameters} for parameters, _ in shares]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.rate, weight_decay=settings.weight_decay)
        self.step, self.seconds = 0, 0.0
        self._identity = {**settings.model_dump(mode="json", exclude=set(MAY_DIFFER)), **identity}
        if (self.folder / "state.pt").exists():
            self._resume(self.folder / "state.pt")

    @abstractmethod
    def loss(self, generator: torch.Generator) -> Tensor:
        """Return the loss of one batch drawn by the generator (on the CPU), differentiable."""

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """Return what is exported, with the weights of the last step."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return how far the training has come, in JSON types."""

    @abstractmethod
    def export_to(self, path: Path, described: Mapping[str, Any]) -> None:
        """Write the averaged weights as a file that describes itself, with facts besides those of `facts`."""

    def export(self) -> None:
        """Write the averaged weights to `folder / output`."""
        self.export_to(self.folder / self.output, {})

    def validate(self) -> dict[str, float]:
        """Return numbers that tell how good the averaged weights are; logged with each checkpoint."""
        return {}

    def train_step(self) -> float:
        """Make one step and return its loss."""
        settings = self.settings
        height = rate_share(self.step, settings.steps, settings.warm_up)
        for group, share in zip(self.optimiser.param_groups, self._shares, strict=True):
            group["lr"] = settings.rate * share * height
        seed = int(np.random.SeedSequence([settings.seed, self.step]).generate_state(1, np.uint64)[0] >> 1)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)  # dropout
            with self.precision():
                loss = self.loss(torch.Generator().manual_seed(seed))
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
        for group in self.optimiser.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], CLIP)
        self.optimiser.step()
        self.average.update(self.trained)
        self.step += 1
        return float(loss.detach())

    def run(self, progress: Callable[[dict[str, Any]], None] | None = None, label: str | None = None) -> Path:
        """Train to the end, with checkpoints; return the path of the exported network.

        Args:
            progress: called with each line of the log.
            label: of a progress bar on standard error; None shows none.

        Raises:
            InputError: the loss is not finite.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        saved, losses = time.monotonic(), []
        for _ in tracked(range(self.step, self.settings.steps), label):
            losses.append(self.train_step())
            if not math.isfinite(losses[-1]):
                raise InputError(
                    "loss", found=f"{losses[-1]} at step {self.step}", expected="a finite number", fix="Lower the rate."
                )
            now = time.monotonic()
            if now - saved >= self.settings.checkpoint_seconds or self.step == self.settings.steps:
                self.seconds, saved = self.seconds + now - saved, now
                line = {"step": self.step, "seconds": round(self.seconds), "loss": sum(losses) / len(losses)}
                losses = []
                line |= self.validate()
                self.save()
                with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                    log.write(json.dumps(line) + "\n")
                if progress is not None:
                    progress(line)
        return self.folder / self.output

    def precision(self) -> Any:
        """Return the context in which the networks compute."""
        if self.settings.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def save(self) -> None:
        """Write the state and the exported network, each as a whole."""
        state = {
            "identity": json.dumps(self._identity), "step": self.step, "seconds": self.seconds,
            "trained": self.trained.state_dict(), "average": self.average.average, "updates": self.average.updates,
            "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip
        with atomic_path(self.folder / "state.pt", overwrite=True) as scratch:
            torch.save(state, scratch)
        self.export()

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        before, now = json.loads(state["identity"]), json.loads(json.dumps(self._identity))
        if differing := sorted(key for key in {*before, *now} if before.get(key) != now.get(key)):
            raise InputError(
                path,
                found=f"a training with another {', '.join(differing)}",
                expected="the same settings and data",
                fix="Choose another folder or restore the settings.",
            )
        self.trained.load_state_dict(state["trained"])
        self.average.average = {name: value.to(self.device) for name, value in state["average"].items()}
        self.average.updates = state["updates"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]


def seeded(make: Callable[[], Module], seed: int) -> Module:
    """Return what `make` makes with its random numbers from the seed; the global generator stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make()

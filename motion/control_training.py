r"""Training of a control branch on a frozen base: the base's loss, and how far hinted points are from their hints.

    loss = loss of `motion.training` + w_h E |q^ - q| over hints, of coordinates that are told, m

with q the places of hinted points in the recording. Windows, levels, actions and known parts are drawn as for the base,
and so are its statistics kept. What is hinted is drawn by the shares of `KINDS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from motion.collection import Collection
from motion.control import ControlBranch, ControlConfig, ControlledTransformer, Points, Told
from motion.control_files import save_branch
from motion.files import ModelFile
from motion.training import LEAST, STATISTICS_WINDOWS, MotionTrainer, MotionTraining
from motion.windows import Windows
from shared.errors import InputError

# Shares of windows by what is hinted, most points at once, most frames of a pose, share of points without a height.
KINDS = {"point": 0.5, "points": 0.3, "pose": 0.2}
SEVERAL, POSES, ON_FLOOR = 4, 3, 0.2
# A point is hinted in up to `FEW` frames, or, by the share `DENSE`, in any part of all; the first point more often.
FEW, DENSE, FIRST = 5, 0.3, 0.25


class ControlTraining(MotionTraining):
    """Everything that decides the training of a branch; settings of `MotionTraining`, and these.

    Attributes:
        kind: which training this is.
        base: name or path of the model that is steered; `model` may be left out, or must be that of the base.
        branch: what is trained.
        hint_weight: w_h, 1/m.
    """

    kind: Literal["motion_control"]
    base: str = "motion/base_small"
    branch: ControlConfig = ControlConfig()
    hint_weight: NonNegativeFloat = 2.0


class ControlTrainer(MotionTrainer):
    """A training in progress; it goes on where the folder's checkpoint stopped.

    Args:
        settings: what to train.
        base: file of the model that is steered.
        collection: clips to train on.
        folder: for checkpoint and log.
        device: where to compute.

    Raises:
        InputError: a base that is not the settings' or moves another body, clips of another rate, held-out clips that
            are not there, or a folder with another training.
    """

    settings: ControlTraining
    network: ControlBranch

    def __init__(
        self, settings: ControlTraining, base: ModelFile, collection: Collection, folder: Path, *,
        device: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        if "model" in settings.model_fields_set and settings.model != base.config:
            raise InputError(
                base.path, found=f"a model of {base.config.model_dump_json()}",
                expected=settings.model.model_dump_json(), fix="Give that base, or leave `model` out.",
            )  # fmt: skip
        if base.body.skeleton.names != collection.body.skeleton.names:
            raise InputError(
                base.path, found=f"a body of {len(base.body.skeleton)} joints", expected="that of the clips",
                fix="Collect the clips on the base's body.",
            )  # fmt: skip
        self.base, self.model = base, base.model(device)
        self.points = Points(settings.branch.points, base.body.skeleton)
        super().__init__(settings.model_copy(update={"model": base.config}), collection, folder, device=device)
        self.weights["hints"] = settings.hint_weight

    def new_network(self) -> ControlBranch:
        """Return the branch at its start."""
        drawn = self.source.draw(STATISTICS_WINDOWS, self.base.config.frames[1], self._for_statistics())
        places = self.points.of(self.body.positions(drawn.features))[drawn.valid]
        branch = ControlBranch(self.settings.branch, self.base.config, places.mean(0), places.std(0).clamp(min=LEAST))
        branch.copy_blocks(self.model.network)
        return branch.to(self.device)

    def identity(self) -> str:
        """Return the clips and the base."""
        return self.collection.fingerprint + self.base.sha256

    def _statistics(self) -> tuple[Tensor, Tensor]:
        return self.model.mean, self.model.spread

    def losses(self, windows: Windows, source: np.random.Generator, network: nn.Module) -> dict[str, Tensor]:
        """Return the losses of windows with a branch, differentiable; everything random is drawn from `source`."""
        flags = torch.stack([hinted_by_chance(valid, len(self.points.names), source) for valid in windows.valid.cpu()])
        with torch.no_grad():
            places = self.points.of(self.body.positions(windows.features))
        told = Told(places, flags.to(self.device))
        assert isinstance(network, ControlBranch)
        guess = self.guessed(windows, source, partial(ControlledTransformer(self.model.network, network), told=told))
        return self.compared(windows, guess) | {"hints": hint_distance(self.points.of(guess.made), told)}

    def export(self, path: Path, *, half: bool = False, origin: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write the averaged branch, a file of its own, and return the facts in its header; arguments as the base's."""
        facts = self.training_facts() | {"hint_weight": self.settings.hint_weight} | dict(origin or {})
        save_branch(path, self.settings.branch, self.base, self.settings.base, self.average.average, facts, half=half)
        return facts


def hint_distance(made: Tensor, told: Told) -> Tensor:
    """Return the mean distance, m, of points (N, F, P, 3) to their hints, over told coordinates."""
    distance = torch.where(told.flags, made - told.places, 0.0).norm(dim=-1)
    return distance.sum() / told.flags.any(-1).sum().clamp(min=1)


def hinted_by_chance(valid: Tensor, points: int, source: np.random.Generator) -> Tensor:
    """Return which coordinates of which points are told, (F, P, 3) bool, by the shares of `KINDS`.

    Args:
        valid: (F,) bool, frames that may be hinted.
        points: P.
        source: of everything random.
    """
    flags = torch.zeros(len(valid), points, 3, dtype=torch.bool)
    frames = valid.nonzero()[:, 0].numpy()
    kind = source.choice(list(KINDS), p=list(KINDS.values()))
    if kind == "pose":
        flags[source.choice(frames, source.integers(1, POSES + 1))] = True
        return flags
    chances = np.full(points, 1.0 if points == 1 else (1 - FIRST) / (points - 1))
    chances[0] = 1 - chances[1:].sum()
    count = 1 if kind == "point" else int(source.integers(2, SEVERAL + 1))
    for point in source.choice(points, min(count, points), replace=False, p=chances):
        most = len(frames) if source.random() < DENSE else min(FEW, len(frames))
        chosen = source.choice(frames, source.integers(1, most + 1), replace=False)
        flags[chosen, point, : 2 if source.random() < ON_FLOOR else 3] = True
    return flags

r"""A student of one call from a motion model: where the teacher's sampling ends, learned from every level.

    x_s   = alpha_s x_0 + sigma_s eps                   windows of recordings, the known parts put in as in training
    y     = the teacher's DDIM from x_s to level 0      (`shared.distillation.trajectory`)
    d^2   = |f - y|^2 + w_p |p_f - p_y|^2 + w_v |v_f - v_y|^2          means over frames of the clip, f = f(x_s, s)
    loss  = sqrt(d^2 + c^2) - c

with the measures of `motion.training`: normalised features that are not known, joints from the root, their velocities.
The student has the teacher's network, statistics and weights to begin with, and predicts x_0 as it does, which is
well conditioned at every level. It is an ordinary model afterwards: `draw(model, ..., calls=1)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from motion.actions import ACTION
from motion.collection import Collection
from motion.files import ModelFile
from motion.training import MotionTrainer, MotionTraining
from motion.windows import Windows
from shared.distillation.trajectory import HUBER, trajectory_end
from shared.errors import InputError
from shared.training_run import Share


class StudentTraining(MotionTraining):
    """Everything that decides a distillation.

    Attributes:
        calls: of the teacher's sampling.
        from_noise: share of a batch that starts from pure noise, where the student is asked most; the other levels are
            uniform in t.
    """

    calls: PositiveInt = 4
    from_noise: Share = 0.5


class StudentTrainer(MotionTrainer):
    """A distillation in progress; like `MotionTrainer`, it goes on where the folder's checkpoint stopped.

    Args:
        teacher: the model to distil.
        settings: see `student_training`.
        collection: clips; the teacher's sampling starts from their noised windows.
        folder: for checkpoint and log.
        device: where to compute.

    Raises:
        InputError: clips of another body or rate, held-out clips that are not there, or a folder with another training.
    """

    settings: StudentTraining

    def __init__(
        self,
        teacher: ModelFile,
        settings: StudentTraining,
        collection: Collection,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
    ) -> None:
        if teacher.body.skeleton.names != collection.body.skeleton.names:
            raise InputError(
                "clips", found=f"a body of {len(collection.body.skeleton)} joints",
                expected=f"the one of {teacher.path.name}, {len(teacher.body.skeleton)} joints",
                fix="Give the clips that the model was trained on.",
            )  # fmt: skip
        super().__init__(settings, collection, folder, start=teacher, device=device)
        self.file, self.teacher = teacher, teacher.model(device).network

    def losses(self, windows: Windows, source: np.random.Generator, network: torch.nn.Module) -> dict[str, Tensor]:
        """Return the loss, "root", and what it is made of, in the mean over windows."""
        settings = self.settings
        x0 = (windows.features - self.mean) / self.spread
        noise = torch.from_numpy(source.standard_normal(x0.shape, np.float32)).to(self.device)
        level = torch.from_numpy(source.uniform(self.process.t_min, 1, len(x0))).to(self.device)
        level[: round(settings.from_noise * len(x0))] = 1.0
        told = torch.from_numpy(source.random(len(x0)) >= settings.unlabelled).to(self.device)
        actions = torch.where(told[:, None], windows.actions, ACTION["any"])
        x = self.process.add_noise(x0, noise, level)
        with torch.no_grad():
            teacher = self.denoiser(self.teacher, windows, x0, actions)
            end = trajectory_end(teacher, self.process, x, level, settings.calls)
        answer = self.denoiser(network, windows, x0, actions)(x, level)
        free = windows.valid[..., None] & ~windows.known[..., self.body.groups.to(self.device)]
        features = _mean((answer - end) ** 2, free)
        made, wanted = (self.body.positions(one * self.spread + self.mean) for one in (answer, end))
        moved = windows.valid[:, 1:] & windows.valid[:, :-1]
        speeds = (made - wanted).diff(dim=1) * settings.model.fps
        positions = _mean((_from_root(made) - _from_root(wanted)).square().sum(-1), windows.valid[..., None])
        velocities = _mean(speeds.square().sum(-1), moved[..., None])
        squares = features + settings.position_weight * positions + settings.velocity_weight * velocities
        return {
            "root": (torch.sqrt(squares + HUBER**2) - HUBER).mean(),
            "features": features.mean(),
            "positions": positions.mean(),
            "velocities": velocities.mean(),
        }

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the loss."""
        return losses["root"]

    def export(self, path: Path, *, half: bool = False, origin: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write the student, with its teacher among the facts; see `MotionTrainer.export`."""
        teacher = {"file": self.file.path.name, "sha256": self.file.sha256, "calls": self.settings.calls}
        return super().export(path, half=half, origin={"teacher": teacher, **(origin or {})})


def student_training(teacher: ModelFile, *, steps: int, calls: int = 4, seed: int = 0) -> StudentTraining:
    """Return the settings of a distillation: the teacher's network, and the clips held out that it has not seen.

    Args:
        teacher: the model to distil.
        steps: of the optimiser.
        calls: of the teacher's sampling.
        seed: of the batches.
    """
    return StudentTraining(
        name="motion/student",
        model=teacher.config,
        held_out=tuple(teacher.training.get("held_out", ())),
        steps=steps,
        batch=16,
        learning_rate=3e-4,
        warmup=50,
        average=0.99,
        log_every=50,
        calls=calls,
        seed=seed,
    )


def _from_root(positions: Tensor) -> Tensor:
    return positions - positions[:, :, :1]


def _mean(squares: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of (N, F, K) for each of N windows over what counts, (N, F, 1 or K) bool."""
    weight = counted.to(squares).expand_as(squares)
    return (squares * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)

r"""Training of Inner Loop Feedback on the student's own trajectory, with the full network as the teacher.

At every step of the sampling with feedback at which a predicted feature u_i enters the computed part, with D the full
network's answer at the same x_i and h_i its feature at the same place,

    loss_i = mean |D_student(x_i) - D(x_i)|^2 / mean |D(x_i)|^2 + w mean_entries ( mean |u_i - h_i|^2 / var h_i )

and one step of AdamW on the feedback; the backbone is frozen. x_{i+1} is the student's, without gradient, so the
feedback sees the errors that it makes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.errors import InputError
from shared.files import atomic_path
from shared.grid import Grid
from shared.progress import tracked
from shared.reuse.executor import Stored
from shared.reuse.feedback import Feedback, FeedbackSchedule, find_entries
from shared.reuse.interception import Block, Call, Output, intercepted
from shared.reuse.schedule import ReuseSchedule, make_schedule
from shared.sampling import Solver

CHECKPOINT_EVERY = 25


@dataclass(frozen=True)
class FeedbackTraining:
    """How a feedback is trained.

    Attributes:
        trajectories: samplings of the student.
        batch: noises in each.
        rate: learning rate of AdamW; falls to zero as a cosine.
        gamma_rate: learning rate of the scales gamma, which start at zero and are few.
        feature_weight: w of the loss.
        seed: of the noises and of the initial weights.
    """

    trajectories: int = 60
    batch: int = 32
    rate: float = 1e-3
    gamma_rate: float = 1e-2
    feature_weight: float = 0.1
    seed: int = 1


def train_feedback(
    denoiser: NetworkDenoiser | PreconditionedDenoiser,
    blocks: Sequence[Block],
    mask: Tensor,
    grid: Grid,
    solver: Solver,
    *,
    shape: Sequence[int],
    costs: Sequence[float],
    training: FeedbackTraining | None = None,
    progress: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> FeedbackSchedule:
    """Return the mask with a feedback trained for it.

    Args:
        denoiser: with the frozen backbone; its conditioning, if it has one a sample, is for batches of `training`.
        blocks: columns of the mask.
        mask: [calls, blocks].
        grid: levels.
        solver: of the trajectories.
        shape: of one sample.
        costs: share of each block in a network call.
        training: settings; by default those of `FeedbackTraining`.
        progress: label of a progress bar; None is silent.
        checkpoint: file to go on from and to write every 25 trajectories; removed at the end.

    Raises:
        InputError: a mask without reuse, blocks that cannot have feedback, or a checkpoint of another training.
    """
    settings = training if training is not None else FeedbackTraining()
    plan = solver.plan(grid)
    schedule = make_schedule(
        denoiser, blocks, mask, grid, plan.asked, shape=shape, costs=costs, producer="inner loop feedback"
    )
    network = schedule.check(denoiser)
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(settings.seed)

    def draw() -> Tensor:
        return denoiser.process.noise((settings.batch, *shape), generator, device=device)

    entries = find_entries(denoiser, blocks, mask, draw())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        feedback = Feedback(network, entries, plan.asked).to(device).requires_grad_(True)
    distillation = _Distillation(denoiser, schedule, feedback, settings)
    frozen = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    network.requires_grad_(False)
    try:
        first = distillation.resume(checkpoint, generator)
        for trajectory in tracked(range(first, settings.trajectories), progress):
            for group in distillation.optimiser.param_groups:
                group["lr"] = group["rate"] * 0.5 * (1 + math.cos(math.pi * trajectory / settings.trajectories))
            state = plan.start(draw())
            for step in range(plan.calls):
                state = plan.advance(state, distillation.answer(state.x, state.t, step), generator)
            if checkpoint is not None and (trajectory + 1) % CHECKPOINT_EVERY == 0:
                distillation.write(checkpoint, trajectory + 1, generator)
    finally:
        for parameter, wanted in frozen:
            parameter.requires_grad_(wanted)
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    tensors = {name: value.detach().cpu().clone() for name, value in feedback.state_dict().items()}
    return FeedbackSchedule(schedule, entries, tensors)


class _Predicting:
    """The feedback as a predictor that also keeps what it predicts, for the feature loss."""

    memory = 1

    def __init__(self, feedback: Feedback) -> None:
        self.feedback = feedback
        self.features: dict[str, Tensor] = {}

    def __call__(self, call: Call, stored: Sequence[Stored], step: int) -> Output:
        value = self.feedback(call, stored, step)
        if step in self.feedback.steps_of(call.module):
            self.features[call.module] = call.restored(value)
        return value


class _Distillation:
    """Student, teacher and optimiser."""

    def __init__(
        self,
        denoiser: NetworkDenoiser | PreconditionedDenoiser,
        schedule: ReuseSchedule,
        feedback: Feedback,
        settings: FeedbackTraining,
    ) -> None:
        self.settings = settings
        self.teacher = denoiser
        self.schedule = schedule
        self.feedback = feedback
        self.predicting = _Predicting(feedback)
        self.student = schedule.bind(denoiser, predictor=self.predicting)
        scales = list(feedback.gamma.parameters())
        groups = [
            {"params": list(feedback.branches.parameters()), "rate": settings.rate, "lr": settings.rate},
            {"params": scales, "rate": settings.gamma_rate, "lr": settings.gamma_rate, "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups)

    def answer(self, x: Tensor, t: float, step: int) -> Tensor:
        """Return the student's answer at a step, having learned from the teacher's where feedback acts."""
        if not any(step in entry.steps for entry in self.feedback.entries):
            with torch.no_grad():
                return self.student(x, t)
        wanted, features = self._taught(x, t)
        self.predicting.features = {}
        with torch.enable_grad():
            answer = self.student(x, t)
            loss = (answer - wanted).square().mean() / wanted.square().mean()
            for name, predicted in self.predicting.features.items():
                error = (predicted - features[name]).square().mean() / features[name].var()
                loss = loss + self.settings.feature_weight * error / len(self.predicting.features)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
        self.optimiser.step()
        return answer.detach()

    def _taught(self, x: Tensor, t: float) -> tuple[Tensor, dict[str, Tensor]]:
        features: dict[str, Tensor] = {}

        def keep(call: Call) -> Output:
            output = call.compute()
            if self.feedback.steps_of(call.module):
                features[call.module] = output
            return output

        network = self.teacher.network
        assert isinstance(network, nn.Module)
        with torch.no_grad(), intercepted(network, self.schedule.blocks, keep):
            return self.teacher(x, t), features

    def write(self, path: str | os.PathLike[str], done: int, generator: torch.Generator) -> None:
        """Write all that `resume` needs."""
        state: dict[str, Any] = {
            "facts": self._facts(), "done": done, "feedback": self.feedback.state_dict(),
            "optimiser": self.optimiser.state_dict(), "generator": generator.get_state(),
        }  # fmt: skip
        with atomic_path(path, overwrite=True) as scratch:
            torch.save(state, scratch)

    def resume(self, path: str | os.PathLike[str] | None, generator: torch.Generator) -> int:
        """Go on from a checkpoint, if there is one; return the number of trajectories done."""
        if path is None or not Path(path).exists():
            return 0
        state = torch.load(path, weights_only=True)
        if state.get("facts") != self._facts():
            raise InputError(
                path, found="a checkpoint of another training", expected="the same model, mask and settings",
                fix="Remove it, or give another file.",
            )  # fmt: skip
        self.feedback.load_state_dict(state["feedback"])
        self.optimiser.load_state_dict(state["optimiser"])
        generator.set_state(state["generator"])
        return int(state["done"])

    def _facts(self) -> dict[str, Any]:
        return {"settings": asdict(self.settings), "schedule": self.schedule.to_json()}

"""A student of one or two calls from a trained policy: where the teacher's sampling ends, learned in one call.

The student has the teacher's network, begins with its weights and predicts v, which is well conditioned at every level
(`shared.distillation.trajectory`). It is an ordinary policy file afterwards: sample it cold with one call, with
`consistency` steps in two, or warm with one call from any level.

Half of a batch starts from pure noise, where the student is asked most, the other half anywhere.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from robotics.policy.episodes import Episodes
from robotics.policy.policy import Policy
from robotics.policy.training import PolicyTrainer, PolicyTraining
from shared.denoiser import NetworkDenoiser, clipped
from shared.distillation.trajectory import trajectory_loss


class StudentTrainer(PolicyTrainer):
    """A distillation in progress; like `PolicyTrainer`, it goes on where the folder's checkpoint stopped.

    Args:
        teacher: the policy to distil.
        settings: see `student_training`.
        episodes: demonstrations; the teacher's sampling starts from their noised actions.
        folder: for checkpoint and log.
        calls: of the teacher's deterministic sampling.
        device: where to compute.

    Raises:
        InputError: data that do not fit, or a folder with another training.
    """

    def __init__(
        self,
        teacher: Policy,
        settings: PolicyTraining,
        episodes: Episodes,
        folder: Path,
        *,
        calls: int = 10,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(settings, episodes, folder, start=teacher, device=device)
        self.teacher, self.calls = teacher, calls
        self._replayed = self._update  # levels are looked up on the host, which a replayed graph would not repeat

    def _loss(self, frames: Tensor, entry: Tensor, noise: Tensor) -> Tensor:
        """Return the loss of the windows `frames` (N, T), the first half from noise, the others from entries (N,)."""
        process, limit = self.policy.process, self.policy.config.clip
        observed = self.observed(frames)
        own, theirs = (
            NetworkDenoiser(
                one.network, process, one.config.prediction, conditioning=one.network.conditioning(observed)
            )
            for one in (self.policy, self.teacher)
        )
        teacher = theirs if limit is None else clipped(theirs, -limit, limit)
        entry = torch.cat([torch.full_like(entry[: len(entry) // 2], process.steps - 1), entry[len(entry) // 2 :]])
        level = (entry + 1).double() / process.steps
        return trajectory_loss(own, teacher, process, self._actions[frames], noise, level, calls=self.calls).mean()


def student_training(name: str, teacher: Policy, *, steps: int, seed: int = 0) -> PolicyTraining:
    """Return the settings of a distillation of a small policy.

    Args:
        name: of the weights.
        teacher: the policy to distil.
        steps: of the optimiser.
        seed: of the batches.
    """
    return PolicyTraining(
        name=name,
        policy=teacher.config.model_copy(update={"prediction": "v"}),
        steps=steps,
        batch=256,
        learning_rate=1e-3,
        warmup=200,
        clip_gradient=1.0,
        average=0.999,
        seed=seed,
    )

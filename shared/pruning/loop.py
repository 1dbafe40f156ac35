"""The training loop of gates and of recovery: AdamW, clipped gradients, averaged weights, checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import InputError
from shared.files import atomic_path
from shared.progress import tracked
from shared.training import AveragedWeights

CHECKPOINT_EVERY = 200
Rates = Callable[[float], float]
"""From the progress in [0, 1) to the factor of the learning rates."""


def optimise(
    module: nn.Module,
    parameters: Sequence[dict[str, Any]],
    loss: Callable[[float, torch.Generator], Tensor],
    *,
    steps: int,
    seed: int,
    rates: Rates = lambda progress: 1.0,
    average: float = 0.999,
    progress: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> dict[str, Tensor]:
    """Minimise a loss by AdamW without weight decay, in place, and return the averaged state of `module`.

    Args:
        module: its state is averaged and kept in the checkpoint.
        parameters: what is trained, in groups of `params` and `lr`, as torch's optimisers take them.
        loss: from the progress in [0, 1] (0 at the first, 1 at the last step) and a generator to a scalar.
        steps: number of steps.
        seed: of the generator.
        rates: factor of the learning rates along the training.
        average: decay of the average.
        progress: label of a progress bar.
        checkpoint: file that is written every 200 steps, from which an interrupted training goes on, and which is
            removed at the end.

    Raises:
        InputError: no steps, a checkpoint of another training, or a loss that is not finite.
    """
    if steps < 1:
        raise InputError("steps", found=f"{steps}", expected="1 or more", fix="Train for at least one step.")
    optimiser = torch.optim.AdamW([dict(group) for group in parameters], weight_decay=0.0)
    base = [group["lr"] for group in optimiser.param_groups]
    averaged = AveragedWeights(module, average)
    generator = torch.Generator().manual_seed(seed)
    first = 0
    path = None if checkpoint is None else Path(checkpoint)
    if path is not None and path.exists():
        first = _resume(path, module, optimiser, averaged, generator)
    for step in tracked(range(first, steps), progress):
        for group, rate in zip(optimiser.param_groups, base, strict=True):
            group["lr"] = rate * rates(step / steps)
        value = loss(step / max(1, steps - 1), generator)
        if not bool(torch.isfinite(value)):
            raise InputError(
                f"training step {step}", found=f"loss {value.item()}", expected="a finite loss",
                fix="Lower the learning rate, or check the data for infinities.",
            )  # fmt: skip
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], 1.0)
        optimiser.step()
        averaged.update(module)
        if path is not None and (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < steps:
            state = {"module": module.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            with atomic_path(path, overwrite=True) as scratch:
                torch.save({**state, "average": averaged.average, "generator": generator.get_state()}, scratch)
    if path is not None:
        path.unlink(missing_ok=True)
    return averaged.average


def _resume(
    path: Path,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    averaged: AveragedWeights,
    generator: torch.Generator,
) -> int:
    try:
        stored = torch.load(path, weights_only=True)
        module.load_state_dict(stored["module"])
        optimiser.load_state_dict(stored["optimiser"])
        averaged.average, averaged.updates = stored["average"], stored["step"]
        generator.set_state(stored["generator"])
        return int(stored["step"])
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise InputError(
            path, found=f"no checkpoint of this training ({str(error).splitlines()[0]})",
            expected="one that this training wrote", fix="Remove the file or give another path.",
        ) from error  # fmt: skip

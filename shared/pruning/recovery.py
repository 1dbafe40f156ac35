r"""Fine-tune a pruned network with the whole one as its teacher: masked knowledge distillation.

    L = 0.9 |F_s - F_t|^2 + 0.1 |F_s - F*|^2 + beta sum_k |h(f_s^k) - h(f_t^k)|^2 / K,   beta = 0.01 (1 - progress)
    h(f) = f where |f - mean f| < 2 std f, else 0          mean and std over each sample's features

F are raw outputs, F* the truth, f^k the features after the k-th kept block. h is applied to student and teacher
separately: a few entries of hidden states are huge, and pulling a student to them by their square makes it unstable.

A kept block is compared with the teacher where the student's next module takes over: behind the blocks that directly
follow it and are left out.

Reference: Fang et al., TinyFusion, CVPR 2025, section 3.4.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from shared.pruning.loop import optimise
from shared.pruning.surgery import Pruned
from shared.pruning.task import Problem, Task
from shared.reuse.interception import Block, Call, Output, intercepted

TEACHER_WEIGHT, TRUTH_WEIGHT, FEATURE_WEIGHT = 0.9, 0.1, 1e-2
DEVIATIONS = 2.0


def without_outliers(features: Tensor) -> Tensor:
    """Return the features (N, ...) with entries of `DEVIATIONS` or more standard deviations from a sample's mean at 0.

    The standard deviation is that of the sample's entries themselves (divided by their number).
    """
    flat = features.detach().flatten(1)
    spread = (flat - flat.mean(1, keepdim=True)).abs()
    inside = spread < DEVIATIONS * flat.std(1, keepdim=True, correction=0)
    return features * inside.reshape(features.shape)


def masked_feature_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean square difference of the features without their outliers."""
    return (without_outliers(student) - without_outliers(teacher)).square().mean()


def recover(
    task: Task,
    pruned: Pruned,
    *,
    steps: int,
    seed: int = 0,
    rate: float = 2e-4,
    distil: bool = True,
    progress: str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Pruned:
    """Return the pruned network with its weights fine-tuned and averaged; `pruned` is not changed.

    The learning rate falls by a cosine to half of `rate`.

    Args:
        task: with the whole network, the teacher.
        pruned: made from that network.
        steps: of training.
        seed: of data and noise.
        rate: learning rate.
        distil: False trains on the truth alone, |F_s - F*|^2.
        progress: label of a progress bar.
        checkpoint: see `shared.pruning.loop.optimise`.

    Raises:
        InputError: no steps, or a loss that is not finite.
    """
    teacher = task.network
    student = copy.deepcopy(pruned.network).requires_grad_(True)
    pairs = counterparts(task, pruned, task.problem(torch.Generator().manual_seed(seed))) if distil else []

    def loss(done: float, generator: torch.Generator) -> Tensor:
        problem = task.problem(generator)
        with outputs(student, [ours for ours, _ in pairs]) as own:
            answer = task.answer(student, problem)
        truth = task.error(answer, problem.x0, problem.t)
        if not distil:
            return truth
        with torch.no_grad(), outputs(teacher, [theirs for _, theirs in pairs]) as given:
            taught = task.answer(teacher, problem)
        features = [masked_feature_loss(own[ours], given[theirs]) for ours, theirs in pairs]
        beta = FEATURE_WEIGHT * (1 - done) / max(1, len(features))
        return TEACHER_WEIGHT * task.error(answer, taught, problem.t) + TRUTH_WEIGHT * truth + beta * sum(features)

    average = optimise(
        student, [{"params": list(student.parameters()), "lr": rate}], loss, steps=steps, seed=seed,
        rates=lambda done: 0.75 + 0.25 * math.cos(math.pi * done), progress=progress, checkpoint=checkpoint,
    )  # fmt: skip
    student.load_state_dict(average)
    return replace(pruned, network=student.requires_grad_(False))


def counterparts(task: Task, pruned: Pruned, problem: Problem) -> list[tuple[str, str]]:
    """Return, for each kept block, its last module in the student and the module of the teacher it is compared with.

    That is the same module, or the last of the blocks left out that follow it directly: whose input is its output.
    """
    before: dict[str, str] = {}  # module -> the module whose output it takes in
    latest: list[tuple[str, Tensor]] = []

    def rule(call: Call) -> Output:
        for name, output in latest:
            if output is call.input:
                before[call.module] = name
        output = call.compute()
        latest[:] = [(call.module, output)]
        return output

    with torch.no_grad(), intercepted(task.network, pruned.blocks, rule):
        task.answer(task.network, problem)
    follower = {taken_in: module for module, taken_in in before.items()}
    out = {name for block, bit in zip(pruned.blocks, pruned.kept, strict=True) if not bit for name in block.modules}
    pairs = []
    for block, bit in zip(pruned.blocks, pruned.kept, strict=True):
        if bit:
            last = block.modules[-1]
            while follower.get(last) in out:
                last = follower[last]
            pairs.append((pruned.names[block.modules[-1]], last))
    return pairs


@contextmanager
def outputs(network: torch.nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect what the named modules return while the context is open."""
    found: dict[str, Tensor] = {}

    def rule(call: Call) -> Output:
        found[call.module] = call.compute()
        return found[call.module]

    with intercepted(network, [Block(name, (name,)) for name in dict.fromkeys(names)], rule):
        yield found

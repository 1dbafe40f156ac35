"""Depth pruning after TinyFusion: half of the blocks left out, chosen in five ways, each fine-tuned for as long.

The residual MLP and the transformer are pruned 1:2 on the data of their own training. A row has the difference from the
exact ODE of the whole network, which is its teacher, and three more numbers:

    loss         square error of the raw output on data and noise that no training drew
    energy       energy distance of what it draws from data that no training drew
    parameters   those of the pruned network over those of the whole one

The rival is the whole network in so few steps that it costs as much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from shared.bench.case import Case, Row, measure
from shared.bench.metrics import energy_distance
from shared.pruning import (
    Group,
    Task,
    best_scores,
    block_influence,
    consecutive,
    even_levels,
    learn,
    log_normal_levels,
    magnitude,
    prune,
    random_choice,
    recover,
)  # fmt: skip
from shared.pruning.task import Draw
from shared.sampling import sample

FAMILY = "tinyfusion"
CALLS = 20
HELD_OUT_BATCHES = 8
DRAWS = 50  # in which a random choice that is like no other is looked for


@dataclass(frozen=True)
class Budget:
    """How long is learned and fine-tuned.

    Attributes:
        learning: steps of the gates.
        recovery: steps of fine-tuning, the same for every choice.
        rate: learning rate of updates and of fine-tuning.
        gate_rate: learning rate of the logits.
        batch: samples a step.
        randoms: number of random choices.
    """

    learning: int
    recovery: int
    rate: float
    gate_rate: float
    batch: int
    randoms: int


BUDGETS = {  # full and quick
    "shared/digits_denoiser": (Budget(600, 2000, 5e-4, 1e-3, 64, 3), Budget(100, 150, 5e-4, 4e-3, 64, 1)),
    "shared/digits_dit": (Budget(300, 600, 5e-4, 2e-3, 32, 3), Budget(60, 100, 5e-4, 5e-3, 32, 1)),
}


def rows(case: Case, *, quick: bool) -> list[Row]:
    """Return the rows of every choice of blocks and of the whole network at equal compute; none for other cases."""
    if case.name not in BUDGETS:
        return []
    budget = BUDGETS[case.name][quick]
    task = task_of(case, budget.batch)
    found = []
    done: dict[tuple[bool, ...], Row] = {}
    for name, kept in decisions(case, task, budget).items():
        key = tuple(kept.tolist())
        if key not in done:
            done[key] = _pruned_row(case, task, key, budget.recovery, budget.rate)
        found.append(replace(done[key], method=f"pruned 1:2, {name}, {CALLS} calls"))
    calls = math.ceil(min(row.price for row in found))
    rival = _row(case, task, case.network, f"whole network at the compute of the pruned, {calls} calls", calls)
    return [*found, replace(rival, family="plain")]


def decisions(case: Case, task: Task, budget: Budget) -> dict[str, Tensor]:
    """Return the bits of the blocks that each way of choosing keeps; a random choice is like none before it."""
    groups: tuple[Group, ...] = consecutive(len(case.blocks), size=2, keep=1)
    generator = torch.Generator().manual_seed(1)
    learned = learn(
        task, case.blocks, groups, steps=budget.learning, rate=budget.rate, gate_rate=budget.gate_rate, seed=1
    )
    found = {
        "learned": learned.kept,
        "magnitude": best_scores(groups, magnitude(case.network, case.blocks)),
        "block influence": best_scores(groups, block_influence(task, case.blocks, seed=1)),
    }
    for index in range(budget.randoms):
        drawn = [random_choice(groups, len(case.blocks), generator) for _ in range(DRAWS)]
        unseen = [kept for kept in drawn if not any(torch.equal(kept, other) for other in found.values())]
        if unseen:
            found[f"random {index + 1}"] = unseen[0]
    return found


def task_of(case: Case, batch: int) -> Task:
    """Return the task on which the case's network was trained."""
    process = case.process
    levels = log_normal_levels(process, -0.8, 1.4) if case.name == "shared/digits_denoiser" else even_levels(process)
    return Task(case.networked, digits_draw(case, held_out=False), levels, batch)


def digits_draw(case: Case, *, held_out: bool) -> Draw:
    """Return the draw of digits for training, or of those that no training draws."""
    from shared.examples import NO_CLASS
    from shared.examples.data import labelled_digits

    data, labels = labelled_digits(held_out=held_out)

    def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Mapping[str, Any]]:
        chosen = torch.randint(len(data), (count,), generator=generator)
        x0 = data[chosen].reshape(count, *case.shape)
        if case.name != "shared/digits_dit":
            return x0, {}
        dropped = torch.rand(count, generator=generator) < 0.2
        return x0, {"class_labels": torch.where(dropped, NO_CLASS, labels[chosen])}

    return draw


def held_out_loss(case: Case, task: Task, network: nn.Module) -> float:
    """Return the mean loss on data, noise and levels that no training draws; the same for every network."""
    held_out = replace(task, draw=digits_draw(case, held_out=True), batch=256)
    generator = torch.Generator().manual_seed(10_000)
    total = 0.0
    with torch.no_grad():
        for _ in range(HELD_OUT_BATCHES):
            problem = held_out.problem(generator)
            total += float(task.error(task.answer(network, problem), problem.x0, problem.t))
    return total / HELD_OUT_BATCHES


def _pruned_row(case: Case, task: Task, kept: tuple[bool, ...], steps: int, rate: float) -> Row:
    x = case.noise(2, 0)
    time = case.networked.time_input(0.5).float().to(case.device).expand(2)
    pruned = prune(case.network, case.blocks, kept, x, time, **case.networked.conditioning)
    network = recover(task, pruned, steps=steps, rate=rate, seed=1).network
    return _row(case, task, network, "pruned", CALLS)


def _row(case: Case, task: Task, network: nn.Module, method: str, calls: int) -> Row:
    """Return the row of a network in so many calls, with its loss and how far its samples are from data."""
    from shared.examples.data import labelled_digits

    denoiser, grid = case.networked.with_network(network), case.grid(calls)

    def draw(x: Tensor) -> Tensor:
        return sample(denoiser, x, grid, case.solver)

    row = measure(case, method, draw, family=FAMILY)
    data = labelled_digits(held_out=True)[0].reshape(-1, *case.shape)
    drawn = torch.cat([draw(x) for x in case.held_out])
    extra = {
        "loss": held_out_loss(case, task, network),
        "energy": energy_distance(drawn, data),
        "parameters": _size(network) / _size(case.network),
    }
    return replace(row, extra=extra)


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())

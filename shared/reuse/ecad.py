r"""ECAD: masks from an evolutionary search of the Pareto front of price and error.

    minimise over S in {0, 1}^(steps x blocks), S_1 = 1:    ( price(S), e(S) )

price in whole network calls (`shared.reuse.mask.price`), e the distance of the endpoint from that of the full sampling
on calibration noises (`shared.reuse.endpoint`). NSGA-II (Deb et al. 2002; pymoo): binary tournament on rank and
crowding, 4-point crossover, mutation of each gene with probability 1 / genes. The front is taken over every mask that
was ever evaluated, not over the last generation.

Genes: one bit for each step and block after the first step. In a UNet a reused level hides the levels below it, so
there the gene is the depth of each step, an integer from 0 to the number of levels, and its mutation draws another one.

The first generation holds uniform masks of several intervals and random ones of all densities. So on the calibration
noises no uniform mask of those is better than the front; on other noises this has to be measured.

    front = ecad(denoiser, stack(network, "blocks"), x, grid, solver, costs=costs)
    schedule = best_within(front, price=8.0)

Reference: Aggarwal, Shrivastava, Gwilliam, Evolutionary Caching to Accelerate Your Off-the-Shelf Diffusion Model,
ICLR 2026, section 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.errors import InputError, MissingExtra
from shared.files import atomic_path
from shared.grid import Grid
from shared.progress import tracked
from shared.reuse.endpoint import Endpoint
from shared.reuse.executor import Latest, Predictor
from shared.reuse.interception import Block
from shared.reuse.mask import check_mask, nested, price, uniform
from shared.reuse.predictors import Taylor
from shared.reuse.schedule import ReuseSchedule, load_schedule, make_schedule
from shared.sampling import Solver

CROSSOVER_POINTS = 4
INTERVALS = (2, 3, 4, 5)
OVERFLOWN = 1e30  # error of a mask whose sampling overflows: finite, because crowding distances are differences
PREDICTORS: dict[str, Callable[[], Predictor]] = {"latest": Latest, "taylor": Taylor}

Genes = np.ndarray


@dataclass(frozen=True)
class Genome:
    """The free numbers of a mask.

    Attributes:
        steps: rows of the mask; the first is no gene.
        blocks: its columns.
        nested: one depth a step instead of one bit a block.
    """

    steps: int
    blocks: int
    nested: bool = False

    @property
    def length(self) -> int:
        """Return the number of genes."""
        return (self.steps - 1) * (1 if self.nested else self.blocks)

    @property
    def high(self) -> int:
        """Return the largest value of a gene; the smallest is 0."""
        return self.blocks if self.nested else 1

    def mask(self, genes: Genes) -> Tensor:
        """Return the mask of the genes."""
        if self.nested:
            return nested([self.blocks, *(int(gene) for gene in genes)], self.blocks)
        first = torch.ones(1, self.blocks, dtype=torch.bool)
        rows = torch.from_numpy(genes.astype(bool)).reshape(self.steps - 1, self.blocks)
        return torch.cat([first, rows])

    def genes(self, mask: Tensor) -> Genes:
        """Return the genes of a mask; of a nested genome, the depth down to which each row computes everything."""
        rows = check_mask(mask, steps=self.steps, blocks=self.blocks)[1:]
        return (rows.long().cumprod(1).sum(1) if self.nested else rows.long().flatten()).numpy()


def ecad(
    denoiser: NetworkDenoiser | PreconditionedDenoiser,
    blocks: Sequence[Block],
    x: Tensor,
    grid: Grid,
    solver: Solver,
    *,
    costs: Sequence[float],
    nested: bool = False,
    population: int = 32,
    generations: int = 30,
    seed: int = 0,
    predictor: str = "latest",
    start: Sequence[ReuseSchedule] = (),
    progress: str | None = None,
) -> list[ReuseSchedule]:
    """Search masks and return the Pareto front, the cheapest first.

    Each schedule has `measured["rmse"]`, its error on the calibration noises. The dearest is the mask of ones, with
    error 0. The number of samplings is at most `population * generations` and the uniform masks; a mask is evaluated
    once.

    Args:
        denoiser: of the plain network.
        blocks: columns of the mask.
        x: calibration noises at the first level of the grid, (n, ...): not those on which the front is judged.
        grid: levels.
        solver: asks once a level.
        costs: share of each block, from `block_costs`.
        nested: the blocks are levels of a UNet (`unet_levels`): search depths.
        population: masks in a generation.
        generations: generations, the first included.
        seed: of the search.
        predictor: "latest" (reuse) or "taylor".
        start: schedules whose masks join the first generation: an earlier front, to go on from.
        progress: label of a progress bar; None is silent.

    Raises:
        InputError: a population below 4, no generation, a predictor without name here, a starting mask of another
            shape, or a solver that asks fewer than two times.
        MissingExtra: pymoo is not installed.
    """
    if predictor not in PREDICTORS:
        raise InputError("predictor", found=repr(predictor), expected=" or ".join(PREDICTORS), fix="Use latest.")
    endpoint = Endpoint(denoiser, blocks, x, grid, solver, predictor=PREDICTORS[predictor]())
    steps = len(endpoint.asked)
    if population < 4 or generations < 1 or steps < 2:
        raise InputError(
            "ecad", found=f"{population} masks, {generations} generations, {steps} network calls",
            expected="at least 4 masks, 1 generation and 2 calls", fix="Give larger numbers.",
        )  # fmt: skip
    genome = Genome(steps, len(blocks), nested)
    known: dict[tuple[int, ...], tuple[float, float]] = {}

    def objectives(genes: Genes) -> tuple[float, float]:
        key = tuple(int(gene) for gene in genes)
        if key not in known:
            mask = genome.mask(genes)
            known[key] = (price(mask, costs), min(endpoint.rmse(mask), OVERFLOWN))
        return known[key]

    first = _first_generation(genome, population, seed, [schedule.mask_tensor for schedule in start])
    algorithm = _nsga2(genome, objectives, first, population, seed)
    for _ in tracked(range(generations), progress):
        if not algorithm.has_next():  # every mask there is has been tried
            break
        algorithm.next()
    return [
        make_schedule(
            denoiser, blocks, genome.mask(np.array(genes)), grid, endpoint.asked, shape=x.shape[1:], costs=costs,
            producer="ecad", predictor=predictor, measured={"rmse": known[genes][1]},
        )
        for genes in pareto_front(known)
    ]  # fmt: skip


def pareto_front(known: dict[tuple[int, ...], tuple[float, float]]) -> list[tuple[int, ...]]:
    """Return the keys that no other key beats in one number without losing in the other, by the first number.

    Of keys with equal numbers the smallest is kept.
    """
    front: list[tuple[int, ...]] = []
    least = float("inf")
    for genes in sorted(known, key=lambda genes: (*known[genes], genes)):
        if known[genes][1] < least:
            least = known[genes][1]
            front.append(genes)
    return front


def best_within(front: Sequence[ReuseSchedule], price: float) -> ReuseSchedule:
    """Return the schedule of least error among those that cost at most `price` network calls.

    Raises:
        InputError: none is that cheap.
    """
    affordable = [schedule for schedule in front if schedule.price <= price * (1 + 1e-9)]
    if not affordable:
        cheapest = min((schedule.price for schedule in front), default=float("nan"))
        raise InputError(
            "price", found=f"{price:g} network calls", expected=f"at least {cheapest:.3g}, the cheapest of the front",
            fix="Allow more, or search with fewer steps.",
        )  # fmt: skip
    return min(affordable, key=lambda schedule: (schedule.measured["rmse"], schedule.price))


def save_front(front: Sequence[ReuseSchedule], folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a front as a folder of schedules, one JSON each, 000.json the cheapest; each is used as any schedule.

    Raises:
        InputError: the folder exists and may not be replaced.
    """
    with atomic_path(folder, overwrite=overwrite) as scratch:
        scratch.mkdir()
        for place, schedule in enumerate(sorted(front, key=lambda schedule: schedule.price)):
            schedule.save(scratch / f"{place:03d}.json")


def load_front(folder: str | os.PathLike[str]) -> list[ReuseSchedule]:
    """Read what `save_front` wrote, the cheapest first.

    Raises:
        InputError: no schedules there, or a file that is none.
    """
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise InputError(
            folder, found="no schedules", expected="a folder written by save_front", fix="Check the name.",
        )  # fmt: skip
    return sorted((load_schedule(path) for path in files), key=lambda schedule: schedule.price)


def uniform_masks(genome: Genome) -> list[Tensor]:
    """Return ones, and uniform masks of `INTERVALS` that keep none, or the first 1, 2, ... blocks at every step."""
    kept = range(genome.blocks)
    masks = [uniform(genome.steps, genome.blocks, interval, kept=range(k)) for interval in INTERVALS for k in kept]
    return [torch.ones(genome.steps, genome.blocks, dtype=torch.bool), *masks]


def _first_generation(genome: Genome, population: int, seed: int, start: Sequence[Tensor]) -> Genes:
    draw = np.random.default_rng(seed)
    found = [genome.genes(mask) for mask in [*start, *uniform_masks(genome)]]
    for _ in range(max(population - len(found), population // 2)):
        if genome.nested:
            found.append(draw.integers(0, genome.high + 1, genome.length))
        else:
            found.append((draw.random(genome.length) < draw.random()).astype(np.int64))
    return np.unique(np.stack(found), axis=0)


def _nsga2(
    genome: Genome,
    objectives: Callable[[Genes], tuple[float, float]],
    first: Genes,
    population: int,
    seed: int,
) -> Any:
    """Return pymoo's algorithm, set up and not yet run."""
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.mutation import Mutation
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.pntx import PointCrossover
    except ImportError as error:
        raise MissingExtra("pymoo", extra="bench", purpose="for the evolutionary search of masks") from error

    class Masks(Problem):
        def _evaluate(self, X: Genes, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
            out["F"] = np.array([objectives(genes) for genes in X])

    class OtherValue(Mutation):
        """Change each gene to another value with probability 1 / genes; a bit is flipped."""

        def _do(self, problem: Any, X: Genes, *args: Any, random_state: Any = None, **kwargs: Any) -> Genes:
            changed = random_state.random(X.shape) < 1 / genome.length
            other = (X + random_state.integers(1, genome.high + 1, X.shape)) % (genome.high + 1)
            return np.where(changed, other, X)

    algorithm = NSGA2(
        pop_size=population, sampling=first, crossover=PointCrossover(CROSSOVER_POINTS), mutation=OtherValue(),
    )  # fmt: skip
    problem = Masks(n_var=genome.length, n_obj=2, xl=0, xu=genome.high, vtype=int)
    algorithm.setup(problem, termination=("n_gen", 10**9), seed=seed, verbose=False)
    return algorithm

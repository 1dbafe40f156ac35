"""What a method is measured on, and one measured row.

    case = load_case("shared/photo_unet", quick=True)
    row = measure(case, "uniform 2", lambda x: sample(schedule.bind(case.networked), x, schedule.grid, solver))
    plain = [plain_row(case, calls) for calls in (10, 14)]          # the rival: fewer plain steps

A method is fitted on `case.fit_noise(count)` and measured on the held-out noises, whose seeds start at 10 000.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from shared.bench.metrics import rmse
from shared.denoiser import Denoiser, NetworkDenoiser, PreconditionedDenoiser
from shared.errors import InputError
from shared.grid import GRIDS, Grid, log_snr_grid
from shared.ledger import Ledger
from shared.models import load_model
from shared.process import NoiseProcess
from shared.reuse.blocks import stack, unet_levels
from shared.reuse.interception import Block, block_costs
from shared.sampling import Solver, sample
from shared.solvers.heun import Heun
from shared.solvers.multistep import Multistep

HELD_OUT_SEED = 10_000
FIT_SEED = 1
GRID_NAMES = ("karras", "log_snr", "trailing")
EXACT = ("exact/mixture", "exact/digits_kde")
CASES = ("shared/digits_denoiser", "shared/action_unet", "shared/photo_unet", "shared/digits_dit")


@dataclass
class Case:
    """A trained network with held-out noises and the exact ends of its ODE from them.

    Attributes:
        name: of the model.
        denoiser: with its network, or an exact score.
        process: noise process.
        shape: of one sample.
        blocks: columns of masks for its network; none for an exact score.
        count: noises a seed.
        seeds: number of held-out seeds.
        exact_steps: steps of Heun's method for the exact ends.
        solver: the plain solver under the methods that reuse features.
    """

    name: str
    denoiser: Denoiser
    process: NoiseProcess
    shape: tuple[int, ...]
    blocks: list[Block]
    count: int
    seeds: int
    exact_steps: int
    solver: Solver = field(default_factory=Multistep.dpm_solver_pp_2m)

    @property
    def networked(self) -> NetworkDenoiser | PreconditionedDenoiser:
        """Return the denoiser as one with a network; exact scores have none.

        Raises:
            InputError: an exact score.
        """
        if not isinstance(self.denoiser, NetworkDenoiser | PreconditionedDenoiser):
            raise InputError(self.name, found="an exact score", expected="a network", fix="Take one of CASES.")
        return self.denoiser

    @property
    def network(self) -> nn.Module:
        """Return the network as a module."""
        network = self.networked.network
        assert isinstance(network, nn.Module)
        return network

    @property
    def device(self) -> torch.device:
        """Return the device of the network."""
        return next(self.network.parameters()).device if self.blocks else torch.device("cpu")

    def noise(self, count: int, seed: int) -> Tensor:
        """Return noises (count, ...) at t = 1."""
        return self.process.noise((count, *self.shape), torch.Generator().manual_seed(seed), device=self.device)

    def fit_noise(self, count: int) -> Tensor:
        """Return noises to fit a method on; no measurement uses them."""
        return self.noise(count, FIT_SEED)

    @cached_property
    def held_out(self) -> list[Tensor]:
        """Return the noises of the measurement, one batch a seed."""
        return [self.noise(self.count, HELD_OUT_SEED + seed) for seed in range(self.seeds)]

    @cached_property
    def exact(self) -> list[Tensor]:
        """Return the exact ends for `held_out`."""
        return [self.exact_end(x) for x in self.held_out]

    def exact_end(self, x: Tensor) -> Tensor:
        """Return the end of the network's ODE from x: Heun's method, nodes uniform in log_snr."""
        return sample(self.denoiser, x, log_snr_grid(self.process, self.exact_steps), Heun())

    @cached_property
    def costs(self) -> list[float]:
        """Return the share of each block in a network call."""
        x = self.noise(1, 0)
        time = self.networked.time_input(0.5).float().to(self.device).expand(1)
        return block_costs(self.network, self.blocks, x, time, **self.networked.conditioning)[0]

    @cached_property
    def call_flops(self) -> float:
        """Return the counted operations of one call for one sample, 0 for an exact score."""
        if not self.blocks:
            return 0.0
        with Ledger(flops=True) as ledger, torch.no_grad():
            self.denoiser(self.noise(1, 0), 0.5)
        assert ledger.flops
        return float(ledger.flops)

    def grid(self, calls: int) -> Grid:
        """Return the grid of GRID_NAMES on which the plain solver is best with so many calls, on fitting noises."""
        if calls not in self._grids:
            errors = {name: rmse(self._plain(self._fit[0], name, calls), self._fit[1]) for name in GRID_NAMES}
            self._grids[calls] = min(errors, key=lambda name: errors[name])
        return GRIDS[self._grids[calls]](self.process, calls)

    @cached_property
    def _fit(self) -> tuple[Tensor, Tensor]:
        x = self.fit_noise(min(self.count, 64))
        return x, self.exact_end(x)

    @cached_property
    def _grids(self) -> dict[int, str]:
        return {}

    def _plain(self, x: Tensor, grid: str, calls: int) -> Tensor:
        return sample(self.denoiser, x, GRIDS[grid](self.process, calls), self.solver)


@dataclass(frozen=True)
class Row:
    """One method on one case.

    Attributes:
        case: name of the model.
        method: what was run.
        price: counted operations of a sampling, in network calls.
        errors: root mean square difference from the exact end, one a seed.
        family: "plain" for fewer plain steps, else the page of docs/methods that the method belongs to.
        extra: other numbers of the row by name.
    """

    case: str
    method: str
    price: float
    errors: tuple[float, ...]
    family: str
    extra: dict[str, float] = field(default_factory=dict)

    @property
    def rmse(self) -> float:
        """Return the mean of the errors over the seeds."""
        return statistics.mean(self.errors)

    @property
    def spread(self) -> float:
        """Return their standard deviation, 0 for one seed."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else 0.0


def load_case(name: str, *, quick: bool = False, device: torch.device | str = "cpu") -> Case:
    """Return a trained network of `CASES`, or an exact score of `EXACT`, as a case; quick takes fewer noises.

    Raises:
        InputError: no such case.
    """
    if name in EXACT:
        from shared.bench.exact import exact_case

        return exact_case(name, quick=quick)
    if name not in CASES:
        known = ", ".join((*EXACT, *CASES))
        raise InputError(name, found="no such case", expected=f"one of {known}", fix="Check the name.")
    model = load_model(name, device=device)
    denoiser = model.denoiser
    assert isinstance(denoiser, NetworkDenoiser | PreconditionedDenoiser)
    network = denoiser.network
    assert isinstance(network, nn.Module)
    small = name in ("shared/digits_denoiser", "shared/action_unet")
    if name == "shared/digits_denoiser":
        blocks = stack(network, "blocks")
    elif name == "shared/digits_dit":
        blocks = stack(network, "transformer_blocks")
    else:
        blocks = unet_levels(network)
    count, seeds = ((128 if small else 24), 2) if quick else ((256 if small else 64), 5)
    return Case(name, denoiser, model.process, model.shape, blocks, count, seeds, exact_steps=200 if small else 80)


def measure(case: Case, method: str, draw: Callable[[Tensor], Tensor], *, family: str) -> Row:
    """Return the row of a method: its error on every held-out seed and the operations that it was seen to spend.

    Args:
        case: what to measure on.
        method: name of the row.
        draw: from a batch of noises to samples.
        family: see `Row`.
    """
    with Ledger(flops=True) as ledger, torch.no_grad():
        draw(case.held_out[0][:2])
    price = (ledger.flops or 0) / (2 * case.call_flops) if case.call_flops else float(ledger.calls)
    with torch.no_grad():
        errors = tuple(rmse(draw(x), end) for x, end in zip(case.held_out, case.exact, strict=True))
    return Row(case.name, method, price, errors, family)


def plain_row(case: Case, calls: int) -> Row:
    """Return the rival of every method that saves compute: the plain solver in so many calls, on its best grid."""
    grid = case.grid(calls)
    return measure(case, f"{calls} plain steps", lambda x: sample(case.denoiser, x, grid, case.solver), family="plain")

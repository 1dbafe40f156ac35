r"""A calibrated solver with coefficients for every band of frequencies; `shared.calibration` makes the table.

    C x_{k+1} = gain_kb C x_k + sum_j weights_kjb C D_{k-j}        C the cosine transform, b the band of a coefficient

A denoiser removes noise from low frequencies, where data are strong, earlier than from high ones, so the best step at a
level is not the same for all: for Gaussian data of variance P_b the exact one, between s and t, has the gain
sqrt((alpha_t^2 P_b + sigma_t^2) / (alpha_s^2 P_b + sigma_s^2)) about the mean. One gain for all fits none.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shared.cosine import Bands, from_waves, waves
from shared.errors import InputError
from shared.grid import Grid
from shared.process import NoiseProcess
from shared.sampling import State
from shared.solvers.calibrated import require_nodes

Row = tuple[float, ...]


@dataclass(frozen=True)
class BandedMultistep:
    """Multistep solver of given coefficients for each band, one call a step.

    Attributes:
        times: the nodes t_0 > ... > t_N for which the coefficients were fitted.
        edges: between the bands, cycles a sample (`shared.cosine.Bands`).
        gains: weight of x_k in x_{k+1}, for each step one number a band.
        weights: weights of D_k, D_{k-1}, ... in x_{k+1}, for each step and answer one number a band.

    Raises:
        InputError: numbers of steps, answers or bands that do not fit.
    """

    times: tuple[float, ...]
    edges: tuple[float, ...]
    gains: tuple[Row, ...]
    weights: tuple[tuple[Row, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(map(float, self.times)))
        object.__setattr__(self, "edges", tuple(map(float, self.edges)))
        object.__setattr__(self, "gains", tuple(tuple(map(float, row)) for row in self.gains))
        weights = tuple(tuple(tuple(map(float, row)) for row in rows) for rows in self.weights)
        object.__setattr__(self, "weights", weights)
        steps, bands = len(self.times) - 1, len(self.edges) + 1
        rows = [*self.gains, *(row for rows in self.weights for row in rows)]
        early = any(len(rows) > k + 1 for k, rows in enumerate(self.weights))
        if not len(self.gains) == len(self.weights) == steps or early or any(len(row) != bands for row in rows):
            raise InputError(
                "banded solver",
                found=f"{len(self.times)} times, {len(self.gains)} gains, {len(self.weights)} rows of weights",
                expected=f"{max(steps, 0)} of both, one a step, of {bands} bands and of answers given by then",
                fix="Load the artefact again; do not edit it.",
            )

    def grid(self, process: NoiseProcess) -> Grid:
        """Return the solver's own grid."""
        return Grid(process, self.times)

    def plan(self, grid: Grid) -> BandedPlan:
        """Return one update a step.

        Raises:
            InputError: a grid whose times are not those of the calibration.
        """
        require_nodes(self.times, grid)
        return BandedPlan(self)


@dataclass(frozen=True)
class BandedPlan:
    """The steps of a banded solver on its own grid.

    Attributes:
        table: the solver.
    """

    table: BandedMultistep

    @property
    def calls(self) -> int:
        """Return the number of network calls."""
        return len(self.table.gains)

    @property
    def asked(self) -> tuple[float, ...]:
        """Return the level of each call."""
        return self.table.times[:-1]

    def start(self, x: Tensor) -> State:
        """Return the state before the first call, x (N, C, *space)."""
        return State(x=x, t=self.table.times[0])

    def advance(self, state: State, x0: Tensor, generator: torch.Generator | None = None) -> State:
        """Return the state after the answer x0 = D(state.x, state.t); the generator is not used.

        Raises:
            InputError: the sampling is already complete.
        """
        k, table = state.index, self.table
        if k >= self.calls:
            raise InputError(
                "state", found=f"{k} calls made", expected=f"fewer than the {self.calls} of the plan",
                fix="Start a new sampling.",
            )  # fmt: skip
        history = (x0, *state.history)[: max(map(len, table.weights))]
        index = Bands(table.edges).index(tuple(state.x.shape[2:])).to(state.x.device)
        terms = zip((table.gains[k], *table.weights[k]), (state.x, *history), strict=False)
        total = torch.zeros_like(state.x)
        for row, tensor in terms:
            total = total + torch.tensor(row, dtype=torch.float64).to(tensor)[index] * waves(tensor)
        return State(x=from_waves(total), t=table.times[k + 1], index=k + 1, history=history)

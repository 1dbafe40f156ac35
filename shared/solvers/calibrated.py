r"""A solver whose coefficients were fitted to one model on one grid: the table itself, as made by `shared.calibration`.

    x_{k+1} = gain_k x_k + sum_j weights_kj D_{k-j}

The table belongs to its nodes: another grid, or the tail of this one (whose first steps would lack their history), is
refused.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import InputError
from shared.grid import Grid
from shared.process import NoiseProcess
from shared.solvers.linear import LinearPlan, Update


@dataclass(frozen=True)
class CalibratedMultistep:
    """Multistep solver of given coefficients, one call a step.

    Attributes:
        times: the nodes t_0 > ... > t_N for which the coefficients were fitted.
        gains: weight of x_k in x_{k+1}, one a step.
        weights: weights of D_k, D_{k-1}, ... in x_{k+1}, one tuple a step.

    Raises:
        InputError: numbers of gains or weights that are not those of the steps.
    """

    times: tuple[float, ...]
    gains: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(float(t) for t in self.times))
        object.__setattr__(self, "gains", tuple(float(gain) for gain in self.gains))
        object.__setattr__(self, "weights", tuple(tuple(float(w) for w in row) for row in self.weights))
        steps = len(self.times) - 1
        if len(self.gains) != steps or len(self.weights) != steps:
            raise InputError(
                "calibrated solver",
                found=f"{len(self.times)} times, {len(self.gains)} gains, {len(self.weights)} rows of weights",
                expected=f"{max(steps, 0)} gains and rows of weights, one a step",
                fix="Load the artefact again; do not edit it.",
            )
        early = [k for k, row in enumerate(self.weights) if len(row) > k + 1]
        if early:
            raise InputError(
                "calibrated solver",
                found=f"{len(self.weights[early[0]])} weights in step {early[0]}",
                expected=f"at most {early[0] + 1}, the answers given by then",
                fix="Load the artefact again; do not edit it.",
            )

    def grid(self, process: NoiseProcess) -> Grid:
        """Return the solver's own grid."""
        return Grid(process, self.times)

    def plan(self, grid: Grid) -> LinearPlan:
        """Return one update a step.

        Raises:
            InputError: a grid whose times are not those of the calibration.
        """
        require_nodes(self.times, grid)
        rows = zip(self.times, self.gains, self.weights, strict=False)
        return LinearPlan(tuple(Update(t, gain, weights) for t, gain, weights in rows), self.times[-1])


def require_nodes(times: tuple[float, ...], grid: Grid) -> None:
    """Raise `InputError` unless the times of a grid are the nodes of a calibration."""
    same = len(grid.times) == len(times)
    if not same or max(abs(a - b) for a, b in zip(grid.times, times, strict=True)) > 1e-9:
        raise InputError(
            "grid",
            found=f"{grid.steps} steps, t = {grid.times[0]:g} ... {grid.times[-2]:g}, {grid.times[-1]:g}",
            expected=f"the {len(times) - 1} steps of the calibration, {times[0]:g} to {times[-1]:g}",
            fix="Use the calibration's own grid; calibrate again for another.",
        )

r"""At which noise levels the network is asked: times 1 >= t_0 > t_1 > ... > t_N >= 0.

The end rule. A grid of N steps has N + 1 nodes. The network is asked at t_0 ... t_{N-1}; the last node is t_N = 0,
where sigma = 0, so the last step of every solver is

    x_N = D(x_{N-1}, t_{N-1}),

the estimate of the data at the lowest level asked. No noise is left in the result, no call is spent at sigma = 0, and
the update uses the two levels that it says it uses: on Gaussian data the standard deviation of the result is the one
that the formula predicts for the grid, at any N. A grid may end above 0 by an explicit list; then noise of that
level remains in x_N.

| grid     | levels asked, k = 0 ... N-1                                                             |
| -------- | --------------------------------------------------------------------------------------- |
| uniform  | t from 1 to t_min, both included (numpy's linspace)                                     |
| trailing | t = 1 - k/N (diffusers' "trailing"; rounded to entries of a table)                      |
| log_snr  | log_snr from its start to log_snr(t_min)                                                |
| karras   | kappa^(1/rho) from its start to kappa(t_min), kappa = sigma/alpha (Karras et al., eq. 5) |

log_snr and karras start at t = 1; where log_snr(1) is below -7 (noise a thousand times the data, or alpha = 0) their
spacing is computed from -7, because calls below it would all see the same pure noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from shared.errors import InputError
from shared.process import NoiseProcess, TableVP

LOG_SNR_FLOOR = -7.0


@dataclass(frozen=True)
class Grid:
    """Strictly decreasing times of a process.

    Attributes:
        process: gives alpha and sigma at the times.
        times: t_0 > t_1 > ... > t_N; any floats in [0, 1].

    Raises:
        InputError: fewer than two times, a time outside [0, 1], or repeated or rising times; the places are named.
    """

    process: NoiseProcess
    times: tuple[float, ...]

    def __post_init__(self) -> None:
        times = tuple(float(t) for t in self.times)
        object.__setattr__(self, "times", times)
        if len(times) < 2:
            raise InputError(
                "grid",
                found=f"{len(times)} nodes",
                expected="at least two: a start and an end",
                fix="Ask for one step or more.",
            )
        outside = [k for k, t in enumerate(times) if not 0 <= t <= 1]
        if outside:
            raise InputError(
                "grid",
                found=f"t = {times[outside[0]]} at index {outside[0]}",
                expected="times in [0, 1]",
                fix="t = 1 is noise and t = 0 is data.",
            )
        wrong = [k for k in range(1, len(times)) if times[k] >= times[k - 1]]
        if wrong:
            what = "repeated" if all(times[k] == times[k - 1] for k in wrong) else "rising"
            shown = ", ".join(f"{k - 1}-{k} ({times[k - 1]:g}, {times[k]:g})" for k in wrong[:4])
            raise InputError(
                "grid",
                found=f"{what} nodes at indices {shown}",
                expected="strictly decreasing times",
                fix="Sort the nodes from noise to data and drop repeated ones.",
            )

    @property
    def steps(self) -> int:
        """Return N, the number of steps; also the number of network calls of a solver with one call a step."""
        return len(self.times) - 1

    @cached_property
    def alpha(self) -> tuple[float, ...]:
        """Return alpha at the nodes."""
        return tuple(self.process.alpha(torch.tensor(self.times, dtype=torch.float64)).tolist())

    @cached_property
    def sigma(self) -> tuple[float, ...]:
        """Return sigma at the nodes."""
        return tuple(self.process.sigma(torch.tensor(self.times, dtype=torch.float64)).tolist())

    @cached_property
    def log_snr(self) -> tuple[float, ...]:
        """Return ln(alpha / sigma) at the nodes; -inf where alpha = 0 and +inf where sigma = 0."""
        return tuple(self.process.log_snr(torch.tensor(self.times, dtype=torch.float64)).tolist())

    def from_index(self, index: int) -> Grid:
        """Return the grid from node `index` on: for a warm start with x at that node."""
        return Grid(self.process, self.times[index:])

    def from_time(self, t: float) -> Grid:
        """Return the grid that starts at level t and goes on with the nodes below it: for a warm start at any level."""
        return Grid(self.process, (t, *[node for node in self.times if node < t]))


def _ending_at_data(process: NoiseProcess, asked: Tensor) -> Grid:
    return Grid(process, (1.0, *asked[1:].tolist(), 0.0))


def _check_steps(n: int) -> None:
    if n < 1:
        raise InputError("grid", found=f"{n} steps", expected="one step or more", fix="Ask for at least one step.")


def _start_log_snr(process: NoiseProcess) -> Tensor:
    return process.log_snr(1.0).clamp_min(LOG_SNR_FLOOR)


def uniform_grid(process: NoiseProcess, n: int) -> Grid:
    """Return n calls at times linearly spaced from 1 to t_min, then data."""
    _check_steps(n)
    return _ending_at_data(process, torch.linspace(1.0, process.t_min, n, dtype=torch.float64))


def trailing_grid(process: NoiseProcess, n: int) -> Grid:
    """Return n calls at times 1 - k/n, then data; rounded to the entries when the process is a table.

    Raises:
        InputError: n exceeds the entries of the table.
    """
    _check_steps(n)
    asked = 1 - torch.arange(n, dtype=torch.float64) / n
    if isinstance(process, TableVP):
        if n > process.steps:
            raise InputError(
                "grid",
                found=f"{n} steps",
                expected=f"at most {process.steps}, the entries of the noise table",
                fix="Ask for fewer steps or use another grid.",
            )
        entries = process.steps - torch.arange(n, dtype=torch.float64) * (process.steps / n)
        asked = torch.round(entries) / process.steps
    return _ending_at_data(process, asked)


def log_snr_grid(process: NoiseProcess, n: int) -> Grid:
    """Return n calls at levels linearly spaced in ln(alpha / sigma), then data."""
    _check_steps(n)
    start, end = float(_start_log_snr(process)), float(process.log_snr(process.t_min))
    return _ending_at_data(process, process.time_of_log_snr(torch.linspace(start, end, n, dtype=torch.float64)))


def karras_grid(process: NoiseProcess, n: int, *, rho: float = 7.0) -> Grid:
    """Return n calls at levels linearly spaced in (sigma / alpha)^(1/rho), then data."""
    _check_steps(n)
    start, end = torch.exp(-_start_log_snr(process)), torch.exp(-process.log_snr(process.t_min))
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    kappa = (start ** (1 / rho) + ramp * (end ** (1 / rho) - start ** (1 / rho))) ** rho
    return _ending_at_data(process, process.time_of_log_snr(-torch.log(kappa)))


def explicit_grid(process: NoiseProcess, times: Sequence[float]) -> Grid:
    """Return the grid of the given times; none is added."""
    return Grid(process, tuple(times))


GRIDS: dict[str, Callable[[NoiseProcess, int], Grid]] = {
    "uniform": uniform_grid,
    "trailing": trailing_grid,
    "log_snr": log_snr_grid,
    "karras": karras_grid,
}
"""The grids by the names that configurations and saved schedulers use."""

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
| quadratic | sqrt(t) from 1 to sqrt(t_min); any power by `polynomial_grid`                          |
| ays_sd15, ays_sdxl | the ten kappa of Align Your Steps; ln kappa linear between                     |

Not in `GRIDS`, since not for every N or process: `truncated_power_grid`, whose stop and powers are a table for 4, 5, 6
and 8 calls, and `ays_grid(model="svd")`, which starts far above the noise of most tables of betas.

log_snr and karras start at t = 1; where log_snr(1) is below -7 (noise a thousand times the data, or alpha = 0) their
spacing is computed from -7, because calls below it would all see the same pure noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from shared.errors import InputError
from shared.process import NoiseProcess, TableVP, VariancePreserving
from shared.published_nodes import AYS, TRUNCATED_POWER, TRUNCATED_POWER_TIME

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


def polynomial_grid(process: NoiseProcess, n: int, *, rho: float = 2.0) -> Grid:
    """Return n calls at times linearly spaced in t^(1/rho) from 1 to t_min, then data.

    rho = 2 is the quadratic grid of DDIM. The power law in kappa instead of t is `karras_grid`.
    """
    _check_steps(n)
    return _ending_at_data(process, torch.from_numpy(_power_law(n, process.t_min, 1.0, rho)))


def ays_grid(process: NoiseProcess, n: int, *, model: str = "sd15") -> Grid:
    """Return n calls at the levels of Align Your Steps, then data.

    The first level is the start of the process; for other n than ten, ln kappa is linear in the index between the
    published levels, as its authors do.

    Raises:
        InputError: a model without published levels, or a process that starts below the second level.
    """
    _check_steps(n)
    if model not in AYS:
        raise InputError("model", found=repr(model), expected=f"one of {', '.join(AYS)}", fix="Correct it.")
    kappa, start = np.array(AYS[model]), float(torch.exp(-_start_log_snr(process)))
    if start <= kappa[1]:
        raise InputError(
            "process",
            found=f"a start at sigma / alpha = {start:.4g}",
            expected=f"one above {kappa[1]:g}, the second level of {model}",
            fix="Use karras_grid.",
        )
    kappa[0] = start
    index = np.linspace(0, len(kappa) - 1, n)
    log_kappa = np.interp(index, np.arange(len(kappa)), np.log(kappa))
    return _ending_at_data(process, process.time_of_log_snr(torch.from_numpy(-log_kappa)))


def truncated_power_grid(process: NoiseProcess, calls: int, *, table: str = "sd15", denoise: bool = True) -> Grid:
    r"""Return the grid of "Hyperparameters are all you need" for this number of calls.

    With K(n, a, b, p)_i = (b^(1/p) + i/(n - 1) (a^(1/p) - b^(1/p)))^p, the row (n, rho, stop) of the table gives the
    level where sampling stops, kappa_e = K(n, kappa_min, kappa_max, rho)_stop, and the nodes are K(., u_e, u_max, 1.2)
    in u: the entry of a table of betas, t of other variance-preserving processes. t of the rest runs otherwise (it is
    sigma itself for EDM); for them u is the t of `VariancePreserving.linear()` at equal kappa.

    Args:
        process: its kappa at t_min and at 1 are the range.
        calls: 4, 5, 6 or 8.
        table: "sd15" or "sdxl", the model for which the row was found.
        denoise: reach kappa_e after calls - 1 steps and end with x = D there; otherwise take all steps to kappa_e and
            leave its noise in the result, as published.

    Raises:
        InputError: no such table or row.
    """
    rows = TRUNCATED_POWER.get(table, {})
    if calls not in rows:
        found, expected = (f"{calls} calls", ", ".join(map(str, rows))) if rows else (table, ", ".join(TRUNCATED_POWER))
        raise InputError(
            "truncated power grid", found=found, expected=f"one of {expected}",
            fix="Use a row of the table, or karras_grid for any number of calls.",
        )  # fmt: skip
    n, rho, stop = rows[calls]
    low, high = (float(torch.exp(-log_snr)) for log_snr in (process.log_snr(process.t_min), _start_log_snr(process)))
    clock = process if isinstance(process, VariancePreserving) else VariancePreserving.linear()
    shift = 1 / clock.steps if isinstance(clock, TableVP) else 0.0  # entry i of a table lies at t = (i + 1) / T
    end, start = (float(clock.time_of_log_snr(-np.log(k))) for k in (_power_law(n, low, high, rho)[stop], high))
    u = shift + _power_law(calls if denoise else calls + 1, end - shift, start - shift, TRUNCATED_POWER_TIME)
    times = process.time_of_log_snr(clock.log_snr(torch.from_numpy(u)))
    return Grid(process, (1.0, *times[1:].tolist(), *((0.0,) if denoise else ())))


def _power_law(n: int, low: float, high: float, rho: float) -> np.ndarray:
    """Return n numbers from high down to low, linearly spaced in their power 1/rho."""
    return np.linspace(high ** (1 / rho), low ** (1 / rho), n) ** rho


def explicit_grid(process: NoiseProcess, times: Sequence[float]) -> Grid:
    """Return the grid of the given times; none is added."""
    return Grid(process, tuple(times))


GRIDS: dict[str, Callable[[NoiseProcess, int], Grid]] = {
    "uniform": uniform_grid,
    "trailing": trailing_grid,
    "log_snr": log_snr_grid,
    "karras": karras_grid,
    "quadratic": polynomial_grid,
    "ays_sd15": ays_grid,
    "ays_sdxl": partial(ays_grid, model="sdxl"),
}
"""The grids by the names that configurations and saved schedulers use."""

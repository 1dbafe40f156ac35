"""The ways of execution by name, for `fewstep policy evaluate` and the benchmarks; `acting` has the table."""

from __future__ import annotations

from robotics.policy.acting import Acting
from robotics.policy.bidirectional import BidirectionalDecoding
from robotics.policy.chunking import RealTimeChunking
from robotics.policy.ensembling import TemporalEnsemble
from robotics.policy.partial import PartialDenoising
from robotics.policy.policy import Policy
from robotics.policy.rolling import RollingPolicy
from robotics.policy.warmstart import WarmStart
from shared.errors import InputError
from shared.grid import Grid
from shared.sampling import Solver

EXECUTIONS = ("chunk", "ensemble", "rtc", "rtc-vjp", "bid", "falcon")
METHODS = {"rtc": "inpaint", "rtc-vjp": "vjp"}


def named_execution(
    name: str,
    policy: Policy,
    *,
    warm: WarmStart,
    latency: int = 0,
    weak: Policy | None = None,
    solver: Solver | None = None,
    cold_solver: Solver | None = None,
    cold_grid: Grid | None = None,
    environments: int = 1,
) -> Acting:
    """Return a way of executing a policy.

    Args:
        name: one of `EXECUTIONS`.
        policy: draws the chunks.
        warm: of all but "bid" and "falcon", which start in their own ways.
        latency: the committed actions of "rtc" and "rtc-vjp", ticks.
        weak: an earlier checkpoint, for "bid".
        solver: of warm samplings.
        cold_solver: of cold ones, and of those of "bid" and "falcon"; the default is `solver`.
        cold_grid: levels of a cold start.
        environments: how many worlds act at the same time.

    Raises:
        InputError: an unknown name, or a weak policy that nothing uses.
    """
    if name not in EXECUTIONS:
        raise InputError("execution", found=repr(name), expected=f"one of {', '.join(EXECUTIONS)}", fix="Correct it.")
    if weak is not None and name != "bid":
        raise InputError("weak policy", found=f"execution {name}", expected="bid", fix="Leave the weak policy out.")
    cold = cold_solver or solver
    if name == "bid":
        return BidirectionalDecoding(policy, weak=weak, solver=cold, grid=cold_grid, environments=environments)
    if name == "falcon":
        return PartialDenoising(policy, solver=cold, grid=cold_grid, environments=environments)
    chunking = None
    if name in METHODS:
        chunking = RealTimeChunking(delay=latency, method=METHODS[name])  # type: ignore[arg-type]
    rolling = RollingPolicy(
        policy, warm=warm, solver=solver, cold_solver=cold_solver, cold_grid=cold_grid, chunking=chunking,
        environments=environments,
    )  # fmt: skip
    return TemporalEnsemble(rolling) if name == "ensemble" else rolling

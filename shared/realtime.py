r"""Sampling inside a control loop: everything that can be done before the loop is done before it.

    sampler = RealTimeSampler(denoiser, grid, solver, (1, 2, 16))
    while running:
        sampler.observe(observation=camera.read())
        action = sampler(process.noise((1, 2, 16), generator), until=deadline(0.02))

Construction unrolls the solver (`shared.unrolled`), puts the rows, the network's times and the conditioning on the
device, allocates the stack v = (x_0, F_0, z_0, F_1, ...) and compiles the network. A call is then

    u = U_k . v,      F_k = network(u, time_k, conditioning),      v gets F_k

(U_k = scale_k X_k): one product, the network, one copy. There is no state object, no conversion of numbers to tensors
and no synchronisation. On CUDA the whole sampling is one CUDA graph, and each call another for samplings that may stop.

Sampling may stop after any call (`until`) with the best estimate so far, D_k = E_k . v, and may start at a later node
of the grid (`starts`), for a warm start from the last plan. It is the sampling of `shared.sampling.sample` up to
rounding; a stochastic solver draws the same noise from the same generator.

One sampler, one thread: its buffers are its own and each sampling overwrites them.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser, Reading, answer_of
from shared.errors import InputError
from shared.grid import Grid
from shared.ledger import record_call
from shared.process import standard_normal
from shared.sampling import Solver
from shared.unrolled import Unrolled, unroll

REAL = {torch.complex64: torch.float32, torch.complex128: torch.float64}
DTYPES = (torch.float32, torch.float64, *REAL)
WARM_UP = 3  # runs before a capture, so that libraries have chosen their kernels

_Network = Callable[[Tensor, Tensor], Tensor]
Until = Callable[[int], bool]
"""Asked after each call but the last with the number of calls made; True stops the sampling."""


@dataclass(frozen=True)
class _Program:
    """A sampling from one start, ready to run.

    Attributes:
        stack: v, its real form (size, numbers of a sample batch).
        first: the entry of the stack for x_0, in the shape of x.
        noises: the entries for the noises.
        calls: make one network call each.
        estimates: rows E_k and the parts of the stack they are multiplied by.
        finish: computes the sample from the stack.
        whole: all calls and the end as one CUDA graph; None elsewhere.
    """

    stack: Tensor
    first: Tensor
    noises: tuple[Tensor, ...]
    calls: tuple[Callable[[], None], ...]
    estimates: tuple[tuple[Tensor, Tensor], ...]
    finish: Callable[[], Any]
    whole: Callable[[], None] | None


class RealTimeSampler:
    """A linear solver on a fixed grid, network and shape, with nothing left to prepare.

    Args:
        denoiser: a network with its prediction; its conditioning tensors become static inputs, see `observe`.
        grid: levels.
        solver: a solver whose steps are fixed sums of answers: all of ours but EVODiff.
        shape: of x, batch first.
        device: where the network is.
        dtype: of x: float32, float64, complex64 or complex128.
        compile: compile the network with torch.compile. Where that fails (on a CPU it needs a C++ compiler) a warning
            says so, the network runs as it is, and `compiled` is False.
        starts: nodes of the grid at which samplings will start; the solver is planned on each `grid.from_index`.
        clip: limit each estimate D to [-clip, clip], as `shared.denoiser.clipped` does.

    Attributes:
        compiled: whether the network is compiled.
        graphed: whether CUDA graphs are used.
        made: network calls of the latest sampling.

    Raises:
        InputError: another kind of denoiser, solver or dtype, a start that is no node with a step after it, a level at
            which the network does not determine x_0, or an answer of another shape than x.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser | PreconditionedDenoiser,
        grid: Grid,
        solver: Solver,
        shape: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        compile: bool = True,
        starts: Sequence[int] = (0,),
        clip: float | None = None,
    ) -> None:
        _check(denoiser, grid, dtype, starts)
        self.shape, self.device, self.dtype = tuple(shape), torch.device(device), dtype
        self.clip = clip
        self.made = 0
        self.conditioning = {
            name: value.to(self.device).clone() if isinstance(value, Tensor) else value
            for name, value in denoiser.conditioning.items()
        }
        self._real = REAL.get(dtype, dtype)
        self._input = torch.zeros(self.shape, device=self.device, dtype=dtype)
        self._result = torch.zeros_like(self._input)
        plans = {start: solver.plan(grid.from_index(start)) for start in starts}
        readings = {start: [denoiser.reading(t) for t in plan.asked] for start, plan in plans.items()}
        folded = {
            start: reads if clip is None else [Reading(read.time, 0.0, 1.0, read.scale) for read in reads]
            for start, reads in readings.items()
        }
        tables = {start: unroll(plan, folded[start]) for start, plan in plans.items()}
        self._network = self._eager(denoiser)
        self.compiled = False
        with torch.no_grad():
            self._ask_once(readings[starts[0]][0])
            if compile:
                self._compile(readings[starts[0]][0])
            self.graphed = self.device.type == "cuda"
            self._programs = {start: self._program(tables[start], readings[start]) for start in starts}

    def __call__(
        self, x: Tensor, *, start: int = 0, generator: torch.Generator | None = None, until: Until | None = None
    ) -> Tensor:
        """Draw a sample.

        Args:
            x: batch at node `start` of the grid.
            start: one of `starts`.
            generator: source of the noise of stochastic solvers.
            until: stops the sampling after a call; the result is then the newest estimate of x_0. See `deadline`.

        Raises:
            InputError: x of another shape, or a start that was not prepared.
        """
        program = self._programs.get(start)
        if program is None or x.shape != self._input.shape:
            self._refuse(x, start)
        assert program is not None
        with torch.no_grad():
            program.first.copy_(x)
            for noise in program.noises:
                noise.copy_(standard_normal(self.shape, generator, dtype=self.dtype, device=self.device))
            if until is None and program.whole is not None:
                for _ in program.calls:
                    record_call(self.shape[0])
                program.whole()
                self.made = len(program.calls)
                return self._result.clone()
            self.made = 0
            for call in program.calls:
                record_call(self.shape[0])
                call()
                self.made += 1
                if until is not None and self.made < len(program.calls):
                    if self.graphed:
                        torch.cuda.synchronize(self.device)  # the call is over, not only begun
                    if until(self.made):
                        return self._shaped(torch.mv(*program.estimates[self.made - 1]))
            program.finish()
            return self._result.clone()

    def observe(self, **conditioning: Tensor) -> None:
        """Copy new values into the conditioning tensors of the denoiser.

        Raises:
            InputError: a name that the denoiser was not given as a tensor, or a value of another shape.
        """
        for name, value in conditioning.items():
            held = self.conditioning.get(name)
            if not isinstance(held, Tensor):
                known = ", ".join(name for name, value in self.conditioning.items() if isinstance(value, Tensor))
                raise InputError(
                    f"conditioning {name}", found="no such tensor", expected=f"one of: {known or 'none'}",
                    fix="Give it to the denoiser, with denoiser.given(...), before the sampler is made.",
                )  # fmt: skip
            if held.shape != value.shape:
                raise InputError(
                    f"conditioning {name}", found=f"shape {tuple(value.shape)}", expected=f"{tuple(held.shape)}",
                    fix="A real-time sampler has one shape; make another for this one.",
                )  # fmt: skip
            held.copy_(value)

    def _eager(self, denoiser: NetworkDenoiser | PreconditionedDenoiser) -> _Network:
        network, conditioning, name = denoiser.network, self.conditioning, denoiser.time_argument

        def ask(x: Tensor, times: Tensor) -> Tensor:
            if name is None:
                return answer_of(network(x, times, **conditioning))
            return answer_of(network(x, **{name: times}, **conditioning))

        return ask

    def _ask_once(self, reading: Reading) -> None:
        answer: Any = self._network(self._input, self._times(reading))
        if not isinstance(answer, Tensor) or answer.shape != self._input.shape:
            found = f"shape {tuple(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
            raise InputError(
                "network output", found=found, expected=f"a tensor of shape {self.shape}",
                fix="Wrap the network so that it returns the prediction alone (without a learned variance).",
            )  # fmt: skip

    def _compile(self, reading: Reading) -> None:
        eager = self._network
        try:
            if self.device.type == "cpu" and (missing := missing_compiler()):
                raise RuntimeError(f"no C++ compiler {missing}")
            # A copy of the code, because torch counts recompilations by code: each sampler has its own count.
            eager.__code__ = eager.__code__.replace()
            self._network = torch.compile(eager, dynamic=False)
            self._ask_once(reading)
            self.compiled = True
        except Exception as error:  # the network itself has just run, so whatever this is comes from compiling it
            self._network = eager
            reason = str(error).strip().partition("\n")[0]
            warnings.warn(f"The network runs uncompiled: {reason}", stacklevel=3)

    def _times(self, reading: Reading) -> Tensor:
        return torch.full((self.shape[0],), reading.time, device=self.device, dtype=self._real)

    def _shaped(self, numbers: Tensor) -> Tensor:
        """Return a row of the stack in the shape of x."""
        if self.dtype in REAL:
            return torch.view_as_complex(numbers.view(*self.shape, 2))
        return numbers.view(self.shape)

    def _flat(self, x: Tensor) -> Tensor:
        """Return the real numbers of a buffer of the shape of x."""
        return (torch.view_as_real(x) if self.dtype in REAL else x).view(-1)

    def _program(self, table: Unrolled, readings: Sequence[Reading]) -> _Program:
        asked, network, result = self._flat(self._input), self._network, self._flat(self._result)
        stack = torch.zeros(table.size, asked.numel(), device=self.device, dtype=self._real)

        def term(row: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
            return stack[: len(row)].T, (scale * row).to(self.device, self._real)

        calls: list[Callable[[], None]] = []
        for row, reading, place in zip(table.points, readings, table.answers, strict=False):
            entry = self._shaped(stack[place])
            ask = partial(_ask, *term(row, reading.scale), asked, network, self._input, self._times(reading), entry)
            calls.append(ask if self.clip is None else partial(_limit, self.clip, ask, reading, self._input, entry))
        finish: Callable[[], Any] = partial(torch.mv, *term(table.points[-1]), out=result)
        whole = None
        if self.graphed:

            def run() -> None:
                for call in calls:
                    call()
                finish()

            whole = _captured(run, self.device)
            calls, finish = [_captured(call, self.device) for call in calls], _captured(finish, self.device)
        return _Program(
            stack=stack,
            first=self._shaped(stack[0]),
            noises=tuple(self._shaped(stack[place]) for place in table.noises),
            calls=tuple(calls),
            estimates=tuple(term(row) for row in table.estimates),
            finish=finish,
            whole=whole,
        )

    def _refuse(self, x: Tensor, start: int) -> None:
        if start not in self._programs:
            raise InputError(
                "start", found=f"{start}", expected=f"one of {', '.join(map(str, self._programs))}",
                fix="Name it in `starts` when the sampler is made.",
            )  # fmt: skip
        raise InputError(
            "x", found=f"shape {tuple(x.shape)}", expected=f"{self.shape}", fix="Make a sampler for this shape."
        )


def _ask(stack: Tensor, row: Tensor, asked: Tensor, network: _Network, x: Tensor, times: Tensor, entry: Tensor) -> None:
    """Make the network's input x, whose real numbers are `asked`, and put the answer into the stack."""
    torch.mv(stack, row, out=asked)
    entry.copy_(network(x, times))


def _limit(clip: float, ask: Callable[[], None], reading: Reading, x: Tensor, entry: Tensor) -> None:
    """Ask, and keep D instead of the answer: F becomes skip x + out F, limited."""
    ask()
    entry.mul_(reading.out).add_(x, alpha=reading.skip / reading.scale)
    entry.clamp_(-clip, clip)


def deadline(seconds: float, *, clock: Callable[[], float] = time.perf_counter) -> Until:
    """Return an `until` that lets no call begin which, as long as the longest so far, would end too late.

    Args:
        seconds: from now; the first call is always made.
        clock: seconds, monotonic.
    """
    before = clock()
    end, longest = before + seconds, 0.0

    def until(made: int) -> bool:
        nonlocal before, longest
        now = clock()
        longest, before = max(longest, now - before), now
        return now + longest > end

    return until


def missing_compiler() -> str | None:
    """Return the C++ compiler that torch.compile wants on a CPU and that is not there; None if it is."""
    wanted = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return None if shutil.which(wanted) else wanted


def _captured(work: Callable[[], Any], device: torch.device) -> Callable[[], None]:
    """Return a CUDA graph that does the work."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _check(denoiser: object, grid: Grid, dtype: torch.dtype, starts: Sequence[int]) -> None:
    if not isinstance(denoiser, NetworkDenoiser | PreconditionedDenoiser):
        raise InputError(
            "denoiser", found=type(denoiser).__name__, expected="a NetworkDenoiser or PreconditionedDenoiser",
            fix="Put guidance into the network, use clip= for limits, or use the loop `sample`.",
        )  # fmt: skip
    if dtype not in DTYPES:
        raise InputError(
            "dtype", found=f"{dtype}", expected=f"one of {', '.join(map(str, DTYPES))}",
            fix="Sample in float32 and let the network cast its input.",
        )  # fmt: skip
    wrong = [start for start in starts if not 0 <= start < grid.steps]
    if wrong or not starts:
        raise InputError(
            "starts", found=f"{list(starts)}", expected=f"one or more nodes from 0 to {grid.steps - 1}",
            fix="A sampling starts at a node that has a step after it.",
        )  # fmt: skip

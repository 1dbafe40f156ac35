r"""What a sampling costs outside the network, a step: our loops beside the schedulers of diffusers, in one process.

The network does nothing: it returns a fixed tensor, and the time of calling it is subtracted. x is an action chunk,
(1, 16, 2) float32. The contestants take turns, round after round, so that what else the machine does falls on all
alike; a turn is `TURN` samplings of `STEPS` steps, each with its own time, and the median of all its times counts. In a
turn of one sampling the caches hold what another contestant left; that is measured too, as `cold`.

Ours is everything from x to the sample, divided by the steps: for `sample` the planning of the coefficients too.
Theirs is `scale_model_input` and `step` alone; `set_timesteps` is made before the clock starts.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from shared.denoiser import NetworkDenoiser
from shared.errors import MissingExtra
from shared.grid import trailing_grid
from shared.process import VariancePreserving
from shared.realtime import RealTimeSampler
from shared.sampling import sample
from shared.solvers.multistep import Multistep

SHAPE = (1, 16, 2)
STEPS = 10
TURN = 10
ROUNDS, QUICK_ROUNDS = 40, 8
PEERS = {
    "dpm_solver_multistep": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
    "sa_solver": "SASolverScheduler",
    "ipndm": "IPNDMScheduler",
    "edm_dpm_solver_multistep": "EDMDPMSolverMultistepScheduler",
}


def overhead_numbers(*, quick: bool) -> dict[str, float]:
    """Return microseconds a step outside the network, and our share of diffusers' fastest multistep scheduler.

    Keys: overhead.us_per_step.<contestant>, overhead.ratio_to_diffusers for the real-time sampler and
    overhead.loop_ratio_to_diffusers for the plain loop; the same under overhead.cold for turns of one sampling, and
    under overhead.cuda with CUDA.

    Args:
        quick: fewer rounds.

    Raises:
        MissingExtra: diffusers is not installed.
    """
    rounds = QUICK_ROUNDS if quick else ROUNDS
    numbers = _on(torch.device("cpu"), rounds, TURN, "overhead")
    numbers |= _on(torch.device("cpu"), rounds * TURN // 2, 1, "overhead.cold")
    if torch.cuda.is_available():
        numbers |= _on(torch.device("cuda"), rounds, TURN, "overhead.cuda")
    return numbers


def compiled_numbers(calls: int = 5, rounds: int = 20, *, device: torch.device | str = "cpu") -> dict[str, float]:
    """Return milliseconds of a sampling of the action network: the loop, the real-time sampler, and it compiled.

    Args:
        calls: network calls of the sampling.
        rounds: of which the median counts.
        device: where it runs.

    Raises:
        MissingExtra: diffusers is not installed.
    """
    from shared.examples import load_example

    model = load_example("shared/action_unet", device)
    assert isinstance(model.denoiser, NetworkDenoiser)
    denoiser, grid, solver = model.denoiser, trailing_grid(model.process, calls), Multistep.dpm_solver_pp_2m()
    x = model.process.noise((1, *model.shape), torch.Generator().manual_seed(0), device=device)
    shape = tuple(x.shape)
    samplers = {
        "realtime": RealTimeSampler(denoiser, grid, solver, shape, device=device, compile=False),
        "realtime_compiled": RealTimeSampler(denoiser, grid, solver, shape, device=device),
    }
    if not samplers["realtime_compiled"].compiled:
        del samplers["realtime_compiled"]
    contestants: dict[str, Callable[[], Any]] = {
        name: lambda sampler=sampler: sampler(x)  # type: ignore[misc]
        for name, sampler in samplers.items()
    }
    contestants["loop"] = lambda: sample(denoiser, x, grid, solver)
    medians = _medians(contestants, rounds, TURN, torch.device(device))
    return {f"overhead.action_unet.{calls}.{name}_ms": 1e3 * seconds for name, seconds in medians.items()}


def _on(device: torch.device, rounds: int, turn: int, prefix: str) -> dict[str, float]:
    contestants = {**_ours(device), **_theirs(device)}
    network = _still(device)
    time_input, x = torch.zeros(1, device=device), torch.zeros(SHAPE, device=device)

    def calls() -> None:
        for _ in range(STEPS):
            network(x, time_input)

    medians = _medians({**contestants, "network": calls}, rounds, turn, device)
    spent = medians.pop("network")
    ours = {name for name in medians if name not in PEERS}
    per_step = {name: 1e6 * (s - spent * (name in ours)) / STEPS for name, s in medians.items()}
    fastest = min(per_step[name] for name in PEERS)
    numbers = {f"{prefix}.us_per_step.{name}": microseconds for name, microseconds in per_step.items()}
    numbers[f"{prefix}.ratio_to_diffusers"] = per_step["realtime"] / fastest
    numbers[f"{prefix}.loop_ratio_to_diffusers"] = per_step["loop"] / fastest
    return numbers


def _still(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    answer = torch.zeros(SHAPE, device=device)

    def network(x: Tensor, times: Tensor) -> Tensor:
        return answer

    return network


def _ours(device: torch.device) -> dict[str, Callable[[], Any]]:
    process = VariancePreserving.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    denoiser = NetworkDenoiser(_still(device), process, "epsilon")
    grid, solver = trailing_grid(process, STEPS), Multistep.dpm_solver_pp_2m()
    sampler = RealTimeSampler(denoiser, grid, solver, SHAPE, device=device, compile=False)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(device)
    return {"realtime": lambda: sampler(x), "loop": lambda: sample(denoiser, x, grid, solver)}


def _theirs(device: torch.device) -> dict[str, Callable[[], float]]:
    """Return runs of the schedulers that return their own seconds, without those of `set_timesteps`."""
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtra("diffusers", extra="bench", purpose="to compare with its schedulers") from error
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(device)
    answer = torch.zeros(SHAPE, device=device)

    def run(scheduler: Any) -> float:
        scheduler.set_timesteps(STEPS, device=device)
        state = x
        _wait(device)
        begin = time.perf_counter()
        for timestep in scheduler.timesteps:
            scheduler.scale_model_input(state, timestep)
            state = scheduler.step(answer, timestep, state, return_dict=False)[0]
        _wait(device)
        return (time.perf_counter() - begin) * STEPS / len(scheduler.timesteps)

    def contestant(kind: str) -> Callable[[], float]:
        scheduler = getattr(diffusers, kind)()
        return lambda: run(scheduler)

    return {name: contestant(kind) for name, kind in PEERS.items()}


def _medians(
    contestants: dict[str, Callable[[], Any]], rounds: int, turn: int, device: torch.device
) -> dict[str, float]:
    """Return the median seconds of each; a float that it returns replaces the clock's."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the schedulers, about their own defaults
        for _ in range(rounds):
            for name, work in contestants.items():
                for _ in range(turn):
                    _wait(device)
                    begin = time.perf_counter()
                    own = work()
                    _wait(device)
                    spent = time.perf_counter() - begin
                    seconds[name].append(own if isinstance(own, float) else spent)
    return {name: statistics.median(values) for name, values in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

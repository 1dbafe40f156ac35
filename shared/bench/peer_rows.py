"""Peers in the same run: schedulers of diffusers on their own grids, TaylorSeer of diffusers, DBCache of cache-dit.

A scheduler of diffusers is given the table of betas of the case and asks the same network; its nodes are the ones that
it chooses. TaylorSeer and cache-dit change the network, so each works on a copy. cache-dit is optional: it is not a
dependency of ours, and its rows appear where it is installed.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from shared.bench.case import Case, Row, measure
from shared.errors import MissingExtra
from shared.predictions import convert
from shared.sampling import sample

CALLS = (5, 10, 20)
REUSE_CALLS = 20
INTERVALS = (2, 3)
WARM_UP = 3  # steps of TaylorSeer and cache-dit that compute everything, their authors' choice
CACHED = {  # what TaylorSeer may skip: modules whose output is one tensor
    "shared/photo_unet": [r"mid_block", r"up_blocks\.0"],
    "shared/digits_dit": [r"transformer_blocks\.[0-9]+\.(attn1|ff)"],
}
THRESHOLDS = (0.1, 0.3)


def rows(case: Case, *, quick: bool) -> list[Row]:
    """Return the rows of the peers that apply to the case.

    Args:
        case: what to measure on.
        quick: fewer numbers of calls.

    Raises:
        MissingExtra: diffusers is not installed.
    """
    found: list[Row] = []
    betas = betas_of(case)
    if betas is not None:
        for name, make in schedulers(betas).items():
            for calls in CALLS[: 2 if quick else 3]:
                if repeats(make(), calls):
                    continue
                found.append(
                    measure(case, f"diffusers {name}, {calls} calls", _drawer(case, make, calls), family="peer")
                )
    if case.name in CACHED:
        found += [_taylorseer(case, interval) for interval in INTERVALS]
    if case.name == "shared/digits_dit":
        found += _cache_dit(case)
    return found


def betas_of(case: Case) -> Tensor | None:
    """Return the table of betas of the case's process, None for a process without one."""
    from shared.examples import EXAMPLES

    return EXAMPLES[case.name].betas if case.name in EXAMPLES else None


def schedulers(betas: Tensor) -> dict[str, Callable[[], Any]]:
    """Return diffusers' multistep schedulers by name, each for the table of betas, without thresholding or clipping."""
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtra("diffusers", extra="bench", purpose="for the peers of the bench") from error
    table = {"trained_betas": betas.numpy(), "num_train_timesteps": len(betas)}
    dpm, unipc = diffusers.DPMSolverMultistepScheduler, diffusers.UniPCMultistepScheduler
    return {
        "DDIM": lambda: diffusers.DDIMScheduler(**table, clip_sample=False, timestep_spacing="trailing"),
        "DPM-Solver++ 2M": lambda: dpm(**table),
        "DPM-Solver++ 2M, log-SNR": lambda: dpm(**table, use_lu_lambdas=True),
        "UniPC 2": lambda: unipc(**table),
        "DEIS 3": lambda: diffusers.DEISMultistepScheduler(**table, solver_order=3),
    }


def repeats(scheduler: Any, calls: int) -> bool:
    """Return whether a scheduler's whole timesteps repeat, as those uniform in log-SNR do on short tables of betas.

    Its `step` then takes the second of two equal timesteps for the first and runs over the end of its table.
    """
    scheduler.set_timesteps(calls)
    return len(scheduler.timesteps.unique()) < calls


def _drawer(case: Case, make: Callable[[], Any], calls: int) -> Callable[[Tensor], Tensor]:
    """Return the sampling with a scheduler; a timestep of diffusers is our level (timestep + 1) / number of betas."""

    def draw(x: Tensor) -> Tensor:
        scheduler = make()
        scheduler.set_timesteps(calls)
        steps = scheduler.config.num_train_timesteps
        for timestep in scheduler.timesteps:
            t = (timestep.double() + 1) / steps
            answer = case.denoiser(x, t)
            eps = convert(answer, x, t, case.process, source="sample", target="epsilon").to(x.dtype)
            x = scheduler.step(eps, timestep, x).prev_sample
        return x

    return draw


def _taylorseer(case: Case, interval: int) -> Row:
    from diffusers.hooks import TaylorSeerCacheConfig, apply_taylorseer_cache
    from diffusers.hooks.hooks import CacheContext, HookRegistry, _set_cache_context

    network = copy.deepcopy(case.network)
    config = TaylorSeerCacheConfig(
        cache_interval=interval, disable_cache_before_step=WARM_UP, max_order=1, taylor_factors_dtype=torch.float32,
        cache_identifiers=CACHED[case.name],
    )  # fmt: skip
    apply_taylorseer_cache(network, config)
    grid = case.grid(REUSE_CALLS)
    denoiser = case.networked.with_network(network)
    registry = HookRegistry.check_if_exists_or_initialize(network)

    def draw(x: Tensor) -> Tensor:
        registry.reset_stateful_hooks()
        _set_cache_context(network, CacheContext("all"))
        return sample(denoiser, x, grid, case.solver)

    return measure(case, f"diffusers TaylorSeer, every {interval} of {REUSE_CALLS}", draw, family="peer")


def _cache_dit(case: Case) -> list[Row]:
    try:
        with _quiet():
            import cache_dit
            from cache_dit.caching.cache_blocks.pattern_3_4_5 import CachedBlocks_Pattern_3_4_5 as Cached
    except ImportError:
        return []
    grid = case.grid(REUSE_CALLS)
    found = []
    for threshold in THRESHOLDS:

        def draw(x: Tensor, threshold: float = threshold) -> Tensor:
            network: Any = copy.deepcopy(case.network)  # afresh: its counters of steps know no second sampling
            with _quiet(), _attribute(Cached, "norm1", network.transformer_blocks[0].norm1):
                cache_dit.enable_cache(
                    cache_dit.BlockAdapter(
                        transformer=network, blocks=network.transformer_blocks, has_separate_cfg=False,
                        forward_pattern=cache_dit.ForwardPattern.Pattern_3, check_forward_pattern=False,
                    ),
                    cache_config=cache_dit.DBCacheConfig(
                        Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=threshold,
                        max_warmup_steps=WARM_UP, num_inference_steps=REUSE_CALLS,
                    ),
                )  # fmt: skip
                return sample(case.networked.with_network(network), x, grid, case.solver)

        name = f"cache-dit DBCache F1B0 {threshold:g}, {REUSE_CALLS} steps"
        found.append(measure(case, name, draw, family="peer"))
    return found


@contextmanager
def _attribute(kind: type, name: str, value: nn.Module) -> Iterator[None]:
    """Lend a class an attribute: the transformer reads its time embedding from the first block, which is wrapped."""
    setattr(kind, name, value)
    try:
        yield
    finally:
        delattr(kind, name)


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

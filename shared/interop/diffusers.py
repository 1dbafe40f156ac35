"""From and to diffusers: its noise tables as our processes, our solvers as its schedulers.

    process  = process_from_diffusers(pipeline.scheduler)
    denoiser = NetworkDenoiser(pipeline.unet, process, prediction_from_diffusers(pipeline.scheduler))

    pipeline.scheduler = as_diffusers_scheduler(Multistep(2), like=pipeline.scheduler)

The models of diffusers need no bridge: they are called as network(x, time) and return an object with `sample`.
Only `as_diffusers_scheduler` imports diffusers; the rest reads configurations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shared.errors import InputError, MissingExtra
from shared.predictions import Prediction
from shared.process import FlowMatching, NoiseProcess, VarianceExploding, VariancePreserving, squared_cosine_betas
from shared.sampling import Solver

if TYPE_CHECKING:
    from shared.interop.diffusers_scheduler import FewstepScheduler

PREDICTIONS: dict[str, Prediction] = {
    "epsilon": "epsilon",
    "sample": "sample",
    "v_prediction": "v",
    "flow_prediction": "flow",
}

BETAS: dict[str, Callable[[float, float, int], Tensor]] = {
    "linear": lambda start, end, steps: torch.linspace(start, end, steps, dtype=torch.float64),
    "scaled_linear": lambda start, end, steps: torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2,
    "squaredcos_cap_v2": lambda start, end, steps: squared_cosine_betas(steps),
}


def _configuration(scheduler: Any) -> dict[str, Any]:
    """Return the configuration of a scheduler, or of a mapping read from its JSON file."""
    config = getattr(scheduler, "config", scheduler)
    if not isinstance(config, Mapping):
        raise InputError(
            "scheduler", found=type(scheduler).__name__, expected="a scheduler of diffusers or its configuration",
            fix="Pass pipeline.scheduler.",
        )  # fmt: skip
    return {"_class_name": type(scheduler).__name__, **config}  # only saved configurations name their class


def _is_flow(config: Mapping[str, Any]) -> bool:
    return (
        str(config.get("_class_name", "")).startswith("FlowMatch")
        or bool(config.get("use_flow_sigmas"))
        or config.get("prediction_type") == "flow_prediction"
    )


def process_from_diffusers(scheduler: Any) -> NoiseProcess:
    """Return the noise process of a diffusers scheduler.

    Flow-matching schedulers give `FlowMatching` (their shift is a choice of nodes, not of the process), the EDM ones
    `VarianceExploding`, all others the table of their betas.

    Args:
        scheduler: the scheduler, or its configuration as a mapping.

    Raises:
        InputError: no configuration, or a beta schedule that is not known here.
    """
    config = _configuration(scheduler)
    steps = int(config.get("num_train_timesteps", 1000))
    if _is_flow(config):
        return FlowMatching(time_scale=float(steps))
    if str(config.get("_class_name", "")).startswith("EDM"):
        return VarianceExploding(float(config.get("sigma_min", 0.002)), float(config.get("sigma_max", 80.0)))
    schedule = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        betas = torch.as_tensor(config["trained_betas"], dtype=torch.float64)
    elif schedule in BETAS:
        betas = BETAS[schedule](config.get("beta_start", 0.0001), config.get("beta_end", 0.02), steps)
    else:
        raise InputError(
            "beta_schedule", found=repr(schedule), expected=f"one of {', '.join(BETAS)}, or trained_betas",
            fix="Pass the betas themselves: VariancePreserving.from_betas(scheduler.betas).",
        )  # fmt: skip
    if not config.get("rescale_betas_zero_snr"):
        return VariancePreserving.from_betas(betas)
    alpha = torch.cumsum(torch.log1p(-betas), 0).div(2).exp()
    alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])  # Lin et al. 2024, algorithm 1
    return VariancePreserving.from_alphas_cumprod(alpha**2)


def prediction_from_diffusers(scheduler: Any) -> Prediction:
    """Return what the networks of a diffusers scheduler predict, by the name used here.

    Raises:
        InputError: a prediction type that is not known here.
    """
    config = _configuration(scheduler)
    if _is_flow(config):
        return "flow"
    name = config.get("prediction_type", "epsilon")
    if name not in PREDICTIONS:
        raise InputError(
            "prediction_type", found=repr(name), expected=f"one of {', '.join(PREDICTIONS)}", fix="Correct it."
        )
    return PREDICTIONS[name]


def as_diffusers_scheduler(solver: Solver, *, like: Any = None, grid: str = "log_snr") -> FewstepScheduler:
    """Return a scheduler for the pipelines of diffusers that steps by our solver.

    Args:
        solver: one of the named solvers; a calibrated one brings its nodes, and `like` must be of its process.
        like: scheduler (or configuration) whose noise table, prediction type and clipping are taken over; None is
            the linear table of DDPM with epsilon prediction.
        grid: name of the grid that `set_timesteps` uses, see `shared.grid.GRIDS`.

    Raises:
        MissingExtra: diffusers is not installed.
        InputError: a scheduler that cannot be stood in for.
    """
    try:
        from shared.interop.diffusers_scheduler import FewstepScheduler
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "diffusers":
            raise
        raise MissingExtra("diffusers", extra="diffusers", purpose="to make a scheduler for its pipelines") from error
    from shared.solvers.named import solver_to_data

    config = {} if like is None else _configuration(like)
    if str(config.get("_class_name", "")).startswith("EDM"):
        raise InputError(
            "scheduler", found=str(config["_class_name"]), expected="one whose network sees x unscaled",
            fix="Use PreconditionedDenoiser with shared.sample.",
        )  # fmt: skip
    if config.get("thresholding"):
        raise InputError(
            "thresholding", found="True", expected="False", fix="Use clip_sample, or a denoiser of your own."
        )
    keys = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr",
            "prediction_type", "clip_sample", "clip_sample_range")  # fmt: skip
    taken = {key: config[key] for key in keys if config.get(key) is not None}
    return FewstepScheduler(solver=solver_to_data(solver), grid=grid, use_flow_sigmas=_is_flow(config), **taken)

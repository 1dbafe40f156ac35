"""Our solvers as a scheduler of diffusers. Import it through `shared.interop.diffusers.as_diffusers_scheduler`.

A pipeline asks `step` once a network call and knows nothing of solvers with history: state and plan live here and are
made anew by `set_timesteps`. The sample that the pipeline hands in replaces the state's, so pipelines that edit it
between calls (inpainting) work.

Every named solver fits, those with two calls a step (Heun: 2 N - 1 timesteps) and with answers that move the point
asked (EVODiff, correctors) too, because each call is one `step`. What does not fit: DDIMPipeline, which replaces every
scheduler by its own (use DDPMPipeline and others); networks that see a scaled x (EDM) and dynamic thresholding, which
`as_diffusers_scheduler` refuses; a calibrated solver on other nodes, with another number of steps or started midway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin, SchedulerOutput
from torch import Tensor

from shared.errors import InputError
from shared.grid import GRIDS, Grid, explicit_grid
from shared.interop.diffusers import prediction_from_diffusers, process_from_diffusers
from shared.predictions import convert
from shared.process import FlowMatching, TableVP
from shared.sampling import Plan, State
from shared.solvers.banded import BandedMultistep
from shared.solvers.calibrated import CalibratedMultistep
from shared.solvers.named import solver_from_data


class FewstepScheduler(SchedulerMixin, ConfigMixin):
    """A scheduler that steps by one of our solvers; its configuration is that of diffusers plus `solver` and `grid`.

    Args:
        num_train_timesteps: entries of the noise table.
        beta_start: first beta.
        beta_end: last beta.
        beta_schedule: linear, scaled_linear or squaredcos_cap_v2.
        trained_betas: the table itself, instead of the three above.
        rescale_betas_zero_snr: shift the table to zero terminal SNR.
        prediction_type: epsilon, sample, v_prediction or flow_prediction.
        use_flow_sigmas: flow matching instead of a noise table.
        clip_sample: limit the estimate of x_0.
        clip_sample_range: to plus or minus this.
        solver: name and options, see `shared.solvers.named`.
        grid: name of the grid, see `shared.grid.GRIDS`.
    """

    _compatibles = [kind.name for kind in KarrasDiffusionSchedulers]  # noqa: RUF012 - the contract of SchedulerMixin
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Sequence[float] | None = None,
        rescale_betas_zero_snr: bool = False,
        prediction_type: str = "epsilon",
        use_flow_sigmas: bool = False,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        solver: Mapping[str, Any] | None = None,
        grid: str = "log_snr",
    ) -> None:
        if grid not in GRIDS:
            raise InputError("grid", found=repr(grid), expected=f"one of {', '.join(GRIDS)}", fix="Correct it.")
        process = process_from_diffusers(self.config)
        assert isinstance(process, TableVP | FlowMatching)
        self.process = process
        self.prediction = prediction_from_diffusers(self.config)
        self.solver = solver_from_data(solver or {"name": "multistep"})
        own = len(self.solver.gains) if isinstance(self.solver, CalibratedMultistep | BandedMultistep) else None
        self.set_timesteps(own or min(50, num_train_timesteps))

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[float] | None = None,
    ) -> None:
        """Choose the levels: that many steps of the grid, or these timesteps (floats allowed), and then data.

        A calibrated solver has its own nodes and takes only its own number of steps.

        Raises:
            InputError: timesteps that do not decrease; neither or both arguments; for a calibrated solver, timesteps or
                another number of steps.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise InputError(
                "set_timesteps", found=f"num_inference_steps={num_inference_steps}, timesteps={timesteps}",
                expected="one of the two", fix="Pass either.",
            )  # fmt: skip
        if isinstance(self.solver, CalibratedMultistep | BandedMultistep):
            if num_inference_steps != len(self.solver.gains):
                raise InputError(
                    "set_timesteps",
                    found="timesteps" if timesteps is not None else f"num_inference_steps={num_inference_steps}",
                    expected=f"num_inference_steps={len(self.solver.gains)}, the calls of the calibrated solver",
                    fix="Calibrate for this number of calls; nodes belong to the calibration.",
                )
            self._whole_grid = self.solver.grid(self.process)
        elif timesteps is not None:
            levels = self._levels(torch.as_tensor(timesteps, dtype=torch.float64))
            levels = levels.clamp(max=1.0)
            self._whole_grid = explicit_grid(self.process, (*levels.tolist(), 0.0))
        elif num_inference_steps is not None:
            self._whole_grid = GRIDS[self.config.grid](self.process, num_inference_steps)
        self.num_inference_steps = self._whole_grid.steps
        self._begin_index: int | None = None
        plan = self._plan_on(self._whole_grid)
        self.timesteps = self._timesteps_of(plan).to(device)

    def _levels(self, timesteps: Tensor) -> Tensor:
        if isinstance(self.process, TableVP):
            return (timesteps + 1) / self.process.steps
        return timesteps / self.process.time_scale

    def _timesteps_of(self, plan: Plan) -> Tensor:
        levels = torch.tensor(plan.asked, dtype=torch.float64)
        return self.process.network_time(levels).to(torch.float32)

    def _plan_on(self, grid: Grid) -> Plan:
        plan = self.solver.plan(grid)
        self._plan = plan
        self._state: State | None = None
        return plan

    @property
    def begin_index(self) -> int | None:
        """Return the call at which the sampling starts, if it was set."""
        return self._begin_index

    @property
    def step_index(self) -> int | None:
        """Return the index of the next call, or None before the first."""
        if self._state is None:
            return None
        return self._state.index + len(self.timesteps) - self._plan.calls

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start the sampling at this call instead of looking the first timestep up."""
        self._begin_index = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return the sample: the network sees it unscaled."""
        return sample

    def _begin(self, timestep: float | Tensor, sample: Tensor) -> State:
        """Start at the call of this timestep: at the first for a whole sampling, later for image-to-image."""
        if self._begin_index is not None:
            call = self._begin_index
        else:
            matches = torch.nonzero(self.timesteps == torch.as_tensor(timestep, device=self.timesteps.device))
            if not len(matches):
                raise InputError(
                    "timestep", found=f"{float(timestep):g}", expected="one of scheduler.timesteps",
                    fix="Call set_timesteps first.",
                )  # fmt: skip
            call = int(matches[0])
        if call > 0:
            node = self._whole_grid.times.index(self._plan.asked[call])
            self._plan_on(self._whole_grid.from_index(node))
        return self._plan.start(sample)

    def step(
        self,
        model_output: Tensor,
        timestep: float | Tensor,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor]:
        """Take the network's answer at this timestep and return the next sample.

        Args:
            model_output: what the network predicted at (sample, timestep).
            timestep: one of `timesteps`, in their order.
            sample: noisy batch.
            generator: source of the noise of stochastic solvers.
            return_dict: return a SchedulerOutput instead of a tuple.

        Raises:
            InputError: an output of another shape (a learned variance), or more steps than timesteps.
        """
        if model_output.shape != sample.shape:
            raise InputError(
                "model output", found=f"shape {tuple(model_output.shape)}", expected=f"shape {tuple(sample.shape)}",
                fix="Drop the learned variance.",
            )  # fmt: skip
        state = self._begin(timestep, sample) if self._state is None else replace(self._state, x=sample)
        x0 = convert(model_output, sample, state.t, self.process, source=self.prediction, target="sample")
        if self.config.clip_sample:
            x0 = x0.clamp(-self.config.clip_sample_range, self.config.clip_sample_range)
        self._state = self._plan.advance(state, x0, generator)
        return SchedulerOutput(prev_sample=self._state.x) if return_dict else (self._state.x,)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return alpha x_0 + sigma noise at the timesteps, one a sample."""
        return self.process.add_noise(original_samples, noise, self._levels(timesteps.to(torch.float64)))

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

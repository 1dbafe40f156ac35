r"""Steering of drawn volumes towards named scalars, such as the volume of a structure that a segmenter reports.

A scalar v(x_0) should be c up to a tolerance tau: what is drawn is p(x_0) exp(-(c - v(x_0))^2 / 2 tau^2), normalised.

| method    | what                                                              | cost of a step                      |
| --------- | ----------------------------------------------------------------- | ----------------------------------- |
| gradient  | moment matching of the scalars (`shared.guidance.targets`)         | network + a backward pass a scalar  |
| particles | Feynman-Kac: K volumes, resampled by v of their estimates          | K networks, no gradients            |
| twisted   | the gradient proposes, weights repair it: exact for many particles | K times that of gradient            |

The gradient alone is exact for linear v and Gaussian volumes. Every volume returned is one particle, by weight, of an
ensemble of its own, so volumes are independent.

A segmenter steered by its gradient can be fooled by patterns that no head has. Measure what was drawn with another one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from medical.brain.model import BrainModel, Sampling, check_size, require_voxels
from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.guidance.pigdm import GuidedEstimate
from shared.guidance.targets import Scalars, Targets
from shared.process import standard_normal
from shared.sampling import sample
from shared.search.twisted import Guide, particle_sample, rewarded
from shared.solvers.ddim import DDIM

SoftVolumes = Callable[[Tensor], Mapping[str, Tensor]]
"""Volumes (N, 1, X, Y, Z) -> scalars by name, (N,) each, such as "lateral_ventricles_cm3"; differentiable."""

SteerMethod = Literal["gradient", "particles", "twisted"]


@dataclass(frozen=True)
class Steering:
    """How volumes are steered.

    Attributes:
        method: see the module docstring.
        steps: of the sampling.
        particles: K, of the methods that have some.
        eta: share of fresh noise; above 0 for particles.
        below: highest level t (1 is noise) at which the scalars are asked.
        threshold: particles are resampled below this share of effective ones.

    Raises:
        InputError: an unknown method or a number out of range.
    """

    method: SteerMethod = "gradient"
    steps: int = 50
    particles: int = 4
    eta: float = 1.0
    below: float = 1.0
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.method not in get_args(SteerMethod):
            known = ", ".join(get_args(SteerMethod))
            raise InputError("method", found=repr(self.method), expected=f"one of {known}", fix="Correct it.")
        if self.particles < 1 or not 0 < self.below <= 1:
            raise InputError(
                "steering", found=f"{self.particles} particles, below {self.below}",
                expected="1 particle or more, and a level in (0, 1]", fix="Correct it.",
            )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Steered:
    """One volume that was drawn.

    Attributes:
        volume: (X, Y, Z).
        scalars: what the segmenter says of it, by name.
        effective_size: smallest effective number of particles before a resampling; None without particles.
    """

    volume: Tensor
    scalars: dict[str, float]
    effective_size: float | None


def steer(
    model: BrainModel,
    soft_volumes: SoftVolumes,
    targets: Mapping[str, tuple[float, float]],
    count: int,
    settings: Steering | None = None,
    *,
    size: tuple[int, int, int] | None = None,
    denoiser: Denoiser | None = None,
    generator: torch.Generator | None = None,
    progress: str | None = None,
) -> Iterator[Steered]:
    """Draw volumes whose scalars are near their targets; yield each as it is done.

    Args:
        model: of `load_brain`.
        soft_volumes: measures scalars, on the device of the model.
        targets: value and tolerance by name, in the unit of the scalar.
        count: of volumes.
        settings: None for the default.
        size: voxels; None is the size of the training.
        denoiser: of the model, with conditions; None is without.
        generator: source of all noise.
        progress: label of a progress bar for each volume, of gradient.

    Raises:
        InputError: a size or steps that the model cannot take, or a name that `soft_volumes` does not report.
    """
    settings, size = settings or Steering(), size or model.config.size
    check_size(model.config, size)
    require_voxels(model.config, "steering")
    goal = Targets(
        named(soft_volumes, list(targets)),
        [value for value, _ in targets.values()], [tolerance for _, tolerance in targets.values()], settings.below,
    )  # fmt: skip
    grid = Sampling("multistep", settings.steps).grid(model.config.strategy)
    plain, solver = denoiser or model.denoiser(), DDIM(settings.eta)
    guide: Guide = rewarded(plain, goal.log_density, below=settings.below)
    if settings.method == "twisted":
        guide = lambda x, t: goal.estimate(plain, grid.process, x, t)  # noqa: E731
    for number in range(1, count + 1):
        particles = 1 if settings.method == "gradient" else settings.particles
        x = standard_normal((particles, 1, *size), generator, dtype=torch.float32, device=model.device)
        effective = None
        if settings.method == "gradient":
            label = f"{progress} {number} of {count}" if progress else None
            x0 = sample(goal.guided(plain, grid.process), x, grid, solver, generator=generator, progress=label)
        else:
            found = particle_sample(
                one_by_one(guide), x, grid, ensembles=1, solver=solver, threshold=settings.threshold,
                generator=generator,
            )  # fmt: skip
            x0, effective = found.draw(generator), float(found.effective_size[0])
        with torch.no_grad():
            scalars = {name: float(value[0]) for name, value in soft_volumes(x0).items() if name in targets}
        yield Steered(x0[0, 0], scalars, effective)


def named(soft_volumes: SoftVolumes, names: Sequence[str]) -> Scalars:
    """Return the scalars of these names as one function; at a call, `InputError` for a name that is not reported."""

    def scalars(x: Tensor) -> Tensor:
        found = soft_volumes(x)
        if unknown := [name for name in names if name not in found]:
            raise InputError("target", found=unknown[0], expected=f"one of {', '.join(found)}", fix="Correct the name.")
        return torch.stack([found[name] for name in names], 1)

    return scalars


def one_by_one(guide: Guide) -> Guide:
    """Return the guide that asks for one particle at a time, so that the memory is that of one."""

    def alone(x: Tensor, t: float) -> GuidedEstimate:
        found = [guide(one, t) for one in x.split(1)]
        return GuidedEstimate(
            torch.cat([one.plain for one in found]),
            torch.cat([one.guided for one in found]),
            torch.cat([one.log_twist for one in found]),
        )

    return alone

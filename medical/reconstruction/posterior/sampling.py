r"""Images drawn from the posterior of a scan: the slice prior, guided by the measured k-space, with the core's solvers.

    x ~ p(x | y),      y = M F S x + n,      n white with variance 1 a complex sample (prewhitened data)

| method  | guidance                                | solver            | cost of a call       |
| ------- | --------------------------------------- | ----------------- | -------------------- |
| dds     | proximal step, gamma from the noise     | DDIM with eta     | network + CG         |
| diffpir | proximal step, weight lamda             | `Renoising`       | network + CG         |
| pigdm   | pseudoinverse, through the network      | DDIM with eta     | network + CG + backward |
| dps     | gradient of the data distance           | `Ancestral`       | network + backward   |
| tds     | PiGDM proposes, K particles are weighted | `Ancestral`      | K times that of pigdm |

Samples are independent of each other (for "tds": one particle from each of as many ensembles), so their spread is that
of the posterior as the method draws it. How true it is, `medical.reconstruction.posterior.report` measures where the
truth is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from medical.reconstruction.least_squares import sense
from medical.reconstruction.operators import CartesianSense
from medical.reconstruction.posterior.operator import NOISE_STD, ChannelsOperator
from medical.reconstruction.posterior.prior import SlicePrior
from medical.reconstruction.posterior.slices import magnitude_scale
from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.grid import Grid, karras_grid
from shared.guidance.dds import dds
from shared.guidance.diffpir import Renoising, diffpir
from shared.guidance.likelihood import GaussianLikelihood
from shared.guidance.pigdm import pigdm
from shared.guidance.steered import dps
from shared.ledger import Ledger
from shared.process import VarianceExploding
from shared.sampling import Solver, sample
from shared.search.twisted import twisted_sample
from shared.solvers.ancestral import Ancestral
from shared.solvers.ddim import DDIM
from shared.solvers.multistep import Multistep

PosteriorMethod = Literal["dds", "diffpir", "pigdm", "dps", "tds"]
SCALE_LAMDA = 0.01  # Tikhonov weight of the SENSE image from which the scale is estimated
SCALE_ITERATIONS = 20


@dataclass(frozen=True)
class PosteriorSettings:
    """How a posterior is sampled.

    Attributes:
        method: see the module docstring.
        samples: number of independent samples.
        calls: network calls of each sample.
        eta: share of new noise in the steps of "dds" and "pigdm"; 0 is deterministic, with a multistep solver.
        zeta: share of new noise in the steps of "diffpir".
        lamda: trust of "diffpir" in the prior.
        scale: step of "dps", in units of the prior; it takes hundreds of calls.
        particles: K of each ensemble of "tds".
        start: noise from which sampling starts, in units of the prior; at most the sigma_max of its training.
        batch: images that the network sees at once.
        iterations: most conjugate gradient iterations a call.
        tolerance: relative residual at which they stop earlier.

    Raises:
        InputError: an unknown method or a number out of range.
    """

    method: PosteriorMethod = "dds"
    samples: int = 8
    calls: int = 20
    eta: float = 0.85
    zeta: float = 0.3
    lamda: float = 1.0
    scale: float = 0.5
    particles: int = 4
    start: float = 5.0
    batch: int = 16
    iterations: int = 10
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        if self.method not in get_args(PosteriorMethod):
            known = ", ".join(get_args(PosteriorMethod))
            raise InputError("method", found=repr(self.method), expected=f"one of {known}", fix="Correct it.")
        for name in ("samples", "calls", "particles", "batch", "iterations"):
            if getattr(self, name) < 1:
                raise InputError(name, found=f"{getattr(self, name)}", expected="1 or more", fix="Correct it.")


@dataclass(frozen=True)
class PosteriorSamples:
    r"""What was drawn.

    Attributes:
        images: complex64 (n, H, W) in units of the data, 0 where there is no coil map.
        scale: value of the data's images that is 1 for the prior.
        calls: network calls made, whatever their batch.
        network_samples: images put through the network.
        chi_squared: |y - A x|^2 over the number of acquired complex samples, (n,): about 1 when noise is left.
        effective_size: smallest effective number of particles of each ensemble; empty but for "tds".
    """

    images: Tensor
    scale: float
    calls: int
    network_samples: int
    chi_squared: Tensor
    effective_size: Tensor


def sample_posterior(
    kspace: Tensor,
    mask: Tensor,
    coil_maps: Tensor,
    prior: SlicePrior,
    settings: PosteriorSettings | None = None,
    *,
    generator: torch.Generator | None = None,
    progress: str | None = None,
) -> PosteriorSamples:
    """Draw images of one slice.

    Args:
        kspace: complex64 (C, H, W), prewhitened (noise of variance 1 a complex sample), 0 where not acquired.
        mask: bool (H, W), true where acquired.
        coil_maps: complex64 (C, H, W), sum_c |S_c|^2 = 1, or 0 where there is no object.
        prior: on the device of the data.
        settings: None for the default.
        generator: source of all randomness.
        progress: label of a progress bar.

    Raises:
        InputError: tensors that do not fit each other, or data without signal.
    """
    settings = settings or PosteriorSettings()
    _check(kspace, mask, coil_maps)
    scale = estimate_scale(kspace, mask, coil_maps)
    encoding = CartesianSense(coil_maps[None, None], mask[None])
    operator = ChannelsOperator(
        encoding, (mask.shape[0], mask.shape[1]), scale=scale, multiple=prior.facts.network.multiple
    )
    likelihood = GaussianLikelihood(
        operator, kspace[None], NOISE_STD, iterations=settings.iterations, tolerance=settings.tolerance
    )
    process = VarianceExploding(prior.facts.sigma_min, min(settings.start, prior.facts.sigma_max))
    grid = karras_grid(process, settings.calls)
    drawn, sizes = [], []
    with Ledger() as ledger:
        per_run = max(1, settings.batch // settings.particles) if settings.method == "tds" else settings.batch
        for first in range(0, settings.samples, per_run):
            count = min(per_run, settings.samples - first)
            x0, size = _draw(count, prior, likelihood, operator, grid, settings, generator, progress)
            drawn.append(x0)
            sizes.append(size)
    x0 = torch.cat(drawn)
    acquired = int(mask.sum()) * len(kspace)
    support = (coil_maps != 0).any(0)
    return PosteriorSamples(
        images=(operator.image(x0) * support).to(torch.complex64),
        scale=scale,
        calls=ledger.calls,
        network_samples=ledger.samples,
        chi_squared=likelihood.chi_squared(x0) * NOISE_STD**2 / max(acquired, 1),
        effective_size=torch.cat(sizes),
    )


def estimate_scale(kspace: Tensor, mask: Tensor, coil_maps: Tensor) -> float:
    """Return the 99th percentile of the magnitude of a regularised SENSE image: the unit of the prior.

    Raises:
        InputError: no signal.
    """
    image = sense(kspace[None], mask[None], coil_maps[None, None], lamda=SCALE_LAMDA, iterations=SCALE_ITERATIONS)
    scale = float(magnitude_scale(image[0])[0])
    if not scale > 0:
        raise InputError(
            "k-space", found="no signal where there are coil maps", expected="an object", fix="Check the data."
        )
    return scale


def _draw(
    count: int,
    prior: SlicePrior,
    likelihood: GaussianLikelihood,
    operator: ChannelsOperator,
    grid: Grid,
    settings: PosteriorSettings,
    generator: torch.Generator | None,
    progress: str | None,
) -> tuple[Tensor, Tensor]:
    """Return real samples (count, 2, H', W') and, for "tds", the smallest effective sizes."""
    process, s = grid.process, prior.facts.sigma_data
    assert isinstance(process, VarianceExploding)
    denoiser: Denoiser = prior.denoiser(process)
    particles = settings.particles if settings.method == "tds" else 1
    x = process.noise((count * particles, 2, *operator.padded), generator, device=likelihood.data.device)
    if settings.method == "tds":
        result = twisted_sample(denoiser, likelihood, x, grid, ensembles=count, data_std=s, generator=generator)
        return result.draw(generator), result.effective_size.cpu()
    solver: Solver = DDIM(eta=settings.eta) if settings.eta else Multistep(order=2)
    if settings.method == "dds":
        denoiser = dds(denoiser, likelihood, process, data_std=s)
    elif settings.method == "pigdm":
        denoiser = pigdm(denoiser, likelihood, process, data_std=s)
    elif settings.method == "diffpir":
        solver = Renoising(settings.zeta)
        denoiser = diffpir(denoiser, likelihood, process, lamda=settings.lamda)
    else:
        solver = Ancestral()
        # the published step is for data in the units of the image
        denoiser = dps(denoiser, likelihood, solver.plan(grid), scale=settings.scale / operator.scale)
    return sample(denoiser, x, grid, solver, generator=generator, progress=progress), torch.empty(0)


def _check(kspace: Tensor, mask: Tensor, coil_maps: Tensor) -> None:
    fits = kspace.ndim == 3 and kspace.shape == coil_maps.shape and mask.shape == kspace.shape[1:]
    if not fits or not kspace.is_complex() or mask.dtype != torch.bool:
        raise InputError(
            "scan",
            found=f"{tuple(kspace.shape)}, maps {tuple(coil_maps.shape)}, mask {tuple(mask.shape)} {mask.dtype}",
            expected="complex k-space (C, H, W), maps of that shape and a bool mask (H, W)",
            fix="Give one slice with one set of maps.",
        )

r"""A prior trained from undersampled measurements only, through their forward models: no clean image ever enters.

Scans y_i = A_i x_i + n_i of different slices with different masks and coils are all there is. The prior that makes them
most probable is found by expectation maximisation, with the posterior sampler of this package as the first half:

    x_i     ~ p(x | y_i) under the present prior                     draw_images: guided by A_i and y_i
    D      <- argmin E |D(x_i + sigma eps, sigma) - x_i|^2           PriorTrainer, on the drawn images

With exact steps the likelihood of the measurements never falls. What one mask never sees, others do: that is where the
information on the unmeasured comes from. The first images are compressed sensing reconstructions of the same data.

"Diffusion with Forward Models" puts the forward model inside the network's loss and gets a network conditional on one
observation. This way gives a plain denoiser, usable with any guidance and any later mask.

References:
    Rozet et al., Learning Diffusion Priors from Observations by Expectation Maximization, 2024, algorithm 1.
    Tewari et al., Diffusion with Forward Models, 2023.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medical.reconstruction import sparse
from medical.reconstruction.operators import CartesianSense
from medical.reconstruction.posterior.config import PriorTraining
from medical.reconstruction.posterior.operator import to_channels
from medical.reconstruction.posterior.prior import SlicePrior
from medical.reconstruction.posterior.sampling import PosteriorSettings, estimate_scale, sample_posterior
from medical.reconstruction.posterior.slices import varied
from medical.reconstruction.posterior.training import PriorTrainer
from shared.errors import InputError
from shared.progress import tracked

NOISE_WEIGHT = 0.3  # of the wavelets' threshold in noise standard deviations, as in `methods.METHODS`


@dataclass(frozen=True)
class Scan:
    """One undersampled slice; there is no truth in it.

    Attributes:
        kspace: complex64 (C, H, W), whitened, 0 where not acquired.
        mask: bool (H, W).
        coil_maps: complex64 (C, H, W), sum_c |S_c|^2 = 1 or 0; estimated from the data in practice.
    """

    kspace: Tensor
    mask: Tensor
    coil_maps: Tensor


def train_from_measurements(
    scans: Sequence[Scan],
    config: PriorTraining,
    folder: Path,
    *,
    rounds: int = 4,
    settings: PosteriorSettings | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    facts: dict[str, Any] | None = None,
    progress: str | None = None,
    after_round: Callable[[int, Tensor], None] | None = None,
) -> Path:
    """Train a prior by the method of the module docstring; return the path of the prior.

    Args:
        scans: all of one matrix, that of `config.ranges`.
        config: network, loss and rate; `steps` is the number of steps of all rounds together.
        folder: of the training, one subfolder a round; the last holds the result.
        rounds: how often the images are drawn anew, the first from compressed sensing.
        settings: of the sampler; one sample of each scan is drawn. None is the default with 20 calls.
        seed: of everything random.
        device: where to compute.
        facts: added to the training facts of the prior.
        progress: label of a progress bar over the scans.
        after_round: called with the round's number and the images (N, H, W) on which it trained.

    Raises:
        InputError: no scans, scans of another matrix, or fewer than one round.
    """
    if not scans or any(tuple(scan.mask.shape) != config.ranges.matrix for scan in scans):
        raise InputError(
            "scans", found=f"{len(scans)} of matrices {sorted({tuple(scan.mask.shape) for scan in scans})}",
            expected=f"scans of {config.ranges.matrix}", fix="Change the matrix of the configuration.",
        )  # fmt: skip
    if rounds < 1:
        raise InputError("rounds", found=f"{rounds}", expected="1 or more", fix="4 are a good choice.")
    settings = settings or PosteriorSettings(calls=20)
    generator = torch.Generator().manual_seed(seed)
    told = {"scans": len(scans), "rounds": rounds, "clean_images": 0, **(facts or {})}
    images = torch.stack([first_image(scan) for scan in tracked(scans, progress)])
    prior: SlicePrior | None = None
    for number in range(rounds):
        if prior is not None:
            images = draw_images(scans, prior, settings, generator, progress)
        if after_round is not None:
            after_round(number, images)
        part = config.model_copy(update={"steps": -(-config.steps // rounds)})
        trainer = PriorTrainer(part, _draw_of(images), folder / f"round{number}", seed=seed, device=device, facts=told)
        if prior is not None and trainer.step == 0:
            trainer.start_from(prior.network)
        path = trainer.run()
        prior = trainer.prior()
    return path


def first_image(scan: Scan) -> Tensor:
    """Return the wavelet reconstruction of a scan, complex64 (H, W), in units of the prior."""
    operator = CartesianSense(scan.coil_maps[None, None], scan.mask[None])
    x = sparse.minimise_wavelet(
        operator, scan.kspace[None], weight=torch.tensor([NOISE_WEIGHT]), lipschitz=operator.squared_norm_bound(),
        iterations=sparse.ITERATIONS, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return x[0, 0] / estimate_scale(scan.kspace, scan.mask, scan.coil_maps)


def draw_images(
    scans: Sequence[Scan],
    prior: SlicePrior,
    settings: PosteriorSettings,
    generator: torch.Generator,
    progress: str | None = None,
) -> Tensor:
    """Return one posterior sample of each scan, complex64 (N, H, W), in units of the prior."""
    one = PosteriorSettings(**{**settings.__dict__, "samples": 1})
    images = []
    for scan in tracked(scans, progress):
        drawn = sample_posterior(scan.kspace, scan.mask, scan.coil_maps, prior, one, generator=generator)
        images.append(drawn.images[0] / drawn.scale)
    return torch.stack(images)


def _draw_of(images: Tensor) -> Callable[[int, torch.Generator], Tensor]:
    def draw(count: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(images), (count,), generator=generator).tolist()
        return to_channels(torch.stack([varied(images[index], generator) for index in chosen]))

    return draw

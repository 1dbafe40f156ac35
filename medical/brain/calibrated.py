"""Few-step sampling of one brain model: nodes and coefficients fitted to it, a JSON file beside its weights.

    calibration = calibrate_brain(model, 10)                        # some exact trajectories: thousands of calls, once
    calibration.save(calibration_path(weights, 10))
    x = model.draw(sampling=calibrated_sampling(model, weights, 10), generator=generator)        # ten calls a volume

The method is `shared.calibration`, with coefficients for every band of frequencies. It fits hundreds of numbers to all
voxels, so that a few noises suffice, and runs the network on one volume at a time. The file knows the hash of the
network's weights and is refused for others. It belongs to the model without conditions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from medical.brain.model import BrainModel, Sampling, brain_process, check_size
from shared.calibration import Calibration, calibrate, load_calibration
from shared.errors import InputError
from shared.process import Time

TWO_ANSWERS = 8  # below so many calls a step looks at two answers of the network, else at three
BANDS = 16  # of frequencies, each with coefficients of its own


class VolumeByVolume:
    """A model's estimate of a batch, asked for one volume at a time; shows the network, so that its hash is found.

    Args:
        model: the model.
    """

    def __init__(self, model: BrainModel) -> None:
        self.network, self.process = model.network, brain_process(model.config.strategy)
        self._one = model.denoiser()

    def __call__(self, x: Tensor, t: Time, /) -> Tensor:
        """Return the estimate of x_0."""
        return torch.cat([self._one(volume, t) for volume in x.split(1)])


def calibrate_brain(
    model: BrainModel,
    calls: int,
    *,
    count: int = 4,
    held_out: int = 2,
    size: tuple[int, int, int] | None = None,
    history: int | None = None,
    seed: int = 0,
    progress: str | None = None,
) -> Calibration:
    """Fit nodes and coefficients for a number of calls.

    Calls of the network: about 550 for every noise. Memory: about 150 volumes for every noise of the fit, and 300
    more.

    Args:
        model: of `load_brain`.
        calls: of a sampling.
        count: noises of the fit.
        held_out: other noises, on which the error is measured.
        size: voxels; None is the size of the training. Coefficients hardly depend on it.
        history: answers of the network that a step looks at; None is 2 below 8 calls and 3 from there on.
        seed: of the noises.
        progress: label of a progress bar.

    Raises:
        InputError: numbers out of range, or a size that the network cannot take.
    """
    size = size or model.config.size
    check_size(model.config, size)
    if count < 1 or held_out < 1:
        raise InputError("noises", found=f"{count} and {held_out}", expected="1 or more", fix="4 and 2 are enough.")
    denoiser, generator = VolumeByVolume(model), torch.Generator().manual_seed(seed)
    noises = [
        denoiser.process.noise((n, *model.config.sampled(size)), generator, device=model.device)
        for n in (count, held_out)
    ]
    return calibrate(
        denoiser, denoiser.process, noises[0], calls, held_out=noises[1],
        history=history or (2 if calls < TWO_ANSWERS else 3), bands=BANDS, name=model.name, progress=progress,
    )  # fmt: skip


def calibration_path(weights: Path, calls: int) -> Path:
    """Return where the calibration of a file of weights lies: beside it."""
    return weights.with_name(f"{weights.stem}_calibrated_{calls}.json")


def calibrated_sampling(model: BrainModel, weights: Path, calls: int) -> Sampling:
    """Return the sampling of the calibration beside the weights.

    Raises:
        InputError: there is none for this number of calls, or it is of another model.
    """
    path = calibration_path(weights, calls)
    if not path.is_file():
        stem = f"{weights.stem}_calibrated_"
        known = sorted(int(n) for p in weights.parent.glob(f"{stem}*.json") if (n := p.stem[len(stem) :]).isdecimal())
        raise InputError(
            "--steps", found=f"no calibration of {weights.name} for {calls} calls",
            expected=f"one of {', '.join(map(str, known))}" if known else f"{path.name} beside the weights",
            fix=f"Make it: fewstep brain calibrate --model {weights} --calls {calls}",
        )  # fmt: skip
    _, table = load_calibration(path).bind(VolumeByVolume(model))
    return Sampling("calibrated", calls, table=table)

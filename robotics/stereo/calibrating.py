"""A confidence for a model: fitted on every second scene, calibrated on the others, written into the model's file."""

from __future__ import annotations

import numpy as np
import torch

from robotics.stereo.confidence import WITHIN, Confidence, FittedConfidence, fit_confidence, trouble
from robotics.stereo.crops import Scenes
from robotics.stereo.estimation import EstimateSettings, estimate
from robotics.stereo.metrics import ause
from robotics.stereo.model import StereoModel
from robotics.stereo.scenes.shards import SceneFolders
from shared.errors import InputError
from shared.progress import tracked

PIXELS = 4000  # of a scene: neighbours err alike, so that more of them say little more
BINS = 10


def calibrate_confidence(
    model: StereoModel,
    scenes: SceneFolders,
    settings: EstimateSettings,
    *,
    count: int | None = None,
    seed: int = 0,
    progress: str | None = None,
) -> FittedConfidence:
    """Estimate scenes whose truth is known and fit a confidence to the errors.

    Of these the scenes 0, 2, 4, ... give the scale, the scenes 1, 3, 5, ... the two statements made from it; what is
    measured is measured on the former.

    Args:
        model: to judge.
        scenes: that took no part in its training.
        settings: of the estimation; the threshold is left out.
        count: of scenes, spread evenly; None for all.
        seed: of noises and of the pixels that are taken.
        progress: label of a bar on standard error.

    Raises:
        InputError: fewer than two scenes.
    """
    chosen = settings.model_copy(update={"threshold": 0.0})
    used = np.linspace(0, len(scenes) - 1, min(count or len(scenes), len(scenes))).astype(int).tolist()
    if len(used) < 2:
        raise InputError(
            "--data", found=f"{len(used)} scene", expected="two or more: half of them fit, half calibrate",
            fix="Generate more scenes.",
        )  # fmt: skip
    found = [signs_and_errors(model, scenes, index, chosen, seed) for index in tracked(used, progress)]
    (signs, errors), calibration = (
        (np.concatenate([part[0] for part in half], 1), np.concatenate([part[1] for part in half]))
        for half in (found[::2], found[1::2])
    )
    numbers = fit_confidence(signs, errors, calibration)
    data = {"folders": scenes.facts(), "scenes": len(used), "pixels": PIXELS, "seed": seed}
    return FittedConfidence(
        numbers=numbers,
        settings=chosen.model_dump(mode="json", exclude={"threshold"}),
        data=data,
        measured=confidence_quality(numbers, signs, errors),
    )


def confidence_quality(confidence: Confidence, signs: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    """Return how true a confidence is.

    | name | what |
    | --- | --- |
    | epe | mean error, px |
    | within_1px | share of pixels with an error of at most 1 px |
    | mean_confidence | which should be that share |
    | calibration_error | mean of |share - confidence| over ten bins of confidence, each by its number of pixels |
    | interval_coverage | share of pixels whose truth lies in the 90 % interval |
    | ause, ause_constant | area under the sparsification error, px, and that of a confidence that knows nothing |

    Args:
        confidence: to judge.
        signs: (4, N) of `trouble`.
        errors: (N,), px.
    """
    chance, good = confidence.probability(signs), errors <= WITHIN
    place = np.minimum((chance * BINS).astype(int), BINS - 1)
    gaps = [abs(float((good[place == bin_] - chance[place == bin_]).sum())) for bin_ in range(BINS)]
    return {
        "epe": float(errors.mean()),
        "within_1px": float(good.mean()),
        "mean_confidence": float(chance.mean()),
        "calibration_error": sum(gaps) / len(errors),
        "interval_coverage": float((errors <= confidence.interval(signs)).mean()),
        "ause": ause(errors, chance),
        "ause_constant": ause(errors, np.zeros(len(errors))),
    }


def signs_and_errors(
    model: StereoModel, scenes: Scenes, index: int, settings: EstimateSettings, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return signs (4, N) and errors (N,), px, of pixels of a scene."""
    sample = scenes[index]
    raw = sample.raw if settings.first == "raw" or settings.guidance.raw else None
    generator = torch.Generator().manual_seed(seed + index)
    result = estimate(model, sample.pair, settings, raw=raw, generator=generator)
    signs = trouble(result.spread, result.disagreement, result.known)
    errors = np.abs(result.dense - sample.disparity_left).astype(np.float64)
    known = np.flatnonzero(np.isfinite(errors))
    taken = np.random.default_rng([seed, index]).permutation(known)[:PIXELS]
    return signs.reshape(len(signs), -1)[:, taken], errors.reshape(-1)[taken]

r"""Is the spread of posterior samples true? Measured where the truth is known: on simulated or fully sampled scans.

    error ratio   rms |mean - truth| / rms expected by the samples        1 if calibrated, above 1 if overconfident
    coverage      part of the pixels whose truth lies in the disc that should hold 50 % or 90 % of the posterior
    reliability   the same ratio in bins of the predicted deviation: flat at 1 if the map is true pixel by pixel

The first two are those of `medical.reconstruction.quality.uncertainty`, over the pixels of the object: the empty
background would decide them otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medical.reconstruction.quality.uncertainty import Uncertainty
from shared.errors import InputError

LEVELS = (0.5, 0.9)
OBJECT_SHARE = 0.1  # of the truth's largest magnitude, above which a pixel belongs to the object
BINS = 8


@dataclass(frozen=True)
class CalibrationReport:
    """Calibration of posterior samples over some slices.

    Attributes:
        error_ratio: root-mean-square error of the means over what the samples expect.
        coverage: found share of pixels for each level of `LEVELS`.
        psnr_of_mean: of the complex mean against the complex truth, dB, largest magnitude of the truth as range; mean.
        psnr_of_sample: of single samples; about 3 dB lower when calibrated.
        deviation: predicted deviation in each bin, relative to the largest magnitude of the truth.
        error: root-mean-square error in each bin, likewise.
        slices: number of slices.
        samples: number of samples of each slice.
    """

    error_ratio: float
    coverage: dict[float, float]
    psnr_of_mean: float
    psnr_of_sample: float
    deviation: tuple[float, ...]
    error: tuple[float, ...]
    slices: int
    samples: int

    def numbers(self) -> dict[str, float]:
        """Return the numbers under flat names, for `--json`."""
        named = {f"coverage_{round(100 * level)}": value for level, value in self.coverage.items()}
        return {
            "error_ratio": self.error_ratio, **named, "psnr_of_mean": self.psnr_of_mean,
            "psnr_of_sample": self.psnr_of_sample, "slices": self.slices, "samples": self.samples,
        }  # fmt: skip


def calibration_report(drawn: Sequence[Tensor], truths: Sequence[Tensor]) -> CalibrationReport:
    """Compare samples with truths.

    Args:
        drawn: complex (n, H, W) independent samples of each slice, n alike for all.
        truths: complex (H, W) of each slice, in the units of the samples.

    Raises:
        InputError: nothing to compare, different numbers of slices or samples, or fewer than two samples.
    """
    if not drawn or len(drawn) != len(truths) or len({len(samples) for samples in drawn}) != 1:
        raise InputError(
            "samples",
            found=f"{len(truths)} truths, {[len(samples) for samples in drawn]} samples",
            expected="one truth a slice and as many samples of each",
            fix="Draw the same number of samples of every slice.",
        )
    samples_in, truth_in, mean_psnr, sample_psnr = [], [], [], []
    for samples, truth in zip(drawn, truths, strict=True):
        peak = float(truth.abs().max())
        inside = truth.abs() > OBJECT_SHARE * peak
        samples_in.append(samples[:, inside] / peak)
        truth_in.append(truth[inside] / peak)
        mean_psnr.append(_psnr(samples.mean(0) - truth, peak))
        sample_psnr.append(sum(_psnr(sample - truth, peak) for sample in samples) / len(samples))
    found, truth = Uncertainty.of(torch.cat(samples_in, dim=1)), torch.cat(truth_in)
    expected = found.standard_deviation * (1 + 1 / found.samples) ** 0.5
    order = expected.argsort()
    groups = torch.tensor_split(order, min(BINS, len(order)))
    squared = (found.mean - truth).abs().square()
    return CalibrationReport(
        error_ratio=found.error_ratio(truth),
        coverage={level: found.coverage(truth, level) for level in LEVELS},
        psnr_of_mean=sum(mean_psnr) / len(mean_psnr),
        psnr_of_sample=sum(sample_psnr) / len(sample_psnr),
        deviation=tuple(float(expected[group].square().mean().sqrt()) for group in groups),
        error=tuple(float(squared[group].mean().sqrt()) for group in groups),
        slices=len(drawn),
        samples=found.samples,
    )


def _psnr(error: Tensor, peak: float) -> float:
    return float(20 * torch.log10(peak / error.abs().square().mean().sqrt()))

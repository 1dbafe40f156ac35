r"""The spread of independent posterior samples, and how well it tells the error where the truth is known."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import InputError


@dataclass(frozen=True)
class Uncertainty:
    r"""Pixel-wise mean and standard deviation of complex posterior samples.

    Attributes:
        mean: complex (\*pixels), the mean of the samples.
        standard_deviation: real (\*pixels), sqrt(sum_i |x_i - mean|^2 / (n - 1)): of the complex value, so each of its
            two parts has 1/sqrt(2) of it if they are alike.
        samples: n.
    """

    mean: Tensor
    standard_deviation: Tensor
    samples: int

    @classmethod
    def of(cls, samples: Tensor) -> Uncertainty:
        r"""Return the uncertainty of samples (n, \*pixels) drawn independently.

        Raises:
            InputError: fewer than two samples.
        """
        if len(samples) < 2:
            raise InputError(
                "samples",
                found=f"{len(samples)}",
                expected="2 or more, for a spread",
                fix="Draw more samples; 8 tell the standard deviation of a pixel to about 18 %.",
            )
        mean = samples.mean(0)
        deviation = ((samples - mean).abs().square().sum(0) / (len(samples) - 1)).sqrt()
        return cls(mean, deviation, len(samples))

    def error_ratio(self, truth: Tensor) -> float:
        """Return the root-mean-square error of the mean over what the samples expect of it; 1 is calibrated.

        The truth and each sample are draws from one posterior if the model is right, so the error of their mean has
        variance (1 + 1/n) s^2.
        """
        expected = self.standard_deviation.square().mean() * (1 + 1 / self.samples)
        return float(((self.mean - truth).abs().square().mean() / expected).sqrt())

    def coverage(self, truth: Tensor, level: float = 0.9) -> float:
        """Return the part of pixels whose truth lies in the disc that should hold `level` of the posterior.

        For a circular normal posterior with the deviation estimated from n samples, |x - mean|^2 / ((1 + 1/n) s^2) has
        the F distribution with 2 and 2 (n - 1) degrees of freedom, whose quantile is
        (n - 1) ((1 - level)^(-1 / (n - 1)) - 1).
        """
        n = self.samples
        radius = math.sqrt((1 + 1 / n) * (n - 1) * ((1 - level) ** (-1 / (n - 1)) - 1))
        inside = (self.mean - truth).abs() <= radius * self.standard_deviation
        return float(inside.to(torch.float64).mean())

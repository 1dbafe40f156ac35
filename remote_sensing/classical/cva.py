"""Change vector analysis (Malila 1980): the score of a pixel is the length of the difference of its two spectra.

    s = sqrt(sum_i (y'_i - x'_i)^2)

after the radiometric normalisation of the pair. With "invariant" normalisation each difference is in standard
deviations of the same band's no change, so s^2 is a sum of squares of unit variance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remote_sensing.classical.radiometry import Radiometry, fit_radiometry
from remote_sensing.rasters import Patch, Sample
from remote_sensing.settings import Normalisation


@dataclass(frozen=True)
class ChangeVectors:
    """Change vector analysis with a fitted radiometry."""

    radiometry: Radiometry

    halo = 0

    @property
    def unit(self) -> str:
        """What the score is measured in."""
        return {
            "none": "units of the files",
            "zscore": "standard deviations of the bands",
            "invariant": "standard deviations of no change",
        }[self.radiometry.kind]

    @property
    def dof(self) -> int:
        """Number of bands."""
        return len(self.radiometry.centre_before)

    def score(self, patch: Patch) -> NDArray[np.float32]:
        """Return s, float32 (rows, columns), NaN where not valid."""
        return self.radiometry.magnitude(patch)

    def sample_score(self, sample: Sample) -> NDArray[np.float32]:
        """Return s of the pixels of a sample."""
        return self.radiometry.sample_magnitude(sample)

    def facts(self) -> dict[str, object]:
        """Return what is worth telling."""
        return self.radiometry.facts()


def fit_cva(sample: Sample, normalisation: Normalisation = "invariant") -> ChangeVectors:
    """Fit the radiometry of change vector analysis."""
    return ChangeVectors(fit_radiometry(sample, normalisation))

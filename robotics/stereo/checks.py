"""Is this a rectified pair, left first? What a matcher cannot repair is said before it runs.

Corners of the left image are looked for in the right one, to both sides and in rows above and below, by normalised
cross-correlation; what is found, with a sub-pixel row from a parabola, tells the faults:

| fault | what is seen |
| --- | --- |
| not rectified | rows differ: |median dy|, their spread, or their slope along a row (a rotation) |
| swapped views | most disparities are negative |
| different exposure | ratio of the images' mean |
| no texture | share of pixels whose gradient is above the noise |
| not a pair | hardly a corner is found again |
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

import numpy as np

from robotics.stereo.pair import StereoPair
from shared.errors import InputError

PATCH = 7  # half of the window of a corner, px
CORNERS = 240
SURE = 0.85  # least correlation of a match
FEW = 15  # fewer matches say nothing
ROW_FAULT, ROW_WARNING = 1.5, 0.5  # px
GAIN_WARNING = 1.4
TEXTURE_FAULT, TEXTURE_WARNING = 0.005, 0.1
STEP = 4.0  # grey levels a pixel: a gradient above the noise


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        fault: no depth can be right; False is a warning.
        found: what was seen.
        fix: what to do.
    """

    fault: bool
    found: str
    fix: str


@dataclass(frozen=True)
class PairReport:
    """What a check of a pair saw.

    Attributes:
        matches: corners found again.
        corners: corners looked for.
        row_offset: median of y_right - y_left, px; NaN without matches, like the next four.
        row_spread: 90 % quantile of |dy - median|, px.
        row_slope: change of dy over the width of the image, px: a rotation.
        disparity_median: px.
        disparity_negative: share of matches with d < -1 px.
        exposure: mean of the right image over that of the left.
        texture: share of pixels with a horizontal gradient that a matcher can use.
        findings: faults and warnings.
    """

    matches: int
    corners: int
    row_offset: float
    row_spread: float
    row_slope: float
    disparity_median: float
    disparity_negative: float
    exposure: float
    texture: float
    findings: tuple[Finding, ...] = field(default=())

    @property
    def good(self) -> bool:
        """Return whether there is no fault; warnings may be."""
        return not any(finding.fault for finding in self.findings)

    def numbers(self) -> dict[str, float]:
        """Return the measured numbers, and the count of faults and warnings."""
        values = asdict(self)
        findings = values.pop("findings")
        faults = sum(finding["fault"] for finding in findings)
        return {**values, "faults": faults, "warnings": len(findings) - faults}


def check_pair(pair: StereoPair, max_disparity: float | None = None) -> PairReport:
    """Look at a pair.

    Args:
        pair: two images.
        max_disparity: largest that is looked for, px; None for 30 % of the width.
    """
    left, right = (image.astype(np.float32).mean(-1) for image in (pair.left, pair.right))
    height, width = left.shape
    reach = int(min(max_disparity or 0.3 * width, width - 4 * PATCH))
    places = _corners(left)
    found = np.array(
        [
            match
            for column, row in places.tolist()
            if (match := _find(left, right, column, row, reach, max(8, height // 16)))
        ]
    ).reshape(-1, 4)
    texture = float((np.abs(left[:, 2:] - left[:, :-2]) / 2 > STEP).mean())
    exposure = float((right.mean() + 1e-6) / (left.mean() + 1e-6))
    nothing = float("nan")
    offset = spread = slope = median = negative = nothing
    if len(found) >= FEW:
        column, disparity, dy = found[:, 0], found[:, 2], found[:, 3]
        offset = float(np.median(dy))
        spread = float(np.percentile(np.abs(dy - offset), 90))
        kept = np.abs(dy - offset) <= max(spread, 0.25)
        slope = float(np.polyfit(column[kept], dy[kept], 1)[0] * width) if np.ptp(column[kept]) > width / 4 else 0.0
        median, negative = float(np.median(disparity)), float((disparity < -1).mean())
    report = PairReport(
        len(found), len(places), offset, spread, slope, median, negative, exposure, texture
    )  # fmt: skip
    return PairReport(**{**report.__dict__, "findings": tuple(_findings(report))})


def require_pair(pair: StereoPair, source: str, max_disparity: float | None = None) -> PairReport:
    """Return the report of a pair.

    Args:
        pair: two images.
        source: names them in the error.
        max_disparity: as of `check_pair`.

    Raises:
        InputError: it has a fault.
    """
    report = check_pair(pair, max_disparity)
    for finding in report.findings:
        if finding.fault:
            raise InputError(source, found=finding.found, expected="a rectified pair, left first", fix=finding.fix)
    return report


def _findings(report: PairReport) -> list[Finding]:
    found: list[Finding] = []
    if report.texture < TEXTURE_FAULT:
        share = f"{100 * report.texture:.1f} % of the pixels have texture"
        return [Finding(True, f"no texture: {share}", "Add light, a dot projector, or another exposure.")]
    if report.texture < TEXTURE_WARNING:
        share = f"{100 * report.texture:.0f} % of the pixels have texture"
        found.append(Finding(False, f"little texture: {share}", "Expect guesses in plain areas; a projector helps."))
    if report.matches < FEW:
        seen = f"{report.matches} of {report.corners} corners of the left image in the right one"
        fault = report.corners >= 3 * FEW
        return [*found, Finding(fault, seen, "Give two rectified images of one moment; a larger --max-disparity?")]
    if report.disparity_negative > 0.6:
        seen = f"{100 * report.disparity_negative:.0f} % of the matches with a negative disparity: swapped views"
        found.append(Finding(True, seen, "Swap left and right."))
    rows = max(abs(report.row_offset), abs(report.row_slope) / 2)
    if rows > ROW_WARNING or report.row_spread > 2 * ROW_FAULT:
        seen = f"rows that differ by {report.row_offset:+.2f} px, {report.row_slope:+.2f} px more over the width"
        found.append(
            Finding(rows > ROW_FAULT or report.row_spread > 2 * ROW_FAULT, f"{seen} (spread {report.row_spread:.2f})",
                    "Rectify the pair (calibrate again if it was rectified).")
        )  # fmt: skip
    if not 1 / GAIN_WARNING < report.exposure < GAIN_WARNING:
        seen = f"a right image {report.exposure:.2f} times as bright as the left"
        found.append(Finding(False, seen, "Give both cameras one exposure and gain."))
    return found


def _corners(image: np.ndarray) -> np.ndarray:
    """Return (K, 2) columns and rows of corners, away from the border."""
    import cv2

    border = PATCH + 2
    mask = np.zeros(image.shape, np.uint8)
    mask[border:-border, border:-border] = 1
    found = cv2.goodFeaturesToTrack(
        image.clip(0, 255).astype(np.uint8), CORNERS, 0.01, min(image.shape) / 40, mask=mask
    )
    return np.zeros((0, 2), int) if found is None else found.reshape(-1, 2).astype(int)


def _find(
    left: np.ndarray, right: np.ndarray, column: int, row: int, reach: int, rows: int
) -> tuple[float, float, float, float] | None:
    """Return (column, row, disparity, dy) of the best match in the right image, or None if none is sure."""
    import cv2

    height, width = left.shape
    patch = left[row - PATCH : row + PATCH + 1, column - PATCH : column + PATCH + 1]
    first, last = max(0, column - reach - PATCH), min(width, column + reach + PATCH + 1)
    top, bottom = max(0, row - rows - PATCH), min(height, row + rows + PATCH + 1)
    scores = cv2.matchTemplate(right[top:bottom, first:last], patch, cv2.TM_CCOEFF_NORMED)
    y, x = np.unravel_index(int(scores.argmax()), scores.shape)
    best = float(scores[y, x])
    if not np.isfinite(best) or best < SURE or not 0 < y < scores.shape[0] - 1:
        return None
    # The second best elsewhere must be clearly worse, or texture repeats.
    rest = scores.copy()
    rest[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = -1
    if best - float(rest.max()) < 0.05:
        return None
    above, below = float(scores[y - 1, x]), float(scores[y + 1, x])
    curve = above - 2 * best + below
    dy = y + (0.5 * (above - below) / curve if curve < 0 else 0.0) + top + PATCH - row
    return float(column), float(row), float(column - (x + first + PATCH)), float(dy)

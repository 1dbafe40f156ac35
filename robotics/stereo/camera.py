"""The geometry of a calibrated, rectified pair: pixels, metres, and what resizing and cropping do to them.

Optical frame of the left camera (REP 103): x right, y down, z forward. Pixel (column u, row v) has its centre at the
integer coordinates. A point at depth Z is seen at u_l = cx_l + fx X / Z and u_r = cx_r + fx (X - B) / Z, so that

    d = u_l - u_r,   Z = fx B / (d + doffs),   doffs = cx_r - cx_l.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from shared.errors import InputError


@dataclass(frozen=True)
class StereoCamera:
    """A rectified pair.

    Attributes:
        width: of both images, px.
        height: of both images, px.
        fx: focal length along rows, px.
        fy: focal length along columns, px.
        cx_l: column of the left principal point, px.
        cx_r: column of the right principal point, px.
        cy: row of both principal points, px.
        baseline: distance of the cameras, m; positive, the right camera being on the right.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx_l: float
    cx_r: float
    cy: float
    baseline: float

    def __post_init__(self) -> None:
        for name in ("width", "height", "fx", "fy", "baseline"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(
                    f"camera {name}", found=f"{value:g}", expected="a positive number",
                    fix="A baseline that is not positive means that left and right are swapped, or that it is missing."
                    if name == "baseline" else "Correct the calibration.",
                )  # fmt: skip

    @property
    def doffs(self) -> float:
        """Return cx_r - cx_l, px: what is added to a disparity before it is inverse depth."""
        return self.cx_r - self.cx_l

    def depth(self, disparity: np.ndarray) -> np.ndarray:
        """Return Z = fx B / (d + doffs) in metres, float32; NaN where d is NaN or the point lies not in front.

        Args:
            disparity: d in pixels of this camera's size, any shape, NaN unknown.
        """
        shifted = np.asarray(disparity, np.float64) + self.doffs
        depth = np.full(shifted.shape, np.nan)
        np.divide(self.fx * self.baseline, shifted, out=depth, where=shifted > 0)
        return depth.astype(np.float32)

    def disparity(self, depth: np.ndarray) -> np.ndarray:
        """Return d = fx B / Z - doffs in pixels, float32; NaN where Z is not a positive finite number."""
        metres = np.asarray(depth, np.float64)
        with np.errstate(invalid="ignore"):
            known = np.isfinite(metres) & (metres > 0)
        disparity = np.full(metres.shape, np.nan)
        np.divide(self.fx * self.baseline, metres, out=disparity, where=known)
        return (disparity - self.doffs).astype(np.float32)

    def resized(self, width: int, height: int) -> StereoCamera:
        """Return the camera of images resampled to this size; a disparity scales by width / self.width.

        Pixel centres are at integers: cx' = (cx + 1/2) s - 1/2.
        """
        sx, sy = width / self.width, height / self.height
        return StereoCamera(
            width=width,
            height=height,
            fx=self.fx * sx,
            fy=self.fy * sy,
            cx_l=(self.cx_l + 0.5) * sx - 0.5,
            cx_r=(self.cx_r + 0.5) * sx - 0.5,
            cy=(self.cy + 0.5) * sy - 0.5,
            baseline=self.baseline,
        )

    def cropped(self, left: int, top: int, width: int, height: int, *, right_image: int | None = None) -> StereoCamera:
        """Return the camera of a window of both images.

        Args:
            left: first column kept in the left image.
            top: first row kept in both images.
            width: columns kept.
            height: rows kept.
            right_image: first column kept in the right image; None for `left`. Another one changes every disparity
                by right_image - left, and doffs by the opposite.
        """
        start = left if right_image is None else right_image
        return replace(
            self, width=width, height=height, cx_l=self.cx_l - left, cx_r=self.cx_r - start, cy=self.cy - top
        )

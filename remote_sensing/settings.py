"""What a comparison can be told, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

Method = Literal["ir-mad", "cva", "pca-kmeans", "ddpm-cd"]
Normalisation = Literal["none", "zscore", "invariant"]
Resampling = Literal["nearest", "bilinear", "cubic"]
VectorFormat = Literal["gpkg", "fgb", "geojson", "parquet"]


class Settings(BaseModel):
    """How two rasters are compared.

    Attributes:
        method: "ir-mad", "cva" (change vectors), "pca-kmeans" or "ddpm-cd" (trained).
        weights: of "ddpm-cd", by name or path.
        precision: of the convolutions of "ddpm-cd".
        device: where "ddpm-cd" computes.
        normalisation: radiometry of "cva" and "pca-kmeans": "none", "zscore" or "invariant"; IR-MAD needs none.
        threshold: "otsu", "chi2" (IR-MAD), "calibrated" (on labels) or a number on the score of the method; None is
            "calibrated" with labels and "otsu" without.
        labels: raster of changed pixels of this pair, on which the probability is calibrated.
        unchanged: raster of unchanged pixels, if the labels are sparse.
        bands_before: numbers or names of the bands of the first date, separated by commas; None takes all.
        bands_after: the same for the second date.
        nodata: a value, "auto" or "none".
        exclude: raster that is not 0 where pixels are left out, such as a cloud mask.
        grid: raster whose grid is used; None takes that of the first date.
        resampling: of values off the grid.
        pixel_grid: the images have no georeference and are compared pixel by pixel.
        min_overlap: part of the smaller extent that must lie in the other.
        coregister: move the second date by the estimated shift.
        keep_going: what a damaged file cannot give is without data and listed, instead of ending the run.
        skip_unchanged: share of a tile's pixels that IR-MAD must call changed, else the method is not run on it; None
            runs it on every tile.
        audit: share of the skipped tiles that are run all the same, to estimate what is lost.
        seed: of that choice.
        tile: rows and columns of a tile; None is 1024, or what a trained detector was trained on.
        workers: threads that read.
        cluster: number of local Dask workers, or the address of a scheduler; None computes in this process.
        min_area: m2 below which a changed area is dropped.
        vectors: formats of the polygons.
        probability_type: of probability.tif; "uint8" is a quarter as large, in steps of 1/254 with a scale.
        date_before: ISO date; None takes it from the file.
        date_after: the same for the second date.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method = "ir-mad"
    weights: str | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    device: str = "cpu"
    normalisation: Normalisation = "invariant"
    threshold: Literal["otsu", "chi2", "calibrated"] | float | None = None
    labels: Path | None = None
    unchanged: Path | None = None
    bands_before: str | None = None
    bands_after: str | None = None
    nodata: Literal["auto", "none"] | float = "auto"
    exclude: Path | None = None
    grid: Path | None = None
    resampling: Resampling = "bilinear"
    pixel_grid: bool = False
    min_overlap: float = Field(default=0.1, ge=0, le=1)
    coregister: bool = False
    keep_going: bool = False
    skip_unchanged: float | None = Field(default=None, gt=0, le=1)
    audit: float = Field(default=0.1, ge=0, le=1)
    seed: NonNegativeInt = 0
    tile: int | None = Field(default=None, ge=64)
    workers: PositiveInt = 2
    cluster: str | None = None
    min_area: NonNegativeFloat = 0.0
    vectors: tuple[VectorFormat, ...] = ("gpkg",)
    probability_type: Literal["float32", "uint8"] = "float32"
    date_before: str | None = None
    date_after: str | None = None

    @property
    def rule(self) -> str | float:
        """How the threshold is found, the default resolved."""
        if self.threshold is None:
            return "otsu" if self.labels is None else "calibrated"
        return self.threshold

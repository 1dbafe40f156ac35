"""Changed areas as polygons with their size on the ellipsoid.

GDAL traces the mask of the whole grid line by line, so no polygon is split where tiles met, and memory grows with the
polygons, not with the raster; a mask with more than a million of them is refused. Areas and perimeters are geodesic
(Karney 2013, through pyproj) in whatever CRS the grid is: a square metre of Web Mercator is none, and a degree is no
length.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes

from remote_sensing.grid import MapGrid
from remote_sensing.outputs.rasters import CHANGE
from remote_sensing.outputs.regions import erase, find_regions
from remote_sensing.settings import VectorFormat
from shared.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

DRIVERS = {"gpkg": "GPKG", "fgb": "FlatGeobuf", "geojson": "GeoJSON"}
LAYER = "changes"
MOST_POLYGONS = 1_000_000  # of about 1.2 kB each, some of it twice
CHUNK = 20_000  # polygons that are copied onto the ellipsoid at a time
LONGEST_SIDE = 16  # pixels; longer straight sides are divided before they are projected, where they are curves


def trace(
    mask: Path,
    probability: Path,
    grid: MapGrid,
    *,
    min_area: float = 0.0,
    dates: tuple[str | None, str | None] = (None, None),
) -> GeoDataFrame:
    """Return the polygons of the mask, largest first; smaller ones are erased from the mask file.

    Pixels belong together that share a side. Columns: id, area_m2, perimeter_m (None without a CRS), pixels,
    mean_probability, max_probability, date_before, date_after.

    Args:
        mask: GeoTIFF of 0, 1 and nodata, open for change.
        probability: GeoTIFF on the same grid.
        grid: of both.
        min_area: of a polygon that is kept, in m2; in pixels without a CRS.
        dates: ISO dates of the pair.

    Raises:
        InputError: more areas than polygons fit in memory.
    """
    from geopandas import GeoDataFrame

    regions = find_regions(mask, probability, grid)
    # Most areas of a noisy mask are too small by far: they go before they cost a polygon.
    tiny = regions.pixels * _largest_pixel(grid) < min_area
    if tiny.any():
        erase(mask, regions, tiny, grid)
        regions = find_regions(mask, probability, grid)
    if len(regions) > MOST_POLYGONS:
        raise InputError(
            "--min-area",
            found=f"{len(regions)} separate areas of change",
            expected=f"at most {MOST_POLYGONS} polygons",
            fix="Raise --min-area to drop specks, or the threshold: finished tiles are kept.",
        )
    outlines = _outlines(mask)
    place = np.searchsorted(regions.first, _first_pixels(outlines, grid))
    pixels = regions.pixels[place]
    areas, perimeters = geodesic_sizes(outlines, grid)
    sizes = pixels if areas is None else areas
    kept = sizes >= min_area
    if not kept.all():
        dropped = np.zeros(len(regions), bool)
        dropped[place[~kept]] = True
        erase(mask, regions, dropped, grid)
    order = np.flatnonzero(kept)[np.argsort(-sizes[kept], kind="stable")]
    mean, highest = regions.mean[place[order]], regions.highest[place[order]]
    nothing = np.full(len(order), np.nan)
    columns = {
        "id": np.arange(1, len(order) + 1, dtype=np.int64),
        "area_m2": nothing if areas is None else areas[order],
        "perimeter_m": nothing if perimeters is None else perimeters[order],
        "pixels": pixels[order],
        "mean_probability": mean,
        "max_probability": highest,
        "date_before": np.full(len(order), dates[0], dtype=object),
        "date_after": np.full(len(order), dates[1], dtype=object),
    }
    wkt = grid.crs.to_wkt() if grid.crs is not None else None
    return GeoDataFrame(columns, geometry=_placed(outlines[order], grid), crs=wkt)


def write_vectors(frame: GeoDataFrame, path: Path, kind: VectorFormat) -> None:
    """Write the polygons; an empty frame makes an empty layer with its CRS. GeoJSON is in longitude and latitude.

    Raises:
        MissingExtra: GeoParquet needs pyarrow.
    """
    import pyogrio

    if kind == "parquet":
        try:
            frame.to_parquet(path)
        except ImportError as error:
            raise MissingExtra("pyarrow", extra="remote-sensing", purpose="to write GeoParquet") from error
        return
    for name in ("date_before", "date_after"):
        frame = frame.assign(**{name: frame[name].astype("string")})
    options = {"RFC7946": "YES"} if kind == "geojson" and frame.crs is not None else {}
    if kind != "geojson":
        options["layer"] = LAYER
    pyogrio.write_dataframe(frame, path, driver=DRIVERS[kind], geometry_type="Polygon", **options)


def geodesic_sizes(
    outlines: NDArray[np.object_], grid: MapGrid
) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return area in m2 and perimeter in m, holes included, of polygons in pixel coordinates; None without a CRS."""
    if grid.crs is None:
        return None, None
    from pyproj import CRS, Transformer

    crs = CRS.from_wkt(grid.crs.to_wkt())
    geod = crs.get_geod()
    if geod is None or crs.geodetic_crs is None:
        return None, None
    # Onto the ellipsoid of the CRS itself: no datum is changed.
    to_degrees = Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    areas, perimeters = np.zeros(len(outlines)), np.zeros(len(outlines))
    for start in range(0, len(outlines), CHUNK):
        part = slice(start, start + CHUNK)
        fine = _placed(shapely.segmentize(outlines[part], LONGEST_SIDE), grid)
        fine = shapely.transform(fine, lambda xy: np.stack(to_degrees.transform(*xy.T), axis=1))
        fine = shapely.orient_polygons(fine)
        sizes = np.array([geod.geometry_area_perimeter(polygon) for polygon in fine])
        rings = np.array([sum(geod.geometry_length(ring) for ring in polygon.interiors) for polygon in fine])
        areas[part], perimeters[part] = np.abs(sizes[:, 0]), sizes[:, 1] + rings
    return areas, perimeters


def _outlines(mask: Path) -> NDArray[np.object_]:
    """Return the changed areas as polygons in pixel coordinates (x = column, y = row)."""
    with rasterio.open(mask) as dataset:
        band = rasterio.band(dataset, 1)
        found = [
            shapely.Polygon(shape["coordinates"][0], shape["coordinates"][1:])
            for shape, value in shapes(band, mask=band, connectivity=4)
            if value == CHANGE
        ]
        to_pixels = _affine(~dataset.transform)
    # Corners are corners of pixels: rounding makes them whole numbers again.
    return shapely.transform(np.array(found, dtype=object), lambda xy: np.rint(to_pixels(xy)))


def _placed(outlines: NDArray[np.object_], grid: MapGrid) -> NDArray[np.object_]:
    return shapely.transform(outlines, _affine(grid.transform))


def _affine(transform: rasterio.Affine) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    a, b, c, d, e, f = transform[:6]
    linear, offset = np.array([[a, b], [d, e]]), np.array([c, f])
    return lambda xy: xy @ linear.T + offset


def _first_pixels(outlines: NDArray[np.object_], grid: MapGrid) -> NDArray[np.int64]:
    """Return row * width + column of the first pixel in reading order of polygons in pixel coordinates."""
    if not len(outlines):
        return np.zeros(0, np.int64)
    corners, polygon = shapely.get_coordinates(shapely.get_exterior_ring(outlines), return_index=True)
    number = np.rint(corners[:, 1]).astype(np.int64) * (grid.width + 1) + np.rint(corners[:, 0]).astype(np.int64)
    starts = np.flatnonzero(np.diff(polygon, prepend=-1))
    lowest = np.minimum.reduceat(number, starts)
    return lowest // (grid.width + 1) * grid.width + lowest % (grid.width + 1)


def _largest_pixel(grid: MapGrid) -> float:
    """Return an upper bound of the area of a pixel: 1 without a CRS, else m2, from pixels spread over the grid."""
    rows, cols = (np.unique(np.linspace(0, length - 1, 9).round()) for length in grid.shape)
    boxes = np.array([shapely.box(col, row, col + 1, row + 1) for row in rows for col in cols], dtype=object)
    areas, _ = geodesic_sizes(boxes, grid)
    # Between the nine rows and columns a pixel can be a little larger.
    return 1.0 if areas is None else 1.05 * float(areas.max())

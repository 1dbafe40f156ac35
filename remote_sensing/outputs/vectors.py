"""Changed areas as polygons with their size on the ellipsoid.

GDAL traces the mask of the whole grid line by line, so no polygon is split where tiles met, and memory grows with the
polygons, not with the raster. Areas and perimeters are geodesic (Karney 2013, through pyproj) in whatever CRS the grid
is: a square metre of Web Mercator is none, and a degree is no length.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize, shapes
from rasterio.windows import Window

from remote_sensing.grid import MapGrid
from remote_sensing.outputs.rasters import CHANGE, NO_CHANGE
from remote_sensing.settings import VectorFormat
from shared.errors import MissingExtra

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

DRIVERS = {"gpkg": "GPKG", "fgb": "FlatGeobuf", "geojson": "GeoJSON"}
LAYER = "changes"
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
    """
    from geopandas import GeoDataFrame

    outlines = _outlines(mask)
    pixels = np.rint(shapely.area(outlines)).astype(np.int64)
    areas, perimeters = geodesic_sizes(outlines, grid)
    sizes = pixels if areas is None else areas
    kept = sizes >= min_area
    if not kept.all():
        _erase(mask, outlines[~kept], grid)
    order = np.flatnonzero(kept)[np.argsort(-sizes[kept], kind="stable")]
    mean, highest = zonal(probability, outlines[order], grid)
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
    fine = _placed(shapely.segmentize(outlines, LONGEST_SIDE), grid)
    fine = shapely.transform(fine, lambda xy: np.stack(to_degrees.transform(*xy.T), axis=1))
    fine = shapely.orient_polygons(fine)
    sizes = np.array([geod.geometry_area_perimeter(polygon) for polygon in fine]).reshape(-1, 2)
    rings = np.array([sum(geod.geometry_length(ring) for ring in polygon.interiors) for polygon in fine])
    return np.abs(sizes[:, 0]), sizes[:, 1] + rings if len(rings) else sizes[:, 1]


def zonal(
    raster: Path, outlines: NDArray[np.object_], grid: MapGrid
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the mean and the largest value of a raster in each polygon of pixel coordinates."""
    count, total, highest = np.zeros(len(outlines)), np.zeros(len(outlines)), np.full(len(outlines), -np.inf)
    tree = shapely.STRtree(outlines)
    with rasterio.open(raster) as dataset:
        for window in grid.windows():
            hit = _touching(tree, window)
            if not hit.size:
                continue
            burned = _burn(outlines[hit], np.arange(1, len(hit) + 1), window)
            values = dataset.read(1, window=window)[burned > 0].astype(np.float64)
            zone = hit[burned[burned > 0] - 1]
            count += np.bincount(zone, minlength=len(outlines))
            total += np.bincount(zone, values, minlength=len(outlines))
            np.maximum.at(highest, zone, values)
    return total / np.maximum(count, 1), highest


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


def _touching(tree: shapely.STRtree, window: Window) -> NDArray[np.intp]:
    box = shapely.box(
        window.col_off + 0.5,
        window.row_off + 0.5,
        window.col_off + window.width - 0.5,
        window.row_off + window.height - 0.5,
    )
    return np.sort(tree.query(box))


def _burn(outlines: NDArray[np.object_], values: NDArray[np.int64], window: Window) -> NDArray[np.int32]:
    return rasterize(
        zip(outlines, values.tolist(), strict=True),
        out_shape=(window.height, window.width),
        transform=rasterio.Affine.translation(window.col_off, window.row_off),
        dtype="int32",
    )


def _erase(mask: Path, outlines: NDArray[np.object_], grid: MapGrid) -> None:
    tree = shapely.STRtree(outlines)
    with rasterio.open(mask, "r+") as dataset:
        for window in grid.windows():
            hit = _touching(tree, window)
            if hit.size:
                values = dataset.read(1, window=window)
                values[_burn(outlines[hit], np.ones(len(hit), np.int64), window) > 0] = NO_CHANGE
                dataset.write(values, 1, window=window)

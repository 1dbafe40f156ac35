"""A STAC item that describes the results: plain JSON, version 1.1.0, with the projection extension."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rasterio.crs import CRS
from shapely.geometry import mapping

from remote_sensing.grid import MapGrid, crs_name

VERSION = "1.1.0"
PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
KINDS = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".gpkg": "application/geopackage+sqlite3",
    ".geojson": "application/geo+json",
    ".fgb": "application/vnd.flatgeobuf",
    ".parquet": "application/vnd.apache.parquet",
    ".png": "image/png",
    ".html": "text/html",
    ".json": "application/json",
}
ROLES = {"quicklook.png": "thumbnail", "report.html": "overview", "result.json": "metadata"}


def stac_item(
    name: str,
    grid: MapGrid,
    files: list[Path],
    sources: list[Path],
    *,
    dates: tuple[str | None, str | None],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the item.

    Args:
        name: its id.
        grid: of the rasters, with a CRS.
        files: the assets, beside the item.
        sources: of which the result is derived.
        dates: ISO dates of the pair; where one is unknown the item has the time of processing.
        facts: properties with the prefix "change:".
    """
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    outline = grid.footprint_in(CRS.from_epsg(4326))
    west, south, east, north = outline.bounds
    properties: dict[str, Any] = {"created": now, "datetime": now}
    if all(dates):
        first, last = sorted(str(date) for date in dates)
        properties |= {
            "datetime": None,
            "start_datetime": f"{first}T00:00:00Z",
            "end_datetime": f"{last}T23:59:59Z",
        }
    code = crs_name(grid.crs)
    properties |= {
        "proj:code": code if code.startswith("EPSG:") else None,
        "proj:wkt2": None if code.startswith("EPSG:") or grid.crs is None else grid.crs.to_wkt(),
        "proj:transform": list(grid.transform[:6]),
        "proj:shape": list(grid.shape),
    }
    properties |= {f"change:{key}": value for key, value in facts.items()}
    return {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": [PROJECTION],
        "id": name,
        "geometry": mapping(outline),
        "bbox": [west, south, east, north],
        "properties": {key: value for key, value in properties.items() if value is not None or key == "datetime"},
        "links": [
            {"rel": "derived_from", "href": source.resolve().as_uri(), "title": source.name} for source in sources
        ],
        "assets": {
            _key(path, files): {
                "href": f"./{path.name}",
                "type": KINDS[path.suffix],
                "roles": [ROLES.get(path.name, "data")],
            }
            for path in files
            if path.suffix in KINDS
        },
    }


def _key(path: Path, files: list[Path]) -> str:
    """Return the name of an asset: that of the file, with its suffix where several formats share the name."""
    alike = [other for other in files if other.stem == path.stem and other.suffix in KINDS]
    return path.stem if len(alike) == 1 else f"{path.stem}-{path.suffix[1:]}"

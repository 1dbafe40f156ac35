"""One date of bands that lie in several files: a STAC item, or a Sentinel-2 SAFE folder.

A band answers to the key of its asset, its name (`B04`) and its common name (`red`), as the STAC item has them in
`bands` (1.1) or `eo:bands` (1.0); those of a SAFE folder have the names of the mission. Files may differ in resolution
and CRS: each is read on the grid of the comparison like any other raster, so nothing is stacked or resampled before.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from pystac import Asset, Item

RASTERS = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff", "application/x-geotiff")
SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".img")
PICTURES = {"thumbnail", "overview", "visual"}  # roles of assets that are pictures of the data, not data
REMOTE = {"http": "/vsicurl/http", "https": "/vsicurl/https", "s3": "/vsis3/", "gs": "/vsigs/"}
SAFE_FILE = re.compile(r"_(B(?:0[1-9]|8A|1[0-2]))(?:_(\d\d)m)?\.jp2$")
SAFE_DATE = re.compile(r"_((?:19|20)\d\d)(\d\d)(\d\d)T\d{6}_")
SENTINEL_2 = {
    "B01": "coastal", "B02": "blue", "B03": "green", "B04": "red", "B05": "rededge071", "B06": "rededge075",
    "B07": "rededge078", "B08": "nir", "B8A": "nir08", "B09": "nir09", "B10": "cirrus", "B11": "swir16",
    "B12": "swir22",
}  # fmt: skip
SENTINEL_FILL = 0.0  # of the mission's files, which do not say so
SENTINEL_QUANTIFICATION, SENTINEL_OFFSET = 10_000.0, -1000.0
SAFE_QUANTIFICATION = re.compile(r"<(?:BOA_)?QUANTIFICATION_VALUE[^>]*>\s*([\d.]+)\s*<")
SAFE_OFFSET = re.compile(r"<(?:BOA_ADD|RADIO_ADD)_OFFSET[^>]*>\s*(-?[\d.]+)\s*<")
SAFE_BASELINE = re.compile(r"_N(\d{4})_")


@dataclass(frozen=True)
class ProductBand:
    """A band of a product.

    Attributes:
        file: path or GDAL name such as /vsizip/... of its raster.
        number: of the band in the raster, from 1; None is every band of a file of unknown content.
        names: what it is called, the name to show first.
        nodata: what the product says of missing pixels, beyond the file.
        units: (scale, offset) to the unit of the sensor, beyond the file; None if it says nothing.
    """

    file: str
    number: int | None
    names: tuple[str, ...]
    nodata: float | None = None
    units: tuple[float, float] | None = None


@dataclass(frozen=True)
class Product:
    """The bands of one date.

    Attributes:
        path: of the item or folder.
        bands: all that there are.
        date: ISO date, None if unknown.
        origin: of the date.
    """

    path: Path
    bands: tuple[ProductBand, ...]
    date: str | None
    origin: str

    def choose(self, wanted: str | None) -> tuple[ProductBand, ...]:
        """Return the bands of some names separated by commas; None takes those of a product of one file.

        Raises:
            InputError: no such band, or nothing chosen of several files.
        """
        if wanted is None:
            if len({band.file for band in self.bands}) == 1:
                return self.bands
            raise InputError(
                self.path,
                found=f"{len(self.bands)} bands: {self._names()}",
                expected="a choice of them",
                fix="Name them with --bands, such as --bands red,green,blue.",
            )
        chosen: list[ProductBand] = []
        for word in (part.strip() for part in wanted.split(",")):
            found = [band for band in self.bands if word in band.names]
            if not found:
                raise InputError(
                    self.path,
                    found=f"no band {word!r}",
                    expected=f"one of {self._names()}",
                    fix="Name bands by asset, name or common name, separated by commas.",
                )
            # Two assets of one common name (two resolutions, two infrared bands) are no choice; one asset's bands are.
            if len({band.file for band in found}) > 1:
                raise InputError(
                    self.path,
                    found=f"{len(found)} bands called {word!r}: {', '.join(band.names[0] for band in found)}",
                    expected="one band",
                    fix="Name it by its asset.",
                )
            chosen += found
        return tuple(chosen)

    def _names(self) -> str:
        return ", ".join(" = ".join(band.names) for band in self.bands)


def open_product(path: Path) -> Product | None:
    """Return the product of a STAC item (.json, .geojson) or a SAFE folder; None for anything else.

    Raises:
        InputError: JSON that is no STAC item, or a product without rasters.
        MissingExtra: pystac is absent.
    """
    if path.is_dir() and path.suffix.upper() == ".SAFE":
        return _safe(path)
    if path.suffix.lower() in (".json", ".geojson") and path.is_file():
        return _item(path)
    return None


def _item(path: Path) -> Product:
    item = _read_item(path)
    bands = [band for key, asset in item.assets.items() if _is_raster(asset) for band in _asset_bands(key, asset)]
    if not bands:
        raise InputError(
            path,
            found=f"no raster among its {len(item.assets)} assets",
            expected="assets of GeoTIFF or JPEG 2000",
            fix="Give the item of the images, not of their metadata.",
        )
    moment = item.datetime or item.common_metadata.start_datetime
    return Product(path, tuple(bands), moment.date().isoformat() if moment else None, "STAC item")


def _read_item(path: Path) -> Item:
    try:
        import pystac
    except ImportError as error:
        raise MissingExtra("pystac", extra="stac", purpose="to read STAC items") from error
    try:
        return pystac.Item.from_file(str(path))
    # What pystac raises for broken items is of many types: KeyError, ValueError, its own.
    except Exception as error:
        raise InputError(
            path,
            found=f"no STAC item ({type(error).__name__}: {error})",
            expected="a raster, or the JSON of a STAC item",
            fix="Download the item again; a catalogue or collection is not one scene.",
        ) from error


def _is_raster(asset: Asset) -> bool:
    if PICTURES & set(asset.roles or ()):
        return False
    media = (asset.media_type or "").split(";")[0].strip()
    return media in RASTERS or (not media and Path(asset.href).suffix.lower() in SUFFIXES)


def _asset_bands(key: str, asset: Asset) -> list[ProductBand]:
    described: list[dict[str, Any]] = asset.extra_fields.get("bands") or asset.extra_fields.get("eo:bands") or []
    raster = asset.extra_fields.get("raster:bands") or []
    file = _gdal_name(str(asset.get_absolute_href() or asset.href))
    found = []
    for number, told in enumerate(described or [{}], start=1):
        own = (told.get("name"), told.get("eo:common_name") or told.get("common_name"))
        # The asset names its only band; of several it is what they share.
        names = (key, *own) if len(described) <= 1 else (*own, key)
        nodata = _number(
            told.get("nodata"),
            raster[number - 1].get("nodata") if len(raster) >= number else None,
            asset.extra_fields.get("nodata"),
        )
        of_raster = raster[number - 1] if len(raster) >= number else {}
        scale, offset = (
            _number(told.get(f"raster:{name}"), of_raster.get(name), asset.extra_fields.get(f"raster:{name}"))
            for name in ("scale", "offset")
        )
        units = None if scale is None and offset is None else (1.0 if scale is None else scale, offset or 0.0)
        kept = tuple(dict.fromkeys(name for name in names if name))
        found.append(ProductBand(file, number if described else None, kept, nodata, units))
    return found


def _number(*values: object) -> float | None:
    """Return the first value that is a number; STAC writes "nan" as a word."""
    for value in values:
        if isinstance(value, (int, float)) or value in ("nan", "inf", "-inf"):
            return float(value)
    return None


def _gdal_name(href: str) -> str:
    scheme, _, rest = href.partition("://")
    if not rest:
        return href
    if scheme == "file":
        from urllib.parse import unquote, urlparse

        return unquote(urlparse(href).path)
    prefix = REMOTE.get(scheme, "")
    return f"{prefix}://{rest}" if prefix.startswith("/vsicurl") else f"{prefix}{rest}" if prefix else href


def _safe(path: Path) -> Product:
    finest: dict[str, tuple[int, Path]] = {}
    for file in sorted(path.glob("GRANULE/*/IMG_DATA/**/*.jp2")):
        match = SAFE_FILE.search(file.name)
        if match is None:  # true colour, scene classification, water vapour
            continue
        metres = int(match[2] or 0)
        if match[1] not in finest or metres < finest[match[1]][0]:
            finest[match[1]] = metres, file
    if not finest:
        raise InputError(
            path,
            found="no bands under GRANULE/*/IMG_DATA",
            expected="an unpacked Sentinel-2 product",
            fix="Unpack it again, or give a raster.",
        )
    units = _sentinel_units(path)
    bands = [
        ProductBand(str(file), 1, (name, SENTINEL_2[name]), SENTINEL_FILL, units)
        for name, (_, file) in sorted(finest.items())
    ]
    sensed = SAFE_DATE.search(path.name)
    date = "-".join(sensed.groups()) if sensed else None
    return Product(path, tuple(bands), date, "name of the product")


def _sentinel_units(path: Path) -> tuple[float, float]:
    """Return scale and offset to reflectance of a Sentinel-2 product.

    From processing baseline 04.00 on (25 January 2022) stored numbers are 1000 higher, so that dark pixels stay above
    zero. The product's metadata say so, and the baseline in its name where they are absent.
    """
    quantification, added = SENTINEL_QUANTIFICATION, None
    for file in sorted(path.glob("MTD_MSIL*.xml")):
        text = file.read_text(encoding="utf-8", errors="replace")
        if found := SAFE_QUANTIFICATION.search(text):
            quantification = float(found[1])
        offsets = {float(value) for value in SAFE_OFFSET.findall(text)}
        if len(offsets) > 1:
            raise InputError(
                file,
                found=f"bands of different offsets {sorted(offsets)}",
                expected="one offset of all bands",
                fix="Convert the product to reflectance first.",
            )
        added = offsets.pop() if offsets else 0.0
    if added is None:
        baseline = SAFE_BASELINE.search(path.name)
        added = SENTINEL_OFFSET if baseline and int(baseline[1]) >= 400 else 0.0
    return 1 / quantification, added / quantification

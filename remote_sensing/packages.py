"""The optional packages that remote sensing stands on."""

from importlib.util import find_spec

from shared.errors import MissingExtra

PACKAGES = ("rasterio", "pyproj", "shapely", "geopandas", "pyogrio", "scipy", "skimage")


def require_packages() -> None:
    """Raise `MissingExtra` for the first package that is absent. Call it before a module that imports them."""
    for name in PACKAGES:
        if find_spec(name) is None:
            raise MissingExtra(name, extra="remote-sensing", purpose="to compare rasters")

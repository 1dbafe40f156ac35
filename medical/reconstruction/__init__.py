"""Reconstruction of MR images from raw k-space: `read`, `prepare`, `reconstruct`, `write`.

Names are imported when first used, so that `import medical.reconstruction` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# ruff: noqa: F401 - the imports below tell type checkers and editors what __getattr__ brings
if TYPE_CHECKING:
    from medical.images import Image
    from medical.images import write_image as write
    from medical.reconstruction.formats import ReadOptions, describe
    from medical.reconstruction.formats import read_scan as read
    from medical.reconstruction.pipeline import prepare, reconstruct
    from medical.reconstruction.raw import RawScan
    from medical.reconstruction.settings import Settings

_HOMES = {
    "Image": ("medical.images", "Image"),
    "RawScan": ("medical.reconstruction.raw", "RawScan"),
    "ReadOptions": ("medical.reconstruction.formats", "ReadOptions"),
    "Settings": ("medical.reconstruction.settings", "Settings"),
    "describe": ("medical.reconstruction.formats", "describe"),
    "prepare": ("medical.reconstruction.pipeline", "prepare"),
    "read": ("medical.reconstruction.formats", "read_scan"),
    "reconstruct": ("medical.reconstruction.pipeline", "reconstruct"),
    "write": ("medical.images", "write_image"),
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = getattr(import_module(module), attribute)
    globals()[name] = value
    return value

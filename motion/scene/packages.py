"""The extra of motion, asked for only where it is needed."""

from __future__ import annotations

from importlib.util import find_spec

from shared.errors import MissingExtra


def require(package: str, purpose: str) -> None:
    """Raise `MissingExtra` if `package` (an import name) is absent."""
    if find_spec(package) is None:
        raise MissingExtra(package, extra="motion", purpose=purpose)

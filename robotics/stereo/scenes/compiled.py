"""The compiler of the ray caster: one place for its options.

A ray caster branches at every surface, which arrays do badly: the same algorithm on whole images of tensors took eight
times as long on one core. Numba compiles plain loops once and keeps the result beside the source.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from robotics.packages import require

Function = TypeVar("Function", bound=Callable[..., Any])

# Division by zero gives infinity as in arrays; sums may be contracted but infinities keep their meaning.
OPTIONS: dict[str, Any] = {
    "cache": True,
    "error_model": "numpy",
    "nogil": True,
    "fastmath": {"contract", "nsz"},
}


def compiled(function: Function) -> Function:
    """Return the function compiled at its first call.

    Raises:
        MissingExtra: numba is absent.
    """
    require("numba", "to generate scenes")
    from numba import njit

    return njit(**OPTIONS)(function)

"""Errors that a user can act on.

Every error that fewstep raises on purpose derives from `FewstepError`. The command line prints it as one line and
exits with code 2; a script can catch it. Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any


class FewstepError(Exception):
    """Base of all errors that fewstep raises on purpose."""


class InputError(FewstepError):
    """Bad input, told in the four facts that a user needs.

    Args:
        source: the file, option or argument that is wrong.
        found: what was found there.
        expected: what was expected instead.
        fix: what the user can do about it.
    """

    def __init__(self, source: str | os.PathLike[str], *, found: str, expected: str, fix: str) -> None:
        self.source = str(source)
        self.found = found
        self.expected = expected
        self.fix = fix
        super().__init__(f"{self.source}: found {found}; expected {expected}. {fix}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Let the error travel between processes, which keyword arguments alone would not."""
        return partial(type(self), found=self.found, expected=self.expected, fix=self.fix), (self.source,)


class MissingExtra(FewstepError):
    """An optional dependency is absent.

    Args:
        package: the import name that is missing.
        extra: the extra of the distribution that brings it.
        purpose: what it is needed for.
    """

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        self.package = package
        super().__init__(f"{package} is needed {purpose}. Install it with: pip install 'fewstep[{extra}]'")

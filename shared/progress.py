"""A progress bar that appears only when a run turns out to be long."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import TypeVar

Item = TypeVar("Item")


def tracked(items: Sequence[Item], label: str | None, *, patience: float = 2.0) -> Iterator[Item]:
    """Yield the items and, once `patience` seconds have passed, show a bar on standard error.

    Args:
        items: what is run through.
        label: text beside the bar; None is silent.
        patience: seconds of silence, so that short runs print nothing and do not import rich.
    """
    if label is None:
        yield from items
        return
    begin = time.monotonic()
    with ExitStack() as stack:
        bar = None
        for done, item in enumerate(items):
            if bar is None and time.monotonic() - begin > patience:
                from rich.console import Console
                from rich.progress import Progress

                bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
                task = bar.add_task(label, total=len(items))
            if bar is not None:
                bar.update(task, completed=done)
            yield item

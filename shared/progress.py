"""Progress bars on standard error: one that appears only when a run turns out to be long, one of a training."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeVar

Item = TypeVar("Item")
FADE = 0.98  # weight that is left of a loss after a step, so that the shown one is a mean over about 50


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


@contextmanager
def training_bar(
    name: str, steps: int, step: int, *, hidden: bool = False
) -> Iterator[Callable[[int, float], None] | None]:
    """Show a training that stands at `step` of `steps`; gives a function (step, loss) that moves the bar, or None.

    Args:
        name: beside the bar.
        steps: of the whole training.
        step: made before.
        hidden: show nothing and give None.
    """
    if hidden:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(name), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=steps, completed=step, loss=math.nan)
        last, recent = step, math.nan

        def tell(done: int, loss: float) -> None:
            nonlocal last, recent
            kept = 0.0 if math.isnan(recent) else FADE ** (done - last)
            last, recent = done, loss if kept == 0 else kept * recent + (1 - kept) * loss
            bar.update(task, completed=done, loss=recent)

        yield tell

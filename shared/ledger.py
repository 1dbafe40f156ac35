"""What a sampling cost: network calls, samples put through the network and, if asked, floating-point operations.

    with Ledger() as ledger:
        sample(denoiser, x, grid, solver)
    ledger.calls, ledger.samples

Calls are recorded where the network is asked, so a solver that asks twice a step and a guidance that asks twice a call
are counted as what they cost. Ledgers nest: each open one records everything inside it. An open ledger belongs to the
thread (or task) that opened it.
"""

from __future__ import annotations

from contextlib import ExitStack
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

_open: ContextVar[tuple[Ledger, ...]] = ContextVar("open_ledgers", default=())


class Ledger:
    """A record of the network calls made while it is open.

    Args:
        flops: also count the operations of matrix products, convolutions and attention, by `flop_counter`.

    Attributes:
        calls: network evaluations (NFE), whatever their batch size.
        samples: sum of the batch sizes of the calls.
        flops: operations counted; None until a ledger that counts them is closed.
    """

    def __init__(self, *, flops: bool = False) -> None:
        self.calls = 0
        self.samples = 0
        self.flops: int | None = None
        self._count_flops = flops
        self._stack = ExitStack()

    def __enter__(self) -> Ledger:
        token = _open.set((*_open.get(), self))
        self._stack.callback(_open.reset, token)
        if self._count_flops:
            counter = self._stack.enter_context(flop_counter())
            self._stack.callback(lambda: setattr(self, "flops", int(counter.get_total_flops())))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()


def flop_counter() -> FlopCounterMode:
    """Return torch's counter of operations, with attention on a CPU, for which torch has no formula of its own."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
        return sdpa_flop_count(query, key, value)

    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={on_cpu: attention})


def record_call(samples: int) -> None:
    """Record one network call on `samples` samples in every open ledger."""
    for ledger in _open.get():
        ledger.calls += 1
        ledger.samples += samples

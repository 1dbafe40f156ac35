"""How many bytes the tensors of a network call take at once: each is followed from its making to its end.

What operators use inside is not a tensor. On CPUs a convolution (oneDNN) keeps its input and its result in a blocked
order beside the plain ones while it runs; that is counted. What other libraries use is not known: it is taken as much.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CONVOLUTIONS = (torch.ops.aten.convolution.default, torch.ops.aten.mkldnn_convolution.default)


class LiveBytes(TorchDispatchMode):
    """While open, counts the bytes of the tensors that operators make; `peak` is the most that lived at once.

    Args:
        workspace: also count what a convolution keeps inside while it runs: its input and its result once more.
    """

    def __init__(self, *, workspace: bool = False) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.workspace = workspace
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for value in tree_leaves((args, kwargs)):
            self._count(value, made=False)
        result = function(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            self._count(value, made=True)
        if self.workspace and function in CONVOLUTIONS:
            inside = sum(value.numel() * value.element_size() for value in (args[0], result))
            self.peak = max(self.peak, self.live + inside)
        return result

    def _count(self, value: Any, *, made: bool) -> None:
        """Count a tensor that an operator returned; not one that came from before, even when a view of it is made."""
        if not isinstance(value, torch.Tensor) or (key := value.untyped_storage()._cdata) in self._seen:
            return
        storage = value.untyped_storage()
        size = storage.nbytes() if made else 0
        self._seen.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._end, key, size)

    def _end(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.live -= size


def call_bytes(call: Callable[[], Any]) -> int:
    """Return the bytes at the peak of a call, without gradients and with the workspace of convolutions.

    What lived before the call, such as its inputs and the weights, is not counted.
    """
    with torch.no_grad(), LiveBytes(workspace=True) as watched:
        call()
    return watched.peak

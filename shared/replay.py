"""Many small kernels as one launch: a function of tensors that the GPU replays as a CUDA graph.

    step = Replayed(update)
    for batch in batches:
        loss = step(*batch)

Small networks wait for launches, not for arithmetic. A graph is recorded once and then launched as a whole.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # calls before the recording, in which libraries choose their kernels and optimisers make their state


class Replayed:
    """A function of tensors; on a GPU, calls after the first ones replay a recording of it.

    Tensors on the CPU, tensors of other shapes than the recorded ones, and functions that cannot be recorded are simply
    computed.

    Args:
        function: of tensors, giving one tensor without gradient. It must read nothing back from the GPU, draw no random
            numbers, and change tensors only in place.
    """

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self._function = function
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._output: Tensor | None = None
        self.refused: str | None = None

    @property
    def recorded(self) -> bool:
        """Return whether calls replay a recording; `refused` says why a function could not be recorded."""
        return self._graph is not None

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Return the function's result."""
        if self.refused is not None or not all(tensor.is_cuda for tensor in tensors):
            return self._function(*tensors)
        if self._graph is None:
            self._calls += 1
            if self._calls <= WARM_UP:
                return self._aside(*tensors)
            self._record(*tensors)
        fits = [tensor.shape for tensor in tensors] == [tensor.shape for tensor in self._inputs]
        if self._graph is None or self._output is None or not fits:
            return self._function(*tensors)
        for kept, tensor in zip(self._inputs, tensors, strict=True):
            kept.copy_(tensor)
        self._graph.replay()
        return self._output.clone()

    def _aside(self, *tensors: Tensor) -> Tensor:
        """Return the result, computed on a stream of its own as recordings need it."""
        side = torch.cuda.Stream(tensors[0].device)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            found = self._function(*tensors)
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()  # so that memory of the side stream may be used on this one
        return found

    def _record(self, *tensors: Tensor) -> None:
        """Record the function; recording computes nothing."""
        self._inputs = tuple(tensor.clone() for tensor in tensors)
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._output = self._function(*self._inputs)
        except RuntimeError as error:
            self.refused = str(error).partition("\n")[0]
            return
        self._graph = graph

r"""Keys and values of finished tokens, for transformers that make a sequence block after block without end.

A finished token is never changed, so what the attention needs of it, its key and its value in every layer, is computed
once. Of n tokens the first `sink` and the last `window` are kept:

    kept(n) = {0, ..., min(n, sink) - 1}  and  {max(sink, n - window), ..., n - 1}.

Memory and work per block are then bounded. A model that is trained with the same rule (a mask that shows each block
these tokens of its past) gets the answers of full recomputation, because the keys of a token depend on what was kept
when it was written and on nothing later.

Positions belong to places in the cache, not to the sequence: store keys without their positions and give them when
they are read (`rotary` positions 0, 1, ... of the tokens in the order of `read`). They stay bounded however long the
sequence gets, and the sink stays in front of the window.

References:
    Feng et al., Inferix, 2025, arXiv 2511.20714 (block diffusion: clean keys and values are written after each block).
    Xiao et al., Efficient Streaming Language Models with Attention Sinks, 2024 (first tokens kept; places in the
        cache).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.errors import InputError


class RollingCache:
    """A fixed block of memory with the keys and values of `sink` + `window` tokens at most, in each layer.

    Args:
        sink: of the first tokens, which are kept for ever.
        window: of the last tokens.

    Raises:
        InputError: a size is negative, or the window is empty.
    """

    def __init__(self, sink: int, window: int) -> None:
        if sink < 0 or window < 1:
            raise InputError(
                "rolling cache", found=f"sink {sink}, window {window}", expected="0 or more, and 1 or more",
                fix="Correct the sizes.",
            )  # fmt: skip
        self.sink, self.window = sink, window
        self.seen = 0
        self._stored: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of tokens that are kept."""
        return min(self.seen, self.sink + self.window)

    @property
    def bytes(self) -> int:
        """Return the memory that is taken; it is the same from the first `append` on."""
        return 0 if self._stored is None else self._stored.numel() * self._stored.element_size()

    def append(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Take in the next tokens, and drop the oldest behind the sink where they do not fit.

        Args:
            layers: key (..., T, width) and value likewise of each layer; shapes are the same in all layers and at all
                calls but for T, which is 1 to `window`.

        Raises:
            InputError: other shapes than before, or more tokens than the window holds.
        """
        new = torch.stack([torch.stack(pair) for pair in layers])
        count, kept = new.shape[-2], len(self)
        if self._stored is None:
            self._stored = new.new_zeros(*new.shape[:-2], self.sink + self.window, new.shape[-1])
        expected = (*self._stored.shape[:-2], count, self._stored.shape[-1])
        if not 1 <= count <= self.window or new.shape != expected:
            raise InputError(
                "tokens of the rolling cache", found=f"keys and values {tuple(new.shape)}",
                expected=f"{(*expected[:-2], f'1 to {self.window}', expected[-1])}",
                fix="Give the same layers, batch and width at every call, and blocks that fit into the window.",
            )  # fmt: skip
        # The first tokens are the sink's wherever the window ends, so only what is behind it moves.
        surplus = max(0, kept + count - self.sink - self.window)
        if surplus:
            behind = self._stored[..., self.sink + surplus : kept, :].clone()
            self._stored[..., self.sink : kept - surplus, :] = behind
        self._stored[..., kept - surplus : kept - surplus + count, :] = new
        self.seen += count

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return keys and values (..., n, width) of a layer, oldest first: views that the next `append` changes.

        Raises:
            InputError: nothing was appended yet.
        """
        if self._stored is None or not self.seen:
            raise InputError(
                "rolling cache", found="nothing in it", expected="one token or more", fix="Append the first ones."
            )
        keys, values = self._stored[layer, ..., : len(self), :]
        return keys, values


def kept_tokens(count: int, sink: int, window: int) -> list[int]:
    """Return which of the first `count` tokens (or blocks) a cache still holds, oldest first."""
    return [*range(min(count, sink)), *range(max(sink, count - window), count)]

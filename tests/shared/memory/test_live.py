"""Bytes of the tensors of a call."""

from __future__ import annotations

import torch

from shared.memory import LiveBytes, call_bytes


def test_live_bytes_follow_tensors_from_their_making_to_their_end():
    with LiveBytes() as watched:
        a = torch.zeros(1000)
        b = a + 1
        view = b[10:]
        assert watched.live == 8000
        del a
        assert watched.live == 4000
        c = view * 2
        del b, view
    assert (watched.peak, watched.live) == (8000, c.untyped_storage().nbytes())


def test_a_convolution_has_its_input_and_result_twice():
    x, weight = torch.zeros(1, 4, 10, 10, 10), torch.zeros(2, 4, 1, 1, 1)
    assert call_bytes(lambda: torch.nn.functional.conv3d(x, weight)) == 4 * 1000 * (2 + 4 + 2)
    assert call_bytes(lambda: x + 1) == 4 * 4000

"""What a rolling cache keeps, and that attention over it is attention under the mask of sink and window."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from shared.errors import InputError
from shared.reuse import RollingCache, kept_tokens

HEADS, WIDTH = 2, 4


def tokens(numbers: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys that say their token's number and values that say its negative, (1, H, T, w)."""
    keys = torch.tensor(numbers, dtype=torch.float64)[:, None].expand(1, HEADS, -1, WIDTH)
    return keys, -keys


@settings(deadline=None, max_examples=60)
@given(sink=st.integers(0, 5), window=st.integers(1, 6), counts=st.lists(st.integers(1, 6), max_size=12))
def test_the_first_and_the_last_tokens_are_kept_in_order(sink, window, counts):
    cache, written = RollingCache(sink, window), []
    for count in (min(count, window) for count in counts):
        new = range(len(written), len(written) + count)
        keys, values = tokens(new)
        cache.append([(keys, values), (10 + keys, values)])
        written += list(new)
        expected = [k for k in written if k < sink or k >= len(written) - window]
        assert kept_tokens(len(written), sink, window) == expected
        assert len(cache) == len(expected)
        for layer, first in ((0, 0), (1, 10)):
            keys, values = cache.read(layer)
            assert keys[0, 1, :, 2].tolist() == [first + k for k in expected]
            assert values[0, 0, :, 3].tolist() == [-k for k in expected]


@pytest.mark.parametrize(("sink", "window"), [(0, 5), (2, 4), (3, 1), (0, 100)])
def test_attention_token_by_token_is_attention_under_the_mask(sink, window):
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, HEADS, 20, WIDTH, generator=generator, dtype=torch.float64)
    place = torch.arange(20)
    behind = place[:, None] - place  # a token sees itself and what is kept of those before it
    mask = (behind == 0) | ((behind > 0) & ((place < sink) | (behind <= window)))
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    cache = RollingCache(sink, window)
    for k in range(20):
        own = [part[..., k : k + 1, :] for part in (key, value)]
        seen = [torch.cat([past, new], -2) for past, new in zip(cache.read(0), own, strict=True)] if k else own
        found = functional.scaled_dot_product_attention(query[..., k : k + 1, :], *seen)
        assert torch.allclose(found[..., 0, :], expected[..., k, :], atol=1e-13)
        cache.append([(own[0], own[1])])


def test_memory_is_taken_once():
    cache = RollingCache(3, 7)
    assert cache.bytes == 0
    cache.append([tokens(range(2))] * 3)
    taken = cache.bytes
    assert taken == 3 * 2 * HEADS * (3 + 7) * WIDTH * 8
    storage = cache.read(0)[0].untyped_storage().data_ptr()
    for start in range(2, 1000, 5):
        cache.append([tokens(range(start, start + 5))] * 3)
    assert cache.bytes == taken
    assert cache.read(2)[1].untyped_storage().data_ptr() == storage


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="sink -1"):
        RollingCache(-1, 3)
    with pytest.raises(InputError, match="window 0"):
        RollingCache(1, 0)
    cache = RollingCache(1, 3)
    with pytest.raises(InputError, match="nothing in it"):
        cache.read(0)
    with pytest.raises(InputError, match="1 to 3"):
        cache.append([tokens(range(4))])
    cache.append([tokens(range(3))])
    with pytest.raises(InputError, match="1 to 3"):
        cache.append([tokens(range(3, 5))] * 2)
    assert cache.read(0)[0][0, 0, :, 0].tolist() == [0, 1, 2]

"""The learning rate rises, falls and ends at zero."""

from __future__ import annotations

from shared.training import rate_share


def test_the_rate_rises_and_ends_at_zero():
    shares = [rate_share(step, 100, 10) for step in range(101)]
    assert (max(shares), shares[0], shares[100]) == (1.0, 0.1, 0.0)
    assert shares[10:] == sorted(shares[10:], reverse=True)

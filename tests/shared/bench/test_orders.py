"""Observed orders of convergence, and the exact end that they are measured against."""

from __future__ import annotations

import math

import pytest
import torch

from shared import Multistep, VarianceExploding
from shared.bench import orders
from shared.bench.exact import MixtureDenoiser
from shared.solvers.ddim import DDIM
from shared.solvers.evodiff import EVODiff


def test_exact_end_of_one_gaussian_is_its_closed_form():
    """x - mu shrinks as sqrt(s^2 + sigma^2)."""
    process = VarianceExploding(sigma_min=0.05, sigma_max=10.0)
    mean = torch.linspace(-1, 1, 8, dtype=torch.float64)
    x = process.noise((3, 8), torch.Generator().manual_seed(0), dtype=torch.float64)
    end = orders.exact_end(MixtureDenoiser(process, mean[None], 0.4), x)
    shrink = math.hypot(0.4, 0.05) / math.hypot(0.4, 10.0)
    torch.testing.assert_close(end, mean + shrink * (x - mean), rtol=0, atol=1e-8)


def test_observed_orders_are_one_two_three_and_none(monkeypatch):
    chosen = {
        "ddim": DDIM(),
        "multistep2": Multistep(2),
        "multistep2_corrected": Multistep(2, corrector=True),
        "evodiff": EVODiff(),
    }
    assert all(orders.SOLVERS[name] == solver for name, solver in chosen.items())
    monkeypatch.setattr(orders, "SOLVERS", chosen)
    found = orders.order_numbers(quick=True)
    assert found["gmm.ddim.order"] == pytest.approx(1.0, abs=0.1)
    assert found["gmm.multistep2.order"] == pytest.approx(2.0, abs=0.1)
    assert found["gmm.multistep2_corrected.order"] == pytest.approx(3.0, abs=0.2)
    assert abs(found["gmm.evodiff.order"]) < 0.3  # its final rule does not converge

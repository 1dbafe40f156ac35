"""alpha, sigma and log_snr against their definitions, and the conversions between predictions."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from shared import (
    FlowMatching,
    InputError,
    Prediction,
    VarianceExploding,
    VariancePreserving,
    convert,
    squared_cosine_betas,
)
from tests.oracles.families import PROCESSES

TIMES = torch.linspace(0.0, 1.0, 201, dtype=torch.float64)
by_name = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


@by_name
def test_data_are_clean_at_zero_and_noise_only_grows(process):
    log_snr = process.log_snr(TIMES)
    assert float(process.alpha(0.0)) == 1.0
    assert float(process.sigma(0.0)) == 0.0
    assert (log_snr[1:] < log_snr[:-1]).all()
    assert 0 < process.t_min < 0.01


@by_name
def test_time_of_log_snr_inverts_log_snr(process):
    inner = torch.linspace(process.t_min / 2, 0.9995, 997, dtype=torch.float64)
    torch.testing.assert_close(process.time_of_log_snr(process.log_snr(inner)), inner, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", [name for name in PROCESSES if name.startswith("vp")])
def test_variance_preserving_keeps_unit_variance(name):
    process = PROCESSES[name]
    torch.testing.assert_close(process.alpha(TIMES) ** 2 + process.sigma(TIMES) ** 2, torch.ones_like(TIMES))


def test_linear_process_solves_its_sde():
    process = VariancePreserving.linear(0.1, 20.0)
    for t in (0.01, 0.3, 1.0):
        integral = quad(lambda u: 0.1 + u * 19.9, 0, t)[0]
        assert float(process.alpha(t)) == pytest.approx(math.exp(-0.5 * integral), rel=1e-12)


def test_cosine_process_ends_at_the_asked_log_snr_and_follows_the_cosine():
    process = VariancePreserving.cosine(log_snr_min=-6.0)
    assert float(process.log_snr(1.0)) == pytest.approx(-6.0, abs=1e-9)
    cut = process._t_cut
    f = [math.cos((t * cut + 0.008) / 1.008 * math.pi / 2) ** 2 for t in (0.0, 0.4)]
    assert float(process.alpha(0.4)) ** 2 == pytest.approx(f[1] / f[0], rel=1e-12)


@pytest.mark.parametrize("betas", [np.linspace(1e-4, 0.02, 1000), squared_cosine_betas(1000).numpy(), [0.1, 0.2, 0.5]])
def test_table_process_equals_the_table_at_its_nodes(betas):
    process = VariancePreserving.from_betas(betas)
    cumulative = np.cumprod(1 - np.asarray(betas, dtype=np.float64))
    nodes = torch.arange(1, len(betas) + 1, dtype=torch.float64) / len(betas)
    np.testing.assert_allclose(process.alpha(nodes).numpy(), np.sqrt(cumulative), rtol=1e-12)
    np.testing.assert_allclose(process.sigma(nodes).numpy(), np.sqrt(1 - cumulative), rtol=1e-10)
    np.testing.assert_array_equal(process.network_time(nodes).float().numpy(), np.arange(len(betas), dtype=np.float32))


def test_table_process_has_a_constant_noise_rate_inside_a_step():
    betas = np.linspace(1e-4, 0.02, 1000)
    process = VariancePreserving.from_betas(betas)
    inside = float(process.alpha((499 + 0.25) / 1000) / process.alpha(499 / 1000))
    assert inside == pytest.approx((1 - betas[499]) ** (0.5 * 0.25), rel=1e-10)


def test_zero_terminal_snr_table_stays_finite():
    table = np.linspace(0.99, 0.0, 50)
    process = VariancePreserving.from_alphas_cumprod(table)
    assert float(process.alpha(1.0)) == pytest.approx(2.0**-12)
    assert torch.isfinite(process.log_snr(TIMES[1:])).all()


@pytest.mark.parametrize("betas", [[0.1, -0.1], [0.1, 1.5], [0.1, float("nan")], [], [0.1, 0.0]])
def test_wrong_betas_are_named(betas):
    with pytest.raises(InputError, match="betas"):
        VariancePreserving.from_betas(betas)


@by_name
def test_add_noise_has_the_mean_and_spread_of_the_process(process):
    x0, t = torch.full((40000, 2), 0.7), torch.tensor([0.3]).repeat(40000)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    x = process.add_noise(x0, noise, t)
    alpha, sigma = float(process.alpha(0.3)), float(process.sigma(0.3))
    assert float(x.mean()) == pytest.approx(0.7 * alpha, abs=5 * sigma / math.sqrt(80000))
    assert float(x.std()) == pytest.approx(sigma, rel=0.02)


def test_start_noise_has_the_spread_of_the_start_level():
    generator = torch.Generator().manual_seed(0)
    assert float(VarianceExploding().noise((1, 20000), generator).std()) == pytest.approx(80, rel=0.03)
    complex_noise = FlowMatching().noise((1, 20000), generator, dtype=torch.complex64)
    assert float(complex_noise.abs().square().mean()) == pytest.approx(1, rel=0.04)


@pytest.mark.parametrize(("source", "target"), [*itertools.product(get_args(Prediction), repeat=2)])
@by_name
def test_every_prediction_becomes_every_other(process, source, target):
    generator = torch.Generator().manual_seed(3)
    x0, eps = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64).unbind(0)
    t = torch.tensor([0.02, 0.2, 0.5, 0.8, 0.99], dtype=torch.float64)
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    truth = {
        "sample": x0, "epsilon": eps, "v": alpha * eps - sigma * x0, "flow": eps - x0,
        "reverse_flow": x0 - eps, "score": -eps / sigma,
    }  # fmt: skip
    x = alpha * x0 + sigma * eps
    result = convert(truth[source], x, t, process, source=source, target=target)
    scale = float(1 / alpha.min()) if source in ("epsilon", "score") else 1.0
    torch.testing.assert_close(result, truth[target], rtol=1e-9 * scale, atol=1e-9 * scale)


@pytest.mark.parametrize("source", ["v", "flow", "sample"])
def test_pure_noise_still_gives_x0_from_v_flow_and_sample(source):
    x0, eps = torch.randn(2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = {"v": -x0, "flow": eps - x0, "sample": x0}[source]
    result = convert(truth, eps, 1.0, FlowMatching(), source=source, target="sample")
    torch.testing.assert_close(result, x0)


@pytest.mark.parametrize("source", ["epsilon", "score"])
def test_pure_noise_gives_no_x0_from_epsilon_and_says_so(source):
    with pytest.raises(InputError, match="starts below t = 1"):
        convert(torch.ones(2), torch.ones(2), 1.0, FlowMatching(), source=source, target="sample")

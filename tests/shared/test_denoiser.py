"""Networks of every kind become one denoiser, and what they cost is counted where it is spent."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from shared import (
    DDIM,
    Heun,
    InputError,
    Ledger,
    Multistep,
    NetworkDenoiser,
    PreconditionedDenoiser,
    VarianceExploding,
    clipped,
    convert,
    counted,
    log_snr_grid,
    sample,
)
from tests.oracles.families import PROCESSES
from tests.oracles.gaussian import GaussianDenoiser
from tests.oracles.mixture import MixtureDenoiser


def ideal_network(process, exact, prediction, grid):
    """Return what an ideal training towards `prediction` gives. It is told the network time and finds t by it."""
    levels = torch.tensor(grid.times[:-1], dtype=torch.float64)

    def network(x: Tensor, time: Tensor) -> Tensor:
        t = levels[(process.network_time(levels) - time[0]).abs().argmin()]
        return convert(exact(x, t), x, t, process, source="sample", target=prediction)

    return network


@pytest.mark.parametrize(("dtype", "start", "limit"), [(torch.float64, 0.9999, 1e-9), (torch.float32, 0.9, 1e-4)])
@pytest.mark.parametrize("name", PROCESSES)
def test_networks_of_one_score_give_the_same_samples_whatever_they_predict(name, dtype, start, limit):
    process = PROCESSES[name]
    exact = MixtureDenoiser(process)
    grid = log_snr_grid(process, 10).from_time(start)
    x = process.noise((32, 8), torch.Generator().manual_seed(0), dtype=dtype)
    results = {
        prediction: sample(
            NetworkDenoiser(ideal_network(process, exact, prediction, grid), process, prediction),
            x,
            grid,
            Multistep(2),
        )
        for prediction in ("sample", "epsilon", "v", "flow", "reverse_flow", "score")
    }
    assert results["sample"].std() > 0.5
    for prediction, result in results.items():
        assert (result - results["sample"]).abs().max() <= limit, prediction


@dataclass
class Output:
    sample: Tensor


class Named(nn.Module):
    def forward(self, x: Tensor, *, timesteps: Tensor, gain: float = 1.0) -> Tensor:
        return gain * x * timesteps[:, None]


def test_network_conventions_of_diffusers_monai_and_plain_functions_agree():
    process = PROCESSES["vp_table_linear"]
    x = torch.randn(3, 4)
    plain = NetworkDenoiser(lambda x, time: x * time[:, None], process, "sample")
    wrapped = NetworkDenoiser(lambda x, time: Output(x * time[:, None]), process, "sample")
    tupled = NetworkDenoiser(lambda x, time: (x * time[:, None],), process, "sample")
    named = NetworkDenoiser(Named(), process, "sample", time_argument="timesteps")
    expected = 499.0 * x
    for denoiser in (plain, wrapped, tupled, named):
        torch.testing.assert_close(denoiser(x, 0.5), expected, rtol=0, atol=0)
    torch.testing.assert_close(named.given(gain=2.0)(x, 0.5), 2 * expected, rtol=0, atol=0)


def test_one_time_a_sample_equals_one_call_a_sample():
    process = PROCESSES["vp_cosine"]
    denoiser = NetworkDenoiser(lambda x, time: torch.sin(x + time[:, None]), process, "v")
    x, t = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=torch.float64)
    separate = torch.cat([denoiser(x[i : i + 1], float(t[i])) for i in range(4)])
    torch.testing.assert_close(denoiser(x, t), separate, rtol=0, atol=1e-15)


def test_output_of_another_shape_is_named():
    denoiser = NetworkDenoiser(lambda x, time: torch.cat([x, x], 1), PROCESSES["ve_edm"], "epsilon")
    with pytest.raises(InputError, match=r"shape \(2, 6\).*\(2, 3\)"):
        denoiser(torch.zeros(2, 3), 0.5)


def test_unknown_prediction_is_named():
    with pytest.raises(InputError, match="'noise'"):
        NetworkDenoiser(lambda x, time: x, PROCESSES["ve_edm"], "noise")


@pytest.mark.parametrize("name", ["ve_edm", "vp_linear", "flow"])
def test_preconditioning_of_the_ideal_raw_network_is_the_exact_denoiser(name):
    """On N(0, s^2) data the ideal raw network is zero: the skip connection alone is the posterior mean."""
    process = PROCESSES[name]
    denoiser = PreconditionedDenoiser(lambda x, time: torch.zeros_like(x), process, sigma_data=0.2)
    exact = GaussianDenoiser(process, mean=0.0, std=0.2)
    x = torch.randn(5, 3, dtype=torch.float64)
    for t in (0.01, 0.5, 0.99):
        torch.testing.assert_close(denoiser(x, t), exact(x, t))


def test_preconditioning_is_equation_seven_of_edm():
    process, s, sigma = VarianceExploding(0.002, 80.0), 0.5, 3.0
    seen = {}

    def network(x, time):
        seen.update(x=x, time=time)
        return torch.full_like(x, 2.0)

    x = torch.randn(2, 3, dtype=torch.float64)
    result = PreconditionedDenoiser(network, process, sigma_data=s)(x, sigma / 80)
    torch.testing.assert_close(seen["x"], x / (sigma**2 + s**2) ** 0.5)
    torch.testing.assert_close(
        seen["time"], torch.full((2,), 0.25, dtype=torch.float64) * torch.tensor(sigma).double().log()
    )
    torch.testing.assert_close(result, s**2 / (sigma**2 + s**2) * x + 2 * sigma * s / (sigma**2 + s**2) ** 0.5)


def test_clipping_limits_the_estimate():
    denoiser = clipped(lambda x, t: 3 * x, -1, 1)
    torch.testing.assert_close(denoiser(torch.tensor([[0.1, 2.0, -2.0]]), 0.5), torch.tensor([[0.3, 1.0, -1.0]]))


@pytest.mark.parametrize(
    ("solver", "calls"), [(DDIM(), 6), (Multistep(3), 6), (Multistep(2, corrector=True), 6), (Heun(), 11)]
)
def test_ledger_counts_every_network_call_and_sample(solver, calls):
    process = PROCESSES["vp_linear"]
    asked = []

    def network(x, time):
        asked.append(len(x))
        return torch.zeros_like(x)

    denoiser = NetworkDenoiser(network, process, "sample")
    with Ledger() as outer, Ledger() as ledger:
        sample(denoiser, torch.randn(3, 2), log_snr_grid(process, 6), solver)
    sample(denoiser, torch.randn(3, 2), log_snr_grid(process, 6), solver)
    assert ledger.calls == outer.calls == calls == len(asked) / 2
    assert ledger.samples == 3 * calls


def test_ledger_counts_two_networks_inside_one_denoiser_twice():
    process = PROCESSES["ve_edm"]
    one = NetworkDenoiser(lambda x, time: x, process, "sample")
    with Ledger() as ledger:
        sample(lambda x, t: one(x, t) - one(x, t), torch.randn(5, 2), log_snr_grid(process, 4), DDIM())
        sample(counted(GaussianDenoiser(process)), torch.randn(5, 2), log_snr_grid(process, 4), DDIM())
    assert (ledger.calls, ledger.samples) == (8 + 4, 40 + 20)


def test_ledger_counts_the_operations_of_the_network():
    process = PROCESSES["ve_edm"]
    linear = nn.Linear(8, 8, bias=False)
    denoiser = NetworkDenoiser(lambda x, time: linear(x), process, "sample")
    with Ledger(flops=True) as ledger:
        sample(denoiser, torch.randn(5, 8), log_snr_grid(process, 4), Heun())
    assert ledger.flops == 7 * 2 * 5 * 8 * 8

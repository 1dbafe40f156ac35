"""Bottleneck Sampling: levels, transitions and prices against formulas, Pillow and an analytic Gaussian field."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from shared import DDIM, Multistep, karras_grid, log_snr_grid, sample, trailing_grid, uniform_grid
from shared.bottleneck import (
    PUBLISHED,
    Stage,
    bottleneck_price,
    bottleneck_sample,
    high_low_high,
    renoised,
    stage_grid,
    strength_level,
)
from shared.denoiser import NetworkDenoiser
from shared.errors import InputError
from shared.ledger import Ledger
from shared.process import FlowMatching, VarianceExploding, VariancePreserving
from shared.resize import resize

PROCESSES = {
    "flow": FlowMatching(),
    "linear": VariancePreserving.linear(),
    "cosine": VariancePreserving.cosine(),
    "table": VariancePreserving.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)),
    "edm": VarianceExploding(),
}
GRIDS = {"trailing": trailing_grid, "log_snr": log_snr_grid, "karras": karras_grid, "uniform": uniform_grid}


def field_covariance() -> np.ndarray:
    places = np.arange(16)
    return np.exp(-np.abs(places[:, None] - places[None, :]) / 3)


def gaussian_denoiser(mean: np.ndarray, covariance: np.ndarray, process):
    """Return E[x_0 | x_t] of N(mean, covariance) over (N, 1, 16): exact."""
    mu, c = torch.from_numpy(mean), torch.from_numpy(covariance)

    def denoise(x, t):
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        gain = alpha * c @ torch.linalg.inv(alpha**2 * c + sigma**2 * torch.eye(len(c), dtype=c.dtype))
        return mu + (x - alpha * mu) @ gain.T

    return denoise


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize(("before", "after"), [(16, 8), (8, 16), (15, 7), (7, 20), (9, 8)])
def test_resizing_is_the_lanczos_of_pillow(before, after, axes):
    values = np.random.default_rng(0).normal(size=(before, before)).astype(np.float32)
    x = torch.from_numpy(values)[None, None]
    if axes == 1:
        truth = np.array(Image.fromarray(values).resize((after, before), Image.Resampling.LANCZOS))
        found = resize(x.transpose(2, 3).reshape(1, before, before).transpose(1, 2), (after,))[0]
    else:
        truth = np.array(Image.fromarray(values).resize((after, after), Image.Resampling.LANCZOS))
        found = resize(x, (after, after))[0, 0]
    np.testing.assert_allclose(found.numpy(), truth, atol=2e-5)


def test_resizing_keeps_constants_in_one_to_three_dimensions_and_axes_that_stay():
    for shape, wanted in (((8,), (4,)), ((8, 6), (4, 12)), ((8, 6, 4), (16, 3, 8))):
        assert torch.allclose(resize(torch.full((2, 3, *shape), 0.7), wanted), torch.full((2, 3, *wanted), 0.7))
    x = torch.randn(1, 1, 8, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize(x, (8, 6)), x)
    assert torch.allclose(resize(x, (4, 6))[..., 2], resize(x[..., 2:3], (4, 1))[..., 0])


@pytest.mark.parametrize("steps", [1, 4, 9])
@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("grid", GRIDS)
def test_one_stage_of_full_strength_without_shift_is_plain_sampling_exactly(name, grid, steps):
    process, make = PROCESSES[name], GRIDS[grid]
    x = process.noise((2, 1, 16), torch.Generator().manual_seed(0), dtype=torch.float64)
    denoiser = gaussian_denoiser(np.linspace(-1, 1, 16), field_covariance(), process)
    solver = Multistep.dpm_solver_pp_2m()
    found = bottleneck_sample(denoiser, x, process, [Stage(1.0, steps)], solver, grid=make)
    assert torch.equal(found, sample(denoiser, x, make(process, steps), solver))


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0, 9.0])
@pytest.mark.parametrize("strength", [0.3, 0.6, 0.8, 1.0])
def test_levels_of_flow_matching_are_the_published_shift_of_even_ones(shift, strength):
    steps = 5
    found = stage_grid(FlowMatching(), Stage(1.0, steps, strength, shift)).times
    start = strength / (shift - (shift - 1) * strength)  # sigma whose shift is the strength
    total = max(m for m in range(steps, 1000) if math.ceil(m * start - 1e-9) <= steps)
    even = [start, *(k / total for k in range(steps - 1, -1, -1))]
    np.testing.assert_allclose(found, [shift * s / (1 + (shift - 1) * s) for s in even], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("strength", [0.2, 0.6, 0.9])
def test_strength_is_the_ratio_of_noise_to_data_of_flow_matching_in_any_process(name, strength):
    process = PROCESSES[name]
    t = strength_level(process, strength)
    assert float(process.sigma(t) / process.alpha(t)) == pytest.approx(strength / (1 - strength), rel=1e-9)
    grid = stage_grid(process, Stage(1.0, 6, strength, 2.0))
    assert grid.steps == 6
    assert grid.times[0] == t
    assert grid.times[-1] == 0


def test_strength_beyond_the_start_of_a_process_is_its_start():
    assert strength_level(VarianceExploding(sigma_max=2.0), 0.9) == 1.0
    assert strength_level(FlowMatching(), 1.0) == 1.0


@pytest.mark.parametrize("name", PROCESSES)
def test_shift_multiplies_the_ratio_of_noise_to_data_far_from_the_start(name):
    process, shift = PROCESSES[name], 4.0
    plain, shifted = (stage_grid(process, Stage(1.0, 8, 1.0, s), grid=log_snr_grid).times for s in (1.0, shift))
    assert shifted[0] == 1.0
    kappa, moved = (torch.exp(-process.log_snr(torch.tensor(t[1:-1], dtype=torch.float64))) for t in (plain, shifted))
    end = float(torch.exp(-process.log_snr(1.0)))
    expected = shift * kappa if math.isinf(end) else end * shift * kappa / (end + (shift - 1) * kappa)
    # end q' / (1 + end + q') with q = kappa (1 + end) / (end - kappa), simplified by hand
    torch.testing.assert_close(moved, expected, rtol=1e-9, atol=0)
    assert bool((moved < end).all())


@pytest.mark.parametrize("name", ["flow", "cosine", "edm"])
def test_after_a_transition_mean_and_covariance_are_those_of_the_resized_noised_field(name):
    process = PROCESSES[name]
    mean, covariance = np.linspace(-1, 1, 16), field_covariance()
    weights = np.array(Image.fromarray(np.eye(16, dtype=np.float32)).resize((16, 8), Image.Resampling.LANCZOS))
    generator = torch.Generator().manual_seed(0)
    x0 = torch.from_numpy(np.random.default_rng(0).multivariate_normal(mean, covariance, 40_000))[:, None]
    t = strength_level(process, 0.6)
    x = renoised(x0, (8,), process, t, generator)[:, 0].numpy()
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    assert sigma / alpha == pytest.approx(1.5)
    truth = alpha**2 * weights @ covariance @ weights.T + sigma**2 * np.eye(8)
    np.testing.assert_allclose(x.mean(0), alpha * weights @ mean, atol=4 * math.sqrt(truth[0, 0] / 40_000))
    np.testing.assert_allclose(np.cov(x.T), truth, atol=0.03 * truth.max())


def test_the_second_stage_starts_from_the_first_ones_result_resized_and_noised():
    process = FlowMatching()
    drawn = np.random.default_rng(0).multivariate_normal(np.zeros(16), field_covariance(), 20_000)[:, None]
    asked: list[tuple[int, float, float]] = []

    def denoiser(x, t):  # a first stage that ends at known fields, a second that ends at zero
        asked.append((x.shape[-1], t, float(x.std())))
        return torch.from_numpy(drawn) if x.shape[-1] == 16 else torch.zeros_like(x)

    x = process.noise(drawn.shape, torch.Generator().manual_seed(1), dtype=torch.float64)
    stages = [Stage(1.0, 4), Stage(0.5, 2, 0.4, 3.0), Stage((16,), 3, 0.7)]
    bottleneck_sample(denoiser, x, process, stages, DDIM(), generator=torch.Generator().manual_seed(2))
    assert [extent for extent, _, _ in asked] == [16] * 4 + [8] * 2 + [16] * 3
    assert asked[4][1] == pytest.approx(0.4)
    assert asked[6][1] == pytest.approx(0.7)
    weights = np.array(Image.fromarray(np.eye(16, dtype=np.float32)).resize((16, 8), Image.Resampling.LANCZOS))
    variance = 0.6**2 * np.trace(weights @ field_covariance() @ weights.T) / 8 + 0.4**2
    assert asked[4][2] == pytest.approx(math.sqrt(variance), rel=0.01)
    assert asked[6][2] == pytest.approx(0.7, rel=0.01)  # the low stage ended at zero: only the new noise is left


class Strided(nn.Module):
    """A network that takes even shapes only, and whose operations are in proportion to the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ConvTranspose2d(4, 1, 2, stride=2)

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return 0.5 * x + self.up(self.down(x))


def test_price_is_the_counted_operations_of_the_sampling():
    process = FlowMatching()
    denoiser = NetworkDenoiser(Strided().requires_grad_(False), process, "flow")
    x = process.noise((2, 1, 16, 16), torch.Generator().manual_seed(0))
    stages = high_low_high(12, shift=2.0)
    with Ledger(flops=True) as whole:
        bottleneck_sample(denoiser, x, process, stages, DDIM(), generator=torch.Generator().manual_seed(0))
    with Ledger(flops=True) as one:
        denoiser(x, 0.5)
    counts = [stage.steps for stage in stages]
    resizing = 2 * (16 * 8 * 16 + 16 * 8 * 8) + 2 * (8 * 16 * 8 + 8 * 16 * 16)  # two axes down, two axes up
    calls = counts[0] + counts[1] / 4 + counts[2]
    assert bottleneck_price(denoiser, x, stages) == pytest.approx(calls + 2 * resizing / one.flops)
    assert whole.flops == pytest.approx(bottleneck_price(denoiser, x, stages) * one.flops)
    assert whole.calls == sum(counts)


def test_one_generator_state_means_one_sample_and_another_means_another():
    process = VariancePreserving.cosine()
    denoiser = NetworkDenoiser(Strided().requires_grad_(False), process, "v")
    x = process.noise((2, 1, 16, 16), torch.Generator().manual_seed(0))

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return bottleneck_sample(denoiser, x, process, high_low_high(6), DDIM(), generator=generator)

    assert torch.equal(draw(3), draw(3))
    assert not torch.allclose(draw(3), draw(4))


def test_published_stages_are_those_of_the_paper_and_scale_with_the_steps():
    flux = PUBLISHED["flux"]
    assert [(s.steps, s.strength, s.shift) for s in flux] == [(6, 1, 9), (20, 0.8, 6), (8, 0.6, 9)]
    assert high_low_high(34) == flux
    assert [stage.steps for stage in high_low_high(17)] == [3, 10, 4]
    assert [stage.steps for stage in high_low_high(3)] == [1, 1, 1]
    assert all(sum(s.steps for s in high_low_high(n, like="hunyuan_video")) == n for n in range(3, 60))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "found none"),
        ([Stage((16,), 2)], "1 dimensions"),
        ([Stage((16, 16, 16), 2)], "3 dimensions"),
        ([Stage(0.5, 2)], "first stage"),
        ([Stage(1.0, 2, 0.5)], "first stage"),
        ([Stage(1.0, 2), Stage(0.3, 2, 0.5)], "whole numbers"),
        ([Stage(1.0, 2), Stage((7, 7), 2, 0.5)], "at which the network fails"),
    ],
)
def test_stages_that_cannot_be_run_are_clear_errors(stages, message):
    process = FlowMatching()
    denoiser = NetworkDenoiser(Strided().requires_grad_(False), process, "flow")
    x = process.noise((1, 1, 16, 16), torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match=message):
        bottleneck_sample(denoiser, x, process, stages, DDIM())


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"strength": 0.0}, {"strength": 1.1}, {"strength": math.nan}, {"shift": 0.0}, {"shift": math.inf},
        {"size": 0.0}, {"size": ()}, {"size": (8, 0)}, {"size": math.nan},
    ],
)  # fmt: skip
def test_numbers_outside_their_range_are_clear_errors(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Stage(**{"size": 1.0, "steps": 2, **wrong})


def test_noise_without_channels_and_few_steps_are_clear_errors():
    with pytest.raises(InputError, match="spatial dimensions"):
        bottleneck_sample(lambda x, t: x, torch.zeros(2, 8), FlowMatching(), [Stage(1.0, 2)], DDIM())
    with pytest.raises(InputError, match="3 or more"):
        high_low_high(2)
    with pytest.raises(InputError, match="flux"):
        high_low_high(8, like="sd")

"""Strategies and samplings on exact Gaussian volumes, against the formulas, an independent loop, and MONAI."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from medical.brain.config import BrainConfig
from medical.brain.model import PREDICTIONS, BrainModel, Sampling, brain_process, reference_grid
from shared.denoiser import NetworkDenoiser
from shared.errors import InputError
from shared.grid import explicit_grid
from shared.sampling import sample
from shared.solvers.ddim import DDIM
from tests.medical.brain.gaussian import ALPHAS_CUMPROD, MEAN, STD, exact_network, levels

STRATEGIES = ("noise", "clean", "velocity", "flow", "rflow")


def noise(seed: int = 0, *, dtype: torch.dtype = torch.float64, side: int = 16) -> torch.Tensor:
    return torch.randn((1, 1, side, side, side), generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("steps", [4, 64])
def test_the_exact_networks_of_all_strategies_draw_the_same_volume(steps):
    grid = reference_grid("noise", steps)
    drawn = {}
    for strategy in STRATEGIES:
        process, x, nodes = brain_process(strategy), noise(), grid
        if strategy == "rflow":  # the same levels of noise on the straight path, whose x is scaled by 1/(alpha + sigma)
            times = [float(process.time_of_log_snr(level)) for level in grid.log_snr[:-1]]
            nodes = explicit_grid(process, [*times, 0.0])
            x = x / (grid.alpha[0] + grid.sigma[0])
        denoiser = NetworkDenoiser(exact_network(strategy), process, PREDICTIONS[strategy])
        drawn[strategy] = sample(denoiser, x, nodes, DDIM())
    assert drawn["clean"].std() > 0.03
    for strategy, x in drawn.items():
        torch.testing.assert_close(x, drawn["clean"], rtol=0, atol=1e-5, msg=strategy)


def predicted(strategy: str, entries: np.ndarray) -> tuple[float, float]:
    """Mean and deviation that DDIM gives on the Gaussian: its update is linear in x, so two numbers follow."""
    mean, std = 0.0, 1.0
    for here, there in zip(entries, [*entries[1:], None], strict=True):
        a, b = levels(strategy, here)
        a2, b2 = (1.0, 0.0) if there is None else levels(strategy, there)
        if b == 0:
            continue
        pull = a * STD**2 / (a**2 * STD**2 + b**2)
        # x0 = pull x + (1 - pull a) MEAN, eps = (x - a x0) / b
        gain = a2 * pull + b2 / b * (1 - a * pull)
        mean = gain * mean + (a2 - b2 / b * a) * (1 - pull * a) * MEAN
        std *= gain
    return mean, std


@pytest.mark.parametrize(
    ("strategy", "steps"),
    [*itertools.product(STRATEGIES, (4, 10, 64, 256)), *itertools.product(("noise", "rflow"), (100, 128, 1000))],
)
def test_every_number_of_steps_gives_the_mean_and_deviation_of_the_formula(strategy, steps):
    model = BrainModel(BrainConfig(strategy=strategy), exact_network(strategy))
    side = 6
    x = noise(side=side)
    x = (x - x.mean()) / x.std(correction=0)
    drawn = sample(model.denoiser(limited=False), x, reference_grid(strategy, steps), DDIM())
    mean, std = predicted(strategy, np.linspace(0, 999, steps).round()[::-1])
    assert float(drawn.mean()) == pytest.approx(mean, abs=1e-5)
    assert float(drawn.std(correction=0)) == pytest.approx(std, abs=1e-5)
    assert mean == pytest.approx(MEAN, abs=6e-3)
    if steps >= 64:
        assert std == pytest.approx(STD, rel=0.1)  # the grid's own error: 0.181 at 64
    if steps >= 256:
        assert std == pytest.approx(STD, rel=0.03)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_second_order_needs_fewer_steps_for_the_same_deviation(strategy):
    model = BrainModel(BrainConfig(strategy=strategy), exact_network(strategy))
    sampling = Sampling("multistep", 24)
    x = noise()
    x = (x - x.mean()) / x.std(correction=0)
    drawn = sample(model.denoiser(limited=False), x, sampling.grid(strategy), sampling.solver())
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=3e-3)
    assert float(drawn.std(correction=0)) == pytest.approx(STD, rel=0.05)


@pytest.mark.peer
def test_monais_ddim_with_256_steps_misses_the_gaussian_that_ours_draws():
    schedulers = pytest.importorskip("monai.networks.schedulers")
    scheduler = schedulers.DDIMScheduler(
        num_train_timesteps=1000, schedule="linear_beta", beta_start=1e-4, beta_end=2e-2, clip_sample=False
    )
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), torch.from_numpy(ALPHAS_CUMPROD), rtol=1e-4, atol=0)
    scheduler.set_timesteps(256)
    network = exact_network("noise")
    start = noise(dtype=torch.float32)
    x = start
    for t in scheduler.timesteps:
        x, _ = scheduler.step(network(x, t[None].float()), int(t), x)
    model = BrainModel(BrainConfig(strategy="noise"), network)
    ours = sample(model.denoiser(limited=False), start, reference_grid("noise", 256), DDIM())
    assert abs(float(x.std()) - STD) > 0.06  # 0.287 when measured for the notes
    assert abs(float(x.mean()) - MEAN) > 0.03
    assert float(ours.std()) == pytest.approx(STD, abs=0.01)
    assert float(ours.mean()) == pytest.approx(MEAN, abs=0.01)


def wild_network(strategy: str):
    """Answers far from any optimum, so that estimates leave [-1, 1] and the limits act."""

    def network(x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        return torch.sin(3 * x + times[0] / 200) + (0.8 if strategy != "rflow" else -0.3) * x

    return network


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_reference_sampling_is_the_published_one(strategy, eta):
    steps, size = 9, (8, 8, 8)
    config = BrainConfig(strategy=strategy, channels=(8, 8, 8, 8), attention=(False,) * 4, size=size)
    network = wild_network(strategy)
    model = BrainModel(config, network)
    found = model.draw(size, Sampling("reference", steps, eta), generator=torch.Generator().manual_seed(5))

    generator = torch.Generator().manual_seed(5)
    x = torch.randn((1, 1, *size), generator=generator).double()
    entries = np.linspace(0, 999, steps).round()[::-1]
    assert entries[0] == 999
    assert entries[-1] == 0
    beyond = 0.0
    for here, there in zip(entries, [*entries[1:], None], strict=True):
        a, b = levels(strategy, here)
        a2, b2 = (1.0, 0.0) if there is None else levels(strategy, there)
        answer = network(x, torch.tensor([float(here)]))
        x0 = {
            "noise": (x - b * answer) / a,
            "clean": answer,
            "velocity": a * x - b * answer,
            "flow": (x - b * answer) / (a + b),
            "rflow": (x + b * answer) / (a + b),
        }[strategy]
        beyond = max(beyond, float((x0.abs() > 1).double().mean()))
        if strategy != "rflow":
            x0 = x0.clamp(-1, 1)
        if b2 == 0:
            x = x0
            continue
        sigma = eta * (b2 / b) * max(0.0, b**2 - (a * b2 / a2) ** 2) ** 0.5
        z = torch.randn((1, 1, *size), generator=generator).double() if eta else 0.0
        x = a2 * x0 + (b2**2 - sigma**2) ** 0.5 * (x - a * x0) / b + sigma * z
    assert beyond > 0.1  # the limits acted, or would have
    torch.testing.assert_close(found.double(), x[0, 0], rtol=0, atol=2e-3)
    assert float(found.std()) > 0.05


def test_steps_eta_and_names_that_do_not_exist_are_told():
    for steps in (0, 1, 1001):
        with pytest.raises(InputError, match="2 to 1000"):
            reference_grid("flow", steps)
    with pytest.raises(InputError, match="reference or multistep"):
        Sampling("euler")
    with pytest.raises(InputError, match="0 for multistep"):
        Sampling("multistep", 8, 0.5)
    assert reference_grid("rflow", 256).steps == 255  # the entry 0 is data
    assert reference_grid("flow", 1000).steps == 1000

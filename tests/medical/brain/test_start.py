"""Starting from a volume, and calibrated sampling, on volumes whose exact network is known."""

from __future__ import annotations

import pytest
import torch

from medical.brain.calibrated import VolumeByVolume, calibrate_brain, calibrated_sampling, calibration_path
from medical.brain.config import BrainConfig
from medical.brain.model import BrainModel, Sampling
from medical.brain.start import Start
from shared.errors import InputError
from shared.grid import log_snr_grid
from shared.sampling import sample
from shared.solvers.heun import Heun
from tests.medical.brain.gaussian import exact_network
from tests.oracles.volumes import VolumeMixture, blobs, spectrum

SIZE = (6, 6, 6)
MEAN, STD = 0.2, 0.15


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def config(strategy: str) -> BrainConfig:
    return BrainConfig(strategy=strategy, channels=(8, 8), attention=(False, False), size=SIZE)


@pytest.mark.parametrize("strategy", ["flow", "rflow"])
@pytest.mark.parametrize("strength", [0.1, 0.6])
def test_a_start_gives_what_the_exact_ode_makes_of_the_noised_volume(strategy, strength):
    """On N(MEAN, STD^2) the ODE from level t ends at MEAN + STD (x_t - a MEAN) / sqrt(a^2 STD^2 + b^2)."""
    model = BrainModel(config(strategy), exact_network(strategy, MEAN, STD))
    volume = MEAN + STD * torch.randn(SIZE, generator=seeded(1))
    sampling = Sampling("multistep", 200)
    found = model.draw(SIZE, sampling, start=Start(volume, strength), generator=seeded(2))
    process = sampling.grid(strategy).process
    a, b = float(process.alpha(strength)), float(process.sigma(strength))
    x = a * volume + b * torch.randn((1, 1, *SIZE), generator=seeded(2))[0, 0]
    exact = MEAN + STD * (x - a * MEAN) / (a**2 * STD**2 + b**2) ** 0.5
    torch.testing.assert_close(found, exact, rtol=0, atol=5e-3)
    likeness = float(torch.corrcoef(torch.stack([found.flatten(), volume.flatten()]))[0, 1])
    assert (likeness > 0.4) == (strength == 0.1)


def test_a_start_of_another_size_is_told():
    model = BrainModel(config("flow"), exact_network("flow"))
    with pytest.raises(InputError, match="6x6x6"):
        model.draw(SIZE, Sampling("multistep", 4), start=Start(torch.zeros(4, 4, 4), 0.5))
    with pytest.raises(InputError, match="between 0 and 1"):
        Start(torch.zeros(SIZE), 1.0)


def test_a_calibration_halves_the_error_of_the_same_number_of_calls_on_other_noises(tmp_path):
    mixture = VolumeMixture(blobs(3, SIZE, 0.3, seeded(3)), spectrum(SIZE, 0.15))
    model = BrainModel(config("velocity"), mixture.network("velocity"), name="mixture")
    calibration = calibrate_brain(model, 6, count=6, held_out=6)
    weights = tmp_path / "mixture.safetensors"
    calibration.save(calibration_path(weights, 6))
    sampling = calibrated_sampling(model, weights, 6)
    assert calibration.held_out is not None

    x = torch.randn(8, 1, *SIZE, generator=seeded(9))
    denoiser, process = model.denoiser(), sampling.grid("velocity").process
    exact = sample(denoiser, x, log_snr_grid(process, 200), Heun())
    errors = {}
    for way in (sampling, Sampling("multistep", 6), Sampling("reference", 6)):
        drawn = sample(VolumeByVolume(model), x, way.grid("velocity"), way.solver())
        errors[way.name] = float((drawn - exact).square().mean().sqrt())
    assert errors["calibrated"] < 0.5 * min(errors["multistep"], errors["reference"])
    one = model.draw(SIZE, sampling, generator=seeded(9))
    assert torch.equal(one, sample(denoiser, torch.randn(1, 1, *SIZE, generator=seeded(9)), *calibration.bind(
        VolumeByVolume(model)))[0, 0])  # fmt: skip

    with pytest.raises(InputError, match="one of 6"):
        calibrated_sampling(model, weights, 5)
    other = BrainModel(config("velocity"), VolumeMixture(2 * mixture.means, mixture.spectrum).network("velocity"))
    with pytest.raises(InputError, match="this model"):
        calibrated_sampling(other, weights, 6)
    with pytest.raises(InputError, match="steps of the calibration"):
        model.draw(SIZE, sampling, start=Start(torch.zeros(SIZE), 0.5))

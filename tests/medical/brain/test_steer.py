"""Steering against tilted distributions that are known: in closed form on Gaussian volumes, by weights elsewhere."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from medical.brain.cli import app
from medical.brain.config import BrainConfig
from medical.brain.files import save_brain
from medical.brain.model import BrainModel, Sampling
from medical.brain.network import brain_network
from medical.brain.steer import Steering, named, one_by_one, steer
from shared.errors import InputError
from shared.guidance.targets import Targets
from shared.sampling import sample
from shared.search.twisted import particle_sample, rewarded
from shared.solvers.ddim import DDIM
from tests.oracles.volumes import VolumeMixture, gaussian_volume

SIZE = (6, 6, 6)
STD = 0.2


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def brain(prior: VolumeMixture) -> BrainModel:
    config = BrainConfig(strategy="flow", channels=(8, 8), attention=(False, False), size=prior.size)
    return BrainModel(config, prior.network("flow"))


PRIOR = gaussian_volume(SIZE, std=STD)
MODEL = brain(PRIOR)
GRID = Sampling("multistep", 30).grid("flow")


def masks() -> torch.Tensor:
    """Two overlapping boxes."""
    inside = torch.zeros(2, *SIZE, dtype=torch.float64)
    inside[0, 1:4, 1:4, 1:4] = 1
    inside[1, 2:6, 2:5, 2:6] = 1
    return inside


def means(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Mean intensities of the boxes: linear."""
    weights = (masks() / masks().sum((1, 2, 3), keepdim=True)).to(x.dtype)
    return dict(zip(("left", "right"), (x * weights).sum((2, 3, 4)).unbind(1), strict=True))


def soft_size(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Share of bright voxels: not linear."""
    return {"bright": torch.sigmoid(12 * (x - 0.15)).flatten(1).mean(1)}


def tilted(values, tolerances) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (voxels,) and covariance of the two means, of the Gaussian whose means are `values` with this noise."""
    rows = (masks() / masks().sum((1, 2, 3), keepdim=True)).flatten(1)
    covariance = PRIOR.covariance()
    total = rows @ covariance @ rows.T + torch.diag(torch.tensor(tolerances, dtype=torch.float64) ** 2)
    gain = torch.linalg.solve(total, rows @ covariance).T
    mean = gain @ torch.tensor(values, dtype=torch.float64)
    return mean, rows @ (covariance - gain @ rows @ covariance) @ rows.T


def test_gradient_steering_of_linear_scalars_is_exact_on_correlated_volumes():
    values, tolerances = [0.25, -0.1], [0.03, 0.05]
    targets = Targets(named(means, ["left", "right"]), values, tolerances)
    guided = targets.guided(MODEL.denoiser(limited=False), GRID.process)
    mean, covariance = tilted(values, tolerances)
    middle = sample(guided, torch.zeros(1, 1, *SIZE, dtype=torch.float64), GRID, DDIM()).flatten()
    assert float(mean.abs().max()) > 0.15
    assert float((middle - mean).abs().max()) < 3e-3  # the sampler is affine: noise 0 draws its mean

    x = torch.randn(100, 1, *SIZE, dtype=torch.float64, generator=seeded(1))
    drawn = named(means, ["left", "right"])(sample(guided, x, GRID, DDIM(1.0), generator=seeded(2)))
    torch.testing.assert_close(torch.cov(drawn.T), covariance, rtol=0.35, atol=1e-4)


def test_the_scalars_log_density_is_that_of_the_exact_marginal():
    values, tolerances, t = [0.25, -0.1], [0.03, 0.05], 0.3
    process = GRID.process
    a, b = float(process.alpha(t)), float(process.sigma(t))
    targets = Targets(named(means, ["left", "right"]), values, tolerances)
    x = a * PRIOR.draw(3, seeded(3)) + b * torch.randn(3, 1, *SIZE, dtype=torch.float64, generator=seeded(4))
    found = targets.estimate(MODEL.denoiser(limited=False), process, x, t).log_twist
    rows = (masks() / masks().sum((1, 2, 3), keepdim=True)).flatten(1)
    eye = torch.eye(216, dtype=torch.float64)
    gain = a * PRIOR.covariance() @ torch.linalg.inv(a**2 * PRIOR.covariance() + b**2 * eye)
    total = rows @ (PRIOR.covariance() - a * gain @ PRIOR.covariance()) @ rows.T
    total = total + torch.diag(torch.tensor(tolerances, dtype=torch.float64) ** 2)
    exact = torch.stack([
        torch.distributions.MultivariateNormal(rows @ gain @ one, total).log_prob(torch.tensor(values, dtype=x.dtype))
        for one in x.flatten(1)
    ])  # fmt: skip
    torch.testing.assert_close(found - found[0], exact - exact[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        found, exact + torch.log(torch.tensor(2 * torch.pi, dtype=x.dtype)), rtol=1e-5, atol=1e-5
    )


def test_feynman_kac_particles_have_the_tilted_distribution():
    values, tolerances = [0.12, 0.0], [0.05, 0.1]
    targets = Targets(named(means, ["left", "right"]), values, tolerances)
    guide = rewarded(MODEL.denoiser(limited=False), targets.log_density)
    x = torch.randn(12 * 64, 1, *SIZE, dtype=torch.float64, generator=seeded(5))
    found = particle_sample(guide, x, GRID, ensembles=12, solver=DDIM(1.0), generator=seeded(6))
    left = means(found.x0.flatten(0, 1))["left"].view(12, 64)
    share = torch.softmax(found.log_weights, 1)
    each = (share * left).sum(1)
    mean, covariance = tilted(values, tolerances)
    exact = float(means(mean.view(1, 1, *SIZE))["left"])
    assert exact > 0.08  # without steering: 0
    assert float(each.mean()) == pytest.approx(exact, abs=0.015)
    spread = (share * (left - exact) ** 2).sum(1).mean().sqrt()
    assert float(spread) == pytest.approx(float(covariance[0, 0].sqrt()), rel=0.3)
    assert float(found.effective_size.min()) < 32  # it was resampled


def test_weights_repair_what_the_gradient_gets_wrong_of_a_curved_scalar():
    """The truth: many volumes drawn with the same steps and without steering, weighted."""
    target, tolerance, grid = 0.62, 0.1, Sampling("multistep", 12).grid("flow")
    plain = MODEL.denoiser(limited=False)
    free = torch.randn(5000, 1, *SIZE, generator=seeded(7))
    bright = soft_size(sample(plain, free, grid, DDIM(1.0), generator=seeded(6)))["bright"].double()
    weight = torch.softmax(-0.5 * ((target - bright) / tolerance) ** 2, 0)
    exact = float((weight * bright).sum())
    assert exact - float(bright.mean()) > 0.15
    targets = Targets(named(soft_size, ["bright"]), [target], [tolerance])

    def guide(x, t):
        return targets.estimate(plain, grid.process, x, t)

    x = torch.randn(4 * 100, 1, *SIZE, generator=seeded(8))
    alone = sample(targets.guided(plain, grid.process), x, grid, DDIM(1.0), generator=seeded(9))
    found = particle_sample(guide, x, grid, ensembles=4, solver=DDIM(1.0), generator=seeded(9))
    share = torch.softmax(found.log_weights, 1)
    mean = (share * soft_size(found.x0.flatten(0, 1))["bright"].view(4, 100)).sum(1).mean()
    off = abs(float(soft_size(alone)["bright"].mean()) - exact)
    assert off > 0.05  # twelve steps are coarse
    assert abs(float(mean) - exact) < 0.4 * off  # the rest shrinks as particles grow: 100 .018, 1000 .007


@pytest.mark.parametrize("method", ["gradient", "particles", "twisted"])
def test_steered_volumes_are_near_their_target_and_follow_the_seed(method):
    settings = Steering(method, steps=20, particles=8)

    def drawn():
        return list(steer(MODEL, means, {"left": (0.2, 0.02)}, 2, settings, generator=seeded(11)))

    first, again = drawn(), drawn()
    assert all(torch.equal(a.volume, b.volume) for a, b in zip(first, again, strict=True))
    assert first[0].volume.shape == SIZE
    assert float((first[0].volume - first[1].volume).std()) > 0.1
    assert set(first[0].scalars) == {"left"}
    values = [one.scalars["left"] for one in first]
    assert values[0] == pytest.approx(float(means(first[0].volume[None, None])["left"]), abs=1e-5)
    near = 0.06 if method == "gradient" else 0.12  # 8 particles of a target one and a half deviations away
    assert max(abs(value - 0.2) for value in values) < near
    assert (first[0].effective_size is None) == (method == "gradient")


def test_particles_one_by_one_are_those_of_one_batch():
    targets = Targets(named(means, ["left"]), [0.2], [0.05], below=0.5)
    plain = MODEL.denoiser()

    def guide(x, t):
        return targets.estimate(plain, GRID.process, x, t)

    x = torch.randn(3, 1, *SIZE, dtype=torch.float64, generator=seeded(12))
    for t in (0.8, 0.4):
        whole, parts = guide(x, t), one_by_one(guide)(x, t)
        for name in ("plain", "guided", "log_twist"):
            torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-9, atol=1e-12)
        assert torch.equal(whole.plain, whole.guided) == (t > 0.5)


def test_wrong_steering_is_told():
    with pytest.raises(InputError, match="one of left, right"):
        next(steer(MODEL, means, {"middle": (0.2, 0.1)}, 1, Steering(steps=4)))
    with pytest.raises(InputError, match="all above 0"):
        next(steer(MODEL, means, {"left": (0.2, 0.0)}, 1, Steering(steps=4)))
    with pytest.raises(InputError, match="gradient, particles, twisted"):
        Steering("push")


def test_the_command_draws_towards_a_volume_and_says_what_it_became(tmp_path):
    pytest.importorskip("monai")
    pytest.importorskip("einops")
    config = BrainConfig(strategy="velocity", channels=(8, 16), attention=(False, False), blocks=1, size=(16, 16, 16),
                         spacing_mm=4)  # fmt: skip
    torch.manual_seed(0)
    save_brain(tmp_path / "model.safetensors", config, brain_network(config).state_dict(), {})

    def run(*words: object):
        fixed = ["steer", "--model", tmp_path / "model.safetensors", "-o", tmp_path / "out", "--steps", 6]
        return CliRunner().invoke(app, [str(word) for word in (*fixed, *words)])

    measured = []
    for target in (30, 120):
        made = run("--target", f"white_matter={target}:1", "--overwrite")
        assert made.exit_code == 0, made.output
        sidecar = json.loads((tmp_path / "out/sub-syn001/anat/sub-syn001_T1w.json").read_text())
        assert sidecar["Synthetic"]
        assert sidecar["steering"]["targets_cm3"] == {"white_matter": [target, 1]}
        measured.append(sidecar["measured_cm3"]["white_matter"])
    assert measured[1] > measured[0]  # the network knows nothing: little is moved
    before = (tmp_path / "out/sub-syn001/anat/sub-syn001_T1w.nii.gz").stat().st_mtime_ns
    assert run("--target", "white_matter=120:1", "-q").exit_code == 0  # found, not drawn again
    assert (tmp_path / "out/sub-syn001/anat/sub-syn001_T1w.nii.gz").stat().st_mtime_ns == before
    for target, found in (("white_matter", "CM3:TOLERANCE"), ("white_matter=3:0", "above 0"), ("nose=3:1", "one of")):
        wrong = run("--target", target, "--overwrite")
        assert isinstance(wrong.exception, InputError)
        assert found in str(wrong.exception)
    assert not (tmp_path / "out/sub-syn002").exists()

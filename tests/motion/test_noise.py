"""Motions found by their noise: the gradient down to the joints, what is known, and the same again by the seed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from motion.anatomy import anatomy_of
from motion.energies import Objective, Weights
from motion.features import Body
from motion.goals import Follow, Goals, Hint
from motion.kinematics import forward_kinematics
from motion.model import MotionModel, known_poses
from motion.network import MotionTransformer
from motion.noise import draw_towards
from shared.errors import InputError
from shared.grid import trailing_grid
from shared.search.noise import NoiseSearch, sampler_of
from shared.solvers.ddim import DDIM
from tests.motion.figures import body, walk
from tests.motion.test_training import TINY

FRAMES = 16
FIGURE = Body(body())
HANDS = FIGURE.skeleton.joints("left_hand", "right_hand")


def model() -> MotionModel:
    """Return an untrained network whose motions are those of a walk with noise: its body in all poses."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MotionTransformer(TINY, FIGURE.size)
        for block in network.blocks:
            torch.nn.init.normal_(block.modulation.weight, std=0.1)
    features = FIGURE.encode(walk(60).canonical()[0]).float()
    return MotionModel(TINY, FIGURE, network.eval().requires_grad_(False), features.mean(0), torch.tensor(0.3))


def objective(tolerance: float = 0.0) -> Objective:
    """Return what a walk does: both hands in two frames, the hips on its way in all."""
    motion = walk(FRAMES).canonical()[0]
    at = torch.tensor([5, 12])
    hints = tuple(Hint((hand,), at, motion.positions()[at, hand], tolerance) for hand in HANDS)
    way = Follow((0,), 0, motion.root[:, :2], motion.root[:, :2].diff(dim=0).norm(dim=1).cumsum(0).clamp(min=0)[:10])
    return Objective(Goals(FRAMES, hints=hints, follows=(way,)), anatomy_of(FIGURE.skeleton, [walk(60)]))


def energy_of(asked: Objective):
    return lambda features: asked(*forward_kinematics(FIGURE.skeleton, *FIGURE.pose(features)))


@pytest.mark.parametrize("calls", [1, 3])
def test_the_gradient_from_an_energy_to_the_noise_is_that_of_finite_differences(calls):
    made = model()
    made.network.double()
    made.mean, made.spread = made.mean.double(), made.spread.double()
    # Weights of skating have no gradient on purpose (`motion.energies`).
    energy = energy_of(replace(objective(), weights=Weights(skating=0.0)))
    denoiser = made.denoiser(made.action_table("walk", FRAMES))
    sampler = sampler_of(denoiser, trailing_grid(made.process, calls), DDIM())
    generator = torch.Generator().manual_seed(1)
    z, way = torch.randn(2, 1, FRAMES, FIGURE.size, generator=generator, dtype=torch.float64)
    z.requires_grad_(True)

    def value(x):
        return energy(made.features(sampler(x))).sum()

    (gradient,) = torch.autograd.grad(value(z), z)
    for direction in (way, gradient / gradient.norm()):
        with torch.no_grad():
            slope = (value(z + 1e-5 * direction) - value(z - 1e-5 * direction)) / 2e-5
        assert float(slope) == pytest.approx(float((gradient * direction).sum()), rel=1e-4)
    assert float(gradient.norm()) > 1e-3


def test_the_energy_falls_and_is_that_of_the_motions_which_the_seed_repeats():
    made, asked = model(), objective()
    settings = NoiseSearch(steps=12, rate=0.1)

    def found(seed: int, steps: NoiseSearch = settings):
        generator = torch.Generator().manual_seed(seed)
        return draw_towards(
            made, "walk", FRAMES, energy_of(asked), count=3, settings=steps, generator=generator
        )  # fmt: skip

    first, again, other = found(0), found(0), found(1)
    assert torch.equal(first.search.noise, again.search.noise)
    assert torch.equal(first.motions[0].rotations, again.motions[0].rotations)
    assert not torch.equal(first.search.noise, other.search.noise)
    assert first.energy.tolist() == sorted(first.energy.tolist())
    assert float(first.search.loss.mean()) < 0.9 * float(first.search.history[0].mean())
    for motion, energy in zip(first.motions, first.energy, strict=True):
        value = asked(*forward_kinematics(motion.skeleton, motion.root, motion.rotations))
        assert float(value) == pytest.approx(float(energy), rel=1e-4)


def test_what_is_known_stays_and_is_not_paid_for():
    made, motion = model(), walk(FRAMES).canonical()[0]
    places = [0, 1, 12]
    parts = replace(motion, root=motion.root[places], rotations=motion.rotations[places])
    known = known_poses(FIGURE, parts, places, FRAMES)
    asked = replace(objective(), goals=Goals(FRAMES, hints=(Hint((HANDS[0],), torch.tensor([7]), torch.ones(1, 3)),)))
    generator = torch.Generator().manual_seed(0)
    found = draw_towards(
        made, "walk", FRAMES, energy_of(asked), known=known, calls=2, settings=NoiseSearch(steps=3),
        generator=generator,
    )  # fmt: skip
    torch.testing.assert_close(found.motions[0].positions()[places], motion.positions()[places], atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="16 frames"):
        draw_towards(made, "walk", FRAMES + 1, energy_of(asked), known=known)
    with pytest.raises(InputError, match="one a sample"):
        draw_towards(made, "walk", FRAMES, lambda features: features.sum())

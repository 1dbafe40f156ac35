"""The implicit policy on a model whose denoiser is exact: what it must do is known in closed form."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from motion.energies import Objective
from motion.goals import Facing, Follow, Goals, Hint
from motion.model import known_poses
from motion.policy import FAST, PUBLISHED, PlacedObjective, Policy, Polyak, Published, guided
from motion.rotations import about_axis
from shared.errors import InputError
from shared.grid import trailing_grid
from shared.sampling import sample
from shared.solvers.ddim import DDIM
from tests.motion.figures import walk
from tests.motion.gaussian import gaussian_model

FRAMES = 24


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def setup():
    model = gaussian_model()
    return model, model.action_table("walk", FRAMES)


def along(model, wanted):
    """Return |a . f - wanted| of a unit vector a in normalised features, and a."""
    direction = torch.randn(FRAMES, model.body.size, generator=seeded(5))
    direction /= direction.norm()

    def energy(features):
        return ((model.normalised(features) * direction).sum((1, 2)) - wanted).abs()

    return energy, direction


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_without_corrections_it_is_plain_sampling(eta):
    model, actions = setup()
    found = guided(
        model, actions, lambda f: f.new_zeros(len(f)), Policy(calls=6, corrections=0, eta=eta), generator=seeded()
    )
    generator = seeded()
    x = model.process.noise((1, FRAMES, model.body.size), generator)
    expected = sample(
        model.denoiser(actions), x, trailing_grid(model.process, 6), DDIM(eta), generator=generator
    )  # fmt: skip
    assert torch.equal(found, model.features(expected))


def test_an_energy_that_is_zero_changes_nothing():
    model, actions = setup()

    def satisfied(features):
        return torch.relu(features - 1e6).sum((1, 2))

    free = guided(model, actions, satisfied, replace(FAST, corrections=0), generator=seeded())
    assert torch.equal(guided(model, actions, satisfied, FAST, generator=seeded()), free)


def test_a_wish_along_one_direction_is_met_and_nothing_else_moves():
    model, actions = setup()
    energy, direction = along(model, 9.0)
    policy = Policy(calls=10, corrections=1, step=Polyak(trust=10.0))
    free = model.normalised(guided(model, actions, energy, replace(policy, corrections=0), generator=seeded()))
    found = model.normalised(guided(model, actions, energy, policy, generator=seeded()))
    moved = found - free
    assert float((found * direction).sum()) == pytest.approx(9.0, abs=1e-3)
    assert abs(float((free * direction).sum()) - 9.0) > 5
    assert float((moved - (moved * direction).sum() * direction).norm()) < 1e-3 * float(moved.norm())


def test_the_trust_bounds_every_move():
    gradient = torch.randn(3, 5, 7, generator=seeded())
    energy = torch.tensor([1e6, 1e-3, 0.0])
    eta = Polyak(trust=0.2)(energy, gradient, 0.5, 0.0)
    move = (eta[:, None, None] * gradient).flatten(1).norm(dim=1)
    assert float(move[0]) == pytest.approx(0.2 * 0.5 * math.sqrt(35), rel=1e-5)
    assert float(move[1]) == pytest.approx(1e-3 / float(gradient[1].norm()), rel=1e-4)
    assert float(move[2]) == 0


def test_calls_are_what_is_said():
    model, actions = setup()
    energy, _ = along(model, 3.0)
    guided(model, actions, energy, FAST, generator=seeded())
    grid = trailing_grid(model.process, FAST.calls)
    assert model.network.asked == FAST.network_calls(grid) == 20 + 2 * 19
    published = trailing_grid(model.process, PUBLISHED.calls)
    assert PUBLISHED.network_calls(published) == 1000 + 10 * 990  # DIP's loop: t = 999 ... 10


def test_the_published_loop_is_dips():
    """mu <- mu - 20 max(sigma^2, 0.01) dE / dmu, ten times, at the level below; then the noise."""
    model, actions = setup()
    energy, _ = along(model, 2.0)
    policy = replace(PUBLISHED, calls=5, corrections=3, keep_until=0.0, step=Published(scale=0.5))
    found = guided(model, actions, energy, policy, generator=seeded())
    generator, process, denoiser = seeded(), model.process, model.denoiser(actions)
    x = process.noise((1, FRAMES, model.body.size), generator)
    times = trailing_grid(process, 5).times
    for above, below in pairwise(times):
        (a_s, s_s), (a_t, s_t) = ((float(process.alpha(t)), float(process.sigma(t))) for t in (above, below))
        ratio = a_s / a_t
        fresh = max(0.0, s_s**2 - ratio**2 * s_t**2)
        mean = (ratio * s_t**2 * x + a_t * fresh * denoiser(x, above)) / s_s**2
        variance = s_t**2 * fresh / s_s**2
        if below >= 0.01:
            for _ in range(3):
                leaf = mean.clone().requires_grad_(True)
                (gradient,) = torch.autograd.grad(energy(model.features(denoiser(leaf, below))).sum(), leaf)
                mean = mean - 0.5 * max(variance, 0.01) * gradient
            mean = mean + math.sqrt(variance) * torch.randn(mean.shape, generator=generator)
        x = mean
    assert torch.allclose(found, model.features(x), atol=2e-5)


def test_known_frames_come_out_as_they_are_or_are_let_go_at_the_end():
    model, actions = setup()
    history = walk(5).canonical()[0]
    known = known_poses(model.body, history, range(5), FRAMES)
    energy, _ = along(model, 3.0)
    found = guided(model, actions, energy, Policy(calls=8, keep_until=0.0), known=known, generator=seeded())
    assert torch.allclose(found[0, :5], known.features[:5], atol=1e-5)
    loose = guided(model, actions, energy, Policy(calls=8, keep_until=0.3), known=known, generator=seeded())
    far, near = (
        (value[0, :5] - known.features[:5]).norm()
        for value in (guided(model, actions, energy, Policy(calls=8), generator=seeded()), loose)
    )
    assert 0 < near < 0.8 * far


def test_the_best_candidate_comes_first_and_a_broken_energy_leaves_a_sample_alone():
    model, actions = setup()
    energy, _ = along(model, 4.0)
    policy = Policy(calls=5, corrections=1, step=Polyak(trust=0.01), candidates=4)
    found = guided(model, actions, energy, policy, generator=seeded())
    values = energy(found)
    assert torch.equal(values, values.sort().values)
    assert len(values) == 4

    def broken(features):
        return features.sum((1, 2)) * math.nan

    free = guided(model, actions, broken, Policy(calls=5, corrections=0), generator=seeded())
    assert torch.equal(guided(model, actions, broken, Policy(calls=5), generator=seeded()), free)
    with pytest.raises(InputError, match="0 calls"):
        Policy(calls=0)


def test_an_objective_of_the_scene_sees_a_window_where_it_is():
    model = gaussian_model()
    motion = walk(FRAMES)
    turned = about_axis(2, torch.tensor(0.7, dtype=torch.float64))
    placed = motion.placed(turned, torch.tensor([3.0, -2.0, 0.0], dtype=torch.float64))
    seen, axes, origin = placed.canonical()
    target = placed.positions()[FRAMES - 1, list(model.anatomy.pelvis)].mean(0)
    path = torch.stack([placed.root[0, :2], placed.root[-1, :2] + 0.5])
    goals = Goals(
        FRAMES,
        hints=(Hint(model.anatomy.pelvis, torch.tensor([FRAMES - 1]), target[None] + 0.3),),
        follows=(Follow(model.anatomy.pelvis, 0, path, torch.linspace(0, 0.5, FRAMES, dtype=torch.float64)),),
        facings=(Facing(0, torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(FRAMES, 2)),),
    )
    objective = Objective(goals, model.anatomy)
    asked = PlacedObjective(model.body, objective, axes, origin)
    expected = objective(*placed.pose())
    assert float(expected) > 0.5
    assert float(asked(model.body.encode(seen)[None])[0]) == pytest.approx(float(expected), rel=1e-6)
    for made, real in zip(asked.pose(model.body.encode(seen)[None]), placed.pose(), strict=True):
        assert torch.allclose(made[0], real, atol=1e-6)
    elsewhere = PlacedObjective(model.body, objective, axes, origin + 1)
    assert abs(float(elsewhere(model.body.encode(seen)[None])[0]) - float(expected)) > 0.1

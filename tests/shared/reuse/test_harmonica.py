"""HarmoniCa: the mixture against the executor and finite differences, its weights against whole samplings."""

from __future__ import annotations

import itertools

import pytest
import torch

from shared import Multistep, karras_grid, sample, trailing_grid
from shared.calibration.identity import weights_hash
from shared.digits import load_digits_denoiser
from shared.errors import InputError
from shared.reuse import ReusingNetwork, block_costs, price, stack, uniform
from shared.reuse.endpoint import Endpoint
from shared.reuse.harmonica import harmonica
from shared.reuse.router import (
    LARGEST_LOGIT,
    Setting,
    Training,
    activated,
    image_error_weights,
    losses,
    mixed,
    train_router,
    walk,
)
from tests.shared.reuse.networks import NETWORKS, example, mlp

SOLVER = Multistep.dpm_solver_pp_2m()
STEPS = 5


def noise(denoiser, shape, count=2, seed=1):
    return denoiser.process.noise((count, *shape), torch.Generator().manual_seed(seed))


def mixed_end(denoiser, blocks, scores, x, grid):
    """Return the end of the sampling that mixes by the scores [steps, blocks]."""
    plan = SOLVER.plan(grid)
    with torch.no_grad():
        *_, (_, state, answer) = walk(denoiser, blocks, lambda step: scores[step], x, plan)
        return plan.advance(state, answer).x


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_of_one_are_the_plain_network_bit_for_bit(name):
    denoiser, blocks, shape = NETWORKS[name]()
    grid = trailing_grid(denoiser.process, STEPS)
    x = noise(denoiser, shape)
    end = mixed_end(denoiser, blocks, torch.ones(STEPS, len(blocks)), x, grid)
    assert torch.equal(end, sample(denoiser, x, grid, SOLVER))


@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("name", NETWORKS)
def test_scores_of_zero_and_one_are_the_executor_with_that_mask_bit_for_bit(name, seed):
    denoiser, blocks, shape = NETWORKS[name]()
    mask = torch.zeros(STEPS, len(blocks), dtype=torch.bool)
    if seed is not None:
        mask = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[0] = True
    grid = trailing_grid(denoiser.process, STEPS)
    x = noise(denoiser, shape)
    told = [float(denoiser.time_input(t)) for t in SOLVER.plan(grid).asked]
    cached = denoiser.with_network(ReusingNetwork(denoiser.network, blocks, mask, told))
    assert torch.equal(mixed_end(denoiser, blocks, mask.float(), x, grid), sample(cached, x, grid, SOLVER))


@pytest.mark.parametrize("name", ["residual_mlp", "plain_module", "action_unet"])
def test_the_gradient_of_the_mixture_is_that_of_finite_differences(name):
    denoiser, blocks, shape = NETWORKS[name]()
    network = denoiser.network.double()
    x = noise(denoiser, shape).double()
    before, now = torch.full((2,), 1.0).double(), torch.full((2,), 0.7).double()
    stored = {}
    mixed(network, blocks, torch.ones(len(blocks)), stored)(x, before)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def loss(scores):
        output = mixed(network, blocks, scores, dict(stored))(0.9 * x, now)
        output = getattr(output, "sample", output)
        return (weights * output).sum()

    scores = torch.linspace(0.2, 0.7, len(blocks), dtype=torch.float64, requires_grad=True)
    gradient = torch.autograd.grad(loss(scores), scores)[0]
    assert gradient.abs().min() > 1e-6
    step = 1e-5 * torch.eye(len(blocks), dtype=torch.float64)
    with torch.no_grad():
        slow = torch.stack([(loss(scores + h) - loss(scores - h)) / 2e-5 for h in step])
    torch.testing.assert_close(gradient, slow, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("score", "stored_anew"), [(0.05, False), (0.15, True)])
def test_a_block_is_stored_anew_only_above_the_threshold_and_as_it_was_computed(score, stored_anew):
    denoiser, blocks, shape = mlp()
    x, time = noise(denoiser, shape), torch.full((2,), 30.0)
    first, second = {}, {}
    mixed(denoiser.network, blocks, torch.ones(3), first)(x, time)
    mixed(denoiser.network, blocks[:1], torch.ones(1), second)(x, 0.5 * time)
    store = dict(first)
    mixed(denoiser.network, blocks, torch.full((3,), score), store, threshold=0.1)(x, 0.5 * time)
    name = blocks[0].modules[0]
    assert not torch.equal(first[name], second[name])
    assert torch.equal(store[name], second[name] if stored_anew else first[name])


@pytest.mark.parametrize("make", [mlp, lambda: example("shared/action_unet")])
def test_image_error_weights_are_those_of_whole_samplings_with_more_and_more_reuse(make):
    denoiser, blocks, shape = make()
    grid = trailing_grid(denoiser.process, STEPS)
    x = noise(denoiser, shape, count=3)
    scores = torch.rand(STEPS, len(blocks), generator=torch.Generator().manual_seed(3))
    ends = []
    for reusing in range(STEPS):
        soft = torch.ones_like(scores)
        soft[1 : reusing + 1] = scores[1 : reusing + 1]
        ends.append(mixed_end(denoiser, blocks, soft, x, grid).double())
    slow = torch.stack([(b - a).square().mean() for a, b in itertools.pairwise(ends)])
    fast = image_error_weights(denoiser, blocks, scores, x, SOLVER.plan(grid))
    assert slow.min() > 0
    assert fast[0] == 0
    torch.testing.assert_close(fast[1:], slow, rtol=1e-4, atol=0)


def setting(make=mlp, steps=4, *, nested=False):
    denoiser, blocks, shape = make()
    x = noise(denoiser, shape, count=1)
    costs, _ = block_costs(denoiser.network, blocks, x, torch.ones(1), **denoiser.conditioning)
    plan = SOLVER.plan(trailing_grid(denoiser.process, steps))
    return Setting(denoiser, tuple(blocks), tuple(costs), plan, tuple(shape), nested)


def test_the_loss_is_that_of_the_networks_own_predictions_on_the_students_states():
    given = setting(steps=3)
    network, x = given.denoiser.network, noise(given.denoiser, given.shape, count=4)
    scores = torch.rand(3, 3, generator=torch.Generator().manual_seed(4))
    found = [(float(a), float(b)) for _, a, b in losses(given, Training(), lambda step: scores[step], x)]
    store, state, expected = {}, given.plan.start(x), []
    for step in range(3):
        time = given.denoiser.time_input(state.t).float().expand(4)
        student, full = mixed(network, given.blocks, scores[step], store)(state.x, time), network(state.x, time)
        expected.append((float((student - full).square().mean()), float(scores[step] @ torch.tensor(given.costs))))
        process = given.denoiser.process
        estimate = float(process.alpha(state.t)) * state.x - float(process.sigma(state.t)) * student  # of v
        state = given.plan.advance(state, estimate)
    assert expected[1][0] > 0
    assert len(found) == 2
    for one, other in zip(found, expected[1:], strict=True):
        assert one == pytest.approx(other, rel=1e-3)


def test_training_leaves_the_network_alone_and_the_logits_in_their_range():
    given = setting()
    network = given.denoiser.network.requires_grad_(True)
    before = weights_hash(network)
    training = Training(epochs=8, learning_rate=2.0, batch=4, refresh=4)
    logits = train_router(given, training, beta=1e3)
    assert weights_hash(network) == before
    assert all(parameter.grad is None for parameter in network.parameters())
    assert (logits[0] == LARGEST_LOGIT).all()
    assert (logits[1:] == -LARGEST_LOGIT).all()
    assert torch.equal(logits, train_router(given, training, beta=1e3))


def test_without_a_price_of_computation_training_computes_more():
    given = setting()
    training = Training(epochs=12, learning_rate=0.3, batch=4, refresh=4)
    assert (train_router(given, training, beta=0.0)[1:] > 0).all()


def test_scores_of_nested_levels_fall_and_their_masks_are_nested():
    given = setting(lambda: example("shared/action_unet"), nested=True)
    scores = activated(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), nested=True)
    assert (scores[:, 1:] <= scores[:, :-1]).all()
    grid = trailing_grid(given.denoiser.process, 4)
    training = Training(epochs=6, learning_rate=0.7, batch=2, refresh=3)
    schedule = harmonica(
        given.denoiser, given.blocks, grid, SOLVER, price=3.0, costs=given.costs, shape=given.shape, nested=True,
        training=training, trials=4,
    )  # fmt: skip
    mask = schedule.mask_tensor
    assert schedule.price <= 3.0
    assert not (mask[:, 1:] & ~mask[:, :-1]).any()


def test_on_held_out_noises_the_trained_mask_errs_less_than_uniform_ones_of_its_price_and_more():
    denoiser = load_digits_denoiser()
    blocks = stack(denoiser.network, "blocks")
    grid = karras_grid(denoiser.process, 8)
    costs, _ = block_costs(denoiser.network, blocks, torch.zeros(1, 8, 8), torch.ones(1))
    rivals = [uniform(8, len(blocks), interval) for interval in (3, 2)]
    schedule = harmonica(
        denoiser, blocks, grid, SOLVER, price=price(rivals[0], costs), costs=costs, shape=(8, 8),
        training=Training(epochs=30, learning_rate=0.2, batch=16, refresh=10), trials=2,
    )  # fmt: skip
    endpoint = Endpoint(denoiser, blocks, noise(denoiser, (8, 8), count=128, seed=10_000), grid, SOLVER)
    error = endpoint.rmse(schedule.mask_tensor)
    assert schedule.producer == "harmonica"
    for rival in rivals:
        assert schedule.price <= price(rival, costs) + 1e-9
        assert error < 0.75 * endpoint.rmse(rival)


def test_a_price_that_cannot_be_reached_is_one_clear_error():
    given = setting()
    grid = trailing_grid(given.denoiser.process, 4)

    def trained(price, trials):
        return harmonica(
            given.denoiser, given.blocks, grid, SOLVER, price=price, costs=given.costs, shape=given.shape,
            training=Training(epochs=1, batch=2), trials=trials,
        )  # fmt: skip

    with pytest.raises(InputError, match="the first step and what lies outside"):
        trained(1.0, 1)
    with pytest.raises(InputError, match="Train longer"):
        trained(2.5, 2)

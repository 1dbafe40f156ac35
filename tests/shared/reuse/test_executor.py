"""The executor against forwards written by hand: which block's output is used at which step, on any network."""

from __future__ import annotations

import copy
from functools import cache

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from shared import InputError, Ledger, Multistep, sample, steps, trailing_grid
from shared.examples import LINEAR_BETAS, labelled
from shared.interop.diffusers import as_diffusers_scheduler
from shared.reuse import (
    Block,
    Rectified,
    ReusingNetwork,
    Taylor,
    block_costs,
    intercepted,
    make_schedule,
    nested,
    price,
    stack,
    unet_levels,
    uniform,
)
from tests.shared.reuse.networks import NETWORKS, example, mlp

N = 5
SOLVER = Multistep.dpm_solver_pp_2m()
network_of = cache(lambda name: NETWORKS[name]())
by_network = pytest.mark.parametrize("name", NETWORKS)


def noise(denoiser, shape, count=3, seed=0) -> Tensor:
    return denoiser.process.noise((count, *shape), torch.Generator().manual_seed(seed))


def scheduled(denoiser, blocks, shape, mask, **kwargs):
    grid = trailing_grid(denoiser.process, len(mask))
    return make_schedule(
        denoiser, blocks, mask, grid, SOLVER.plan(grid).asked, shape=shape, costs=[0.1] * len(blocks), producer="test",
        **kwargs,
    )  # fmt: skip


# --- all ones, and compute ---


@by_network
def test_a_mask_of_ones_is_the_plain_network_bit_for_bit(name):
    denoiser, blocks, shape = network_of(name)
    x, grid = noise(denoiser, shape), trailing_grid(denoiser.process, N)
    schedule = scheduled(denoiser, blocks, shape, torch.ones(N, len(blocks)))
    assert torch.equal(sample(schedule.bind(denoiser), x, grid, SOLVER), sample(denoiser, x, grid, SOLVER))


@by_network
def test_the_price_is_the_flops_counted_and_reuse_changes_the_sample(name):
    denoiser, blocks, shape = network_of(name)
    x, grid = noise(denoiser, shape, count=1), trailing_grid(denoiser.process, N)
    costs, rest = block_costs(denoiser.network, blocks, x, torch.ones(1), **denoiser.conditioning)
    assert sum(costs) + rest == pytest.approx(1)
    mask = uniform(N, len(blocks), 2, kept=[0])
    with Ledger(flops=True) as cached:
        reused = sample(scheduled(denoiser, blocks, shape, mask).bind(denoiser), x, grid, SOLVER)
    with Ledger(flops=True) as whole:
        whole_sample = sample(denoiser, x, grid, SOLVER)
    assert cached.flops is not None
    assert whole.flops is not None
    assert N * cached.flops / whole.flops == pytest.approx(price(mask, costs), rel=1e-9)
    assert cached.flops < whole.flops
    assert not torch.equal(reused, whole_sample)
    assert (cached.calls, cached.samples) == (N, N)


# --- which output is used at which step ---


class TwoParts(nn.Module):
    """second(first(x) + time): two parts of which the second sees the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.requires_grad_(False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return torch.tanh(self.second(torch.tanh(self.first(x)) + time[:, None])) * x


BOTH = [Block("first", ("first",)), Block("second", ("second",))]
TIMES = [9.0, 7.0, 4.0, 2.0, 1.0]
MASK = torch.tensor([[1, 1], [0, 1], [1, 0], [0, 0], [1, 1]])


def drawn(seed: int, steps: int = len(TIMES)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 4, generator=generator) for _ in range(steps)]


def asked(network, xs: list[Tensor], times=TIMES) -> list[Tensor]:
    return [network(x, torch.full((len(x),), time)) for x, time in zip(xs, times, strict=True)]


def test_each_block_is_the_latest_that_the_mask_computed():
    torch.manual_seed(0)
    network, xs = TwoParts(), drawn(1)
    first = [network.first(x) for x in xs]

    def second(i, used):
        return network.second(torch.tanh(first[used]) + TIMES[i])

    s0, s1, s4 = second(0, 0), second(1, 0), second(4, 4)
    by_hand = [torch.tanh(s) * x for s, x in zip([s0, s1, s1, s1, s4], xs, strict=True)]
    cached = ReusingNetwork(network, BOTH, MASK, TIMES)
    for got, truth in zip(asked(cached, xs), by_hand, strict=True):
        torch.testing.assert_close(got, truth, rtol=0, atol=0)


def test_a_residual_block_reuses_what_it_added_and_a_plain_one_what_it_gave():
    torch.manual_seed(0)

    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, h: Tensor) -> Tensor:
            return h + torch.tanh(self.inner(h))

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Adds()
            self.requires_grad_(False)

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return 2 * self.part(x + time[:, None])

    network, xs = Holder(), drawn(2, 2)
    h = [x + time for x, time in zip(xs, TIMES, strict=False)]
    mask, added = torch.tensor([[1], [0]]), torch.tanh(network.part.inner(h[0]))
    for residual, truth in ((True, 2 * (h[1] + added)), (False, 2 * (h[0] + added))):
        cached = ReusingNetwork(network, [Block("part", ("part",), residual)], mask, TIMES[:2])
        torch.testing.assert_close(asked(cached, xs, TIMES[:2])[1], truth)


def deep_cached_forward(network, x: Tensor, time: Tensor, deep: Tensor | None) -> tuple[Tensor, Tensor]:
    """DeepCache by hand: conv in, first down block, deep features, last up block. Returns output and deep features."""
    emb = network.time_embedding(network.time_proj(time))
    h = network.conv_in(x)
    h, top = network.down_blocks[0](hidden_states=h, temb=emb)
    skips = (network.conv_in(x), *top)
    if deep is None:
        below = skips
        for block in network.down_blocks[1:]:
            h, more = block(hidden_states=h, temb=emb)
            below += more
        h = network.mid_block(h, emb)
        for block in network.up_blocks[:-1]:
            count = len(block.resnets)
            h, below = block(h, below[-count:], emb), below[:-count]
        deep = h
    h = network.up_blocks[-1](deep, skips[: len(network.up_blocks[-1].resnets)], emb)
    return network.conv_out(network.conv_act(network.conv_norm_out(h))), deep


def test_unet_levels_below_the_first_are_deepcache_written_by_hand():
    denoiser, blocks, shape = network_of("photo_unet")
    network, steps_ = denoiser.network, 4
    times = [900.0, 600.0, 300.0, 100.0]
    cached = ReusingNetwork(network, blocks, nested([3, 1, 3, 1], 3), times)
    deep = None
    for i in range(steps_):
        x = noise(denoiser, shape, seed=i)
        time = torch.full((3,), times[i])
        truth, deep = deep_cached_forward(network, x, time, None if i % 2 == 0 else deep)
        torch.testing.assert_close(cached(x, time).sample, truth, rtol=1e-5, atol=1e-6)


def test_a_stack_is_cut_into_components_whose_outputs_are_reused():
    """In a DiT block attention and MLP are gated by the current norms: reuse of components is not that of the block."""
    denoiser, whole, shape = network_of("digits_dit")
    network = denoiser.network
    parts = stack(network, "transformer_blocks", ("attn1", "ff"))
    assert [part.name for part in parts[:2]] == ["transformer_blocks.0.attn1", "transformer_blocks.0.ff"]
    x, y = noise(denoiser, shape), noise(denoiser, shape, seed=1)
    given = {"class_labels": torch.tensor([3, 1, 4])}
    seen: dict[str, Tensor] = {}

    def remember(call):
        return seen.setdefault(call.module, call.compute())

    with intercepted(network, parts, remember):
        network(x, torch.full((3,), 900.0), **given)
    with intercepted(network, parts, lambda call: seen[call.module]):
        truth = network(y, torch.full((3,), 400.0), **given).sample
    for blocks, same in ((parts, True), (whole, False)):
        cached = ReusingNetwork(network, blocks, uniform(2, len(blocks), 2), [900.0, 400.0])
        cached(x, torch.full((3,), 900.0), **given)
        assert torch.equal(cached(y, torch.full((3,), 400.0), **given).sample, truth) is same


# --- predictors ---


class Ramp(nn.Module):
    """A structure of features that are linear in the time."""

    def forward(self, x: Tensor, time: Tensor) -> tuple[Tensor, dict[str, Tensor | None]]:
        return 3 * time[:, None] * torch.ones_like(x), {"slow": 1 - time[:, None] / 7, "nothing": None}


class RampHolder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ramp = Ramp()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        fast, rest = self.ramp(x, time)
        return fast * rest["slow"] + x


def test_taylor_is_exact_for_features_linear_in_the_step():
    network = RampHolder().double()
    times = [8.0, 7.0, 6.0, 5.0, 4.0, 3.0]
    xs = [x.double() for x in drawn(3, 6)]
    mask = torch.tensor([1, 1, 0, 1, 0, 0])[:, None]
    ramp = [Block("ramp", ("ramp",))]
    truth = [network(x, torch.full((2,), time).double()) for x, time in zip(xs, times, strict=True)]
    times_ = [torch.full((2,), time).double() for time in times]
    cached = ReusingNetwork(network, ramp, mask, times, predictor=Taylor())
    reused = ReusingNetwork(network, ramp, mask, times)
    got = [cached(x, time) for x, time in zip(xs, times_, strict=True)]
    torch.testing.assert_close(got, truth)
    latest = [reused(x, time) for x, time in zip(xs, times_, strict=True)]
    assert [torch.allclose(a, b) for a, b in zip(latest, truth, strict=True)] == [True, True, False, True, False, False]


def test_taylor_with_one_computed_step_is_reuse():
    network, xs = RampHolder(), drawn(4, 3)
    mask, times = uniform(3, 1, 3), TIMES[:3]
    ramp = [Block("ramp", ("ramp",))]
    taylor, latest = (ReusingNetwork(network, ramp, mask, times, predictor=p) for p in (Taylor(), None))
    for a, b in zip(asked(taylor, xs, times), asked(latest, xs, times), strict=True):
        assert torch.equal(a, b)


def test_rectified_scales_and_shifts_each_reused_step_and_block():
    torch.manual_seed(0)
    network, xs = TwoParts(), drawn(5, 3)
    times, mask = TIMES[:3], torch.tensor([[1, 1], [0, 1], [0, 0]])
    rule = Rectified([[1, 1], [0.5, 1], [2.0, -1.0]], [[0, 0], [0.25, 0], [0.0, 3.0]])
    cached = ReusingNetwork(network, BOTH, mask, times, predictor=rule)
    first = network.first(xs[0])
    second = network.second(torch.tanh(0.5 * first + 0.25) + times[1])
    got = asked(cached, xs, times)
    torch.testing.assert_close(got[1], torch.tanh(second) * xs[1])
    torch.testing.assert_close(got[2], torch.tanh(3.0 - second) * xs[2])


def test_rectification_of_unequal_tables_is_refused():
    with pytest.raises(InputError, match="different shapes"):
        Rectified([[1, 1]], [[0], [0]])


# --- guidance ---


def guided(conditional, unconditional, scale):
    def denoise(x, t):
        base = unconditional(x, t)
        return base + scale * (conditional(x, t) - base)

    return denoise


def test_two_binds_under_guidance_equal_two_independent_runs():
    denoiser, blocks, shape = network_of("digits_dit")
    schedule = scheduled(denoiser, blocks, shape, uniform(N, 8, 2, kept=[0]))
    x, grid = noise(denoiser, shape), schedule.grid
    cond, uncond = (labelled(denoiser, torch.tensor([label])) for label in (3, 10))
    states = list(steps(guided(schedule.bind(cond), schedule.bind(uncond), 2.0), x, grid, SOLVER))
    plan, state = SOLVER.plan(grid), SOLVER.plan(grid).start(x)
    alone = schedule.bind(cond), schedule.bind(uncond)
    points = [state, *states[:-1]]
    answers = [[one(point.x, point.t) for point in points] for one in alone]  # one whole run, and then the other
    for c, u, after in zip(*answers, states, strict=True):
        state = plan.advance(state, u + 2.0 * (c - u))
        assert torch.equal(state.x, after.x)


def test_one_store_for_both_calls_of_guidance_is_refused():
    denoiser, blocks, shape = network_of("digits_dit")
    bound = scheduled(denoiser, blocks, shape, uniform(N, 8, 2)).bind(denoiser)
    x, grid = noise(denoiser, shape), trailing_grid(denoiser.process, N)
    shared = guided(labelled(bound, torch.tensor([3])), labelled(bound, torch.tensor([10])), 2.0)
    with pytest.raises(InputError, match="one for conditional, one for unconditional"):
        sample(shared, x, grid, SOLVER)


# --- the network stays as it was ---


def test_nothing_stays_patched_after_an_error():
    denoiser, blocks, _ = mlp()
    network = denoiser.network
    before = copy.deepcopy(network)
    x, time = torch.ones(2, 6), torch.ones(2)

    def fails(call):
        if call.column == 1:
            raise RuntimeError("out of memory")
        return 0 * call.compute()

    with pytest.raises(RuntimeError, match="out of memory"), intercepted(network, blocks, fails):
        network(x, time)
    assert all("forward" not in vars(module) for module in network.modules())
    assert torch.equal(network(x, time), before(x, time))


def test_rules_nest_and_a_forward_patched_by_others_comes_back():
    denoiser, blocks, _ = mlp(1)
    network = denoiser.network
    x, time = torch.ones(2, 6), torch.ones(2)
    block, entered = network.blocks[0], []
    own = block.forward
    block.forward = lambda h, e: entered.append("own") or own(h, e)
    patched = vars(block)["forward"]
    outer = intercepted(network, blocks, lambda call: entered.append("outer") or call.compute())
    inner = intercepted(network, blocks, lambda call: entered.append("inner") or call.compute())
    with outer, inner:
        network(x, time)
    assert entered == ["inner", "outer", "own"]
    assert vars(block)["forward"] is patched


@pytest.mark.parametrize("predictor", ["latest", "taylor"])
def test_a_sampling_that_stopped_leaves_no_trace_in_the_next(predictor):
    denoiser, blocks, shape = mlp()
    schedule = scheduled(denoiser, blocks, shape, uniform(N, 3, 2), predictor=predictor)
    bound, grid = schedule.bind(denoiser), schedule.grid
    stopped = steps(bound, noise(denoiser, shape, seed=9), grid, SOLVER)
    next(stopped), next(stopped)
    x = noise(denoiser, shape, count=2)  # another batch size too
    assert torch.equal(sample(bound, x, grid, SOLVER), sample(schedule.bind(denoiser), x, grid, SOLVER))


def test_works_under_our_scheduler_for_diffusers():
    denoiser, blocks, shape = network_of("photo_unet")
    like = DDPMScheduler(trained_betas=LINEAR_BETAS.tolist(), prediction_type="v_prediction", clip_sample=False)
    scheduler = as_diffusers_scheduler(SOLVER, like=like, grid="trailing")
    schedule = scheduled(denoiser, blocks, shape, uniform(N, 3, 2, kept=[0]))
    x = noise(denoiser, shape)
    network = schedule.bind(denoiser).network
    scheduler.set_timesteps(N)
    moving = x
    for timestep in scheduler.timesteps:
        moving = scheduler.step(network(moving, timestep).sample, timestep, moving).prev_sample
    torch.testing.assert_close(moving, sample(schedule.bind(denoiser), x, schedule.grid, SOLVER), rtol=1e-4, atol=1e-5)


# --- calls that do not belong ---


def reusing(mask=MASK, times=TIMES, **kwargs):
    torch.manual_seed(0)
    return ReusingNetwork(TwoParts(), BOTH, mask, times, **kwargs)


def call(network, time, count=2):
    return network(torch.ones(count, 4), torch.full((count,), float(time)))


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([(9, 2), (5, 2)], "time 5"),
        ([(7, 2)], "no earlier step"),
        ([(9, 2), (7, 2), (7, 2)], "step 1 just made"),
        ([(9, 2), (4, 2), (7, 2)], "step 2 just made"),
        ([(9, 2), (7, 3)], r"a batch \(3, 4\)"),
    ],
)
def test_calls_out_of_order_or_of_another_batch_are_refused(calls, message):
    network = reusing()
    for time, count in calls[:-1]:
        call(network, time, count)
    with pytest.raises(InputError, match=message):
        call(network, *calls[-1])


def test_a_batch_at_several_times_is_refused():
    with pytest.raises(InputError, match="several times in one batch"):
        reusing()(torch.ones(2, 4), torch.tensor([9.0, 7.0]))


def test_the_time_may_be_a_keyword_and_times_may_be_rounded():
    network = reusing(time_argument="time")
    direct = reusing()
    for time in TIMES:
        x = torch.full((2, 4), time)
        rounded = torch.full((2,), time).bfloat16().float() * (1 + 1e-6)
        assert torch.allclose(network(x, time=rounded), direct(x, torch.full((2,), time)), atol=1e-4)


def test_two_steps_at_one_time_are_refused():
    with pytest.raises(InputError, match="two steps at one time"):
        reusing(times=[9.0, 7.0, 7.0, 2.0, 1.0])


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([Block("a", ("missing",))], "no module called 'missing'"),
        ([Block("a", ())], "no modules"),
        ([Block("a", ("first",)), Block("b", ("first",))], "first covered twice"),
        ([Block("a", ("",))], "no module called ''"),
    ],
)
def test_blocks_that_the_network_does_not_have_are_refused(blocks, message):
    with pytest.raises(InputError, match=message):
        ReusingNetwork(TwoParts(), blocks, torch.ones(2, len(blocks)), [1.0, 0.5])


def test_a_block_inside_another_is_refused():
    denoiser, blocks, _ = mlp()
    with pytest.raises(InputError, match="covered twice"):
        ReusingNetwork(denoiser.network, [*blocks, Block("in", ("blocks.0.layers",))], torch.ones(1, 4), [1.0])


def test_architectures_without_the_parts_are_refused():
    with pytest.raises(InputError, match="no modules called down_blocks"):
        unet_levels(TwoParts())
    with pytest.raises(InputError, match="no modules called blocks"):
        stack(TwoParts(), "blocks")
    with pytest.raises(InputError, match=r"no module called 'blocks\.0\.attn'"):
        stack(mlp()[0].network, "blocks", ("attn",))


def test_levels_of_the_one_dimensional_unet_hold_all_of_it_but_its_ends():
    _, blocks, _ = example("shared/action_unet")
    names = {name for block in blocks for name in block.modules}
    assert names == {*(f"down_blocks.{i}" for i in range(3)), *(f"up_blocks.{i}" for i in range(2)), "mid_block"}
    assert blocks[-1].modules[-1] == "mid_block"

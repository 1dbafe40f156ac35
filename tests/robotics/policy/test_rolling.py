import pytest
import torch

from robotics.policy.rolling import RollingPolicy
from robotics.policy.warmstart import WarmStart, shifted, spread_levels
from shared.errors import InputError
from shared.ledger import Ledger
from shared.solvers.ancestral import Ancestral
from shared.solvers.ddim import DDIM
from tests.oracles.gaussian import ddim_moments
from tests.robotics.policy.gaussian import LENGTH, gaussian_policy, mean_of, observing

STD = 0.2
CONTIGUOUS = tuple(range(20, -1, -1))


def chunks_of(tick: int, count: int, seed: int) -> torch.Tensor:
    noise = torch.randn(count, LENGTH, 2, generator=torch.Generator().manual_seed(seed))
    return mean_of(torch.full((count,), tick)) + STD * noise


def rolled(warm: WarmStart, solver, ticks: int, count: int = 4000) -> torch.Tensor:
    """Return the chunks after so many ticks, each started from the one before; the first is drawn exactly."""
    rolling = RollingPolicy(gaussian_policy(STD), warm=warm, solver=solver, environments=count)
    rolling.act(observing(10, count))
    rolling._memory.chunk = chunks_of(10, count, seed=1)
    generator = torch.Generator().manual_seed(2)
    for tick in range(11, 11 + ticks):
        made = rolling.act(observing(tick, count), executed=1, generator=generator)
        assert bool(made.warm.all())
    return made.chunk.normalised


def test_renoised_warm_start_has_the_law_of_the_policy():
    policy = gaussian_policy(STD)
    grid = policy.levels(CONTIGUOUS)
    start_std = (grid.alpha[0] ** 2 * STD**2 + grid.sigma[0] ** 2) ** 0.5
    for solver, eta in ((DDIM(), 0.0), (Ancestral(), 1.0)):
        found = rolled(WarmStart(levels=CONTIGUOUS), solver, ticks=1)[:, :-1]
        _, std = ddim_moments(grid.alpha, grid.sigma, start_std, std=STD, eta=eta)
        assert std == pytest.approx(STD, rel=0.08)  # what so many steps of the solver leave
        assert float((found.mean(0) - mean_of(torch.tensor([11]))[0, :-1]).abs().max()) < 5 * STD / 4000**0.5
        assert float(found.std(0).mean()) == pytest.approx(std, rel=0.01)


def test_without_noise_deterministic_warm_starts_lose_their_spread_and_with_it_they_keep_it():
    policy = gaussian_policy(STD)
    grid = policy.levels(CONTIGUOUS)
    _, slope = ddim_moments(grid.alpha, grid.sigma, 1.0, std=STD)
    frozen = rolled(WarmStart(mode="shift", levels=CONTIGUOUS), DDIM(), ticks=3, count=1000)[:, :12]
    assert float((frozen - frozen.mean(0)).std()) == pytest.approx(STD * slope**3, rel=0.05)
    alive = rolled(WarmStart(levels=CONTIGUOUS), DDIM(), ticks=8, count=1000)[:, :8]
    variance = STD**2
    for _ in range(8):  # the fixed point lies near the variance of the policy
        variance = slope**2 * (grid.alpha[0] ** 2 * variance + grid.sigma[0] ** 2)
    assert variance > (0.9 * STD) ** 2
    assert float((alive - alive.mean(0)).std()) == pytest.approx(variance**0.5, rel=0.05)


def test_stride_in_the_levels_is_a_real_sub_sequence():
    found = rolled(WarmStart(levels=(20, 10, 4, 0)), DDIM(), ticks=1)[:, :-1]
    grid = gaussian_policy(STD).levels((20, 10, 4, 0))
    start_std = (grid.alpha[0] ** 2 * STD**2 + grid.sigma[0] ** 2) ** 0.5
    _, std = ddim_moments(grid.alpha, grid.sigma, start_std, std=STD)
    assert float(found.std(0).mean()) == pytest.approx(std, rel=0.01)
    assert float((found.mean(0) - mean_of(torch.tensor([11]))[0, :-1]).abs().max()) < 0.02


def test_shift_moves_by_the_actions_executed_and_repeats_or_extrapolates_the_tail():
    chunk = torch.arange(6.0)[None, :, None].repeat(3, 1, 1) ** 2
    moved = shifted(chunk, torch.tensor([0, 2, 9]))
    assert moved[0, :, 0].tolist() == [0, 1, 4, 9, 16, 25]
    assert moved[1, :, 0].tolist() == [4, 9, 16, 25, 25, 25]
    assert moved[2, :, 0].tolist() == [25] * 6
    on = shifted(chunk, torch.tensor([0, 2, 2]), linear=True)
    assert on[1, :, 0].tolist() == [4, 9, 16, 25, 34, 43]
    warm = WarmStart(mode="extrapolate")
    assert warm.guess(chunk, torch.tensor([2, 2, 2]), 30.0)[0, :, 0].tolist() == [4, 9, 16, 25, 30, 30]


def test_published_mode_feeds_the_guess_as_it_is():
    policy = gaussian_policy()
    guess = torch.randn(2, LENGTH, 2)
    assert torch.equal(WarmStart(mode="shift").start(guess, policy.process, 0.2, None), guess)
    generator = torch.Generator().manual_seed(0)
    half = WarmStart(renoise=0.5).start(guess, policy.process, 0.2, generator)
    z = torch.randn(guess.shape, generator=torch.Generator().manual_seed(0))
    expected = float(policy.process.alpha(0.2)) * guess + 0.5 * float(policy.process.sigma(0.2)) * z
    torch.testing.assert_close(half, expected)


def test_each_environment_has_its_own_memory_and_reset():
    rolling = RollingPolicy(gaussian_policy(), warm=WarmStart(levels=(4, 0)), environments=3)
    first = rolling.act(observing(5, 3))
    assert first.calls.tolist() == [10, 10, 10]
    assert not bool(first.warm.any())
    rolling.reset([1])
    with Ledger() as ledger:
        second = rolling.act(observing(6, 3))
    assert second.warm.tolist() == [True, False, True]
    assert second.calls.tolist() == [2, 10, 2]
    assert ledger.samples == int(second.calls.sum())
    third = rolling.act(observing(7, 2), rows=[2, 0])
    assert third.warm.tolist() == [True, True]
    rolling.reset()
    assert not bool(rolling.act(observing(8, 3)).warm.any())


def test_row_does_not_depend_on_the_others():
    def second(count: int, rows: list[int]) -> torch.Tensor:
        rolling = RollingPolicy(gaussian_policy(), warm=WarmStart(mode="shift", levels=(8, 3, 0)), environments=count)
        rolling.act(observing(5, count))
        rolling._memory.chunk = chunks_of(5, count, seed=3) if count == 3 else chunks_of(5, 3, seed=3)[rows]
        return rolling.act(observing(6, count)).chunk.actions

    torch.testing.assert_close(second(3, [0, 1, 2])[1], second(1, [1])[0])


def test_change_of_the_observation_starts_cold():
    warm = WarmStart(levels=(4, 0), observation_gate=1.5)
    rolling = RollingPolicy(gaussian_policy(), warm=warm, environments=2)
    rolling.act(observing(5, 2))
    seen = observing(6, 2)
    seen[1] = observing(40, 1)[0]
    made = rolling.act(seen)
    assert made.warm.tolist() == [True, False]
    assert made.restarted.tolist() == [False, True]
    assert made.calls.tolist() == [2, 10]
    assert bool(rolling.act(torch.stack([observing(10, 1)[0], observing(44, 1)[0]]), executed=4).warm.all())


def test_guess_far_from_the_estimate_starts_cold_after_one_call():
    rolling = RollingPolicy(gaussian_policy(0.05), warm=WarmStart(levels=(20, 4, 0), guess_gate=0.3), environments=2)
    rolling.act(observing(5, 2))
    rolling._memory.chunk[1] += 2.0
    made = rolling.act(observing(6, 2))
    assert made.restarted.tolist() == [False, True]
    assert made.calls.tolist() == [3, 11]
    assert float((made.chunk.actions[1] - mean_of(torch.tensor([6]))[0]).abs().max()) < 0.3


def test_deadline_returns_the_estimate_of_the_last_call():
    policy = gaussian_policy()
    rolling = RollingPolicy(policy, warm=WarmStart(mode="shift", levels=(20, 10, 0)))
    rolling.act(observing(5, 1))
    guess = shifted(rolling._memory.chunk.clone(), torch.tensor([1]))
    made = rolling.act(observing(6, 1), until=lambda calls: calls >= 1)
    assert not made.complete
    assert made.calls.tolist() == [1]
    torch.testing.assert_close(made.chunk.normalised, policy.denoiser(observing(6, 1))(guess, 21 / 100))


def test_same_seed_gives_the_same_chunks_and_another_does_not():
    def run(seed: int) -> torch.Tensor:
        rolling = RollingPolicy(gaussian_policy(), warm=WarmStart(levels=(8, 0)), environments=2)
        generator = torch.Generator().manual_seed(seed)
        rolling.act(observing(3, 2), generator=generator)
        return rolling.act(observing(4, 2), generator=generator).chunk.actions

    assert torch.equal(run(0), run(0))
    assert not torch.allclose(run(0), run(1))


def test_bad_input_is_refused():
    rolling = RollingPolicy(gaussian_policy(), warm=WarmStart(levels=(4, 0)))
    with pytest.raises(InputError, match="NaN"):
        rolling.act(torch.full((1, 2, 1), torch.nan))
    with pytest.raises(InputError, match="2 of them, 1 environments"):
        rolling.act(observing(3, 2))
    with pytest.raises(InputError, match=r"expected \(N, 2, 1\)"):
        rolling.act(torch.zeros(1, 3, 1))
    with pytest.raises(InputError, match="entries from 0 to 99"):
        RollingPolicy(gaussian_policy(), warm=WarmStart(levels=(100, 0)))
    with pytest.raises(ValueError, match="levels must fall"):
        WarmStart(levels=(1, 3))


def test_levels_are_spread_from_the_highest_to_zero():
    assert spread_levels(20, 4) == (20, 11, 4, 0)
    assert spread_levels(2, 5) == (2, 1, 0)
    assert spread_levels(7, 1) == (7,)

"""Chunks given a committed prefix, against the conditional law of a Gaussian, the published formula and commands."""

import numpy as np
import pytest
import torch

from robotics.policy.chunking import RealTimeChunking, guided_by_vjp, inpainted, soft_mask
from robotics.policy.evaluation import evaluate
from robotics.policy.rolling import RollingPolicy
from robotics.policy.warmstart import WarmStart, shifted
from shared.denoiser import NetworkDenoiser
from shared.errors import InputError
from shared.process import FlowMatching
from shared.sampling import sample
from shared.solvers.ancestral import Ancestral
from shared.solvers.ddim import DDIM
from tests.robotics.policy.gaussian import LENGTH, covariance_of, gaussian_policy, mean_of, observing
from tests.robotics.policy.test_evaluation import Clock

STD, OFFSET = 0.2, 0.3


def affine_map(method: str, correlation: float, committed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrix of the 100-step DDIM sampling, noise to chunk, and its result without noise (less the mean).

    Everything is linear here, so 16 unit vectors and a zero tell the law of the samples without sampling error.
    """
    policy, count = gaussian_policy(STD, correlation=correlation), LENGTH + 1
    x = torch.zeros(count, LENGTH, 2, dtype=torch.float64)
    x[:LENGTH, :, 0] = torch.eye(LENGTH)
    mean = mean_of(torch.full((count,), 10)).double()
    weights = (torch.arange(LENGTH) < committed).double().expand(count, -1)
    denoiser = policy.denoiser(observing(10, count))
    if method == "vjp":
        denoiser = guided_by_vjp(denoiser, policy.process, mean + OFFSET, weights, most=1e9, data_std=STD)
    elif method == "inpaint":
        denoiser = inpainted(denoiser, policy.process, mean + OFFSET, weights, x)
    ends = sample(denoiser, x, policy.grid(), DDIM())[..., 0]
    return (ends[:-1] - ends[-1]).T, ends[-1] - mean[0, :, 0]


def conditional(correlation: float, committed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean (less the unconditional one) and covariance of the free entries given the committed ones."""
    cov = covariance_of(STD, correlation)
    gain = cov[committed:, :committed] @ torch.linalg.inv(cov[:committed, :committed])
    return gain.sum(1) * OFFSET, cov[committed:, committed:] - gain @ cov[:committed, committed:]


@pytest.mark.parametrize("correlation", [0.3, 0.6])
def test_vjp_has_the_conditional_law_of_a_gaussian(correlation):
    plain, _ = affine_map("none", correlation, 1)
    discretisation = (plain @ plain.T - covariance_of(STD, correlation)).abs().max()
    matrix, found = affine_map("vjp", correlation, 1)
    mean, covariance = conditional(correlation, 1)
    # C_00 / r^2 falls short of 1 by at most v / 4 to leading order, v = sum_j rho_0j^2, the variance (relative to s^4)
    # of the spectral measure of the committed entry: f(l) = l kappa^2 / (l + kappa^2), f'' / 2f <= 1/4 at l = s^2.
    short = correlation**2 / (1 - correlation**2) / 4
    assert float((found[1:] - mean).abs().max()) < short * float(mean.max())
    assert float(found[0]) == pytest.approx(OFFSET, rel=short)
    free = (matrix @ matrix.T)[1:, 1:]
    assert float((free - covariance).abs().max()) < 1.01 * discretisation
    assert float(discretisation) < 0.07 * STD**2


def test_inpainting_keeps_the_prefix_and_tells_the_rest_too_little_of_it():
    correlation, committed = 0.6, 4
    _, found = affine_map("inpaint", correlation, committed)
    policy, cov = gaussian_policy(STD, correlation=correlation), covariance_of(STD, correlation)
    grid = policy.grid()
    x = torch.zeros(LENGTH, dtype=torch.float64)  # its mean, replaced at every level by hand
    for k in range(grid.steps):
        alpha, sigma, gain = grid.alpha[k], grid.sigma[k], grid.sigma[k + 1] / grid.sigma[k]
        x[:committed] = alpha * OFFSET
        x0 = alpha * cov @ torch.linalg.solve(alpha**2 * cov + sigma**2 * torch.eye(LENGTH, dtype=torch.float64), x)
        x0[:committed] = OFFSET
        x = gain * x + (grid.alpha[k + 1] - alpha * gain) * x0
    torch.testing.assert_close(found, x, rtol=0, atol=2e-4)  # float32 levels near t = 1, where alpha is 2e-4
    mean, _ = conditional(correlation, committed)
    assert float(found[committed]) < 0.5 * float(mean[0])  # the known bias of replacement
    torch.testing.assert_close(found[:committed], torch.full((committed,), OFFSET, dtype=torch.float64))
    _, guided = affine_map("vjp", correlation, committed)
    assert abs(float(guided[committed] - mean[0])) < 0.3 * float(mean[0])  # it counts related numbers as independent


def test_uncorrelated_chunks_are_the_same_either_way():
    (one, a), (two, b) = (affine_map(method, 0.0, 3) for method in ("vjp", "inpaint"))
    torch.testing.assert_close(one[3:, 3:], two[3:, 3:])
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("t", "most"), [(0.3, 5.0), (0.9, 5.0), (0.99, 5.0), (0.5, 0.2)])
def test_vjp_is_the_published_formula_for_a_velocity(t, most):
    generator = torch.Generator().manual_seed(0)
    mix = torch.randn(8, 8, generator=generator, dtype=torch.float64) / 4
    x, target = torch.randn(2, 1, 4, 2, generator=generator, dtype=torch.float64)
    weights = soft_mask(4, 1, torch.tensor([1])).double()

    def velocity(x, _=None):  # dx / dtau at tau = 1 - t
        return torch.tanh(x.flatten(1) @ mix).reshape(x.shape)

    process, tau = FlowMatching(), 1 - t
    denoiser = NetworkDenoiser(lambda x, time: -velocity(x), process, "flow")
    torch.testing.assert_close(denoiser(x, t), x + t * velocity(x))
    jacobian = torch.func.jacrev(lambda x: (x + (1 - tau) * velocity(x)).flatten())(x).reshape(8, 8)
    wrong = (weights[..., None] * (target - x - (1 - tau) * velocity(x))).flatten()
    r2 = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
    published = velocity(x) + min(most, (1 - tau) / (tau * r2)) * (wrong @ jacobian).reshape(x.shape)
    found = guided_by_vjp(denoiser, process, target, weights, most=most)(x, t)
    torch.testing.assert_close((found - x) / (1 - tau), published)


def test_soft_mask_is_the_published_one():
    # H = 10, d = 2, s = 3: c_i = (7 - i) / 6
    mask = soft_mask(10, 2, torch.tensor([3, 0, 9]))
    c = (7 - np.arange(2, 7)) / 6
    np.testing.assert_allclose(mask[0], [1, 1, *(c * np.expm1(c) / (np.e - 1)), 0, 0, 0], rtol=1e-6)
    assert bool((mask.diff(dim=1) <= 0).all())
    assert mask[2].tolist() == [1] + [0] * 9  # the last chunk reaches no further


def rolled(chunking: RealTimeChunking | None, *, mode="cold", count=2000, solver=None, levels=(40, 20, 10, 4, 0)):
    """Return the chunk of tick 10 moved by two actions, and that of tick 12."""
    rolling = RollingPolicy(
        gaussian_policy(STD, correlation=0.95),
        warm=WarmStart(mode=mode, levels=levels),
        solver=solver,
        chunking=chunking,
        environments=count,
    )
    generator = torch.Generator().manual_seed(0)
    old = rolling.act(observing(10, count), generator=generator).chunk.normalised
    new = rolling.act(observing(12, count), executed=2, generator=generator).chunk.normalised
    return shifted(old, torch.full((count,), 2)), new


@pytest.mark.parametrize("method", ["inpaint", "vjp"])
@pytest.mark.parametrize("mode", ["cold", "shift+renoise"])
def test_chunks_are_continuous_at_the_seam(method, mode):
    chunking = RealTimeChunking(delay=3, method=method, data_std=STD)
    old, new = rolled(chunking, mode=mode)
    assert torch.equal(new[:, :4], old[:, :4])  # one past and three committed actions
    step = new[:, 4] - old[:, 3]
    free_old, free_new = rolled(None)
    jump = float((free_new[:, 4] - free_old[:, 3]).std())
    assert jump > 1.1 * STD  # independent chunks: sqrt(2) STD, less what ten steps of DDIM lose
    assert float(step.std()) < 0.5 * jump
    assert float((step.mean(0) - mean_of(torch.tensor([12]))[0, 3:5].diff(dim=0)).abs().max()) < 0.05


def test_stochastic_solvers_keep_the_prefix():
    old, new = rolled(RealTimeChunking(delay=2), solver=Ancestral(), count=50)
    assert torch.equal(new[:, :3], old[:, :3])
    assert not torch.allclose(new[:, 8:], old[:, 8:], atol=0.01)


def test_only_environments_with_a_plan_are_joined_and_restarts_keep_what_is_committed():
    warm = WarmStart(levels=(4, 0), observation_gate=1.5)
    rolling = RollingPolicy(gaussian_policy(STD), warm=warm, chunking=RealTimeChunking(delay=2), environments=3)
    old = shifted(rolling.act(observing(5, 3)).chunk.normalised, torch.ones(3, dtype=torch.int64))
    rolling.reset([1])
    seen = observing(6, 3)
    seen[2] = observing(40, 1)[0]
    tick = rolling.act(seen)
    assert tick.restarted.tolist() == [False, False, True]
    new = tick.chunk.normalised
    assert torch.equal(new[[0, 2], :3], old[[0, 2], :3])
    assert float((new[1, :3] - old[1, :3]).abs().max()) > 0.01
    # The rest of a restarted plan follows the new observation alone: nothing of the soft mask is left.
    assert float((new[2, 3:] - mean_of(torch.tensor([40]))[0, 3:]).abs().max()) < 5 * STD


@pytest.mark.parametrize(("execute", "latency"), [(1, 0), (4, 2), (4, 4), (1, 3)])
def test_committed_actions_are_those_that_the_world_gets(execute, latency, monkeypatch):
    chunking = RealTimeChunking(delay=latency, method="vjp", data_std=STD)
    rolling = RollingPolicy(gaussian_policy(STD), warm=WarmStart(levels=(20, 4, 0)), chunking=chunking)
    chunks, act = [], rolling.act
    monkeypatch.setattr(Clock, "worlds", [])

    def spied(*args, **kwargs):
        chunks.append(act(*args, **kwargs))
        return chunks[-1]

    monkeypatch.setattr(rolling, "act", spied)
    evaluate(rolling, Clock, [3], execute=execute, latency=latency)
    commands = np.array(Clock.worlds[0].actions)
    compared = 0
    for tick in range(1, len(chunks)):
        now = tick * execute
        if now <= latency:  # the past entry is of a tick in which nothing was decided yet
            continue
        promised = chunks[tick].chunk.actions[0, : 1 + latency].numpy()
        real = commands[now - 1 : now + latency]
        np.testing.assert_allclose(promised[: len(real)], real, atol=1e-6)
        compared += len(real)
    assert compared > 3


def test_bad_delays_are_refused():
    with pytest.raises(InputError, match="0 or more"):
        RealTimeChunking(delay=-1)
    with pytest.raises(InputError, match="at most 14"):
        RollingPolicy(gaussian_policy(), chunking=RealTimeChunking(delay=15))

"""Temporal ensembling, bidirectional decoding and partial denoising against their formulas, and all by name."""

import numpy as np
import pytest
import torch

from robotics.policy.bidirectional import BidirectionalDecoding
from robotics.policy.ensembling import TemporalEnsemble
from robotics.policy.evaluation import evaluate
from robotics.policy.execution import EXECUTIONS, named_execution
from robotics.policy.partial import PartialDenoising
from robotics.policy.rolling import RollingPolicy
from robotics.policy.warmstart import WarmStart, shifted
from shared.errors import InputError
from shared.ledger import Ledger
from tests.robotics.policy.gaussian import LENGTH, gaussian_policy, mean_of, observing
from tests.robotics.policy.test_evaluation import Clock

STD = 0.2


def acted(acting, ticks, count: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    moves = [1, *np.diff(ticks)]
    return [
        acting.act(observing(tick, count), executed=int(move), generator=generator).chunk.normalised
        for tick, move in zip(ticks, moves, strict=True)
    ]


def test_ensemble_is_the_weighted_mean_of_all_chunks_that_foresaw_the_tick():
    ticks, rate, count = [5, 6, 8, 9], 0.3, 3
    cold = WarmStart(mode="cold")
    single = acted(RollingPolicy(gaussian_policy(STD), warm=cold, environments=count), ticks, count)
    rolling = RollingPolicy(gaussian_policy(STD), warm=cold, environments=count)
    found = acted(TemporalEnsemble(rolling, rate=rate), ticks, count)[-1]
    for entry in range(LENGTH):
        tick = ticks[-1] + entry  # of the entry, counted as the entries of each chunk are
        foresaw = [chunk[:, tick - begin] for begin, chunk in zip(ticks, single, strict=True) if tick - begin < LENGTH]
        weights = np.exp(-rate * np.arange(len(foresaw)))
        wanted = sum(float(w) * one for w, one in zip(weights / weights.sum(), foresaw, strict=True))
        torch.testing.assert_close(found[:, entry], wanted)


def test_ensemble_forgets_on_reset_and_on_a_detected_change():
    warm = WarmStart(levels=(4, 0), observation_gate=1.5)
    ensemble = TemporalEnsemble(RollingPolicy(gaussian_policy(1e-3), warm=warm, environments=2))
    for tick in (5, 6):
        ensemble.act(observing(tick, 2))
    seen = observing(7, 2)
    seen[1] = observing(22, 1)[0]  # half a wave later, where the old mean is wrong
    made = ensemble.act(seen)
    assert made.restarted.tolist() == [False, True]
    wanted = mean_of(torch.tensor([7, 22]))
    assert float((made.chunk.normalised - wanted).abs().max()) < 0.01
    ensemble.reset([0])
    fresh = ensemble.act(torch.stack([observing(40, 1)[0], observing(23, 1)[0]])).chunk.normalised
    assert float((fresh - mean_of(torch.tensor([40, 23]))).abs().max()) < 0.01


def test_bidirectional_losses_are_their_sums():
    generator = torch.Generator().manual_seed(0)
    drawn, worse = torch.randn(2, 1, 4, LENGTH, 2, generator=generator)
    target = torch.randn(1, LENGTH, 2, generator=generator)
    decoding = BidirectionalDecoding(gaussian_policy(), samples=4, decay=0.5)
    coherence = decoding.coherence(drawn, target, torch.tensor([3]))
    contrast = decoding.contrast(drawn, worse)
    for n in range(4):
        backward = sum(0.5 ** (i - 1) * float((drawn[0, n, i] - target[0, i]).norm()) for i in range(1, LENGTH - 3))
        assert float(coherence[0, n]) == pytest.approx(backward, rel=1e-5)
        sets = [
            sum(float((drawn[0, n, i] - other[0, j, i]).norm()) for j in range(4) for i in range(1, LENGTH))
            for other in (drawn, worse)
        ]
        assert float(contrast[0, n]) == pytest.approx((sets[0] - sets[1]) / 4, rel=1e-4)


def test_bidirectional_decoding_goes_on_with_the_last_chunk_and_counts_all_calls():
    count = 200

    def jump(acting) -> float:
        old, new = acted(acting, [5, 6], count)
        return float((new[:, 1] - old[:, 2]).std())  # both are of the same tick

    many = BidirectionalDecoding(gaussian_policy(STD), samples=8, environments=count)
    assert jump(many) < 0.7 * jump(BidirectionalDecoding(gaussian_policy(STD), samples=1, environments=count))
    weak = BidirectionalDecoding(gaussian_policy(STD), weak=gaussian_policy(2 * STD), samples=8, environments=count)
    with Ledger() as ledger:
        made = weak.act(observing(5, count))
    assert made.calls.tolist() == [160] * count
    assert ledger.samples == 160 * count
    stopped = many.act(observing(7, count), until=lambda calls: calls >= 2)
    assert not stopped.complete
    assert stopped.calls.tolist() == [16] * count


def test_contrast_prefers_chunks_unlike_the_weaker_policy():
    count = 100
    strong, shifted_law = gaussian_policy(STD), gaussian_policy(STD, drift=0.02)  # at tick 10 it plans 0.2 higher
    alone, against = (
        BidirectionalDecoding(strong, weak=weak, samples=16, environments=count) for weak in (None, shifted_law)
    )
    plain, unlike = (float(acted(one, [10], count)[0][:, 1:].mean()) for one in (alone, against))
    assert unlike < plain - 0.01


def test_partial_denoising_goes_on_from_the_lowest_level_that_fits_and_from_noise_where_none_does():
    policy = gaussian_policy(0.05)
    partial = PartialDenoising(policy, threshold=0.1, explore=0.0, environments=2)
    first = partial.act(observing(5, 2))
    assert first.calls.tolist() == [10, 10]
    assert not bool(first.warm.any())
    seen = observing(6, 2)
    seen[1] = observing(21, 1)[0]  # half a wave later: no state of the last sampling fits
    states = partial._states.clone()
    with Ledger() as ledger:
        second = partial.act(seen)
    assert second.warm.tolist() == [True, False]
    # Nine estimates in one batch, of which the last is the whole sampling; ten calls from noise besides.
    assert second.calls.tolist() == [9, 19]
    assert ledger.samples == 28
    going_on = policy.denoiser(observing(6, 1))(shifted(states[:1, -1], torch.tensor([1])), partial.grid.times[-2])
    torch.testing.assert_close(second.chunk.normalised[:1, :-1], going_on[:, :-1])  # its new end is fresh noise
    assert float((second.chunk.normalised[1] - mean_of(torch.tensor([21]))[0]).abs().max()) < 0.25


def test_partial_denoising_explores_and_resets():
    partial = PartialDenoising(gaussian_policy(0.05), explore=1.0)
    partial.act(observing(5, 1))
    assert not bool(partial.act(observing(6, 1)).warm.any())
    partial = PartialDenoising(gaussian_policy(0.05), explore=0.0, threshold=10.0)
    partial.act(observing(5, 1))
    partial.reset()
    assert partial.act(observing(6, 1)).calls.tolist() == [10]
    stopped = partial.act(observing(50, 1), until=lambda calls: True)
    assert stopped.complete  # the lowest level needs no call after its estimate


@pytest.mark.parametrize("name", EXECUTIONS)
def test_every_execution_acts_in_the_evaluation(name):
    acting = named_execution(name, gaussian_policy(1e-3), warm=WarmStart(levels=(4, 0)), latency=2, environments=2)
    Clock.worlds = []
    found = evaluate(acting, Clock, [3, 9], execute=4, latency=2)
    for begin, world in zip((3, 9), Clock.worlds, strict=True):
        wanted = 0.5 * np.sin(0.2 * (begin + np.arange(15)))
        np.testing.assert_allclose(np.array(world.actions)[2:, 0], wanted[2:], atol=0.02)
    assert found.episodes[0].drawn == 4


def test_bad_executions_are_refused():
    policy, warm = gaussian_policy(), WarmStart(levels=(4, 0))
    with pytest.raises(InputError, match="magic"):
        named_execution("magic", policy, warm=warm)
    with pytest.raises(InputError, match="bid"):
        named_execution("rtc", policy, warm=warm, weak=policy)
    with pytest.raises(InputError, match="samples"):
        BidirectionalDecoding(policy, samples=0)
    with pytest.raises(InputError, match="threshold"):
        PartialDenoising(policy, threshold=0.0)
    with pytest.raises(InputError, match="1 environments"):
        BidirectionalDecoding(policy).act(observing(3, 2))

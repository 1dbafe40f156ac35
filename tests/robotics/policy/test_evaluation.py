import time

import numpy as np
import pytest
import torch

from robotics.policy.evaluation import evaluate
from robotics.policy.rolling import RollingPolicy
from robotics.policy.warmstart import WarmStart
from shared.errors import InputError
from tests.robotics.policy.gaussian import gaussian_policy, mean_of


class Clock:
    """A world that tells its tick and keeps the actions; the right action of tick n is the mean of the law at n."""

    rate_hz, steps, first_seed = 10.0, 20, 0
    worlds: list["Clock"] = []  # noqa: RUF012 - so that a test can look into them

    def __init__(self) -> None:
        Clock.worlds.append(self)
        self.actions: list[np.ndarray] = []
        self.tick = 0

    def reset(self, seed):
        self.tick, self.begin, self.actions = seed, seed, []
        return {"tick": np.array([seed], dtype=np.float32)}

    def step(self, action):
        self.actions.append(np.array(action))
        wanted = 0.5 * np.sin(0.2 * self.tick)
        self.tick += 1
        seen = {"tick": np.array([self.tick], dtype=np.float32)}
        return seen, float(1 - min(1, abs(action[0] - wanted))), self.tick - self.begin >= 15

    def hold(self, seen):
        return np.array([9.0, 9.0])

    def disturb(self, source, size):
        self.tick += int(size)

    def close(self):
        pass


@pytest.fixture(autouse=True)
def _no_worlds():
    Clock.worlds = []


def rolling(std: float = 1e-3, environments: int = 1, **warm) -> RollingPolicy:
    return RollingPolicy(gaussian_policy(std), warm=WarmStart(**{"levels": (4, 0), **warm}), environments=environments)


def wanted(begin: int, count: int) -> np.ndarray:
    return 0.5 * np.sin(0.2 * (begin + np.arange(count)))


@pytest.mark.parametrize(("execute", "latency"), [(1, 0), (4, 0), (1, 3), (4, 2), (8, 5)])
def test_actions_come_at_their_tick_whatever_the_latency(execute, latency):
    found = evaluate(rolling(), Clock, [3], execute=execute, latency=latency)
    actions = np.array(Clock.worlds[0].actions)[:, 0]
    assert len(actions) == 15
    assert np.all(actions[:latency] == 9.0)  # nothing is decided yet, so the world stays
    np.testing.assert_allclose(actions[latency:], wanted(3, 15)[latency:], atol=0.02)
    assert found.episodes[0].drawn == -(-15 // execute)
    assert found.episodes[0].solved
    assert found.allowed_ms == 100 * max(1, latency)


def test_numbers_are_those_of_the_episodes():
    found = evaluate(rolling(environments=2), Clock, [0, 5, 9], execute=3)
    numbers = found.numbers()
    # 15 ticks, a chunk every 3: one cold start of 10 calls and four warm ones of 2.
    assert numbers["calls_per_tick"] == pytest.approx(18 / 15)
    assert numbers["calls_per_chunk"] == pytest.approx(18 / 5)
    assert numbers["warm_share"] == pytest.approx(0.8)
    assert (numbers["episodes"], numbers["success_rate"], numbers["parallel"]) == (3, 1.0, 2)
    assert numbers["mean_max_score"] > 0.97
    assert len(found.milliseconds) == 10
    commands = np.array(Clock.worlds[1].actions)
    bends = commands[2:] - 2 * commands[1:-1] + commands[:-2]
    assert found.episodes[1].jerk == pytest.approx(np.mean(np.sqrt((bends**2).sum(1))))


def test_each_episode_starts_cold():
    found = evaluate(rolling(), Clock, [0, 1], execute=15)
    assert found.warm == 0
    assert [episode.calls for episode in found.episodes] == [10, 10]


def test_deadline_ends_samplings_early_and_counts_overruns():
    policy = rolling()
    forward = policy.policy.network.forward

    def slow(*args, **kwargs):
        time.sleep(0.01)
        return forward(*args, **kwargs)

    policy.policy.network.forward = slow
    found = evaluate(policy, Clock, [0], execute=1, deadline_ms=15, steps=4)
    assert found.stopped >= 1  # the cold start of ten calls does not fit
    assert found.episodes[0].calls < 10 + 3 * 2
    none = evaluate(rolling(), Clock, [0], execute=1, steps=4)
    assert (none.stopped, none.episodes[0].calls) == (0, 16)
    assert found.overruns == sum(one > 15 for one in found.milliseconds)


def test_same_seed_same_episodes():
    runs = [evaluate(rolling(std=0.3), Clock, [0, 1], execute=2, seed=seed) for seed in (0, 0, 1)]
    scores = [[episode.jerk for episode in run.episodes] for run in runs]
    assert scores[0] == scores[1]
    assert scores[0] != scores[2]


def test_disturbances_are_those_of_the_seed_and_the_world_and_about_one_in_fifty_ticks():
    def run(seed, **options):
        found = evaluate(rolling(environments=20), Clock, range(0, 400, 20), execute=15, seed=seed, **options)
        return [episode.disturbed for episode in found.episodes], [episode.score for episode in found.episodes]

    (first, scores), (again, _), (other, _) = run(0, disturb=0.0), run(0, disturb=9), run(1, disturb=9)
    assert sum(first) == 0
    assert again == run(0, disturb=9)[0] != other
    ticks = 20 * 15  # at most: a push moves the clock and ends its episode sooner
    assert 0 < sum(again) + sum(other) < 4 * 2 * ticks / 50
    assert min(scores) > 0.97


def test_chunks_too_short_for_the_latency_are_refused():
    with pytest.raises(InputError, match="at most 15"):
        evaluate(rolling(), Clock, [0], execute=8, latency=8)
    with pytest.raises(InputError, match="one or more"):
        evaluate(rolling(), Clock, [])


def test_gaussian_policy_of_these_tests_knows_the_right_action():
    assert float(mean_of(torch.tensor([7]))[0, 1, 0]) == pytest.approx(wanted(7, 1)[0], abs=1e-6)

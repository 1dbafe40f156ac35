"""Worlds by name, demonstrations of experts, the runtime in a world, and films.

The policy of `gaussian.py` observes the tick n and means 0.5 sin(0.2 n); a gymnasium environment of this file tells it.
"""

import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from robotics.policy.collecting import collect, write_episodes
from robotics.policy.environments import Environment, find_environment
from robotics.policy.episodes import read_episodes
from robotics.policy.evaluation import evaluate
from robotics.policy.film import LAST_MS, Film
from robotics.policy.rolling import RollingPolicy
from robotics.policy.running import matched, run, settings_of
from robotics.policy.warmstart import WarmStart
from shared.errors import InputError
from tests.robotics.policy.gaussian import gaussian_policy
from tests.robotics.policy.simulated import planned

gymnasium = pytest.importorskip("gymnasium")
needs_metaworld = pytest.mark.skipif(
    find_spec("metaworld") is None, reason="metaworld is absent: pip install 'fewstep[metaworld]'"
)
SOLVED_AFTER, ENDS_AFTER = 12, 20


class Ticks(gymnasium.Env):
    """Tells its tick, rewards the action that the policy means for it; its picture grows brighter every tick."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - as gymnasium has it
    made: list["Ticks"] = []  # noqa: RUF012 - so that a test can look into them

    def __init__(self, *, alone: bool = False, solvable: bool = True, bounds: float = 2.0, render_mode=None) -> None:
        box = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
        self.observation_space = box if alone else gymnasium.spaces.Dict({"tick": box, "noise": box})
        self.action_space = gymnasium.spaces.Box(-bounds, bounds, (2, 1))
        self.alone, self.solvable, self.render_mode = alone, solvable, render_mode
        self.actions: list[np.ndarray] = []
        Ticks.made.append(self)

    def _seen(self):
        tick = np.array([self.tick], dtype=np.float32)
        return tick if self.alone else {"tick": tick, "noise": np.ones(1, dtype=np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.tick, self.actions = 0, []
        return self._seen(), {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.actions.append(np.array(action).ravel())
        reward = 1 - abs(float(action[0, 0]) - planned(self.tick))
        self.tick += 1
        solved = self.solvable and self.tick >= SOLVED_AFTER
        return self._seen(), reward, solved or self.tick >= ENDS_AFTER, False, {"is_success": solved}

    def render(self):
        return np.full((40, 640, 3), 10 * self.tick, dtype=np.uint8)


@pytest.fixture(autouse=True)
def _registered():
    Ticks.made = []
    for name, options in {"Ticks": {}, "Alone": {"alone": True}, "Failing": {"solvable": False}}.items():
        gymnasium.register(f"{name}-v0", entry_point=Ticks, kwargs=options)
    yield
    for name in ("Ticks", "Alone", "Failing"):
        del gymnasium.registry[f"{name}-v0"]


def rolling(std: float = 1e-3, **warm) -> RollingPolicy:
    return RollingPolicy(gaussian_policy(std), warm=WarmStart(levels=(4, 0), **warm))


def ran(name: str, policy: RollingPolicy | None = None, **options):
    world = find_environment(name).make()
    try:
        return run(policy or rolling(), world, world_seed=0, **{"real_time": False, **options})
    finally:
        world.close()


@pytest.mark.parametrize("name", ["Ticks-v0", "Alone-v0"])  # one array and one field need no common name
def test_the_runtime_commands_what_the_policy_means_for_each_tick(name):
    numbers = ran(name, execute=3)
    actions = np.array(Ticks.made[0].actions)[:, 0]
    assert actions[0] == 0  # the first plan counts from the next tick on
    np.testing.assert_allclose(actions[1:], [planned(tick) for tick in range(1, SOLVED_AFTER)], atol=0.02)
    assert (numbers["ticks"], numbers["solved"]) == (SOLVED_AFTER, True)
    assert numbers["plans"] == SOLVED_AFTER / 3
    assert numbers["score"] > 0.98
    assert numbers["missed_ticks"] == numbers["plans_refused"] == 0
    assert (numbers["rung_hold_ticks"], numbers["rung_full_ticks"]) == (1, SOLVED_AFTER - 1)


def test_as_fast_as_possible_gives_the_same_episode_for_the_same_seed():
    returns = [ran("Ticks-v0", rolling(0.3), seed=seed)["return"] for seed in (0, 0, 1)]
    assert returns[0] == returns[1] != returns[2]


def test_in_real_time_the_loop_keeps_the_rate_of_the_policy():
    begin = time.monotonic()
    numbers = ran("Ticks-v0", real_time=True, ticks=6)
    assert time.monotonic() - begin > 0.5  # five periods of 0.1 s
    assert (numbers["rate_hz"], numbers["budget_ms"]) == (10, pytest.approx(80))
    assert numbers["commands"] == 6
    assert numbers["plan_age_ticks_p50"] >= 1


def test_a_run_ends_where_the_environment_does():
    numbers = ran("Failing-v0")
    assert (numbers["ticks"], numbers["solved"]) == (ENDS_AFTER, False)
    world = find_environment("Failing-v0").make()
    world.reset(0)
    for _ in range(ENDS_AFTER):
        last, _, _ = world.step(np.zeros(2))
    again, reward, solved = world.step(np.zeros(2))  # an evaluation may go on: the world stands still
    assert (again["tick"], reward, solved) == (last["tick"], 0, False)


def test_gymnasium_environments_can_be_evaluated():
    found = evaluate(rolling(), find_environment("Ticks-v0").make, [0, 1], execute=2)
    assert found.numbers()["mean_max_score"] > 0.98
    assert found.numbers()["success_rate"] == 1
    with pytest.raises(InputError, match="no way to be pushed"):
        evaluate(rolling(), find_environment("Ticks-v0").make, range(40), disturb=1.0, steps=5)


def test_spaces_that_do_not_fit_are_named():
    config, world = gaussian_policy().config, find_environment("Ticks-v0").make()
    with pytest.raises(InputError, match=r"observation tick: found an environment that gives a \(1\), b \(3\)"):
        matched(config, {"a": np.zeros(1), "b": np.zeros(3)}, world)
    with pytest.raises(InputError, match="expected 1 numbers of the name tick"):
        matched(config, {"tick": np.zeros(2), "b": np.zeros(1)}, world)
    world.limits = (np.zeros(3), np.ones(3))
    with pytest.raises(InputError, match=r"3 numbers an action; expected 2"):
        matched(config, world.reset(0), world)
    gymnasium.register("Discrete-v0", entry_point=lambda: gymnasium.make("CartPole-v1"))
    try:
        with pytest.raises(InputError, match=r"action in Discrete\(2\); expected a Box"):
            find_environment("Discrete-v0").make()
    finally:
        del gymnasium.registry["Discrete-v0"]


def test_bounds_come_from_the_world_and_else_from_the_demonstrations():
    policy, world = gaussian_policy(), find_environment("Ticks-v0").make()
    bounded = settings_of(policy, world, execute=1, budget_s=None).actions[0]
    assert (bounded.low, bounded.high, bounded.velocity) == (-2, 2, 40)
    world.limits = (np.full(2, -np.inf), np.full(2, np.inf))
    with pytest.raises(InputError, match="action 0: found 0 to 0"):
        settings_of(policy, world, execute=1, budget_s=None)
    policy.action.statistics.update(min=torch.full((2,), -3.0), max=torch.full((2,), 5.0))
    free = settings_of(policy, world, execute=1, budget_s=None).actions[0]
    assert (free.low, free.high, free.velocity) == (-3, 5, 80)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kitchen", "found 'kitchen'"),
        ("no_such_module:Kitchen-v0", "No module named 'no_such_module'"),
        ("pusht/wide", "found 'wide'; expected nothing"),
        pytest.param("metaworld/cook", "found the task 'cook'; expected one of assembly", marks=needs_metaworld),
    ],
)
def test_unknown_worlds_are_told_in_one_line(name, message):
    with pytest.raises(InputError, match=message) as caught:
        find_environment(name)
    assert "\n" not in str(caught.value)


def test_film_shows_every_tick_at_the_speed_of_the_world(tmp_path):
    from PIL import Image

    film = Film()
    ran("Ticks-v0", watch=film.look)
    film.write(tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as read:
        assert (read.n_frames, read.size) == (SOLVED_AFTER + 1, (320, 20))  # the first observation, and every tick
        for tick in range(read.n_frames):
            read.seek(tick)
            assert read.info["duration"] == (100 if tick < SOLVED_AFTER else LAST_MS)
            assert abs(read.convert("RGB").getpixel((5, 5))[0] - 10 * tick) <= 1
    with pytest.raises(InputError, match="existing output"):
        film.write(tmp_path / "film.gif")
    with pytest.raises(InputError, match=r"found the suffix '.mp4'"):
        film.write(tmp_path / "film.mp4")


class Homing:
    """A point whose expert goes home, half of the way each tick; solved at home, never for every third seed."""

    rate_hz, steps, over = 10.0, 30, False
    limits, rest = (-np.ones(1), np.ones(1)), (None,)

    def reset(self, seed):
        self.seed, self.at = seed, 0.5 + 0.1 * seed
        return self._seen()

    def step(self, action):
        self.at += float(action[0])
        solved = abs(self.at) < 0.1 and self.seed % 3 != 0
        return self._seen(), 0.0, solved

    def expert(self):
        return np.clip([-self.at / 2], -1, 1)

    def hold(self, seen):
        return np.zeros(1)

    def disturb(self, source, size): ...

    def picture(self):
        return np.zeros((2, 2, 3), dtype=np.uint8)

    def close(self): ...

    def _seen(self):
        return {"at": np.array([self.at], dtype=np.float32)}


def test_recordings_hold_the_clean_answers_of_the_expert_to_a_disturbed_world(tmp_path):
    home = Environment("home", Homing)
    clean, noisy = (collect(home, count=4, seed=1, noise=noise) for noise in (0.0, 0.2))
    for episodes in (clean, noisy):
        at, action = episodes.arrays["at"], episodes.arrays["action"]
        np.testing.assert_allclose(action, np.clip(-at / 2, -1, 1), atol=1e-6)
        assert np.unique(episodes.arrays["seed"]).tolist() == [1, 2, 4, 5]  # 3 was not solved
    begin, end = clean.bounds[0]
    np.testing.assert_allclose(clean.arrays["at"][begin:end, 0], 0.6 * 0.5 ** np.arange(end - begin), rtol=1e-5)
    begin, end = noisy.bounds[0]
    moved = np.diff(noisy.arrays["at"][begin:end, 0]) - noisy.arrays["action"][begin : end - 1, 0]
    assert 0.05 < moved.std() < 0.4
    again = collect(home, count=4, seed=1, noise=0.2)
    assert all(np.array_equal(again.arrays[name], noisy.arrays[name]) for name in noisy.arrays)
    write_episodes(tmp_path / "demos.npz", noisy)
    read = read_episodes(tmp_path / "demos.npz", ["at", "action"])
    assert read.bounds == noisy.bounds
    assert np.array_equal(read.arrays["action"], noisy.arrays["action"])


def test_worlds_that_nobody_can_demonstrate_are_refused(tmp_path):
    with pytest.raises(InputError, match="without a scripted expert"):
        collect(find_environment("Ticks-v0"), count=1)
    never = type("Never", (Homing,), {"step": lambda self, action: (self._seen(), 0.0, False), "steps": 2})
    with pytest.raises(InputError, match="0 of 4 worlds solved"):
        collect(Environment("never", never), count=2)
    with pytest.raises(InputError, match=r"expected .npz"):
        write_episodes(tmp_path / "demos.zarr", collect(Environment("home", Homing), count=1, seed=1))


@needs_metaworld
def test_metaworld_experts_grasp_and_place_the_worlds_of_their_seeds():
    environment = find_environment("metaworld/pick-place")
    demos, again = (collect(environment, count=2, seed=3, noise=0.2) for _ in range(2))
    assert all(np.array_equal(demos.arrays[name], again.arrays[name]) for name in demos.arrays)
    hand, thing, goal = (demos.arrays[name] for name in ("hand", "object", "goal"))
    for begin, end in demos.bounds:
        gripper = demos.arrays["action"][begin:end, 3]
        assert set(gripper.tolist()) == {0.0, 1.0}
        closing = int(np.argmax(gripper))
        assert np.linalg.norm(hand[begin + closing, :3] - thing[begin + closing, :3]) < 0.07  # where it is told to
        assert hand[begin, 3] > 0.9 > 0.6 > hand[end - 1, 3]  # the opening of the gripper
        assert thing[end - 1, 2] > thing[begin, 2] + 0.02 or goal[begin, 2] < 0.07
        assert np.linalg.norm(thing[end - 1, :3] - goal[begin]) < 0.1
        assert np.ptp(goal[begin:end], axis=0).max() == 0
    assert not np.array_equal(goal[0], goal[-1])


@needs_metaworld
def test_metaworld_runs_without_opengl_and_says_that_it_has_no_pictures():
    code = (
        "from robotics.policy.environments import find_environment\n"
        "world = find_environment('metaworld/reach').make(); world.reset(0); world.step(world.expert())\n"
        "world.picture()"
    )
    root, without = Path(__file__).resolve().parents[3], {**os.environ, "MUJOCO_GL": "disabled"}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=without, capture_output=True, text=True, check=False
    )
    assert "MUJOCO_GL: found disabled" in told.stderr.splitlines()[-1], told.stderr


@needs_metaworld
def test_metaworld_hand_goes_where_it_is_pulled_and_reward_is_one_where_solved():
    world = find_environment("metaworld/reach").make()
    try:
        before = world.reset(5)["hand"][:3]
        still, reward, solved = world.step(world.hold({}))
        np.testing.assert_allclose(still["hand"][:3], before, atol=0.005)
        assert 0 <= reward < 1
        assert not solved
        world.disturb(np.random.default_rng(0), 0.05)
        for _ in range(15):
            moved, _, _ = world.step(world.hold({}))
        assert np.linalg.norm(moved["hand"][:3] - before) == pytest.approx(0.05, abs=0.02)
        while not solved:
            _, reward, solved = world.step(world.expert())
        assert reward == 1
    finally:
        world.close()

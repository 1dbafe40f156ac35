"""Parts of the runtime by themselves, and the loop against the clock of this machine."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from robotics.policy.config import ObservationField
from robotics.policy.runtime.buffers import SensorBuffer
from robotics.policy.runtime.faults import Cause
from robotics.policy.runtime.gates import Limiter, refused
from robotics.policy.runtime.inference import Answer, Request, ThreadWorker
from robotics.policy.runtime.ladder import Rung
from robotics.policy.runtime.loop import ControlLoop
from robotics.policy.runtime.settings import ActionLimit, RuntimeSettings, SensorLimit
from shared.errors import InputError
from tests.robotics.policy.gaussian import ACTIONS, LENGTH, gaussian_policy
from tests.robotics.policy.simulated import ACCELERATION, LIMIT, PERIOD, RANGE, SETTINGS, VELOCITY, Robot

H = 0.1
NUMBER = st.floats(-10, 10)


@settings(deadline=None, max_examples=60)
@given(
    wishes=st.lists(st.one_of(st.none(), NUMBER), min_size=1, max_size=60),
    first=NUMBER,
    velocity=st.floats(0.1, 50),
    acceleration=st.one_of(st.none(), st.floats(0.1, 500)),
    hold=st.one_of(st.none(), st.floats(-1, 2)),
)
def test_no_wish_leads_out_of_the_limits(wishes, first, velocity, acceleration, hold):
    limit = ActionLimit(low=-1, high=2, velocity=velocity, acceleration=acceleration, hold=hold)
    limiter = Limiter([limit], H, np.array([first]))
    commands = [limiter.command[0]]
    for wish in wishes:
        if wish is None:
            limiter.rest()
        else:
            limiter.toward(np.array([wish]))
        commands.append(limiter.command[0])
    speeds = np.diff(commands, prepend=commands[0]) / H
    assert min(commands) >= -1
    assert max(commands) <= 2
    assert np.abs(speeds).max() <= velocity * (1 + 1e-9) + 1e-9
    if acceleration is not None:
        assert np.abs(np.diff(speeds)).max(initial=0) <= acceleration * H * (1 + 1e-9) + 1e-9


def test_limits_are_used_to_the_full():
    limiter = Limiter([ActionLimit(low=0, high=10, velocity=3, acceleration=5)], H, np.zeros(1))
    speeds = []
    while limiter.command[0] < 10 - 1e-9:
        assert not limiter.toward(np.array([99.0]))
        speeds.append(limiter.velocity[0])
    np.testing.assert_allclose(speeds[:6], [0.5, 1, 1.5, 2, 2.5, 3])  # a h more each tick, then the velocity
    assert len(speeds) == 39  # 1.05 units in 6 ticks up, 0.75 in 5 down, and 8.2 at 0.3 a tick
    assert (np.diff(speeds[-6:]) < -0.3).all()


@pytest.mark.parametrize("hold", [0.0, -0.7])
def test_hold_action_is_reached_without_overshoot(hold):
    limiter = Limiter([ActionLimit(low=-1, high=1, velocity=9, acceleration=5, hold=hold)], H, np.ones(1))
    commands = []
    for _ in range(30):
        limiter.rest()
        commands.append(limiter.command[0])
        assert limiter.resting == (abs(limiter.command[0] - hold) < 1e-8 and limiter.velocity[0] == 0)
    assert limiter.resting
    assert min(commands) >= hold - 1e-12
    assert commands[-1] == pytest.approx(hold, abs=1e-9)


def test_rest_is_where_the_deceleration_ends():
    limiter = Limiter([ActionLimit(low=-99, high=99, velocity=9, acceleration=5)], H, np.zeros(1))
    for tick in range(1, 5):
        limiter.toward(np.array([0.05 * tick * (tick + 1) / 2]))  # 0.5, 1, 1.5, 2 units a second
    for speed in (1.5, 1, 0.5, 0, 0):
        limiter.rest()
        assert limiter.velocity[0] == pytest.approx(speed, abs=1e-9)


def test_preview_is_what_would_be_commanded_and_ends_at_rest():
    robot = Robot(SETTINGS.model_copy(update={"preview": 20}))
    robot.run(20)
    robot.call_s = float("inf")
    told = robot.run(1)[0]
    later = robot.run(20)
    np.testing.assert_allclose(told.actions[1:], [command.actions[0] for command in later])
    np.testing.assert_allclose(np.diff(told.actions, axis=0) / PERIOD, told.velocities[1:], atol=1e-9)
    assert not told.velocities[-1].any()


def test_plan_is_refused_for_nan_and_for_actions_far_out_of_range():
    plan = np.zeros((15, 2))
    limits = [LIMIT, LIMIT]
    assert refused(plan, limits, 0.05) is None
    plan[3, 1] = RANGE + 0.04 * 2 * RANGE
    assert refused(plan, limits, 0.05) is None  # it will be limited
    plan[3, 1] = RANGE + 0.06 * 2 * RANGE
    assert refused(plan, limits, 0.05).cause == Cause.PLAN_RANGE
    assert "action 1" in refused(plan, limits, 0.05).detail
    plan[3, 1] = np.nan
    assert refused(plan, limits, 0.05).cause == Cause.PLAN_NOT_FINITE


def test_limited_command_is_reported():
    robot = Robot(SETTINGS.model_copy(update={"actions": (LIMIT.model_copy(update={"high": 0.45}),) * ACTIONS}))
    commands = robot.run(20)
    assert max(command.actions[0].max() for command in commands) == 0.45
    assert robot.noticed(Cause.LIMITED, 0) in (6, 7)  # 0.5 sin(0.2 n) passes 0.45 at n = 5.6


def test_buffer_gives_the_newest_sample_not_after_each_time():
    buffer = SensorBuffer(ObservationField(name="arm", size=1), SensorLimit(max_age_s=1), keep_s=0.2)
    for stamp in (0.0, 0.04, 0.09, 0.11, 0.14, 0.21):
        buffer.put([100 * stamp], now=0.3, stamp=stamp)
    times = np.array([0.1, 0.2, 0.21, 0.5])
    np.testing.assert_allclose(buffer.at(times)[:, 0], [9, 14, 21, 21], rtol=1e-6)
    np.testing.assert_allclose(buffer.at(np.array([-1.0])), [[0.0]])  # before the first: the first
    assert buffer.age(0.5) == pytest.approx(0.29)
    for tick in range(1000):
        buffer.put([tick], now=1 + 0.01 * tick)
    assert len(buffer._samples) <= 22  # 0.2 s at 100 Hz, and one before


def test_columns_need_as_many_numbers_as_the_largest_asks_for():
    field = ObservationField(name="state", size=2, columns=(0, 4))
    buffer = SensorBuffer(field, SensorLimit(max_age_s=1), keep_s=0.2)
    buffer.put(np.zeros(4), now=0)
    assert [fault.cause for fault in buffer.faults(0)] == [Cause.MALFORMED, Cause.STALE]
    buffer.put(np.zeros(5), now=0)
    assert buffer.faults(0) == []


def test_settings_must_fit_the_policy():
    policy = gaussian_policy().config
    for change, message in (
        ({"actions": (LIMIT,)}, "found limits of 1; expected 2"),
        ({"sensors": {}}, "found none; expected tick"),
        ({"rate_hz": 20.0}, "found 20; expected 10"),
        ({"execute": LENGTH}, "expected at most 14"),
    ):
        with pytest.raises(InputError, match=message):
            SETTINGS.model_copy(update=change).check(policy)
    SETTINGS.model_copy(update={"execute": 14}).check(policy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate_hz": 0}, "greater than 0"),
        ({"rate_hz": float("inf")}, "finite"),
        ({"budget_s": -1}, "greater than 0"),
        ({"actions": []}, "at least 1"),
        ({"actions": [{"low": 1, "high": 1, "velocity": 1}]}, "low 1.0 must be below high 1.0"),
        ({"actions": [{"low": 0, "high": 1, "velocity": 1, "hold": 2}]}, "hold 2.0 must lie between"),
        ({"actions": [{"low": float("nan"), "high": 1, "velocity": 1}]}, "finite"),
        ({"sensors": {"tick": {"max_age_s": 0}}}, "greater than 0"),
        ({"raet_hz": 10}, "Extra inputs"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, message):
    values = SETTINGS.model_dump() | change
    with pytest.raises(ValidationError, match=message):
        RuntimeSettings.model_validate(values)


def test_several_ticks_between_two_plans_are_no_fault():
    robot = Robot(SETTINGS.model_copy(update={"execute": 4}))
    robot.run(30)
    assert robot.rungs() == [Rung.HOLD] + [Rung.FULL] * 29
    assert [request.tick for request in robot.worker.requests] == list(range(0, 30, 4))


def test_memory_is_bounded_and_numbers_are_counted():
    robot = Robot(SETTINGS.model_copy(update={"history": 50}))
    for tick in range(120):
        robot.sensor = (lambda tick: [np.nan]) if tick % 2 else (lambda tick: [tick])
        robot.run(1) if tick % 100 == 0 else robot.loop.step()
    numbers = robot.loop.numbers()
    assert len(robot.loop.log.events) == 50
    assert numbers["commands"] == 120
    assert numbers["fault_ticks NaN or infinity from a sensor"] == 60
    assert sum(numbers[f"rung_{rung.name.lower()}_ticks"] for rung in Rung) == 120
    assert numbers["plan_ms_p50"] == pytest.approx(4 * 6.0)
    assert numbers["plan_age_ticks_p50"] == 1
    assert numbers["calls_per_plan"] == pytest.approx((10 + 4 * 118) / 119)  # the first one is cold


class SlowOnDemand:
    """Answers with the tick, after a time."""

    def __init__(self) -> None:
        self.seconds, self.release = 0.0, threading.Event()

    def __call__(self, request: Request) -> Answer:
        time.sleep(self.seconds)
        if self.seconds == 0.123:
            self.release.wait(20)
        return Answer(request.tick, np.full((15, ACTIONS), 0.5), 4, True, self.seconds)


def test_loop_keeps_its_ticks_on_a_real_clock_while_the_network_hangs():
    period, network = 0.05, SlowOnDemand()
    actions = (LIMIT.model_copy(update={"velocity": 100.0, "acceleration": None}),) * ACTIONS
    slow = SETTINGS.model_copy(update={"rate_hz": 1 / period, "actions": actions, "stop_after_s": 0.2})
    config = gaussian_policy().config
    config = config.model_copy(update={"action": config.action.model_copy(update={"rate_hz": 1 / period})})
    worker, commands, times = ThreadWorker(network), [], []
    start = time.monotonic()
    loop = ControlLoop(
        config, slow, worker, lambda sent: (commands.append(sent), times.append(time.monotonic())), first=np.zeros(2)
    )
    stopped = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stopped.is_set,))
    thread.start()
    while time.monotonic() < start + 1.9:
        loop.observe("tick", [time.monotonic()])
        if time.monotonic() > start + 0.5 and network.seconds == 0:
            network.seconds = 0.123
        time.sleep(0.005)
    stopped.set()
    thread.join(5)
    network.release.set()
    worker.close()
    assert not thread.is_alive()
    ticks = np.array([command.tick for command in commands])
    assert len(commands) + loop.statistics.missed == ticks[-1] + 1
    grid = np.array(times) - period * ticks  # on the absolute grid: no drift
    assert np.median(grid[-20:]) - np.median(grid[:20]) == pytest.approx(0, abs=0.5 * period)
    assert np.percentile(grid - grid.min(), 50) < 0.5 * period
    rungs = [command.rung for command in commands]
    assert Rung.FULL in rungs[:20]
    assert rungs[-1] == Rung.STOP
    assert Cause.LATE in loop.log.ticks


def test_worker_takes_one_request_at_a_time():
    network = SlowOnDemand()
    network.seconds = 0.123
    worker = ThreadWorker(network)
    assert worker.submit(Request(0, {}, restart=True))
    assert not worker.submit(Request(1, {}, restart=True))
    assert worker.poll() is None
    network.release.set()
    end = time.monotonic() + 10
    while (answer := worker.poll()) is None and time.monotonic() < end:
        time.sleep(0.005)
    assert answer.tick == 0
    assert worker.poll() is None
    worker.close()
    assert not worker.submit(Request(2, {}, restart=True))


def test_check_of_the_simulated_robot_can_fail():
    robot = Robot()
    robot.run(10)
    last = robot.commands[-1]
    for step in (VELOCITY * PERIOD * 1.01, ACCELERATION * PERIOD**2 * 1.3, np.nan):
        last.actions[0] = robot.commands[-2].actions[0] + step
        with pytest.raises(AssertionError):
            robot.check()


def test_warm_up_finds_a_network_that_fails_and_leaves_no_memory():
    robot = Robot(sampled=True)
    observation = {"tick": np.zeros((1, 2, 1))}
    assert robot.inference.warm_up(observation) == pytest.approx(4 * 0.006)  # the last one is warm, without a budget
    assert not robot.inference.rolling._memory.known.any()
    robot.answer = lambda answer: answer * float("nan")
    with pytest.raises(InputError, match="NaN or infinity in its actions"):
        robot.inference.warm_up(observation)
    robot.network_raises = True
    with pytest.raises(InputError, match="RuntimeError: out of memory"):
        robot.inference.warm_up(observation)

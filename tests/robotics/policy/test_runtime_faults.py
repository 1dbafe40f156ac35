"""Faults injected into the loop. `Robot.run` checks one command a tick, finite, in range, and its changes."""

import numpy as np
import pytest
import torch

from robotics.policy.runtime.faults import Cause
from robotics.policy.runtime.ladder import Rung
from tests.robotics.policy.simulated import CALL_S, PERIOD, SETTINGS, Robot, planned

FULL, FEWER, REST, HOLD, STOP = Rung


def running(*, sampled: bool = False) -> Robot:
    """Return a robot after 30 healthy ticks."""
    robot = Robot(sampled=sampled)
    robot.run(30)
    assert robot.rungs() == [HOLD] + [FULL] * 29
    return robot


def recovers(robot: Robot, ticks: int = 3) -> None:
    """Check that a healthy robot is back on the highest rung, with the plan's action of now."""
    robot.run(ticks)
    assert robot.commands[-1].rung == FULL
    assert not robot.loop.log.present
    for command in robot.run(3):
        np.testing.assert_allclose(command.actions[0], planned(command.tick), atol=0.05)


def at_rest(robot: Robot) -> bool:
    return bool(np.abs(robot.commands[-1].velocities[0]).max() == 0)


def test_sampling_of_twice_the_budget_makes_fewer_calls_and_the_plan_still_holds():
    robot = running(sampled=True)
    robot.call_s = 1.99 * SETTINGS.budget / 4
    commands = robot.run(20)
    assert robot.noticed(Cause.DEADLINE, 30) <= 1 + 1
    assert robot.rungs(32) == [FEWER] * 18
    for command in commands:
        np.testing.assert_allclose(command.actions[0], planned(command.tick), atol=0.05)
    assert robot.loop.statistics.overruns == 0
    assert robot.loop.numbers()["plans_stopped_early"] >= 18
    robot.call_s = CALL_S
    recovers(robot)


def test_sampling_of_ten_times_the_budget_commands_the_rest_of_the_last_plan():
    robot = running()
    robot.call_s = 10 * SETTINGS.budget / 4  # a single call takes two ticks
    commands = robot.run(24)
    assert robot.noticed(Cause.LATE, 30) <= 2
    assert set(robot.rungs(34)) == {REST}
    for command in commands:  # the entry of its tick, not the first of a late plan
        np.testing.assert_allclose(command.actions[0], planned(command.tick), atol=0.05)
    assert robot.loop.statistics.overruns >= 7
    robot.call_s = CALL_S
    recovers(robot, 5)


def test_hung_network_is_survived_by_the_last_plan_then_held_then_stopped():
    robot = running()
    robot.call_s = float("inf")
    robot.run(60)
    assert robot.noticed(Cause.LATE, 30) <= 2
    # The plan of tick 29 ends at tick 43: 15 entries from its own on.
    assert robot.rungs(30) == [FULL] + [REST] * 13 + [HOLD] * 20 + [STOP] * 26
    assert robot.noticed(Cause.USED_UP, 30) == 14
    assert robot.noticed(Cause.NO_PLAN, 30) == 34
    assert at_rest(robot)
    assert "stop" in robot.loop.ladder.why


def test_stop_is_left_by_reset_only():
    robot = running()
    robot.loop.stop()
    robot.run(10)
    assert robot.rungs(30) == [STOP] * 10
    assert at_rest(robot)
    assert robot.loop.resting
    where = robot.commands[-1].actions[0]
    robot.loop.reset()
    robot.run(1)
    assert robot.commands[-1].rung == HOLD
    np.testing.assert_array_equal(robot.commands[-1].actions[0], where)
    requests = len(robot.worker.requests)
    recovers(robot)
    assert robot.worker.requests[requests - 1].restart


def test_network_that_answers_nan_is_refused_and_its_memory_forgotten():
    robot = running(sampled=True)
    robot.answer = lambda answer: answer * torch.nan
    robot.run(8)
    assert robot.noticed(Cause.PLAN_NOT_FINITE, 30) <= 2
    assert set(robot.rungs(32)) == {REST}
    assert robot.loop.statistics.refused >= 6
    robot.answer = lambda answer: answer
    recovers(robot)  # a warm start from the NaN plan would stay NaN


def test_plan_out_of_range_is_refused():
    robot = running()
    robot.answer = lambda answer: answer - 30.0
    robot.run(8)
    assert robot.noticed(Cause.PLAN_RANGE, 30) <= 2
    assert set(robot.rungs(32)) == {REST}
    robot.answer = lambda answer: answer
    recovers(robot)


def test_network_that_raises_is_reported_with_its_error():
    robot = running()
    robot.network_raises = True
    robot.run(5)
    assert robot.noticed(Cause.NETWORK, 30) <= 2
    assert any("RuntimeError: out of memory" in event.text for event in robot.loop.log.events)
    assert set(robot.rungs(32)) == {REST}
    robot.network_raises = False
    recovers(robot)


def test_killed_sensor_is_noticed_after_its_age_limit_then_held_then_stopped():
    robot = running()
    robot.sensor = None
    robot.run(50)
    # A sample comes 1 ms before its tick, so the third tick without one is the first beyond 0.25 s.
    assert robot.noticed(Cause.STALE, 30) == 2
    assert robot.noticed(Cause.USED_UP, 30) == 16
    assert robot.rungs(30) == [FULL] * 3 + [REST] * 13 + [HOLD] * 20 + [STOP] * 14
    assert max(request.tick for request in robot.worker.requests) == 31  # none was drawn from stale numbers
    assert at_rest(robot)


def test_sensor_that_comes_back_in_time_is_not_held():
    robot = running()
    healthy, robot.sensor = robot.sensor, None
    robot.run(6)
    robot.sensor = healthy
    recovers(robot)
    assert HOLD not in robot.rungs(2)


def test_frozen_sensor_is_held_at_once_because_the_plan_is_of_old_numbers():
    robot = running()
    robot.sensor = lambda tick: [29]
    robot.run(12)
    assert robot.noticed(Cause.FROZEN, 30) == 3  # 0.35 s after the sample of tick 29
    assert robot.rungs(30) == [FULL] * 3 + [HOLD] * 9
    assert at_rest(robot)
    robot.sensor = lambda tick: [tick]
    recovers(robot, 4)
    first = next(request for request in robot.worker.requests if request.tick > 33)
    assert first.restart


def test_one_nan_from_a_sensor_is_coasted_over_and_many_are_a_killed_sensor():
    robot = running()
    robot.sensor = lambda tick: [np.nan if tick == 30 else tick]
    robot.run(3)
    assert robot.noticed(Cause.NOT_FINITE, 30) == 0
    assert robot.rungs(30) == [FULL] * 3
    robot.sensor = lambda tick: [np.nan]
    robot.run(8)
    assert robot.noticed(Cause.STALE, 33) == 2
    assert set(robot.rungs(37)) == {REST}


def test_sample_of_a_wrong_size_is_not_stored():
    robot = running()
    robot.sensor = lambda tick: [tick, tick]
    robot.run(4)
    assert robot.noticed(Cause.MALFORMED, 30) == 0
    assert robot.noticed(Cause.STALE, 30) == 2


@pytest.mark.parametrize("offset", [-3600.0, 3600.0])
def test_sensor_clock_that_jumps_is_reported_and_times_of_arrival_are_taken(offset):
    robot = Robot(stamp_offset=0.0)
    robot.run(30)
    robot.stamp_offset = offset
    commands = robot.run(10)
    assert robot.noticed(Cause.STAMP, 30) == 0
    for command in commands:
        assert command.rung == FULL
        np.testing.assert_allclose(command.actions[0], planned(command.tick), atol=0.05)


def test_sensor_whose_stamps_are_old_is_stale():
    robot = Robot(stamp_offset=-0.3)
    robot.run(20)
    assert set(robot.rungs()) == {HOLD}
    assert robot.noticed(Cause.STALE, 0) == 0


def test_clock_that_jumps_far_ahead_skips_ticks_instead_of_catching_up():
    robot = running()

    def jump() -> None:
        robot.clock_offset += 3600.0

    robot.on_sleep = jump
    begin = robot.true
    robot.run(10)
    assert robot.loop.statistics.missed == 36_000
    assert robot.noticed(Cause.MISSED, 30) == 36_000
    assert robot.true - begin < 11 * PERIOD  # and a command a period, no bunch
    assert (np.diff(robot.sent_at) > 0.99 * PERIOD).all()
    assert robot.rungs(30)[0] == HOLD
    assert robot.commands[-1].rung == FULL


@pytest.mark.parametrize("seconds", [0.25, 3600.0])
def test_clock_that_goes_back_does_not_wait_for_the_old_time(seconds):
    robot = running()

    def jump() -> None:
        robot.clock_offset -= seconds

    robot.on_sleep = jump
    begin = robot.true
    commands = robot.run(10)
    assert robot.noticed(Cause.CLOCK, 30) == 0
    assert robot.true - begin < 12 * PERIOD
    assert [command.tick for command in commands] == list(range(30, 40))
    assert robot.rungs(30)[0] == HOLD  # the plan and the samples were of times that mean nothing now
    assert robot.commands[-1].rung == FULL


def test_clock_that_goes_back_while_a_command_is_sent_does_not_bunch_commands():
    robot = running()
    robot.clock_offset -= 60.0
    robot.run(5)
    assert (np.diff(robot.sent_at) > 0.99 * PERIOD).all()
    assert robot.noticed(Cause.CLOCK, 30) == 0


def test_process_that_slept_sends_one_command_at_its_return():
    robot = running()
    robot.on_sleep = lambda: robot.advance(robot.true + 2.03)
    robot.run(4)
    assert robot.loop.statistics.missed == 20
    assert robot.commands[30].tick == 50
    assert robot.commands[31].tick == 51


def test_command_that_cannot_be_sent_stops_and_is_reported():
    robot = running()
    robot.send_raises = True
    for _ in range(3):
        assert robot.loop.step() is not None
    robot.send_raises = False
    robot.loop.statistics.missed = 3  # they did not arrive
    robot.run(3)
    assert robot.noticed(Cause.SEND, 30) == 0
    assert robot.rungs(30) == [STOP] * 3
    assert "OSError: bus off" in robot.loop.ladder.why


def test_pause_holds_without_stopping_and_resumes_with_a_new_plan():
    robot = running()
    robot.loop.paused = True
    robot.run(40)
    assert robot.rungs(30) == [HOLD] * 40
    robot.loop.paused = False
    robot.run(1)
    assert robot.commands[-1].rung == HOLD  # not on with the plan from before the pause
    recovers(robot)

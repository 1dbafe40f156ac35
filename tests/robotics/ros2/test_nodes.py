"""The policy node in a process of its own, on real rclpy."""

import time
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy", reason="rclpy is absent: pip install 'fewstep[ros]'")

from tests.robotics.ros2.process import ACTIVATE, CLEANUP, CONFIGURE, DEACTIVATE, told_numbers, until
from tests.robotics.ros2.robot import RATE, Robot, parameters, small_policy, small_pusht_policy

AMENT = Path(__file__).resolve().parents[3] / "robotics" / "ros2" / "ament"


@pytest.fixture(scope="module")
def shared_robot(ros):
    robot = Robot(ros)
    robot.policy = small_policy(ros / "policy.safetensors")
    yield robot
    robot.close()


@pytest.fixture
def robot(shared_robot):
    shared_robot.unconfigure()
    assert all(result.successful for result in shared_robot.set(**parameters(shared_robot.policy)))
    return shared_robot


def commanding(robot: Robot) -> None:
    """Configure and activate, and wait for a plan."""
    assert robot.transition(CONFIGURE), robot.log()
    assert robot.transition(ACTIVATE)
    robot.told("full")


def checked(commands: list) -> np.ndarray:
    """Return the commands of now, (ticks, 2), after checking every message."""
    actions = []
    for _, message in commands:
        assert list(message.joint_names) == ["shoulder", "elbow"]
        assert len(message.points) == 4
        for place, point in enumerate(message.points):
            duration = point.time_from_start
            assert duration.sec + 1e-9 * duration.nanosec == pytest.approx((place + 1) / RATE)
            assert np.isfinite([*point.positions, *point.velocities]).all()
            assert np.abs(point.positions).max() <= 1
            assert np.abs(point.velocities).max() <= 2 + 1e-9
        assert not np.any(message.points[-1].velocities)
        actions.append(message.points[0].positions)
    actions = np.array(actions)
    assert np.abs(np.diff(actions, axis=0)).max() <= 2 / RATE + 1e-9
    return actions


def test_commands_begin_where_the_robot_is_and_keep_the_rate(robot):
    before = len(robot.commands)
    commanding(robot)
    until(lambda: len(robot.commands) >= before + 20)
    commands = robot.commands[before:]
    actions = checked(commands)
    np.testing.assert_allclose(actions[0], [0.3, -0.2], atol=1e-6)  # at rest there, joints in the order of the policy
    steps = np.diff([when for when, _ in commands])
    assert np.median(steps) == pytest.approx(1 / RATE, rel=0.2)
    assert commands[-1][0] - commands[0][0] > 0.9 * 19 / RATE  # none in a bunch
    status = robot.told("full")
    numbers = told_numbers(status)
    assert status.level == b"\x00"
    assert numbers["tick_late_ms_p50"] < 1000 / RATE / 4
    assert numbers["plan_ms_p50"] < 1000 / RATE
    assert 1 <= numbers["plan_age_ticks_p50"] <= 4  # 1 on an idle machine; max_chunk_age is 4


def test_dead_publisher_leads_to_a_hold_then_a_stop_and_reset_leaves_it(robot):
    robot.set(stop_after_s=1.0)
    commanding(robot)
    missed = told_numbers(robot.told("full"))["missed_ticks"]
    robot.publishing = False
    dead, count = time.monotonic(), len(robot.commands)
    stale = robot.told("stale sensor arm")
    assert stale.level in (b"\x01", b"\x02")
    stopped = robot.told("call ~/reset")
    assert "stop" in stopped.message
    assert stopped.level == b"\x02"
    last = len(robot.commands)
    missed = told_numbers(stopped)["missed_ticks"] - missed  # a busy machine may not wake the node
    assert (last - count + missed) / (time.monotonic() - dead) == pytest.approx(RATE, rel=0.3)  # a command a tick
    checked(robot.commands[count:])
    until(lambda: len(robot.commands) >= last + 5)
    assert np.ptp(checked(robot.commands[last:]), axis=0).max() == 0  # at rest
    robot.publishing, robot.position = True, [0.1, 0.1]
    time.sleep(0.2)
    robot.told("call ~/reset")  # a stop is not left by itself
    answer = robot.reset()
    assert answer.success, answer.message
    robot.told("full")


def test_configure_tells_what_is_wrong_and_stays_unconfigured(robot, ros):
    wider = small_policy(ros / "wider.safetensors", size=3)
    (ros / "no_policy.safetensors").write_bytes(b"no tensors")
    for change, text in (
        ({"rate_hz": 0.0}, "greater than 0"),
        ({"rate_hz": 20.0}, "expected 10, the rate of the policy's actions"),
        ({"policy": str(ros / "absent.safetensors")}, "absent.safetensors"),
        ({"policy": str(ros / "no_policy.safetensors")}, "no_policy.safetensors"),
        ({"action_low": [-1.0]}, "parameter action_low: found 1 values; expected 2"),
        ({"observations": ["leg"]}, "found leg; expected arm"),
        (
            {"observation_types": ["sensor_msgs/msg/Image"]},
            "parameter observation_types: found 'sensor_msgs/msg/Image'",
        ),
        ({"observation_topics": ["/nowhere"], "topic_timeout_s": 0.2}, "no publisher of /nowhere (arm) in 0.2 s"),
        ({"levels": [200, 0]}, "entries from 0 to 99"),
        ({"policy": str(wider), "position_columns": [0, 3]}, "parameter position_columns"),
    ):
        assert all(result.successful for result in robot.set(**(parameters(robot.policy) | change)))
        begin = len(robot.diagnostics)
        assert not robot.transition(CONFIGURE), change
        until(lambda text=text, begin=begin: any(text in status.message for status in robot.diagnostics[begin:]), 5)
        assert robot.state == "unconfigured"
    robot.set(**parameters(robot.policy))
    assert robot.transition(CONFIGURE)


def test_parameters_out_of_range_are_refused_and_none_changes_a_configured_node(robot):
    assert not robot.set(rate_hz=-1.0)[0].successful
    assert not robot.set(cold_calls=0)[0].successful
    assert not robot.set(rate_hz="ten")[0].successful
    assert robot.transition(CONFIGURE)
    refused = robot.set(rate_hz=20.0)[0]
    assert not refused.successful
    assert "clean up" in refused.reason


def test_inactive_node_commands_nothing_and_a_paused_one_holds(robot):
    robot.set(stop_after_s=1.0)
    assert robot.transition(CONFIGURE)
    assert not robot.pause(True)
    count = len(robot.commands)
    robot.told("not active")
    assert len(robot.commands) == count
    assert robot.transition(ACTIVATE)
    robot.told("full")
    assert robot.pause(True)
    robot.told("hold: paused")
    still = len(robot.commands)
    until(lambda: len(robot.commands) >= still + 13)  # longer than stop_after_s
    assert np.ptp(checked(robot.commands[still + 2 :]), axis=0).max() == 0
    assert robot.pause(False)
    robot.told("full")
    assert robot.transition(DEACTIVATE)
    time.sleep(0.2)
    count = len(robot.commands)
    time.sleep(0.3)
    assert len(robot.commands) == count
    assert robot.transition(CLEANUP)


def test_push_t_runs_in_simulated_time_and_a_restart_of_the_simulation_is_survived(robot, ros):
    pytest.importorskip("gym_pusht")
    from rclpy.parameter import Parameter
    from std_msgs.msg import Float64MultiArray

    from robotics.ros2.pusht_node import PushTNode

    chosen = {"publish_clock": True, "speed": 2.0, "seed": 100_000}
    world = PushTNode(parameter_overrides=[Parameter(name, value=value) for name, value in chosen.items()])
    times: list[int] = []
    listener = robot.node.create_subscription(
        Float64MultiArray, "/command", lambda message: times.append(world.nanoseconds), 10
    )
    robot.executor.add_node(world)
    try:
        given = yaml.safe_load((AMENT / "config" / "pusht.yaml").read_text())["/policy"]["ros__parameters"]
        given |= {"policy": str(small_pusht_policy(ros / "pusht.safetensors")), "levels": [4, 0], "cold_calls": 4}
        assert all(result.successful for result in robot.set(**given, use_sim_time=True))
        begin = world.seen["state"][:2].copy()
        assert robot.transition(CONFIGURE), robot.log()
        assert robot.transition(ACTIVATE)
        robot.told("full")
        count = len(times)
        until(lambda: len(times) >= count + 15)
        assert np.median(np.diff(times[count:])) == pytest.approx(1e9 / RATE, rel=0.11)  # of simulated time
        assert np.linalg.norm(world.seen["state"][:2] - begin) > 5
        world.nanoseconds = 0
        until(
            lambda: any(
                pair.key == "fault_ticks the clock went back" for one in robot.diagnostics[-3:] for pair in one.values
            )
        )
        robot.told("full")
    finally:
        robot.executor.remove_node(world)
        world.destroy_node()
        robot.node.destroy_subscription(listener)


def test_terminated_node_brings_the_robot_to_rest_before_it_ends(robot):
    commanding(robot)
    assert robot.commands[-1][1].points[0].velocities  # it may be moving
    count = len(robot.commands)
    robot.process.terminate()
    assert robot.process.wait(20) == 0, robot.log()
    time.sleep(0.2)
    assert len(robot.commands) > count
    last = checked(robot.commands[count - 1 :])  # one tick is enough for a robot that is slow already
    np.testing.assert_allclose(last[-1], last[-2], atol=1e-9)
    np.testing.assert_allclose(robot.commands[-1][1].points[0].velocities, 0, atol=1e-9)

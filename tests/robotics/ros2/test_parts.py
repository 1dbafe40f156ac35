"""Parameters, messages, the recorder and the package, each by itself."""

import ast
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from robotics.policy.episodes import BagTopics, read_episodes
from robotics.policy.messages import NUMBERS, stamp_of
from robotics.policy.runtime.ladder import Rung
from robotics.policy.runtime.loop import Command
from robotics.ros2.__main__ import NODES, main
from robotics.ros2.parameters import EMPTY, SPECS, read
from robotics.ros2.stereo_parameters import SPECS as STEREO_SPECS
from shared.config import load_config
from shared.errors import InputError
from tests.robotics.policy.gaussian import gaussian_policy
from tests.robotics.policy.simulated import Robot

needs_ros = pytest.mark.skipif(find_spec("rclpy") is None, reason="rclpy is absent: pip install 'fewstep[ros]'")
AMENT = Path(__file__).resolve().parents[3] / "robotics" / "ros2" / "ament"
NAN = float("nan")


def values(**changes):
    defaults = {name: [] if name in EMPTY else spec.default for name, spec in SPECS.items()}
    given = {
        "policy": "p", "observations": ["tick"], "observation_topics": ["/t"], "output": "twist",
        "observation_types": ["std_msgs/msg/Float64MultiArray"], "observation_max_age_ms": [300.0],
        "action_low": [-1.0, -2.0], "action_high": [1.0, 2.0], "action_velocity": [1.0, 2.0],
        "action_hold": [0.0, 0.0], "twist_axes": ["linear.x", "angular.z"],
    }  # fmt: skip
    return defaults | given | changes


def test_parameters_become_settings():
    config = gaussian_policy().config
    found = read(values(budget_ms=40.0, action_acceleration=[NAN, 3.0], observation_frozen_ms=[500.0]), config)
    assert found.runtime.budget == 0.04
    assert [limit.acceleration for limit in found.runtime.actions] == [None, 3.0]
    assert [limit.hold for limit in found.runtime.actions] == [0.0, 0.0]
    assert found.runtime.sensors["tick"].max_age_s == 0.3
    assert found.runtime.sensors["tick"].frozen_s == 0.5
    np.testing.assert_array_equal(found.first({}), [0, 0])
    both = values(action_hold=[NAN, 0.0], position_observation="tick", position_columns=[0, 0])
    np.testing.assert_array_equal(read(both, config).first({"tick": np.array([7.0])}), [7, 7])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"observation_types": ["sensor_msgs/msg/Image"]},
            "parameter observation_types: found 'sensor_msgs/msg/Image'",
        ),
        ({"output": "servo"}, "parameter output: found 'servo'; expected one of joint_trajectory"),
        ({"twist_axes": ["linear.x"]}, "parameter twist_axes: found 1 values; expected 2"),
        ({"output": "twist_stamped", "twist_axes": []}, "parameter twist_axes: found 0 values; expected 2"),
        ({"twist_axes": ["linear.x", "yaw"]}, "parameter twist_axes: found 'yaw'"),
        ({"output": "joint_trajectory"}, "parameter action_names: found 0 names; expected 2"),
        ({"action_hold": [0.0, NAN]}, "parameter position_observation: found none"),
        ({"action_hold": [0.0, 3.0]}, "hold 3.0 must lie between"),
        ({"action_hold": [0.0]}, "parameter action_hold: found 1 values; expected 2"),
        ({"action_velocity": [0.0, 1.0]}, "actions.0.velocity: found 0.0; expected Input should be greater than 0"),
        ({"observation_max_age_ms": []}, "parameter observation_max_age_ms: found 0 values; expected 1"),
        ({"position_observation": "arm"}, "parameter position_observation: found 'arm'; expected one of tick"),
        ({"position_observation": "tick", "position_columns": [0, 1]}, "expected numbers from 0 to 0"),
        ({"rate_hz": 0.0}, "rate_hz: found 0.0; expected Input should be greater than 0"),
    ],
)
def test_parameters_that_do_not_fit_are_named(change, message):
    with pytest.raises(InputError) as error:
        read(values(**change), gaussian_policy().config)
    assert message in str(error.value)


def test_parameters_of_the_package_fit_the_policy_they_name():
    from robotics.policy.training import PolicyTraining

    given = yaml.safe_load((AMENT / "config" / "pusht.yaml").read_text())["/policy"]["ros__parameters"]
    assert set(given) <= set(SPECS)
    defaults = {name: [] if name in EMPTY else spec.default for name, spec in SPECS.items()}
    found = read(defaults | given, load_config("robotics/pusht_small", PolicyTraining).policy)
    np.testing.assert_array_equal(found.first({"state": np.arange(5.0)}), [0, 1])


def command() -> Command:
    actions = np.array([[0.1, 0.2], [0.2, 0.2], [0.25, 0.2]])
    return Command(7, 0.7, actions, np.array([[2.0, 0.0], [1.0, 0.0], [0.5, 0.0]]), Rung.FULL)


@needs_ros
def test_commands_become_messages():
    from builtin_interfaces.msg import Time

    from robotics.ros2.messages import OUTPUTS, joint_trajectory, message_class, multi_array, twist, twist_stamped

    plan = joint_trajectory(command(), ["a", "b"], 0.1)
    assert [list(point.positions) for point in plan.points] == [[0.1, 0.2], [0.2, 0.2], [0.25, 0.2]]
    assert [point.velocities[0] for point in plan.points] == [1.5, 0.75, 0.0]
    assert [point.time_from_start.nanosec for point in plan.points] == [100_000_000, 200_000_000, 300_000_000]
    assert plan.header.stamp.sec == 0  # begin now
    turn = twist(command(), ["linear.y", "angular.z"])
    assert (turn.linear.x, turn.linear.y, turn.angular.z) == (0, 0.1, 0.2)
    stamped = twist_stamped(command(), ["linear.y", "angular.z"], Time(sec=3, nanosec=4), "tool0")
    assert isinstance(stamped, message_class(OUTPUTS["twist_stamped"]))
    assert (stamped.header.stamp.sec, stamped.header.stamp.nanosec, stamped.header.frame_id) == (3, 4, "tool0")
    assert stamped.twist == turn
    numbers = multi_array(command(), ["x_px", "y_px"])
    assert list(numbers.data) == [0.1, 0.2]
    assert numbers.layout.dim[0].label == "x_px,y_px"


@needs_ros
@pytest.mark.parametrize("output", ["twist", "twist_stamped", "float64_multi_array"])
def test_node_publishes_the_message_that_it_is_asked_for(output):
    from rclpy.clock import Clock

    from robotics.ros2.messages import OUTPUTS, message_class
    from robotics.ros2.policy_node import PolicyNode

    sent: list = []
    settings = read(values(output=output, twist_frame="tool0"), gaussian_policy().config)
    node = SimpleNamespace(
        _settings=settings, _commands=SimpleNamespace(publish=sent.append), get_clock=lambda: Clock()
    )
    PolicyNode._publish(node, command())
    assert isinstance(sent[0], message_class(OUTPUTS[output]))
    if output == "twist_stamped":
        assert abs(sent[0].header.stamp.sec - time.time()) < 5
        assert sent[0].header.frame_id == "tool0"
        assert sent[0].twist.linear.x == 0.1


@needs_ros
def test_observations_become_numbers():
    from robotics.ros2.messages import message_class

    joints = message_class("sensor_msgs/msg/JointState")(name=["b", "a"], position=[2.0, 1.0])
    take = NUMBERS["sensor_msgs/msg/JointState"]
    assert take(joints, ["a", "b"]).tolist() == [1, 2]
    assert take(joints, ["a", "c"]).tolist() == [1]  # the loop says that the size is wrong
    assert take(joints, []).tolist() == [2, 1]
    assert stamp_of(joints) is None
    joints.header.stamp.sec, joints.header.stamp.nanosec = 3, 500_000_000
    assert stamp_of(joints) == 3.5
    pose = message_class("geometry_msgs/msg/PoseStamped")()
    pose.pose.position.y, pose.pose.orientation.w = 2.0, 1.0
    assert NUMBERS["geometry_msgs/msg/PoseStamped"](pose, []).tolist() == [0, 2, 0, 0, 0, 0, 1]
    image = message_class("sensor_msgs/msg/Image")(height=2, width=1, encoding="bgr8", step=4, data=bytes(range(8)))
    assert NUMBERS["sensor_msgs/msg/Image"](image, []).tolist() == [[[2, 1, 0]], [[6, 5, 4]]]
    image.encoding = "bayer_rggb8"
    assert NUMBERS["sensor_msgs/msg/Image"](image, []).size == 0  # the loop says that the size is wrong


@needs_ros
def test_diagnostics_tell_the_state():
    from diagnostic_msgs.msg import DiagnosticStatus

    from robotics.ros2.diagnostics import status_of

    told = {"problem": "", "configured": True, "alive": True, "missing": ["/joint_states"]}
    robot = Robot()
    assert status_of(**told | {"problem": "no file"}, loop=None)[:2] == (DiagnosticStatus.ERROR, "no file")
    assert status_of(**told | {"configured": False}, loop=None)[:2] == (DiagnosticStatus.STALE, "not configured")
    assert status_of(**told, loop=None)[:2] == (DiagnosticStatus.STALE, "not active")
    assert status_of(**told, loop=robot.loop)[:2] == (DiagnosticStatus.WARN, "waits for /joint_states")
    robot.run(5)
    level, message, values = status_of(**told, loop=robot.loop)
    assert (level, message) == (DiagnosticStatus.OK, "full")
    assert {pair.key: pair.value for pair in values}["commands"] == "5"
    robot.network_raises = True
    robot.run(5)
    level, message, _ = status_of(**told, loop=robot.loop)
    assert level == DiagnosticStatus.WARN
    assert message == "rest_of_chunk: the network failed (RuntimeError: out of memory)"
    level, message, _ = status_of(**told | {"alive": False}, loop=robot.loop)
    assert level == DiagnosticStatus.ERROR
    assert "the control thread has ended" in message


@needs_ros
def test_messages_of_every_severity_reach_the_log_of_ros(monkeypatch):
    from rclpy.logging import get_logger

    from robotics.ros2.diagnostics import RosLog

    failed = []
    handler = RosLog(get_logger("severities"))
    monkeypatch.setattr(handler, "handleError", failed.append)
    for level in (logging.WARNING, logging.INFO, logging.WARNING):
        handler.emit(logging.LogRecord("runtime", level, "", 0, "tick %d", (3,), None))
    assert not failed
    handler._logger = None
    handler.emit(logging.LogRecord("runtime", logging.INFO, "", 0, "tick", (), None))
    assert len(failed) == 1


def test_robotics_is_imported_without_ros():
    code = "import sys, robotics, robotics.ros2; sys.exit('rclpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=AMENT.parents[2], check=False).returncode == 0


def test_unknown_node_is_told_in_a_line(capsys):
    assert main(["policynode"]) == 2
    assert "found 'policynode'; expected one of policy_node" in capsys.readouterr().err


def test_package_names_modules_that_exist():
    for name in NODES:
        assert f"def {name}()" in (AMENT / "fewstep_ros2" / "nodes.py").read_text()
        assert f'"{name}"' in (AMENT / "setup.py").read_text()
        assert (AMENT.parent / f"{name}.py").is_file()


@pytest.mark.parametrize("name", ["policy", "stereo"])
def test_launch_file_passes_what_the_nodes_declare(name):
    """`launch` has no wheel, so the file is read, not run."""
    path = AMENT / "launch" / f"{name}_launch.py"
    tree = ast.parse(path.read_text(), path)
    compile(tree, path, "exec")

    def calls(*names: str) -> list[ast.Call]:
        return [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") in names]

    declared = {call.args[0].value for call in calls("DeclareLaunchArgument")}
    text = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    used = {call.args[0].value for call in calls("LaunchConfiguration") if isinstance(call.args[0], ast.Constant)}
    assert used <= declared <= text
    known = {node: {"use_sim_time"} for node in ("policy_node", "pusht_node", "stereo_node")}
    known["policy_node"] |= set(SPECS)
    known["stereo_node"] |= set(STEREO_SPECS)
    known["pusht_node"] |= set(re.findall(r'declare_parameter\("(\w+)"', (AMENT.parent / "pusht_node.py").read_text()))
    nodes = [{word.arg: word.value for word in call.keywords} for call in calls("Node", "LifecycleNode")]
    assert f"{name}_node" in {node["executable"].value for node in nodes}
    for node in nodes:
        given = [key.value for part in node["parameters"].elts if isinstance(part, ast.Dict) for key in part.keys]
        assert given
        assert set(given) <= known[node["executable"].value]
    trees = [tree, ast.parse((AMENT / "fewstep_ros2" / "launching.py").read_text())]
    imports = [node for part in trees for node in ast.walk(part) if isinstance(node, ast.ImportFrom)]
    needed = {node.module.partition(".")[0] for node in imports} - {"fewstep_ros2"}
    assert needed <= set(re.findall(r"<exec_depend>(\w+)</exec_depend>", (AMENT / "package.xml").read_text()))
    assert f"launch/{path.name}" in (AMENT / "setup.py").read_text()
    parts = next(call.args[0].elts for call in calls("PathJoinSubstitution"))
    assert (AMENT / Path(*(part.value for part in parts[1:]))).is_file()
    assert "/".join(part.value for part in parts[1:]) in (AMENT / "setup.py").read_text()


def test_colcon_builds_the_package(tmp_path):
    colcon = shutil.which("colcon")
    if colcon is None:
        pytest.skip("colcon is absent: pip install colcon-common-extensions colcon-ros catkin_pkg")
    shutil.copytree(AMENT, tmp_path / "src" / "fewstep_ros2")
    build = [colcon, "--log-base", str(tmp_path / "log"), "build", "--base-paths", "src"]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "install" / "fewstep_ros2"
    assert (made / "share" / "ament_index" / "resource_index" / "packages" / "fewstep_ros2").is_file()
    assert (made / "lib" / "fewstep_ros2" / "stereo_node").is_file()  # where `ros2 run` looks
    assert (made / "share" / "fewstep_ros2" / "config" / "fastdds_images.xml").is_file()
    assert (made / "share" / "fewstep_ros2" / "launch" / "stereo_launch.py").is_file()
    # The hook that makes it visible to ROS; colcon writes it for ament packages only.
    assert (made / "share" / "fewstep_ros2" / "hook" / "ament_prefix_path.sh").is_file()


@needs_ros
def test_recorder_writes_what_was_published(ros, tmp_path):
    pytest.importorskip("rosbags")
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.parameter import Parameter
    from rclpy.qos import qos_profile_sensor_data
    from rosbags.highlevel import AnyReader
    from sensor_msgs.msg import JointState

    from robotics.ros2.recorder import Recorder

    rclpy.init()
    try:
        robot = rclpy.create_node("robot")
        publisher = robot.create_publisher(JointState, "/joint_states", qos_profile_sensor_data)
        with pytest.raises(InputError, match="parameter topics: found none"):
            Recorder()
        chosen = {"topics": ["/joint_states"], "output": str(tmp_path / "bag")}
        recorder = Recorder(parameter_overrides=[Parameter(name, value=value) for name, value in chosen.items()])
        executor = SingleThreadedExecutor()
        executor.add_node(recorder)
        sent, end = 0, time.monotonic() + 20
        while recorder.written["/joint_states"] < 5 and time.monotonic() < end:
            publisher.publish(JointState(name=["a"], position=[float(sent)]))
            sent += 1
            executor.spin_once(timeout_sec=0.05)
        written = recorder.written["/joint_states"]
        executor.remove_node(recorder)
        recorder.destroy_node()
        robot.destroy_node()
    finally:
        rclpy.try_shutdown()
    with AnyReader([tmp_path / "bag"]) as bag:
        recorded = [(time, bag.deserialize(raw, connection.msgtype)) for connection, time, raw in bag.messages()]
    read_back = [message for _, message in recorded]
    assert written >= 5
    assert len(read_back) == written
    positions = [message.position[0] for message in read_back]
    assert positions == sorted(positions)
    assert positions[-1] <= sent
    assert list(read_back[0].name) == ["a"]
    assert any(path.suffix == ".mcap" for path in (tmp_path / "bag").iterdir())
    mapping = {"rate_hz": 100, "topics": {"state": {"topic": "/joint_states", "joints": ["a"], "max_age_s": 20}}}
    trained_on = read_episodes(tmp_path / "bag", ["state"], topics=BagTopics.model_validate(mapping)).arrays["state"]
    ticks = range(recorded[0][0], recorded[-1][0] + 1, 10_000_000)  # what was recorded is what a training reads
    at = dict(recorded)
    newest = [max(time for time, _ in recorded if time <= tick) for tick in ticks]
    assert trained_on[:, 0].tolist() == [at[time].position[0] for time in newest]
    assert os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"

"""Start a policy node, bring it to active, and, if asked, the Push-T world beside it.

    ros2 launch fewstep_ros2 policy_launch.py world:=true
    ros2 launch fewstep_ros2 policy_launch.py policy:=my.safetensors params_file:=my_robot.yaml

With autostart:=false the node waits for `ros2 lifecycle set`. A node that cannot be configured says why in its log and
in /diagnostics, and stays unconfigured.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, EmitEvent, RegisterEventHandler
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from lifecycle_msgs.msg import Transition

PACKAGE = "fewstep_ros2"


def generate_launch_description() -> LaunchDescription:
    """Return what is started."""
    config = PathJoinSubstitution([FindPackageShare(PACKAGE), "config", "pusht.yaml"])
    arguments = [
        DeclareLaunchArgument("params_file", default_value=config, description="parameters of the policy node"),
        DeclareLaunchArgument("policy", default_value="robotics/pusht_small", description="file or packaged name"),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="time from /clock"),
        DeclareLaunchArgument("autostart", default_value="true", description="configure and activate the node"),
        DeclareLaunchArgument("world", default_value="false", description="also start the Push-T world"),
    ]
    simulated = LaunchConfiguration("use_sim_time")
    world = Node(
        package=PACKAGE,
        executable="pusht_node",
        parameters=[{"publish_clock": simulated}],
        condition=IfCondition(LaunchConfiguration("world")),
        output="screen",
    )
    policy = LifecycleNode(
        package=PACKAGE,
        executable="policy_node",
        name="policy",
        namespace="",
        parameters=[
            LaunchConfiguration("params_file"),
            {"policy": ParameterValue(LaunchConfiguration("policy"), value_type=str), "use_sim_time": simulated},
        ],
        output="screen",
    )
    starts = IfCondition(LaunchConfiguration("autostart"))
    activate = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=policy,
            start_state="configuring",
            goal_state="inactive",
            entities=[_change(policy, Transition.TRANSITION_ACTIVATE)],
        ),
        condition=starts,
    )
    configure = _change(policy, Transition.TRANSITION_CONFIGURE, condition=starts)
    return LaunchDescription([*arguments, world, policy, activate, configure])


def _change(node: LifecycleNode, transition: int, condition: IfCondition | None = None) -> EmitEvent:
    event = ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition)
    return EmitEvent(event=event, condition=condition)

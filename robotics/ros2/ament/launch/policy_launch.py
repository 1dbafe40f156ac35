"""Start a policy node, bring it to active, and, if asked, the Push-T world beside it.

    ros2 launch fewstep_ros2 policy_launch.py world:=true
    ros2 launch fewstep_ros2 policy_launch.py policy:=my.safetensors params_file:=my_robot.yaml

With autostart:=false the node waits for `ros2 lifecycle set`. A node that cannot be configured says why in its log and
in /diagnostics, and stays unconfigured.
"""

from fewstep_ros2.launching import bring_up
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

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
    return LaunchDescription([*arguments, world, policy, *bring_up(policy, LaunchConfiguration("autostart"))])

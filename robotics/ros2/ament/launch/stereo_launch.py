r"""Start a stereo node and bring it to active.

    ros2 launch fewstep_ros2 stereo_launch.py left:=/camera/camera/infra1 right:=/camera/camera/infra2 \
        image:=image_rect_raw raw:=/camera/camera/depth/image_rect_raw first:=raw

With autostart:=false the node waits for `ros2 lifecycle set`. A node that cannot be configured says why in its log and
in /diagnostics, and stays unconfigured.
"""

from fewstep_ros2.launching import bring_up
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare

PACKAGE = "fewstep_ros2"


def generate_launch_description() -> LaunchDescription:
    """Return what is started."""
    config = PathJoinSubstitution([FindPackageShare(PACKAGE), "config", "stereo.yaml"])
    arguments = [
        DeclareLaunchArgument("params_file", default_value=config, description="parameters of the stereo node"),
        DeclareLaunchArgument("weights", default_value="robotics/stereo_small", description="file or packaged name"),
        DeclareLaunchArgument("first", default_value="sgbm", description="sgbm, raw or none"),
        DeclareLaunchArgument("namespace", default_value="", description="of the node and its topics"),
        DeclareLaunchArgument("left", default_value="left", description="namespace of the left camera"),
        DeclareLaunchArgument("right", default_value="right", description="namespace of the right camera"),
        DeclareLaunchArgument("image", default_value="image_rect", description="rectified image in both"),
        DeclareLaunchArgument("raw", default_value="raw/depth", description="depth of a sensor, for first:=raw"),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="time from /clock"),
        DeclareLaunchArgument("autostart", default_value="true", description="configure and activate the node"),
    ]
    left, right, image = (LaunchConfiguration(name) for name in ("left", "right", "image"))
    stereo = LifecycleNode(
        package=PACKAGE,
        executable="stereo_node",
        name="stereo",
        namespace=LaunchConfiguration("namespace"),
        parameters=[
            LaunchConfiguration("params_file"),
            {
                "weights": ParameterValue(LaunchConfiguration("weights"), value_type=str),
                "first": ParameterValue(LaunchConfiguration("first"), value_type=str),
                "use_sim_time": LaunchConfiguration("use_sim_time"),
            },
        ],
        remappings=[
            ("left/image_rect", [left, "/", image]),
            ("left/camera_info", [left, "/camera_info"]),
            ("right/image_rect", [right, "/", image]),
            ("right/camera_info", [right, "/camera_info"]),
            ("raw/depth", LaunchConfiguration("raw")),
        ],
        output="screen",
    )
    return LaunchDescription([*arguments, stereo, *bring_up(stereo, LaunchConfiguration("autostart"))])

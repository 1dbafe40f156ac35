"""What the launch files of the lifecycle nodes share."""

from launch.actions import EmitEvent, RegisterEventHandler
from launch.conditions import IfCondition
from launch.events import matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from lifecycle_msgs.msg import Transition


def bring_up(node: LifecycleNode, autostart: LaunchConfiguration) -> list[RegisterEventHandler | EmitEvent]:
    """Return what configures and activates a node, if `autostart` is true."""
    starts = IfCondition(autostart)
    activate = RegisterEventHandler(
        OnStateTransition(
            target_lifecycle_node=node,
            start_state="configuring",
            goal_state="inactive",
            entities=[_change(node, Transition.TRANSITION_ACTIVATE)],
        ),
        condition=starts,
    )
    return [activate, _change(node, Transition.TRANSITION_CONFIGURE, condition=starts)]


def _change(node: LifecycleNode, transition: int, condition: IfCondition | None = None) -> EmitEvent:
    event = ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition)
    return EmitEvent(event=event, condition=condition)

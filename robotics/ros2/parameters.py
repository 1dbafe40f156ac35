"""The parameters of the policy node: one table for their declaration, one function for what they mean together.

Parameters are read when the node is configured. Their types and ranges are checked by ROS as they are set, everything
else on configure, with an error that names the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import ValidationError

from robotics.policy.config import PolicyConfig
from robotics.policy.messages import IMAGE, NUMBERS
from robotics.policy.runtime.settings import RuntimeSettings
from robotics.ros2.messages import AXES, OUTPUTS
from shared.errors import InputError

INTEGERS, DOUBLES, STRINGS = [0], [0.0], [""]  # what an array parameter of each type is declared with: ROS keeps types


@dataclass(frozen=True)
class Spec:
    """A parameter.

    Attributes:
        default: value and type.
        text: for people, with the unit.
        low: smallest value.
        high: largest value.
    """

    default: Any
    text: str
    low: float | None = None
    high: float | None = None


SPECS: dict[str, Spec] = {
    "policy": Spec("", "policy file (.safetensors) or packaged name"),
    "device": Spec("cpu", "where the network runs: cpu, cuda, cuda:1, ..."),
    "warm_start": Spec("shift+renoise", "cold, shift, shift+renoise, extrapolate, or a file of calibrate"),
    "levels": Spec([20, 10, 4, 0], "entries of the noise table of a warm sampling, falling; not read with a file"),
    "cold_calls": Spec(10, "network calls of a cold sampling", 1, 1000),
    "seed": Spec(0, "of the policy's noise", 0, 2**31 - 1),
    "rate_hz": Spec(10.0, "ticks a second; must be the policy's rate", 0.0, 1000.0),
    "budget_ms": Spec(0.0, "time of one plan; 0 is 0.8 of a tick", 0.0, 10_000.0),
    "execute": Spec(1, "ticks between two requests of a plan", 1, 1000),
    "max_chunk_age": Spec(0, "ticks for which a plan is used; 0 is to its end", 0, 1000),
    "stop_after_s": Spec(2.0, "so long without a plan, and the node stops until ~/reset", 0.01, 3600.0),
    "preview": Spec(0, "points of a JointTrajectory after that of now; 3 or more for a controller", 0, 100),
    "observations": Spec(STRINGS, "names of the policy's observations"),
    "observation_topics": Spec(STRINGS, "their topics"),
    "observation_types": Spec(STRINGS, f"their types: {', '.join(NUMBERS)}"),
    "observation_max_age_ms": Spec(DOUBLES, "oldest sample that is believed, of each"),
    "observation_frozen_ms": Spec(DOUBLES, "the same numbers for longer are a frozen sensor; 0 switches this off"),
    "observation_joints": Spec(STRINGS, "joints taken from a JointState, in this order; empty takes all"),
    "topic_timeout_s": Spec(5.0, "configure waits so long for a publisher of each topic; 0 does not look", 0.0, 600.0),
    "position_observation": Spec("", "observation that tells where the robot is; empty: begin at action_hold"),
    "position_columns": Spec(INTEGERS, "its numbers that are the action which stays there"),
    "action_names": Spec(STRINGS, "joints of a JointTrajectory, labels of a Float64MultiArray"),
    "action_low": Spec(DOUBLES, "smallest command, of each number, in its unit"),
    "action_high": Spec(DOUBLES, "largest command"),
    "action_velocity": Spec(DOUBLES, "largest change in a second"),
    "action_acceleration": Spec(DOUBLES, "largest change of the velocity in a second; .nan or empty: no limit"),
    "action_hold": Spec(DOUBLES, "command without a plan, such as 0 for a speed; .nan or empty: rest where it is"),
    "output": Spec("joint_trajectory", f"message: {', '.join(OUTPUTS)}"),
    "command_topic": Spec("~/command", "where commands are published, reliable, depth 1"),
    "twist_axes": Spec(STRINGS, f"of a Twist or TwistStamped, one for each number: {', '.join(AXES)}"),
    "twist_frame": Spec("base_link", "frame of a TwistStamped"),
}  # fmt: skip
EMPTY = {name for name, spec in SPECS.items() if spec.default in (INTEGERS, DOUBLES, STRINGS)}


def declare(node: Any, specs: Mapping[str, Spec] = SPECS) -> None:
    """Declare all parameters, with descriptors; values of another type or out of range are refused by ROS."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
    from rclpy.parameter import Parameter

    for name, spec in specs.items():
        descriptor = ParameterDescriptor(description=spec.text)
        if spec.low is not None and spec.high is not None:
            if isinstance(spec.default, int):
                descriptor.integer_range = [IntegerRange(from_value=int(spec.low), to_value=int(spec.high), step=1)]
            else:
                descriptor.floating_point_range = [FloatingPointRange(from_value=spec.low, to_value=spec.high)]
        kind = Parameter(name, value=spec.default).type_
        node.declare_parameter(name, kind if name in EMPTY else spec.default, descriptor)


def answer_change(parameters: Iterable[Any], specs: Mapping[str, Spec], *, configured: bool) -> Any:
    """Return the answer to a change of parameters: those of `specs` are refused while the node is configured."""
    from rcl_interfaces.msg import SetParametersResult

    changed = [parameter.name for parameter in parameters if parameter.name in specs]
    if configured and changed:
        return SetParametersResult(
            successful=False, reason=f"{', '.join(changed)}: read on configure; clean up the node first"
        )
    return SetParametersResult(successful=True)


@dataclass(frozen=True)
class Observation:
    """Where an observation comes from."""

    name: str
    topic: str
    type: str


@dataclass(frozen=True)
class NodeSettings:
    """What the parameters mean.

    Attributes:
        runtime: of the loop.
        observations: of the policy.
        joints: taken from a JointState; empty takes all.
        position: name and columns of the observation that gives the first command; None takes the hold action.
        output: key of `OUTPUTS`.
        names: of the numbers of the action.
        axes: of a Twist or TwistStamped.
        frame: of a TwistStamped.
        topic: of the commands.
    """

    runtime: RuntimeSettings
    observations: tuple[Observation, ...]
    joints: tuple[str, ...]
    position: tuple[str, tuple[int, ...]] | None
    output: str
    names: tuple[str, ...]
    axes: tuple[str, ...]
    frame: str
    topic: str

    def first(self, seen: dict[str, np.ndarray]) -> np.ndarray:
        """Return the command that stays where the robot is, from its newest samples."""
        if self.position is None:
            return np.array([limit.hold for limit in self.runtime.actions], dtype=np.float64)
        name, columns = self.position
        return np.asarray(seen[name], dtype=np.float64).reshape(-1)[list(columns)]


def read(values: dict[str, Any], policy: PolicyConfig) -> NodeSettings:
    """Return what the parameters mean for a policy.

    Args:
        values: of all parameters.
        policy: that is to be run.

    Raises:
        InputError: a value that is missing, of a wrong number, or does not fit the policy or the other values.
    """
    size = policy.action.size
    names = values["observations"]
    for name in ("observation_topics", "observation_types", "observation_max_age_ms"):
        _need(values, name, len(names), f"one for each of the observations {', '.join(names) or '(none)'}")
    frozen = _optional(values, "observation_frozen_ms", len(names), 0.0)
    images = {field.name for field in policy.images}
    for name, kind in zip(names, values["observation_types"], strict=True):
        one_of("observation_types", kind, [IMAGE] if name in images else [one for one in NUMBERS if one != IMAGE])
    for name in ("action_low", "action_high", "action_velocity"):
        _need(values, name, size, "one for each number of the policy's action")
    acceleration = _optional(values, "action_acceleration", size, math.nan)
    hold = _optional(values, "action_hold", size, math.nan)
    one_of("output", values["output"], OUTPUTS)
    if values["output"] in ("twist", "twist_stamped"):
        _need(values, "twist_axes", size, "one for each number of the policy's action")
        for axis in values["twist_axes"]:
            one_of("twist_axes", axis, AXES)
    named = tuple(values["action_names"]) or policy.action.labels
    if values["output"] == "joint_trajectory" and len(named) != size:
        raise InputError(
            "parameter action_names", found=f"{len(named)} names", expected=f"{size}, the joints of the action",
            fix="Name the joints of the controller in the order of the action.",
        )  # fmt: skip
    position = _position(values, policy, hold)
    try:
        runtime = RuntimeSettings.model_validate(
            {
                "rate_hz": values["rate_hz"],
                "budget_s": values["budget_ms"] / 1000 or None,
                "execute": values["execute"],
                "max_chunk_age": values["max_chunk_age"] or None,
                "stop_after_s": values["stop_after_s"],
                "preview": values["preview"],
                "actions": [
                    {"low": low, "high": high, "velocity": velocity, "acceleration": _number(a), "hold": _number(rest)}
                    for low, high, velocity, a, rest in zip(
                        *(values[f"action_{name}"] for name in ("low", "high", "velocity")), acceleration, hold,
                        strict=True,
                    )
                ],
                "sensors": {
                    name: {"max_age_s": age / 1000, "frozen_s": still / 1000 or None}
                    for name, age, still in zip(names, values["observation_max_age_ms"], frozen, strict=True)
                },
            }
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"parameters, {'.'.join(map(str, first['loc']))}", found=repr(first.get("input")), expected=first["msg"],
            fix="Correct the parameter and configure again.",
        ) from error  # fmt: skip
    runtime.check(policy)
    return NodeSettings(
        runtime=runtime,
        observations=tuple(map(Observation, names, values["observation_topics"], values["observation_types"])),
        joints=tuple(values["observation_joints"]),
        position=position,
        output=values["output"],
        names=named,
        axes=tuple(values["twist_axes"]),
        frame=values["twist_frame"],
        topic=values["command_topic"],
    )


def _position(values: dict[str, Any], policy: PolicyConfig, hold: list[float]) -> tuple[str, tuple[int, ...]] | None:
    name, columns = values["position_observation"], tuple(values["position_columns"])
    if not name:
        if any(math.isnan(value) for value in hold):
            raise InputError(
                "parameter position_observation", found="none, and numbers without action_hold",
                expected="an observation that tells where the robot is", fix="The first command must stay there: name "
                "the observation, or give action_hold for every number.",
            )  # fmt: skip
        return None
    one_of("position_observation", name, [field.name for field in policy.observation])
    _need(values, "position_columns", policy.action.size, "one for each number of the policy's action")
    field = next(field for field in policy.observation if field.name == name)
    sure = field.size if field.columns is None else max(field.columns) + 1  # shorter samples are refused by the loop
    if not all(0 <= column < sure for column in columns):
        raise InputError(
            "parameter position_columns", found=f"{list(columns)}", expected=f"numbers from 0 to {sure - 1}",
            fix=f"They are columns of {name}.",
        )  # fmt: skip
    return name, columns


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _optional(values: dict[str, Any], name: str, count: int, otherwise: float) -> list[float]:
    if not values[name]:
        return [otherwise] * count
    _need(values, name, count, "none, or one for each")
    return list(values[name])


def _need(values: dict[str, Any], name: str, count: int, what: str) -> None:
    if len(values[name]) != count:
        raise InputError(
            f"parameter {name}", found=f"{len(values[name])} values", expected=f"{count}, {what}",
            fix="Correct the parameter and configure again.",
        )  # fmt: skip


def one_of(name: str, value: str, known: Collection[str]) -> None:
    """Raise `InputError` if the value of the parameter `name` is none of the known ones."""
    if value not in known:
        raise InputError(
            f"parameter {name}", found=repr(value), expected=f"one of {', '.join(known)}",
            fix="Correct the parameter and configure again.",
        )  # fmt: skip

"""What a robot allows, as data: limits of its actions and its sensors, and how patient the loop is."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, FiniteFloat, PositiveFloat, PositiveInt, model_validator

from robotics.policy.config import PolicyConfig, Settings
from shared.errors import InputError

LATENCY = 1  # ticks from an observation to its first action: the command of a tick is sent before its network call ends

Positive = Annotated[FiniteFloat, Field(gt=0)]


class ActionLimit(Settings):
    """Limits of one number of the action, in its units.

    Attributes:
        low: smallest command.
        high: largest command.
        velocity: largest change in a second.
        acceleration: largest change of that change in a second, which also bounds every deceleration; None lets a
            command stop within one tick.
        hold: where the loop takes the command when it has no plan, such as 0 for a speed; None comes to rest where it
            is, for a position.
    """

    low: FiniteFloat
    high: FiniteFloat
    velocity: Positive
    acceleration: Positive | None = None
    hold: FiniteFloat | None = None

    @model_validator(mode="after")
    def _fits(self) -> ActionLimit:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must be below high {self.high}")
        if self.hold is not None and not self.low <= self.hold <= self.high:
            raise ValueError(f"hold {self.hold} must lie between low {self.low} and high {self.high}")
        return self


class SensorLimit(Settings):
    """When a sensor is not believed.

    Attributes:
        max_age_s: its newest sample may be so old.
        frozen_s: the same numbers for longer mean that it is frozen, as a camera that repeats its last image; None for
            a sensor whose numbers may stand still.
    """

    max_age_s: Positive
    frozen_s: Positive | None = None


class RuntimeSettings(Settings):
    """A control loop.

    Attributes:
        rate_hz: ticks a second; the policy's own rate, or its plans would run at another speed.
        actions: limits, one for each number of the action.
        sensors: limits by the name of the observation.
        budget_s: time for one chunk; the network stops early rather than take longer. None is 0.8 of a tick.
        execute: ticks from one request of a chunk to the next.
        max_chunk_age: ticks after its observation for which a chunk is used; None is to its end.
        range_slack: share of the range by which an action may lie outside and is then limited; a chunk with one
            farther outside is refused.
        stop_after_s: so long without a plan, and the loop stops until it is reset.
        preview: commands after that of now which a message carries, for a controller that interpolates.
        history: events and latencies kept.
    """

    rate_hz: Positive
    actions: Annotated[tuple[ActionLimit, ...], Field(min_length=1)]
    sensors: dict[str, SensorLimit]
    budget_s: PositiveFloat | None = None
    execute: PositiveInt = 1
    max_chunk_age: PositiveInt | None = None
    range_slack: Annotated[float, Field(ge=0, le=1)] = 0.05
    stop_after_s: Positive = 2.0
    preview: Annotated[int, Field(ge=0)] = 0
    history: PositiveInt = 1000

    @property
    def period(self) -> float:
        """Return the seconds of a tick."""
        return 1 / self.rate_hz

    @property
    def budget(self) -> float:
        """Return the seconds that a chunk may take."""
        return self.budget_s if self.budget_s is not None else 0.8 * self.period

    def check(self, policy: PolicyConfig) -> None:
        """Compare with the policy that is to be run.

        Raises:
            InputError: other actions, sensors or rate than the policy's, or chunks too short for the loop.
        """
        action, chunk = policy.action, policy.chunk
        if len(self.actions) != action.size:
            raise InputError(
                "actions", found=f"limits of {len(self.actions)}", expected=f"{action.size}, those of the policy",
                fix="Give one limit for each number of the action.",
            )  # fmt: skip
        names = [field.name for field in policy.observation]
        if sorted(self.sensors) != sorted(names):
            raise InputError(
                "sensors", found=", ".join(sorted(self.sensors)) or "none", expected=", ".join(sorted(names)),
                fix="Give the limits of exactly the observations of the policy.",
            )  # fmt: skip
        if abs(self.rate_hz - action.rate_hz) > 1e-6 * action.rate_hz:
            raise InputError(
                "rate_hz", found=f"{self.rate_hz:g}", expected=f"{action.rate_hz:g}, the rate of the policy's actions",
                fix="Run the policy at its rate, or train one for this rate.",
            )  # fmt: skip
        ahead = chunk.horizon - chunk.first
        if self.execute + LATENCY > ahead:
            raise InputError(
                "execute", found=f"{self.execute}", expected=f"at most {ahead - LATENCY}: a chunk has {ahead} actions "
                f"from now on, and {LATENCY} passes before it is ready", fix="Draw chunks more often.",
            )  # fmt: skip

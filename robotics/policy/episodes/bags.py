"""Bags of ROS 2 (MCAP or SQLite), one an episode: messages as they came, on the grid of the actions.

    rate_hz: 10
    topics:
      state: {topic: /joint_states, joints: [shoulder, elbow], max_age_s: 0.1}
      img: {topic: /camera/image_raw}
      action: {topic: /arm/command}

Entry i of an episode is at t_i = t_0 + i / rate, where t_0 is the first time at which every topic has a message, up to
the last time at which every topic has a message to come or just had its last. Each field has the newest message that
is not later than t_i, as a policy in a control loop would have seen it; one older than `max_age_s` is an error.

A message's time is its header's stamp, or where it has none (or with `clock: arrival`) when it was recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveFloat

from robotics.packages import require
from robotics.policy.config import Index, Settings
from robotics.policy.episodes.episode import Episodes, absent, joined
from robotics.policy.messages import NUMBERS, nanoseconds_of
from shared.errors import InputError

METADATA = "metadata.yaml"
SECOND = 10**9


class BagTopic(Settings):
    """Where a field's numbers are in a bag.

    Attributes:
        topic: its name.
        joints: of a JointState or JointTrajectory, in this order; empty takes all.
        columns: which of the message's numbers; None takes all.
        max_age_s: oldest message that may be taken.
    """

    topic: str
    joints: tuple[str, ...] = ()
    columns: tuple[Index, ...] | None = None
    max_age_s: PositiveFloat = 0.5


class BagTopics(Settings):
    """The fields of a policy in bags, and the grid that they are put on.

    Attributes:
        rate_hz: of the grid: the policy's actions a second.
        topics: field to topic.
        clock: "header" takes the stamps of the messages where there are some, "arrival" when they were recorded.
    """

    rate_hz: PositiveFloat
    topics: Annotated[dict[str, BagTopic], Field(min_length=1)]
    clock: Literal["header", "arrival"] = "header"


def bags_in(place: Path) -> list[Path]:
    """Return the folders of bags: the place itself, or those in it, in the order of their names and numbers."""
    if (place / METADATA).is_file():
        return [place]
    if not place.is_dir():
        return []
    return sorted(
        (folder for folder in place.iterdir() if (folder / METADATA).is_file()),
        key=lambda folder: [
            (int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", folder.name)
        ],
    )


def read_bags(place: Path, names: Sequence[str], topics: BagTopics) -> Episodes:
    """Read the named fields of all bags of a place, resampled."""
    require("rosbags", "to read bags of ROS")
    for name in names:
        if name not in topics.topics:
            raise absent(place, name, list(topics.topics))
    chosen = {name: topics.topics[name] for name in names}
    parts = [_resampled(bag, _messages(bag, chosen, topics.clock), chosen, topics.rate_hz) for bag in bags_in(place)]
    return joined(parts, place, {"rate_hz": topics.rate_hz})


def _messages(bag: Path, chosen: Mapping[str, BagTopic], clock: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the times (nanoseconds, rising) and numbers of each field's messages."""
    from rosbags.highlevel import AnyReader, AnyReaderError
    from rosbags.typesys import Stores, get_typestore

    found: dict[str, tuple[list[int], list[np.ndarray]]] = {name: ([], []) for name in chosen}
    try:
        with AnyReader([bag], default_typestore=get_typestore(Stores.LATEST)) as reader:
            kinds = {connection.topic: connection.msgtype for connection in reader.connections}
            for one in chosen.values():
                if one.topic not in kinds:
                    raise absent(bag, one.topic, list(kinds))
                if kinds[one.topic] not in NUMBERS:
                    raise InputError(
                        bag, found=f"{one.topic} of type {kinds[one.topic]}", expected=f"one of {', '.join(NUMBERS)}",
                        fix="Record another topic, or convert it.",
                    )  # fmt: skip
            wanted = {one.topic for one in chosen.values()}
            connections = [connection for connection in reader.connections if connection.topic in wanted]
            for connection, arrival, data in reader.messages(connections=connections):
                message = reader.deserialize(data, connection.msgtype)
                stamp = nanoseconds_of(message) if clock == "header" else None
                for name, one in chosen.items():
                    if one.topic == connection.topic:
                        times, rows = found[name]
                        times.append(arrival if stamp is None else stamp)
                        rows.append(_numbers(bag, one, connection.msgtype, message, rows))
    except AnyReaderError as error:
        raise InputError(bag, found=f"a bag that cannot be read ({error})", expected="a whole bag", fix="Copy it again."
                         ) from error  # fmt: skip
    sorted_ = {}
    for name, (times, rows) in found.items():
        if not times:
            raise InputError(
                bag, found=f"no message of {chosen[name].topic}", expected="one or more", fix="Record it again."
            )
        stamps = np.array(times, dtype=np.int64)
        order = np.argsort(stamps, kind="stable")
        sorted_[name] = stamps[order], np.stack(rows)[order]
    return sorted_


def _numbers(bag: Path, one: BagTopic, kind: str, message: object, rows: Sequence[np.ndarray]) -> np.ndarray:
    values = NUMBERS[kind](message, one.joints)
    missing = one.joints and len(values) != len(one.joints)
    if one.columns is not None and not missing and values.ndim == 1 and max(one.columns) < len(values):
        values = values[list(one.columns)]
    elif one.columns is not None:
        missing = True
    if missing or not values.size or (rows and rows[0].shape != values.shape):
        raise InputError(
            bag, found=f"a message of {one.topic} with numbers of shape {values.shape}",
            expected=f"{rows[0].shape}" if rows else f"joints {list(one.joints)}, columns {one.columns}",
            fix="Correct joints and columns; images must be rgb8, bgr8 or mono8.",
        )  # fmt: skip
    return values.copy()


def _resampled(
    bag: Path,
    messages: Mapping[str, tuple[np.ndarray, np.ndarray]],
    chosen: Mapping[str, BagTopic],
    rate_hz: float,
) -> dict[str, np.ndarray]:
    begin = max(int(times[0]) for times, _ in messages.values())
    end = min(int(times[-1]) for times, _ in messages.values())
    if end < begin:
        late = max(messages, key=lambda name: messages[name][0][0])
        raise InputError(
            bag, found=f"{chosen[late].topic} begins {(begin - end) / SECOND:.3g} s after another topic has ended",
            expected="topics that overlap", fix="Record them together; with stamps of two clocks, give clock: arrival.",
        )  # fmt: skip
    count = int((end - begin) * rate_hz / SECOND + 1e-9) + 1
    grid = begin + np.rint(np.arange(count) * (SECOND / rate_hz)).astype(np.int64)
    found = {}
    for name, (times, rows) in messages.items():
        places = np.searchsorted(times, grid, side="right") - 1
        age = grid - times[places]
        if (age > chosen[name].max_age_s * SECOND).any():
            worst = int(age.argmax())
            raise InputError(
                bag, found=f"{chosen[name].topic} silent for {age[worst] / SECOND:.3g} s at "
                f"{(grid[worst] - begin) / SECOND:.3g} s", expected=f"a message every {chosen[name].max_age_s:g} s",
                fix="Cut or remove the recording, or raise max_age_s.",
            )  # fmt: skip
        found[name] = rows[places]
    return found

"""How far along, and turned how far, a planned body is in each frame."""

from __future__ import annotations

import math

import numpy as np

RAMP = 0.5  # s, from rest to walking speed


def walked(length: float, speed: float, fps: float) -> np.ndarray:
    """Return how far along a path each frame is, (S,) m, the last one at its end: from rest to rest.

    The speed rises and falls linearly within half a second; a way too short for that is walked more slowly.
    """
    speed = min(speed, length / RAMP)
    seconds = length / speed + RAMP
    frames = math.ceil(seconds * fps - 1e-9)
    time = np.arange(1, frames + 1) * (seconds / frames)
    left = seconds - time
    rising, falling = speed * time**2 / (2 * RAMP), length - speed * left**2 / (2 * RAMP)
    even = speed * (time - RAMP / 2)
    return np.where(time < RAMP, rising, np.where(left < RAMP, falling, even)).clip(0, length)


def eased(frames: int) -> np.ndarray:
    """Return shares (S,) from after 0 up to 1 of a movement of least jerk: 10 s^3 - 15 s^4 + 6 s^5."""
    share = np.arange(1, frames + 1) / frames
    return share**3 * (10 - 15 * share + 6 * share**2)


def angle_between(first: np.ndarray, second: np.ndarray) -> float:
    """Return the angle from one direction to another, in (-pi, pi]."""
    return math.atan2(first[0] * second[1] - first[1] * second[0], float(first @ second))


def rotated(direction: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Return a direction (2,) turned counter-clockwise by angles, (..., 2)."""
    c, s = np.cos(angles), np.sin(angles)
    return np.stack([c * direction[0] - s * direction[1], s * direction[0] + c * direction[1]], -1)


def turning(facing: np.ndarray, wanted: np.ndarray, most: float) -> np.ndarray:
    """Return directions (S, 2) that turn to the wanted ones by at most so many rad a frame."""
    found = []
    for direction in wanted:
        angle = angle_between(facing, direction)
        facing = rotated(facing, np.array(np.clip(angle, -most, most)))
        found.append(facing)
    return np.stack(found)

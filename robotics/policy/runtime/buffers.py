"""The last samples of a sensor, by the loop's clock: what was seen at which tick, how old it is, whether to believe it.

The observation of a tick is the newest sample not after it. A policy that looks at several ticks gets the samples of a
tick, a period, two periods ago; before the first sample, its copies, as in training.

Samples come from any thread; a sample that cannot be used is never stored, so one bad message is coasted over, and many
make the sensor stale.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robotics.policy.config import ImageField, ObservationField, PolicyConfig
from robotics.policy.runtime.faults import Cause, Fault
from robotics.policy.runtime.settings import RuntimeSettings, SensorLimit

FUTURE_S = 0.05  # stamps of synchronised computers may be ahead by so much


@dataclass(frozen=True)
class _Sample:
    stamp: float
    values: np.ndarray


class SensorBuffer:
    """Samples of one sensor.

    Args:
        field: name and numbers that the policy takes, or its camera.
        limit: when it is not believed.
        keep_s: how far back observations look.
    """

    def __init__(self, field: ObservationField | ImageField, limit: SensorLimit, keep_s: float) -> None:
        self.name, self.limit, self._keep = field.name, limit, keep_s
        self._size, self._most = field.size, max(field.columns or (0,))
        self._whole = field.columns is None
        self._image = field if isinstance(field, ImageField) else None
        self._lock = threading.Lock()
        self._samples: deque[_Sample] = deque()
        self._same_since = 0.0
        self._pending: list[Fault] = []

    def put(self, values: Any, *, now: float, stamp: float | None = None) -> None:
        """Store a sample.

        Args:
            values: numbers of any shape; an image as (C, H, W) or (H, W, C), or (H, W) if it is gray.
            now: the loop's clock.
            stamp: when it was measured, by the loop's clock; None is now. One in the future, or not after the last, is
                a fault of the sensor's clock, and the time of arrival is taken.
        """
        array = np.asarray(values)
        if self._image is not None and array.shape == (*self._image.shape[1:], self._image.shape[0]):
            array = np.moveaxis(array, -1, 0)
        array = array.astype(np.float32).reshape(-1)
        with self._lock:
            if len(array) != self._size if self._whole else len(array) <= self._most:
                self._fault(Cause.MALFORMED, f"{len(array)} numbers")
                return
            if not np.isfinite(array).all():
                self._fault(Cause.NOT_FINITE)
                return
            newest = self._samples[-1] if self._samples else None
            if stamp is None:
                stamp = now
            elif stamp > now + FUTURE_S or (newest is not None and stamp <= newest.stamp):
                self._fault(Cause.STAMP, f"{stamp - now:+.3g} s from now")
                stamp = now
            if newest is None or not np.array_equal(newest.values, array):
                self._same_since = stamp
            self._samples.append(_Sample(stamp, array.copy()))
            while len(self._samples) > 1 and self._samples[1].stamp <= stamp - self._keep:
                self._samples.popleft()

    def clear(self) -> None:
        """Forget all samples, whose times mean nothing after the clock went back."""
        with self._lock:
            self._samples.clear()

    def faults(self, now: float) -> list[Fault]:
        """Return what is wrong with the sensor now, and what was with samples since the last call."""
        with self._lock:
            found, self._pending = self._pending, []
            if not self._samples:
                return [*found, Fault(Cause.STALE, self.name, "no sample")]
            age = now - self._samples[-1].stamp
            if age > self.limit.max_age_s:
                found.append(Fault(Cause.STALE, self.name, f"{age:.3g} s old"))
            elif self.limit.frozen_s is not None and now - self._same_since > self.limit.frozen_s:
                found.append(Fault(Cause.FROZEN, self.name, f"{now - self._same_since:.3g} s the same"))
            return found

    def at(self, times: np.ndarray) -> np.ndarray:
        """Return the newest samples not after these times (or the oldest there is), (len(times), numbers)."""
        with self._lock:
            samples = list(self._samples)
        stamps = np.array([sample.stamp for sample in samples])
        places = np.searchsorted(stamps, times, side="right") - 1
        return np.stack([samples[max(place, 0)].values for place in places])

    def newest(self) -> np.ndarray | None:
        """Return the numbers of the newest sample; None without one."""
        with self._lock:
            return self._samples[-1].values if self._samples else None

    def age(self, now: float) -> float:
        """Return the age of the newest sample in seconds; infinity without one."""
        with self._lock:
            return now - self._samples[-1].stamp if self._samples else float("inf")

    def _fault(self, cause: Cause, detail: str = "") -> None:
        self._pending = [fault for fault in self._pending if fault.cause != cause]  # one a tick, whatever comes
        self._pending.append(Fault(cause, self.name, detail))


class Sensors:
    """All sensors of a policy.

    Args:
        policy: what it observes.
        settings: limits, already checked against the policy.
    """

    def __init__(self, policy: PolicyConfig, settings: RuntimeSettings) -> None:
        self._back = settings.period * np.arange(policy.chunk.observe - 1, -1, -1)
        keep = settings.period * policy.chunk.observe
        self.buffers = {
            field.name: SensorBuffer(field, settings.sensors[field.name], keep) for field in policy.observation
        }

    def faults(self, now: float) -> list[Fault]:
        """Return the faults of all sensors."""
        return [fault for buffer in self.buffers.values() for fault in buffer.faults(now)]

    def observation(self, now: float) -> Mapping[str, np.ndarray]:
        """Return the observation of a tick, name to (1, T_o, numbers)."""
        return {name: buffer.at(now - self._back)[None] for name, buffer in self.buffers.items()}

    def clear(self) -> None:
        """Forget all samples."""
        for buffer in self.buffers.values():
            buffer.clear()

"""Where the samples of a readout lie when the gradient ramps while the receiver is open.

A trapezoid rises over t_up, stays flat over t_flat and falls over t_down. With g its amplitude in units of the flat
top, the area from the start is

    A(t) = t^2 / (2 t_up)                                        t <= t_up
         = t_up / 2 + (t - t_up)                                 t <= t_up + t_flat
         = t_up / 2 + t_flat + u - u^2 / (2 t_down)              u = t - t_up - t_flat

and for a sinusoidal ramp the two ramps are quarter periods of a sine. The receiver opens at t_0 and takes n samples of
dwell time d at t_i = t_0 + (i + 1/2) d. The area over the whole window is what the protocol's resolution needs, N
cycles per encoded field of view, and k is zero in the middle of the window:

    k_i = N * (A(t_i) - A(t_0 + n d / 2)) / (A(t_0 + n d) - A(t_0))

The middle of a symmetric window lies between two samples, so a line recorded backwards has the same positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Ramp:
    """Times of the readout gradient and of the receiver, in microseconds.

    Attributes:
        up, flat, down: durations of the parts of the gradient.
        delay: from the start of the gradient to the start of the first sample's dwell time.
        dwell: time per sample.
        samples: number of samples.
        sinusoidal: the ramps are quarter sine waves instead of straight lines.
    """

    up: float
    flat: float
    down: float
    delay: float
    dwell: float
    samples: int
    sinusoidal: bool = False

    def area(self, time: np.ndarray) -> np.ndarray:
        """Return A(t) for times within the gradient."""
        rise = np.clip(time, 0, self.up)
        level = np.clip(time - self.up, 0, self.flat)
        fall = np.clip(time - self.up - self.flat, 0, self.down)
        if self.sinusoidal:
            omega_up, omega_down = np.pi / (2 * self.up), np.pi / (2 * self.down)
            return (1 - np.cos(omega_up * rise)) / omega_up + level + np.sin(omega_down * fall) / omega_down
        return rise**2 / (2 * self.up) + level + fall - fall**2 / (2 * self.down)

    def positions(self, matrix: int) -> np.ndarray:
        """Return k_i, float64 (samples,), in cycles per encoded field of view; `matrix` is N."""
        start, duration = self.delay, self.samples * self.dwell
        window = self.area(np.array([start, start + duration / 2, start + duration]))
        return matrix * (self.area(self._times()) - window[1]) / (window[2] - window[0])

    def is_uniform(self) -> bool:
        """Whether the receiver is open only while the gradient is flat."""
        return self.delay >= self.up and self.delay + self.samples * self.dwell <= self.up + self.flat

    def off_centre_phase(self, matrix: int, offset: float) -> np.ndarray:
        """Return the factors (samples,) that undo the receiver's demodulation of an off-centre field of view.

        To centre the field of view at r_0 the receiver runs at the constant frequency of the flat top, which adds the
        phase of k'(t) = G t instead of that of k(t). In the convention in which the inverse Fourier transform gives the
        image, with both zero in the middle of the window, the correction is

            c_i = exp(2 pi i r_0 (k_i - k'_i))

        Args:
            matrix: N.
            offset: r_0, the distance of the centre from the isocentre along the readout, in encoded fields of view.
        """
        start, duration = self.delay, self.samples * self.dwell
        window = self.area(np.array([start, start + duration]))
        flat_top = matrix / (window[1] - window[0]) * (self._times() - start - duration / 2)
        return np.exp(2j * np.pi * offset * (self.positions(matrix) - flat_top))

    def _times(self) -> np.ndarray:
        return self.delay + (np.arange(self.samples) + 0.5) * self.dwell

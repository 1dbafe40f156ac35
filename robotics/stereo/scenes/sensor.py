"""From light to pixels: lens, exposure, noise, encoding; and the disparity that a sensor would report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robotics.stereo.scenes.config import SensorConfig


@dataclass(frozen=True)
class Sensor:
    """A pair of cameras, drawn for one scene; the meaning of each number is that of `SensorConfig`.

    Attributes:
        blur: px.
        noise: share of full scale.
        gains: (2, 3) of each camera's channels.
        vertical_shift: px.
        gamma: exponent.
        brightness: share of full scale.
        grey: one channel, three times.
    """

    blur: float
    noise: float
    gains: np.ndarray
    vertical_shift: float
    gamma: float
    brightness: float
    grey: bool


def random_sensor(config: SensorConfig, rng: np.random.Generator) -> Sensor:
    """Draw a pair of cameras."""
    gains = np.exp2(rng.uniform(*config.tint, (2, 3)))
    gains[1] *= np.exp2(rng.uniform(*config.gain))
    return Sensor(
        blur=rng.uniform(*config.blur),
        noise=rng.uniform(*config.noise),
        gains=gains,
        vertical_shift=rng.uniform(*config.vertical_shift) * rng.choice((-1.0, 1.0)),
        gamma=rng.uniform(*config.gamma),
        brightness=rng.uniform(*config.brightness),
        grey=bool(rng.random() < config.grey),
    )


def expose(
    sensor: Sensor, left: np.ndarray, right: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return both images, (height, width, 3) uint8, of linear light (height, width, 3) float32.

    Both cameras take the exposure that brings the left image to the sensor's brightness. Noise is added to linear
    light, half of its variance at half of full scale being shot noise; then the value is encoded by 1 / gamma.
    """
    import cv2

    exposure = sensor.brightness / max(float(left.mean()), 1e-6)
    images = []
    for light, gains in ((left, sensor.gains[0]), (right, sensor.gains[1])):
        seen = light * (exposure * gains).astype(np.float32)
        if sensor.grey:
            seen = seen.mean(-1, keepdims=True)
        if sensor.blur > 0:
            seen = cv2.GaussianBlur(seen, (0, 0), sensor.blur, borderType=cv2.BORDER_REPLICATE).reshape(seen.shape)
        deviation = sensor.noise * np.sqrt(0.5 + np.clip(seen, 0.0, 1.0))
        seen = seen + deviation * rng.standard_normal(seen.shape, np.float32)
        encoded = np.clip(seen, 0.0, 1.0) ** np.float32(1.0 / sensor.gamma)
        images.append(np.broadcast_to(np.rint(255 * encoded), (*light.shape[:2], 3)).astype(np.uint8))
    return images[0], images[1]

"""One anatomy in many contrasts: signal curves for T1-weighted volumes, painted tissues for label maps, bias fields.

A T1-weighted volume orders the tissues of the head by intensity (air, bone, CSF, grey matter, white matter, fat), so a
curve through one point a tissue turns it into a volume with the signal of another contrast: real texture, folding and
partial volume, approximate tissue contrast. A label map knows the tissues themselves, but has no texture of its own.
Both are used, and neither is a measurement: relaxation is not simulated.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from medical.simulation.smooth import smooth_noise, unit_smooth_noise
from medical.simulation.volumes import AnatomySlice

Contrast = Literal["T1w", "T2w", "PD", "FLAIR", "random"]
CONTRASTS: tuple[Contrast, ...] = ("T1w", "T2w", "PD", "FLAIR", "random")

# Intensity of each tissue in a T1-weighted volume with white matter at 1. Inside the brain these are the means of 35
# scans (CSF 0.34, cortex 0.62, white matter 0.98).
T1_INTENSITY = {"air": 0.0, "bone": 0.1, "csf": 0.3, "grey": 0.63, "white": 1.0, "fat": 1.6}

# Typical signals at 3 T relative to the brightest tissue; spin echo for T2w, PD and FLAIR, gradient echo for T1w.
SIGNAL: dict[str, dict[str, float]] = {
    "T1w": {"bone": 0.10, "csf": 0.28, "grey": 0.62, "deep": 0.78, "white": 0.95, "fat": 1.50, "muscle": 0.55},
    "T2w": {"bone": 0.06, "csf": 1.00, "grey": 0.52, "deep": 0.42, "white": 0.36, "fat": 0.70, "muscle": 0.20},
    "PD": {"bone": 0.10, "csf": 0.92, "grey": 0.88, "deep": 0.80, "white": 0.72, "fat": 0.80, "muscle": 0.65},
    "FLAIR": {"bone": 0.06, "csf": 0.10, "grey": 0.80, "deep": 0.66, "white": 0.58, "fat": 0.70, "muscle": 0.35},
}
SPREAD = 0.12  # standard deviation of the logarithm of a tissue's signal between scans
TEXTURE = 0.05  # standard deviation of painted tissue about its mean

# Labels are FreeSurfer's; 5xx are the tissues outside the brain that the maps carry, named by where they lie.
TISSUE_OF_LABEL: dict[str, tuple[int, ...]] = {
    "white": (2, 7, 16, 28, 41, 46, 60, 85, 502, 512),
    "grey": (3, 8, 17, 18, 42, 47, 53, 54),
    "deep": (10, 11, 12, 13, 26, 49, 50, 51, 52, 58, 136, 137, 163, 164),
    "csf": (4, 5, 14, 15, 24, 30, 43, 44, 62, 72, 506),
    "muscle": (25, 57, 507, 508, 509, 514, 530),
    "bone": (515,),
    "marrow": (516,),
    "skin": (511,),
}


def in_contrast(anatomy: AnatomySlice, contrast: Contrast, generator: np.random.Generator) -> np.ndarray:
    """Return the signal (y, x) of a slice in a contrast, float64, averaged over the slice's layers; air is 0.

    Signals are drawn about their typical values, so no two scans of an anatomy are alike.

    Args:
        anatomy: slices of intensities or labels.
        contrast: "random" draws every tissue's signal on its own.
        generator: of the tissues' signals and of painted texture.
    """
    if anatomy.subject.kind == "labels":
        return _painted(anatomy.values, tissue_signals(contrast, generator), generator).mean(0)
    return _remapped(anatomy.values, contrast, generator).mean(0)


def tissue_signals(contrast: Contrast, generator: np.random.Generator) -> dict[str, float]:
    """Draw the signal of every tissue in a contrast."""
    if contrast == "random":
        signals = {name: float(generator.uniform(0.1, 1.2)) for name in SIGNAL["T1w"]}
        signals["bone"] = float(generator.uniform(0.05, 0.3))
    else:
        jitter = np.exp(SPREAD * generator.standard_normal(len(SIGNAL[contrast])))
        signals = {name: value * float(j) for (name, value), j in zip(SIGNAL[contrast].items(), jitter, strict=True)}
    # Fat suppression is common in T2-weighted imaging of the head and elsewhere an option.
    suppressed = {"T2w": 0.4, "FLAIR": 0.5}.get(contrast, 0.2)
    if generator.uniform() < suppressed:
        signals["fat"] *= generator.uniform(0.1, 0.4)
    return signals


def signal_curve(signals: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return points (T1-weighted intensity, signal) of the piecewise curve through the tissues, air at 0."""
    names = [name for name in T1_INTENSITY if name != "air"]
    points = [(0.0, 0.0), *((T1_INTENSITY[name], signals[name]) for name in names)]
    x, y = np.array(points).T
    return x, y


def _remapped(t1: np.ndarray, contrast: Contrast, generator: np.random.Generator) -> np.ndarray:
    from scipy.interpolate import PchipInterpolator

    if contrast == "T1w":  # the volume itself, with another flip angle or inversion time: a power law
        gamma = np.exp(0.25 * generator.standard_normal())
        return np.maximum(t1, 0.0).astype(np.float64) ** gamma
    x, y = signal_curve(tissue_signals(contrast, generator))
    x = np.r_[x[:2], x[2:] * np.exp(0.05 * generator.standard_normal(len(x) - 2))]
    curve = PchipInterpolator(np.maximum.accumulate(x + 1e-3 * np.arange(len(x))), y)
    # The curve has no points beyond fat, where the signal stays.
    return np.maximum(curve(np.clip(t1, 0.0, x[-1])), 0.0)


def _painted(labels: np.ndarray, signals: dict[str, float], generator: np.random.Generator) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    fat = signals["fat"]
    outside = {"skin": 0.5 * (signals["muscle"] + fat), "marrow": 0.6 * fat + 0.2 * signals["muscle"]}
    mean_of_label = np.zeros(int(labels.max(initial=0)) + 1)
    for tissue, codes in TISSUE_OF_LABEL.items():
        mean = signals.get(tissue, outside.get(tissue, 0.0))
        for code in codes:
            if code < len(mean_of_label):
                # Structures of one tissue differ: the thalamus is not the putamen.
                mean_of_label[code] = mean * np.exp(0.06 * generator.standard_normal())
    painted = mean_of_label[labels]
    # The maps do not tell the fat below the skin and between the muscles from the muscles.
    soft = labels == 507
    if soft.any():
        share = np.stack([smooth_noise(labels.shape[1:], 5.0, generator) for _ in labels]) > 0.2
        painted = np.where(soft & share, fat, painted)
    grain = np.stack([unit_smooth_noise(labels.shape[1:], 0.8, generator) for _ in labels])
    blotch = np.stack([unit_smooth_noise(labels.shape[1:], 6.0, generator) for _ in labels])
    painted = painted * (1 + TEXTURE * grain + 0.5 * TEXTURE * blotch)
    return np.maximum(gaussian_filter(painted, (0.0, 0.6, 0.6)), 0.0)


def bias_field(
    shape: tuple[int, int], cell_mm: tuple[float, float], strength: float, generator: np.random.Generator
) -> np.ndarray:
    """Return a smooth multiplicative shading exp(b) (y, x), as transmit inhomogeneity leaves; b has scale 70 mm.

    Args:
        shape: of the slice.
        cell_mm: size of a cell along (y, x).
        strength: standard deviation of b over the slice.
        generator: of b.
    """
    scale = (70.0 / cell_mm[0], 70.0 / cell_mm[1])
    return np.exp(strength * unit_smooth_noise(shape, scale, generator))

r"""The out-of-distribution gate: a scan against what a model's card says it was trained on.

A trained network gives a plausible image for any input; outside its training it may be a wrong one. So facts of the
scan that training fixed are compared with the card before the network runs. A fact a little outside its range warns;
one far outside, or a sampling pattern that was never seen, refuses unless the user insists. Matrix, field of view and
pixel size only warn: resolution is what a neural operator is meant to cross, at the risk of the user.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.quality.card import Domain, ModelCard
from medical.reconstruction.quality.sampling_pattern import calibration_extent, sampling_pattern
from shared.errors import InputError

NEAR = 1.1  # times outside a range that still count as inside: ranges are measured on a sample of the training data
FAR = 1.5  # times outside a range: a model trained to R = 8 refuses R above 12
CONTRASTS = {"MPRAGE": "T1", "MP2RAGE": "T1", "FLAIR": "FLAIR", "T1": "T1", "T2": "T2", "PD": "PD"}


@dataclass(frozen=True)
class ScanFacts:
    """What of a scan can be compared with a card.

    Attributes:
        pattern: name of the sampling pattern.
        acceleration: true R.
        coils: receive channels that the network sees.
        matrix: (y, x).
        spacing_mm: (y, x).
        snr: see `signal_to_noise`; None without prewhitening.
        calibration: shorter side of the fully sampled centre.
        contrast: weighting that the protocol's name tells; None if it does not.
    """

    pattern: str
    acceleration: float
    coils: int
    matrix: tuple[int, int]
    spacing_mm: tuple[float, float]
    snr: float | None
    calibration: int
    contrast: str | None = None


@dataclass(frozen=True)
class Departure:
    """A fact outside a card; `text` is one sentence, `far` says that it refuses."""

    text: str
    far: bool


def facts_of(
    kspace: Tensor, mask: Tensor, spacing_mm: tuple[float, float], *, white: bool, header: dict[str, Any] | None = None
) -> ScanFacts:
    """Return the facts of one slice.

    Args:
        kspace: complex (coil, y, x), zero where not sampled.
        mask: bool (y, x).
        spacing_mm: pixel size (y, x).
        white: the noise has variance 1.
        header: protocol facts.
    """
    extent = calibration_extent(mask)
    return ScanFacts(
        pattern=sampling_pattern(mask),
        acceleration=mask.numel() / max(int(mask.sum()), 1),
        coils=len(kspace),
        matrix=(mask.shape[0], mask.shape[1]),
        spacing_mm=spacing_mm,
        snr=signal_to_noise(kspace, mask) if white else None,
        calibration=min(extent),
        contrast=contrast_of(header or {}),
    )


def signal_to_noise(kspace: Tensor, mask: Tensor) -> float:
    """Return the mean signal of the object in noise standard deviations of a full scan, of prewhitened k-space.

    The root sum of squares of the images of the fully sampled centre, at most 32 samples a side, less the energy of its
    noise, averaged over the pixels above a fifth of its 99th percentile. Cards are measured with this function too.
    """
    height, width = (min(n, 32) for n in calibration_extent(mask))
    ny, nx = mask.shape
    window = torch.zeros_like(mask)
    top, left = ny // 2 - height // 2, nx // 2 - width // 2
    window[top : top + height, left : left + width] = True
    noise = len(kspace) * height * width / mask.numel()
    low = (ifft_centred(kspace * window).abs().square().sum(0) - noise).clamp_min(0).sqrt()
    return float(low[low >= 0.2 * low.quantile(0.99)].mean())


def contrast_of(header: dict[str, Any]) -> str | None:
    """Return the weighting that the names in a protocol tell, if they tell one."""
    names = " ".join(str(header.get(key, "")) for key in ("acquisition", "protocol", "sequence")).upper()
    words = re.sub(r"[^A-Z0-9]+", " ", names)
    return next((weighting for token, weighting in CONTRASTS.items() if re.search(rf"{token}(?![0-9])", words)), None)


def departures(card: ModelCard, facts: ScanFacts) -> list[Departure]:
    """Return what of a scan lies outside the card, the worst first."""
    domain: Domain = card.trained_on
    found = []
    if domain.patterns is not None and not _pattern_known(facts.pattern, domain.patterns):
        text = f"The sampling pattern is {facts.pattern}; trained on {', '.join(domain.patterns)}."
        found.append(Departure(text, far=True))
    fov = [n * d for n, d in zip(facts.matrix, facts.spacing_mm, strict=True)]
    checks: list[tuple[str, list[float], tuple[float, float] | None, bool]] = [
        ("acceleration", [facts.acceleration], domain.acceleration, True),
        ("number of coils", [facts.coils], domain.coils, True),
        ("signal-to-noise ratio", [] if facts.snr is None else [facts.snr], domain.snr, True),
        ("fully sampled centre", [facts.calibration], domain.calibration, True),
        ("matrix", [*facts.matrix], domain.matrix, False),
        ("pixel size in mm", [*facts.spacing_mm], domain.spacing_mm, False),
        ("field of view in mm", fov, domain.fov_mm, False),
    ]
    for what, values, trained, refuses in checks:
        outside = [_times_outside(value, trained) for value in values] if trained is not None else []
        if trained is not None and outside and max(outside) > NEAR:
            value = values[outside.index(max(outside))]
            text = f"The {what} is {value:.4g}; trained on {trained[0]:.4g} to {trained[1]:.4g}."
            found.append(Departure(text, far=refuses and max(outside) > FAR))
    if domain.contrasts is not None and facts.contrast is not None and facts.contrast not in domain.contrasts:
        text = f"The protocol is {facts.contrast}-weighted; trained on {', '.join(domain.contrasts)}."
        found.append(Departure(text, far=False))
    return sorted(found, key=lambda departure: not departure.far)


def admit(card: ModelCard, facts: ScanFacts, *, force: bool = False) -> tuple[str, ...]:
    """Return the warnings about a scan that a model may be asked for.

    Raises:
        InputError: the scan lies far outside the card and `force` is false.
    """
    found = departures(card, facts)
    far = [departure.text for departure in found if departure.far]
    if far and not force:
        raise InputError(
            card.name,
            found=f"a scan far outside its training. {' '.join(far)}",
            expected="a scan like those of its model card",
            fix="Use a classical method, or pass --force and distrust the image.",
        )
    head = f"Outside the model card of {card.name}: "
    return tuple(head + departure.text + (" FAR OUTSIDE, FORCED." if departure.far else "") for departure in found)


def _pattern_known(pattern: str, trained: tuple[str, ...]) -> bool:
    """Whether a pattern was trained; cards name the two kinds of combs, and too few lines to tell may be any lines."""
    kinds = {"comb": {"equispaced", "magic"}, "lines": {"equispaced", "magic", "random"}}
    return pattern == "full" or bool(({pattern} | kinds.get(pattern, set())) & set(trained))


def _times_outside(value: float, trained: tuple[float, float]) -> float:
    """Return the factor by which a value lies outside a range, 1 inside."""
    low, high = trained
    if value < low:
        return low / value if value > 0 else math.inf
    return value / high if value > high else 1.0

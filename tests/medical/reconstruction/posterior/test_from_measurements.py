"""A prior from undersampled scans alone: it learns what the masks hide, and refuses scans that do not fit."""

from __future__ import annotations

import pytest
import torch

from medical.reconstruction.posterior.config import PriorTraining
from medical.reconstruction.posterior.from_measurements import Scan, draw_images, train_from_measurements
from medical.reconstruction.posterior.prior import load_prior
from medical.reconstruction.posterior.sampling import PosteriorSettings, estimate_scale
from medical.simulation.protocol import Ranges
from shared.errors import InputError
from tests.medical.reconstruction.posterior.scenes import TINY, scan_of, smooth_maps, untrained_prior

SIDE = 16
CONFIG = PriorTraining(
    ranges=Ranges(matrix=(SIDE, SIDE)), widths=(16, 16), embedding=16, batch=16, steps=240, rate=3e-3, warm_up=10,
    precision="float32", average=0.95, sigma_data=0.4,
)  # fmt: skip


def squares(count: int, generator: torch.Generator) -> torch.Tensor:
    """Flat squares of random size and phase, 60 times the noise."""
    images = torch.zeros(count, SIDE, SIDE, dtype=torch.complex64)
    for image in images:
        size = int(torch.randint(4, 10, (), generator=generator))
        top, left = (int(torch.randint(1, SIDE - size, (), generator=generator)) for _ in range(2))
        image[top : top + size, left : left + size] = 60 * torch.exp(6.28j * torch.rand((), generator=generator))
    return images


def scans_of(images: torch.Tensor, generator: torch.Generator) -> list[Scan]:
    maps = smooth_maps(2, (SIDE, SIDE))
    scans = []
    for image in images:
        mask = (torch.rand(SIDE, 1, generator=generator) < 0.35).expand(SIDE, SIDE).clone()
        mask[SIDE // 2 - 2 : SIDE // 2 + 2] = True
        scans.append(Scan(scan_of(image, mask, maps, generator), mask, maps))
    return scans


def test_drawn_images_come_nearer_to_the_truths_that_training_never_sees(tmp_path):
    generator = torch.Generator().manual_seed(0)
    truths = squares(24, generator)
    scans = scans_of(truths, generator)
    scales = torch.tensor([estimate_scale(scan.kspace, scan.mask, scan.coil_maps) for scan in scans])
    settings = PosteriorSettings(calls=12, eta=1.0)
    errors = []

    def note(number: int, images: torch.Tensor) -> None:
        difference = images * scales[:, None, None] - truths
        errors.append(float(difference.norm() / truths.norm()))

    note(-1, draw_images(scans, untrained_prior(CONFIG.sigma_data, TINY), settings, torch.Generator().manual_seed(0)))
    path = train_from_measurements(scans, CONFIG, tmp_path, rounds=3, settings=settings, after_round=note)
    white, _, second, third = errors  # the first round trains on compressed sensing
    assert third < second < 0.8 * white, errors
    prior = load_prior(path)
    assert prior.facts.training["clean_images"] == 0
    assert prior.facts.training["scans"] == 24


def test_bad_input_is_told(tmp_path):
    generator = torch.Generator().manual_seed(0)
    scans = scans_of(squares(1, generator), generator)
    with pytest.raises(InputError, match="0 of matrices"):
        train_from_measurements([], CONFIG, tmp_path)
    with pytest.raises(InputError, match="rounds"):
        train_from_measurements(scans, CONFIG, tmp_path, rounds=0)

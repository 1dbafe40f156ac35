"""The calibration box is the largest fully sampled one around DC, whatever the pattern."""

from __future__ import annotations

import itertools

import pytest
import torch

from medical.reconstruction.learned.calibration import calibration_box
from shared.errors import InputError
from tests.medical.reconstruction.learned.slices import line_mask


@pytest.mark.parametrize("shape", [(32, 40), (33, 41)])
def test_masks_of_lines_give_the_central_lines_in_full(shape):
    columns = line_mask(shape, rate=4, lines=8)
    box = calibration_box(columns[None])[0]
    expected = torch.zeros(shape, dtype=torch.bool)
    expected[:, shape[1] // 2 - 4 : shape[1] // 2 + 4] = True
    assert torch.equal(box, expected)
    assert torch.equal(calibration_box(columns.T[None])[0], expected.T)


def test_masks_in_two_dimensions_give_a_box_in_two_dimensions():
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(48, 40, generator=generator) < 0.3
    mask[24 - 6 : 24 + 6, 20 - 5 : 20 + 5] = True
    box = calibration_box(mask[None])[0]
    assert bool(mask[box].all())
    assert box.any(1).sum() >= 12
    assert box.any(0).sum() >= 10


@pytest.mark.parametrize("seed", range(5))
def test_no_larger_box_around_dc_is_sampled(seed):
    generator = torch.Generator().manual_seed(seed)
    height, width = 13, 16
    y, x = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    near = torch.exp(-(y[:, None] ** 2 + x**2) / 20.0)
    mask = (torch.rand(height, width, generator=generator) < near + 0.1) | (near > 0.8)
    box = calibration_box(mask[None], smallest=2)[0]
    largest = 0
    for h, w in itertools.product(range(1, height // 2 + 2), range(1, width // 2 + 1)):
        rows = slice(max(height // 2 - h, 0), height // 2 + h)
        columns = slice(max(width // 2 - w, 0), width // 2 + w)
        block = mask[rows, columns]
        if bool(block.all()) and min(block.shape) >= 2:
            largest = max(largest, block.numel())
    assert int(box.sum()) == largest
    assert bool(mask[box].all())


def test_slices_have_their_own_boxes_and_a_full_scan_is_one_box():
    masks = torch.stack([line_mask((20, 24), 3, 4), torch.ones(20, 24, dtype=torch.bool)])
    boxes = calibration_box(masks)
    assert boxes.sum((1, 2)).tolist() == [20 * 4, 20 * 24]


def test_a_mask_without_a_centre_is_refused():
    mask = torch.ones(1, 16, 16, dtype=torch.bool)
    mask[0, 8, 8] = False
    with pytest.raises(InputError, match="fully sampled box"):
        calibration_box(mask)

"""The noise is that of Philox, standard normal, and a function of the place alone."""

from __future__ import annotations

import math

import pytest
import torch

from remote_sensing.ddpm_cd.noise import WORD, ground_noise, philox


def words(*numbers: int):
    return tuple(torch.tensor([number]) for number in numbers)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers published with Random123 (Salmon et al.)
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_generator_gives_the_known_answers_of_philox(counter, key, expected):
    found = philox(words(*counter), key[0] | key[1] << 32)
    assert tuple(int(word) for word in found) == expected


def test_a_scene_has_the_same_noise_however_it_is_cut():
    whole = ground_noise(torch.tensor([[-7, 5]]), (5, 40, 50), seed=3, step=50)[0]
    corners = torch.tensor([[-7, 5], [0, 5], [3, 30], [13, 39]])
    tiles = ground_noise(corners, (5, 20, 16), seed=3, step=50)
    for (row, column), tile in zip(corners.tolist(), tiles, strict=True):
        assert torch.equal(tile, whole[:, row + 7 : row + 27, column - 5 : column + 11])


def test_a_pixel_has_the_number_that_the_formula_gives_so_that_results_stay_over_versions():
    row, column, band, step, date, seed = -3, 70_000, 6, 400, 1, 2**33 + 5
    counter = (column, row % 2**32, date * 2**16 + band // 4, step)
    drawn = [int(word) for word in philox(words(*counter), seed)]
    radius = math.sqrt(-2 * math.log((drawn[2] + 0.5) / 2**32))
    expected = radius * math.cos(2 * math.pi * drawn[3] / 2**32)  # band 6 is the first of the second pair
    noise = ground_noise(torch.tensor([[row - 1, column - 2]]), (7, 4, 5), seed=seed, step=step, date=date)
    assert float(noise[0, band, 1, 2]) == pytest.approx(expected, abs=1e-6)


def test_seed_step_date_and_band_each_have_their_own_noise():
    origin, shape = torch.tensor([[0, 0]]), (6, 64, 64)
    first = ground_noise(origin, shape, seed=1, step=50)
    others = [
        ground_noise(origin, shape, seed=2, step=50),
        ground_noise(origin, shape, seed=1 + 2**40, step=50),
        ground_noise(origin, shape, seed=1, step=51),
        ground_noise(origin, shape, seed=1, step=50, date=1),
        ground_noise(origin + 64, shape, seed=1, step=50),
        first.roll(1, dims=1),
        first.roll(1, dims=2),
        first.roll(1, dims=3),
        first.transpose(2, 3),
    ]
    for other in others:
        assert abs(float((first * other).mean())) < 0.03
    more_bands = ground_noise(origin, (9, 64, 64), seed=1, step=50)
    assert torch.equal(more_bands[:, :6], first)


def test_the_noise_is_standard_normal_in_every_band():
    noise = ground_noise(torch.tensor([[0, 0], [5000, 0]]), (4, 256, 256), seed=0, step=400)
    bands = noise.transpose(0, 1).flatten(1).double()
    count = bands.shape[1]
    assert float(bands.mean(1).abs().max()) < 5 / count**0.5
    assert float((bands.var(1) - 1).abs().max()) < 5 * (2 / count) ** 0.5
    assert float(((bands**4).mean(1) - 3).abs().max()) < 5 * (96 / count) ** 0.5
    assert float((bands.abs() < 0.6745).double().mean()) == pytest.approx(0.5, abs=0.003)

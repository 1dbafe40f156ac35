"""Copies and diversity: the numbers of real scans of the same and of different people, MONAI's MS-SSIM."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from medical.brain.qc import diversity
from medical.brain.qc.inputs import Grid, Head, Source
from medical.brain.qc.nearest import LEAST_SUBJECTS, OASIS_CUT, brain_block, calibrated, ncc, nearest, scanned_again
from medical.brain.volume import read_volume, to_lps

pytest.importorskip("nibabel")
OASIS = "brain/noncommercial_cc-by-nc/sub-OAS1{}_ses-{}_T1w_brain.nii.gz"


@pytest.mark.data
def test_a_second_scan_of_a_person_is_above_the_cut_and_other_people_are_below(data_file):
    """Published for these files: same person 0.954 to 0.980, strangers at most 0.941 (2 mm)."""
    names = [(subject, session) for subject in ("0101", "0111", "0117") for session in (1, 2)]
    scans = [to_lps(read_volume(data_file(OASIS.format(*name)))).voxels for name in names]
    blocks = [brain_block(torch.from_numpy(scan), 1.0) for scan in scans]
    table = ncc(blocks, blocks)
    for i, j in itertools.combinations(range(6), 2):
        if names[i][0] == names[j][0]:
            assert 0.954 <= table[i, j] <= 0.980
        else:
            assert table[i, j] <= 0.941 < OASIS_CUT
    found = nearest(blocks[::2], [block.flip(0) for block in blocks[1::2]])
    np.testing.assert_array_equal(found.index, [0, 1, 2])
    assert found.mirrored.all()
    assert (found.ncc > OASIS_CUT).all()


def blob(seed: int, size: tuple[int, int, int] = (48, 56, 48)) -> torch.Tensor:
    """An ellipsoid with smooth contents of its own."""
    source = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in size], indexing="ij")
    inside = (x / 0.7) ** 2 + (y / 0.8) ** 2 + (z / 0.7) ** 2 < 1
    knots = torch.from_numpy(source.normal(0.6, 0.2, (1, 1, 7, 8, 7)).astype(np.float32))
    fine = torch.nn.functional.interpolate(knots, size, mode="trilinear")[0, 0].clamp_min(0.05)
    return fine * torch.from_numpy(inside)


def test_a_moved_or_brighter_brain_is_the_same_brain():
    one = blob(0)
    moved = torch.roll(one, (2, -3, 1), dims=(0, 1, 2)) * 3
    assert ncc([brain_block(one, 4.0)], [brain_block(moved, 4.0)])[0, 0] > 0.999
    assert ncc([brain_block(one, 4.0)], [brain_block(blob(1), 4.0)])[0, 0] < 0.97
    blocks = [brain_block(blob(seed), 4.0) for seed in range(3)]
    assert nearest(blocks, blocks, among_themselves=True).ncc.max() < 0.99
    doubled = nearest([*blocks, blocks[1]], [*blocks, blocks[1]], among_themselves=True)
    np.testing.assert_array_equal(doubled.index[[1, 3]], [3, 1])


def test_the_cut_lies_between_strangers_and_repeats_and_names_those_who_are_no_strangers():
    heads = [Head(Source(None, str(k), str(k)), blob(k), Grid((48, 56, 48), 4.0)) for k in range(6)]  # type: ignore[arg-type]
    blocks = [brain_block(head.x, 4.0) for head in heads]
    repeats = [(k, brain_block(scanned_again(head, k), 4.0)) for k, head in enumerate(heads[:4])]
    names = [head.source.subject for head in heads]
    cut = calibrated(blocks, names, repeats)
    table = ncc(blocks, blocks)
    assert cut.separable
    assert cut.stranger_max >= table[~np.eye(6, dtype=bool)].max() - 1e-6
    assert cut.stranger_max < cut.value < cut.repeat_min < 1
    assert cut.value == pytest.approx((cut.stranger_max + cut.repeat_min) / 2)
    # Two scans under one subject replace the simulated ones; the same scan under two names is told and moves nothing.
    real = calibrated([*blocks, repeats[0][1]], [*names, "0"], [])
    assert real.repeat_min == pytest.approx(ncc([repeats[0][1]], [blocks[0]])[0, 0], abs=1e-6)
    twice = calibrated([*blocks, blocks[2]], [*names, "other"], repeats)
    assert [pair[:2] for pair in twice.alike] == [(2, 6)]
    assert twice.value == pytest.approx(cut.value)
    assert calibrated(blocks[:3], names[: LEAST_SUBJECTS - 2], repeats).value == OASIS_CUT


def test_ms_ssim_is_monais(monkeypatch):
    metrics = pytest.importorskip("monai.metrics.regression")
    monkeypatch.setattr(diversity, "WINDOW", 5)  # theirs takes seconds with windows of 11 voxels
    size = (20, 24, 22)
    a, b = blob(0, size), blob(1, size) + 0.1 * torch.rand(size, generator=torch.Generator().manual_seed(0))
    weights = [weight / sum(diversity.WEIGHTS) for weight in diversity.WEIGHTS]
    theirs = metrics.MultiScaleSSIMMetric(3, kernel_size=5, weights=weights)(a[None, None], b[None, None])
    assert diversity.ms_ssim(a, b) == pytest.approx(float(theirs), abs=1e-5)
    assert diversity.ms_ssim(a, a) == pytest.approx(1, abs=1e-5)


def test_pairs_of_one_subject_do_not_count():
    volumes = [blob(0), blob(0), blob(1)]
    assert diversity.mean_similarity(volumes[:2], ["a", "a"])[1] == 0
    mean, pairs = diversity.mean_similarity(volumes, ["a", "a", "b"])
    assert pairs == 2
    assert mean == pytest.approx(diversity.ms_ssim(volumes[0], volumes[2]), abs=1e-6)

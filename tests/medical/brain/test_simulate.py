"""Simulated heads: against the label map itself, the statistics they are drawn from, and real label maps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medical.brain.anatomy import CODES, STRUCTURES, TISSUES, Anatomy, anatomy_of, read_anatomy
from medical.brain.simulate import Variation, simulate_head
from shared.errors import InputError
from tests.medical.brain.small_head import head

STILL = Variation(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (0.0, 0.0))
SIZE = (24, 28, 24)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return anatomy_of(head(), (2.0, 2.0, 2.0), name="ellipsoids")


def residual(expected: torch.Tensor, found: torch.Tensor) -> float:
    scale = float((expected * found).sum() / found.square().sum())
    return float((expected - scale * found).square().mean().sqrt())


def simulated(anatomy: Anatomy, seed: int, **changes: float) -> dict[str, float]:
    return simulate_head(anatomy, seed, size=SIZE, spacing_mm=4.0, variation=replace(STILL, **changes)).volumes_cm3


def test_without_variation_the_head_is_the_label_map(anatomy: Anatomy) -> None:
    labels = head()
    made = simulate_head(anatomy, 3, size=(48, 56, 48), spacing_mm=2.0, variation=STILL)
    np.testing.assert_array_equal(made.labels.numpy(), labels)
    for name, codes in STRUCTURES.items():
        assert made.volumes_cm3[name] == pytest.approx(np.isin(labels, codes).sum() * 8 / 1000, rel=0.02)
    # Ordered by tissue, and the same scale: x is linear in the signal between the percentiles.
    x, inside = made.x.numpy(), {}
    for name in ("white_matter", "cortex", "ventricle", "putamen"):
        codes, signal = TISSUES[name]
        deep = np.isin(labels, codes) & (np.linalg.norm(np.gradient(labels.astype(float)), axis=0) == 0)
        inside[signal] = x[deep].mean()
    slopes = np.diff(list(dict(sorted(inside.items())).values())) / np.diff(sorted(inside))
    np.testing.assert_allclose(slopes, slopes.mean(), rtol=0.05)


def test_voxels_at_borders_hold_shares_of_both_tissues(anatomy: Anatomy) -> None:
    """The mean over coarse voxels is that over fine ones: no label is decided at 4 mm."""
    fine = simulate_head(anatomy, 0, size=(48, 56, 48), spacing_mm=2.0, variation=STILL)
    coarse = simulate_head(anatomy, 0, size=SIZE, spacing_mm=4.0, variation=STILL)
    expected = torch.nn.functional.avg_pool3d((fine.x[None, None] + 1) / 2, 2)[0, 0]
    found = (coarse.x + 1) / 2
    nearest = (fine.x[1::2, 1::2, 1::2] + 1) / 2
    assert residual(expected, found) < 0.035  # the percentiles differ
    assert residual(expected, nearest) > 0.07


def test_the_seed_decides_everything(anatomy: Anatomy) -> None:
    first, again, other = (simulate_head(anatomy, seed, size=SIZE, spacing_mm=4.0) for seed in (5, 5, 6))
    assert torch.equal(first.x, again.x)
    assert first.volumes_cm3 == again.volumes_cm3
    assert float((first.x - other.x).abs().mean()) > 0.05
    assert (float(first.x.min()), float(first.x.max())) == (-1.0, 1.0)


def test_volumes_follow_scale_and_the_pull_at_the_ventricles(anatomy: Anatomy) -> None:
    still = simulated(anatomy, 0)
    ratios = [simulated(anatomy, seed, scale=0.1)["brain"] / still["brain"] for seed in range(16)]
    logarithms = np.log(ratios) / 3  # even in +-0.1
    assert np.abs(logarithms).max() < 0.105
    assert np.abs(logarithms).max() > 0.06
    pulled = [simulated(anatomy, seed, ventricles_mm=4.0) for seed in range(16)]
    ventricles = np.array([volumes["lateral_ventricles"] for volumes in pulled]) / still["lateral_ventricles"]
    assert ventricles.min() < 0.7
    assert ventricles.max() > 1.4
    brain = np.array([volumes["brain"] for volumes in pulled]) / still["brain"]
    assert np.abs(brain - 1).max() < 0.02


def test_mirrors_and_noise(anatomy: Anatomy) -> None:
    wide = (32, 36, 32)
    made = simulate_head(anatomy, 1, size=wide, spacing_mm=4.0, variation=replace(STILL, mirror=1.0))
    plain = simulate_head(anatomy, 1, size=wide, spacing_mm=4.0, variation=STILL)
    torch.testing.assert_close(made.x.flip(0), plain.x, rtol=0, atol=1e-3)
    assert float((plain.x.flip(0) - plain.x).abs().max()) > 0.2
    noisy = simulate_head(anatomy, 1, size=wide, spacing_mm=4.0, variation=replace(STILL, noise=(0.1, 0.1)))
    air = noisy.x[plain.x == -1]
    inside = (noisy.x - plain.x)[plain.labels == 2]
    # Rayleigh in air: deviation sqrt(2 - pi / 2) s; nearly Gaussian of s in bright tissue.
    assert len(air) > 5000
    assert float(air.std() / inside.std()) == pytest.approx((2 - np.pi / 2) ** 0.5, rel=0.06)


@pytest.mark.parametrize("contrast", ["T2w", "random"])
def test_other_contrasts(anatomy: Anatomy, contrast: str) -> None:
    made = simulate_head(anatomy, 1, size=SIZE, spacing_mm=4.0, contrast=contrast, variation=STILL)  # type: ignore[arg-type]
    assert made.contrast == contrast
    if contrast == "T2w":
        fluid, white = (float(made.x[torch.isin(made.labels, torch.tensor(codes))].mean()) for codes in ((4, 43), (2,)))
        assert fluid > white


def test_refuses_what_is_no_head() -> None:
    with pytest.raises(InputError, match="1028"):
        anatomy_of(np.full((4, 4, 4), 1028), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="no voxel of the brain"):
        anatomy_of(np.full((4, 4, 4), 507), (1.0, 1.0, 1.0))
    with pytest.raises(InputError, match="negative"):
        anatomy_of(np.full((4, 4, 4), -1), (1.0, 1.0, 1.0))


def test_a_real_label_map(data_file) -> None:
    anatomy = read_anatomy(data_file("brain/open/labelmaps_head/sub-synthseg03_dseg.nii.gz"))
    assert anatomy.name == "sub-synthseg03"
    made = simulate_head(anatomy, 0, size=(48, 56, 48), spacing_mm=4.0, variation=STILL)
    native = torch.bincount(anatomy.codes.flatten(), minlength=len(CODES))
    brain = sum(int(native[CODES.index(code)]) for code in STRUCTURES["brain"]) / 1000
    assert made.volumes_cm3["brain"] == pytest.approx(brain, rel=0.01)
    assert 1000 < brain < 1700
    inside = torch.isin(made.labels, torch.tensor(STRUCTURES["brain"], dtype=torch.int16))
    middle = torch.nonzero(inside).float().mean(0)
    assert torch.all((middle - torch.tensor([23.5, 27.5, 23.5])).abs() < 4)

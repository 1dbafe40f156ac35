"""Volumes, their split and licences; contrasts; smooth fields."""

from __future__ import annotations

import numpy as np
import pytest

from medical.simulation.contrast import SIGNAL, T1_INTENSITY, bias_field, in_contrast, signal_curve, tissue_signals
from medical.simulation.smooth import smooth_noise, spline_matrix, unit_smooth_noise
from medical.simulation.volumes import SUBJECTS, AnatomyCache, AnatomySlice, Subject, subjects, white_matter_level
from shared.errors import InputError

T1 = Subject("x", "none", "t1", "ours", "train")
LABELS = Subject("y", "none", "labels", "ours", "train")


def test_no_person_is_in_two_splits_and_open_data_are_the_default():
    assert len({s.name for s in SUBJECTS}) == len(SUBJECTS) == len({s.file for s in SUBJECTS})
    for split in ("train", "validation", "test"):
        assert not any(s.noncommercial for s in subjects(split))
    assert all(s.split == "test" for s in SUBJECTS if s.noncommercial)
    assert len(subjects("test", noncommercial=True)) > len(subjects("test"))
    # Patients of one clinic that may be the same people stay on one side.
    assert {s.split for s in SUBJECTS if s.name.startswith("oms")} == {"train"}


def test_a_folder_without_volumes_is_refused(tmp_path):
    with pytest.raises(InputError, match="no volume"):
        subjects("train", tmp_path)


@pytest.mark.data
def test_real_volumes_have_white_matter_at_one_and_lie_radiologically(data_file, tmp_path):
    folder = data_file("brain/open/sub-colin27_T1w.nii.gz").parents[1]
    colin = next(s for s in SUBJECTS if s.name == "colin27")
    cache = AnatomyCache((colin,), folder, tmp_path)
    middle = cache.slice(0, 100, 4.0)
    assert middle.values.shape[0] == 4
    assert middle.thickness_mm == 4
    # Cortex 0.62, white matter 0.98 and CSF 0.34 of white matter in 35 other scans (data readme): two modes in a slice.
    brain = middle.values[:, 60:160, 50:130]
    counts, edges = np.histogram(brain, bins=45, range=(0.25, 1.25))
    white = edges[27:][counts[27:].argmax()]
    assert white == pytest.approx(1.0, abs=0.06)
    # The volume is stored in LPS: the same voxel as nibabel finds at the same place.
    import nibabel

    nifti = nibabel.load(folder / colin.file)
    voxels = np.asarray(nifti.dataobj)
    assert nibabel.aff2axcodes(nifti.affine) == ("R", "A", "S")
    expected = voxels[::-1, ::-1].transpose(2, 1, 0) / white_matter_level(voxels[::-1, ::-1].transpose(2, 1, 0))
    for index in (20, 100):
        # Slices are counted from the feet; the topmost ones, with too little tissue, are left out.
        error = np.abs(expected - cache.slice(0, index).values[0]).mean((1, 2))
        assert error.min() < 1e-3
        assert error.argmin() - index == np.abs(expected - cache.slice(0, 0).values[0]).mean((1, 2)).argmin()
    # The cache serves without the data, and again the same.
    again = AnatomyCache((colin,), tmp_path / "gone", tmp_path)
    assert np.array_equal(again.slice(0, 100, 4.0).values, middle.values)


@pytest.mark.data
def test_painted_label_maps_have_the_order_of_tissues_of_their_contrast(data_file, tmp_path):
    folder = data_file("brain/open/labelmaps_head/sub-synthseg01_dseg.nii.gz").parents[2]
    cache = AnatomyCache((next(s for s in SUBJECTS if s.name == "synthseg01"),), folder, tmp_path)
    anatomy = cache.slice(0, 90)
    labels = anatomy.values[0]
    white, csf = (labels == 2) | (labels == 41), (labels == 4) | (labels == 43) | (labels == 24)
    means = {}
    for contrast in ("T1w", "T2w", "FLAIR"):
        signal = in_contrast(anatomy, contrast, np.random.default_rng(0))
        means[contrast] = signal[white].mean(), signal[csf].mean()
        assert signal[:3].max() < 0.05  # air
    assert means["T1w"][0] > 1.5 * means["T1w"][1]
    assert means["T2w"][1] > 1.5 * means["T2w"][0]
    assert means["FLAIR"][0] > 1.5 * means["FLAIR"][1]


@pytest.mark.parametrize("contrast", ["T2w", "PD", "FLAIR"])
def test_a_remapped_volume_has_each_tissue_at_its_signal(contrast):
    ladder = np.array([T1_INTENSITY[name] for name in ("air", "bone", "csf", "grey", "white")], dtype=np.float32)
    anatomy = AnatomySlice(ladder[None, None], (1.0, 1.0), 1.0, 0.0, T1)
    drawn = np.stack([in_contrast(anatomy, contrast, np.random.default_rng(seed))[0] for seed in range(200)])
    assert np.all(drawn[:, 0] == 0)
    typical = [SIGNAL[contrast][name] for name in ("bone", "csf", "grey", "white")]
    assert np.median(drawn[:, 1:], axis=0) == pytest.approx(typical, rel=0.12)
    assert drawn[:, 2].std() > 0.08 * typical[1]


def test_t1_weighting_is_monotone_and_signal_curves_start_at_air():
    values = np.linspace(0, 1.5, 30, dtype=np.float32)
    anatomy = AnatomySlice(values[None, None], (1.0, 1.0), 1.0, 0.0, T1)
    assert np.all(np.diff(in_contrast(anatomy, "T1w", np.random.default_rng(1))[0]) >= 0)
    x, y = signal_curve(tissue_signals("random", np.random.default_rng(0)))
    assert (x[0], y[0]) == (0, 0)
    assert np.all(np.diff(x) > 0)


def test_painting_covers_every_label_of_the_real_maps(data_file):
    from medical.simulation.contrast import TISSUE_OF_LABEL

    known = {code for codes in TISSUE_OF_LABEL.values() for code in codes}
    assert len(known) == sum(len(codes) for codes in TISSUE_OF_LABEL.values())
    import nibabel

    for number in (1, 5, 12):
        path = data_file(f"brain/open/labelmaps_head/sub-synthseg{number:02d}_dseg.nii.gz")
        assert set(np.unique(np.asarray(nibabel.load(path).dataobj)).tolist()) - known == {0}


def test_smooth_noise_has_unit_variance_and_gaussian_correlation():
    fields = np.stack([smooth_noise((40, 50), (6.0, 3.0), np.random.default_rng(seed)) for seed in range(400)])
    assert fields.var() == pytest.approx(1, abs=0.06)
    for axis, scale in ((1, 6.0), (2, 3.0)):
        shift = 5
        near, far = np.take(fields, range(40 - shift), axis), np.take(fields, range(shift, 40), axis)
        assert (near * far).mean() == pytest.approx(np.exp(-(shift**2) / (4 * scale**2)), abs=0.06)


def test_bias_fields_shade_as_strongly_as_asked_and_slowly():
    field = np.log(bias_field((120, 100), (2.0, 2.0), 0.2, np.random.default_rng(0)))
    assert field.std() == pytest.approx(0.2, rel=1e-6)
    assert np.abs(np.diff(field, axis=0)).max() < 0.03
    assert unit_smooth_noise((30, 30), 4.0, np.random.default_rng(0)).mean() == pytest.approx(0, abs=1e-12)


def test_spline_matrix_is_exact_for_cubics():
    where = np.linspace(0, 9, 31)
    cubic = np.polynomial.Polynomial([1.0, -2.0, 0.3, 0.05])
    assert np.allclose(spline_matrix(where, 10) @ cubic(np.arange(10.0)), cubic(where))

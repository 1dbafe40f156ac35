"""`fewstep brain qc` on painted heads: what each number sees, the files it writes, and what it says of bad input."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medical.brain.cli import app
from medical.brain.qc.inputs import find_volumes, grid_of, on_fixed_scale, read_heads
from medical.brain.qc.quality import Quality, QualitySettings, quality
from medical.brain.qc.report import report_of
from medical.brain.segmenter import load_segmenter
from shared.errors import InputError
from tests.medical.brain.phantom import head, write

pytest.importorskip("monai")
SETTINGS = QualitySettings(permutations=500)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Eight real heads as a BIDS data set; five made ones, of which one is a real one mirrored and noisy."""
    root = tmp_path_factory.mktemp("heads")
    for k in range(8):
        write(root / "real" / f"sub-{k:02d}" / "anat" / f"sub-{k:02d}_T1w.nii.gz", head(k))
    source = np.random.default_rng(0)
    for k in range(4):
        write(root / "made" / f"made{k}.nii.gz", head(20 + k, 0.92))
    copy = np.clip(head(3)[::-1] + source.normal(0, 0.01, (48, 56, 48)), 0, 1)
    write(root / "made" / "made4.nii.gz", copy)
    (root / "made" / "made4.json").write_text(json.dumps({"Synthetic": True, "model": {"name": "m", "sha256": "ab"}}))
    return root


@pytest.fixture(scope="module")
def result(folders) -> Quality:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    found = quality(folders / "made", folders / "real", load_segmenter(), SETTINGS)
    assert torch.equal(torch.get_rng_state(), before)  # a report draws from nobody's generator
    return found


def test_a_mirrored_noisy_copy_is_named_with_its_original_and_others_are_not(result):
    copied = [row for row in result.neighbours if row.copied]
    assert [row.volume for row in copied] == ["made4.nii.gz"]
    assert copied[0].nearest == "sub-03/anat/sub-03_T1w.nii.gz"
    assert copied[0].mirrored
    assert result.numbers["copied"] == pytest.approx(0.2)
    assert result.cut.separable
    assert any("made4.nii.gz" in warning and "sub-03" in warning for warning in result.warnings)


def test_smaller_brains_are_seen_in_volumes_and_distances(result):
    numbers = result.numbers
    ratio = numbers["volume_brain_cm3"] / numbers["volume_brain_real_cm3"]
    assert ratio == pytest.approx((4 * 0.92**3 + 1) / 5, abs=0.1)
    tests = {(row.structure, row.unit, row.statistic): row for row in result.tests}
    assert tests["brain", "cm3", "mean"].p < 0.05
    assert numbers["fd"] > numbers["fd_real_floor_high"]
    assert {"fd", "fd_real_floor", "ms_ssim", "nearest_ncc_max", "mmd", "fd_n"} <= numbers.keys()
    assert numbers["fd_n"] == 4  # half of the real ones
    assert all(np.isfinite(value) for value in numbers.values())


def test_the_page_has_pictures_tables_and_the_notice_and_json_the_table_of_tests(result, folders):
    page = report_of(result, "fewstep brain qc").html()
    assert page.count("<img") == 2
    assert "NOT FOR DIAGNOSIS" in page
    assert "http" not in page.split("<main>")[0]
    assert "COPY" not in page  # in the picture only
    facts = result.as_json()
    assert facts["facts"]["synthetic"]["models"] == {"m (sha256 ab)": 1}
    assert facts["facts"]["synthetic"]["synthetic"] == 1
    rows = {(row["structure"], row["unit"], row["statistic"]) for row in facts["permutation"]}
    assert ("thalamus", "cm3", "mean") in rows
    assert ("thalamus", "share of the brain", "energy") in rows
    assert ("brain", "share of the brain", "mean") not in rows
    assert set(facts["volumes_cm3"]["synthetic"]["brain"]) == {row["volume"] for row in facts["nearest"]}


def test_the_command_writes_all_or_says_why_not(folders, tmp_path, result, monkeypatch):
    monkeypatch.setattr("medical.brain.qc.quality.quality", lambda *_, **__: result)
    page, numbers = tmp_path / "qc.html", tmp_path / "qc.json"
    arguments = ["qc", str(folders / "made"), "--reference", str(folders / "real"), "-q", "-o", str(page)]
    done = CliRunner().invoke(app, [*arguments, "--json", str(numbers)])
    assert done.exit_code == 0, done.output
    assert json.loads(numbers.read_text())["nearest_ncc_max"] == pytest.approx(result.numbers["nearest_ncc_max"])
    assert page.is_file()
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, InputError)
    unknown = CliRunner().invoke(app, [*arguments, "--overwrite", "--segmenter", str(tmp_path)])
    assert "model.json" in str(unknown.exception)


def heads_of(folder):
    sources = find_volumes(folder)
    return list(read_heads(sources, grid_of(sources), fixed=on_fixed_scale(sources)))


def test_bad_folders_and_volumes_are_named(folders, tmp_path):
    with pytest.raises(InputError, match="no folder"):
        find_volumes(tmp_path / "absent")
    with pytest.raises(InputError, match="0 NIfTI volumes"):
        find_volumes(tmp_path)
    one = write(tmp_path / "a_T1w.nii.gz", head(0))
    with pytest.raises(InputError, match=r"1 NIfTI volume; expected 2"):
        find_volumes(tmp_path)
    other = write(tmp_path / "b_T1w.nii.gz", head(1)[:40])
    with pytest.raises(InputError, match=r"b_T1w.*40x56x48 voxels of 4 x 4 x 4 mm.*48x56x48"):
        heads_of(tmp_path)
    write(other, np.zeros((48, 56, 48)))
    with pytest.raises(InputError, match=r"b_T1w.*no contrast"):
        heads_of(tmp_path)
    nibabel.save(nibabel.Nifti1Image(np.full((48, 56, 48), np.nan, np.float32), nibabel.load(one).affine), other)
    with pytest.raises(InputError, match=r"b_T1w.*NaN"):
        heads_of(tmp_path)
    write(one, head(0), mm=3.0)
    with pytest.raises(InputError, match="3 x 3 x 3 mm"):
        heads_of(tmp_path)
    for broken in (b"", b"no image"):
        other.write_bytes(broken)
        with pytest.raises(InputError, match=r"b_T1w.*no readable NIfTI"):
            quality(tmp_path, folders / "real", load_segmenter(), SETTINGS)
    with pytest.raises(InputError, match="MeshNet, and volumes of 4 mm"):
        quality(folders / "made", folders / "real", load_segmenter(), SETTINGS, meshnet=object())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="--features"):
        quality(folders / "made", folders / "real", load_segmenter(), QualitySettings(("inception",)))


def test_folders_are_read_as_bids_or_plain_and_in_any_voxel_order(folders, tmp_path):
    write(tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz", head(0))
    write(tmp_path / "sub-1" / "anat" / "sub-1_dseg.nii.gz", head(0))
    write(tmp_path / "derivatives" / "sub-9_T1w.nii.gz", head(0))
    ras = nibabel.as_closest_canonical(nibabel.load(tmp_path / "sub-1" / "anat" / "sub-1_T1w.nii.gz"))
    scaled = nibabel.Nifti1Image(ras.get_fdata(dtype=np.float32) / 1000 + 5, ras.affine)
    (tmp_path / "sub-2").mkdir()
    nibabel.save(scaled, tmp_path / "sub-2" / "sub-2_ses-1_T1w.nii.gz")
    found = find_volumes(tmp_path)
    assert [source.subject for source in found] == ["sub-1", "sub-2"]
    assert not on_fixed_scale(found)
    a, b = heads_of(tmp_path)
    torch.testing.assert_close(a.x, b.x, atol=1e-3, rtol=0)
    assert on_fixed_scale(find_volumes(folders / "real"))

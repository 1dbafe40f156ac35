"""`fewstep mri` from file to image: right where the data are known, and one clear line where the input is bad."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from medical.metrics import nrmse_best_scalar
from medical.reconstruction.formats.ismrmrd_writer import write_ismrmrd
from medical.reconstruction.fourier import fft_centred
from shared.cli import main
from tests.medical.reconstruction.scans import blobs, scan_of


def fewstep(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in this process, which saves each run the seconds of importing torch."""
    words = [str(argument) for argument in arguments]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fewstep", *words])
        try:
            main()
        except SystemExit as done:
            code = int(done.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("fewstep: ")
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture
def scan_file(tmp_path: Path) -> Path:
    """ISMRMRD file of a small four-coil scan, two slices, every other line and a centre block."""
    generator = torch.Generator().manual_seed(3)
    image = blobs((2, 48, 48), seed=1).to(torch.complex64)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 48), indexing="ij")
    places = ((-1, 0), (1, 0), (0, -1), (0, 1))
    coils = torch.stack([torch.exp(-((y - a) ** 2) - (x - b) ** 2 + 1j * a * x) for a, b in places])
    kspace = fft_centred(coils * image[:, None])
    kspace = kspace + 1e-3 * torch.randn(kspace.shape, dtype=torch.complex64, generator=generator)
    mask = torch.zeros(2, 48, 48, dtype=torch.bool)
    mask[:, ::2] = True
    mask[:, 14:34] = True
    noise = 1e-3 * torch.randn((4, 4096), dtype=torch.complex64, generator=generator)
    scan = scan_of(kspace.to(torch.complex64), mask, noise=noise, simulated=True)
    return write_ismrmrd(tmp_path / "input" / "scan.h5", scan)


@pytest.mark.data
def test_the_undersampled_brain_is_reconstructed_to_the_full_scan_as_well_as_the_acceptance_asks(data_file, tmp_path):
    out, page = tmp_path / "brain.nii.gz", tmp_path / "brain.html"
    source = data_file("mri/cimaX_brain_16ch_128_R4.mrd.h5")
    before = source.read_bytes()
    done = fewstep("mri", "reconstruct", source, "-o", out, "--method", "wavelet", "--report", page)
    assert done.returncode == 0, done.stderr
    told = {tmp_path / name for name in ("brain.nii.gz", "brain.json", "brain.html", "brain.report.json")}
    assert {Path(line) for line in done.stdout.split()} == told
    rss = np.load(data_file("mri/bart080_golden_cimaX_brain_R4.npz"), allow_pickle=False)["rss"]
    volume = nibabel.load(out)
    found = torch.from_numpy(np.asarray(volume.dataobj)).permute(2, 1, 0)
    assert nrmse_best_scalar(torch.from_numpy(rss)[None], found) <= 0.106
    assert volume.shape == (128, 128, 1)
    assert np.allclose(volume.header.get_zooms(), (2, 2, 3))
    facts = json.loads((tmp_path / "brain.json").read_text())
    assert facts["acceleration"] == pytest.approx(128 / 50)
    assert "not for diagnosis" in facts["Notice"].lower()
    assert "data:image/png;base64" in page.read_text()
    assert source.read_bytes() == before


@pytest.mark.data
def test_twix_gre_and_epi_of_one_phantom_are_upright_unmirrored_and_in_one_place(data_file, tmp_path):
    for name in ("gre", "epi"):
        source = data_file(f"mri/twixtools_skyra_{name}_2ch.dat")
        done = fewstep("mri", "reconstruct", source, "-o", tmp_path / f"{name}.nii", "--method", "rss")
        assert done.returncode == 0, done.stderr
    gre, epi = (nibabel.load(tmp_path / f"{name}.nii") for name in ("gre", "epi"))
    assert gre.shape[:2] == (160, 160)
    assert epi.shape[:2] == (80, 80)

    def place(volume: nibabel.Nifti1Image) -> np.ndarray:
        """RAS of the pixel N//2, where the header's slice position lies."""
        return volume.affine @ [volume.shape[0] // 2, volume.shape[1] // 2, 0, 1]

    assert np.allclose(place(gre), place(epi), atol=0.01)
    directions = [volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0) for volume in (gre, epi)]
    assert np.allclose(directions[0], directions[1], atol=1e-3)
    # The EPI voxels, looked up in the GRE through the two affines.
    to_gre = np.linalg.inv(gre.affine) @ epi.affine
    index = np.stack(np.meshgrid(*map(np.arange, (80, 80, 1)), indexing="ij")).reshape(3, -1)
    there = to_gre[:3, :3] @ index + to_gre[:3, 3:]
    a = np.asarray(gre.dataobj)[..., 0]
    resampled = ndimage.map_coordinates(ndimage.gaussian_filter(a, 0.8), there[:2], order=1).reshape(80, 80)
    b = np.asarray(epi.dataobj)[..., 0]
    similar = {
        (flip, turn): np.corrcoef(resampled.ravel(), np.rot90(b[::-1] if flip else b, turn).ravel())[0, 1]
        for flip in (False, True)
        for turn in range(4)
    }
    best = max(similar, key=similar.get)
    assert best == (False, 0), similar
    assert similar[best] > 0.7
    assert similar[best] - sorted(similar.values())[-2] > 0.02, similar


@pytest.mark.parametrize("method", ["rss", "sense", "wavelet", "tv"])
def test_every_method_writes_an_image_whose_sidecar_says_how_it_was_made(scan_file, tmp_path, method):
    out = tmp_path / "out.nii.gz"
    done = fewstep("mri", "reconstruct", scan_file, "-o", out, "--method", method, "--iterations", 20, "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    facts = json.loads((tmp_path / "out.json").read_text())
    assert facts["method"] == method
    assert facts["simulated"] is True
    assert facts["source"] == "scan.h5"
    if method != "rss":
        assert facts["parameters"]["iterations"] == 20
        assert 0.2 < facts["residual"] / facts["residual_expected"] < 5
    truth = blobs((2, 48, 48), seed=1).abs()
    found = torch.from_numpy(np.asarray(nibabel.load(out).dataobj)).permute(2, 1, 0)
    shading = 1.0 if method != "rss" else 0.35
    assert nrmse_best_scalar(truth, found) < 0.25 * (1 + shading)


def test_info_tells_what_the_file_holds(scan_file, tmp_path):
    done = fewstep("mri", "info", scan_file, "--json", tmp_path / "info.json")
    assert done.returncode == 0, done.stderr
    assert "ISMRMRD" in done.stdout
    numbers = json.loads((tmp_path / "info.json").read_text())
    assert numbers["coils"] == 4
    assert numbers["slices"] == 2


def test_compare_gives_zero_error_for_one_image_and_the_known_error_for_a_scaled_one(tmp_path):
    volume = np.abs(np.random.default_rng(0).normal(size=(16, 16, 2))).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Image(1.1 * volume, np.eye(4)), tmp_path / "b.nii")
    nibabel.save(nibabel.Nifti1Image(volume, np.diag([2, 1, 1, 1])), tmp_path / "elsewhere.nii")
    done = fewstep("mri", "compare", tmp_path / "b.nii", tmp_path / "a.nii", "--json", tmp_path / "n.json")
    numbers = json.loads((tmp_path / "n.json").read_text())
    assert done.returncode == 0
    assert numbers["nrmse_best_scalar"] == pytest.approx(0, abs=1e-6)
    assert numbers["nmse"] == pytest.approx(0.01, rel=1e-4)
    assert_one_clear_line(fewstep("mri", "compare", tmp_path / "elsewhere.nii", tmp_path / "a.nii"), "affine")


class TestBadInput:
    """One line, exit code 2, and nothing written."""

    def refuse(self, tmp_path: Path, source: Path, *words: str, options: tuple[object, ...] = ()) -> None:
        out = tmp_path / "results"
        out.mkdir()
        done = fewstep("mri", "reconstruct", source, "-o", out / "x.nii.gz", "--report", out / "x.html", *options)
        assert_one_clear_line(done, *words)
        assert list(out.iterdir()) == []

    def test_a_missing_file(self, tmp_path):
        self.refuse(tmp_path, tmp_path / "none.h5", "none.h5")

    def test_an_empty_file(self, tmp_path):
        (tmp_path / "empty.h5").write_bytes(b"")
        self.refuse(tmp_path, tmp_path / "empty.h5", "empty.h5")

    def test_a_file_of_another_kind(self, tmp_path):
        (tmp_path / "letter.dat").write_text("Dear colleague, " * 99)
        self.refuse(tmp_path, tmp_path / "letter.dat", "expected ISMRMRD")

    def test_a_truncated_file(self, tmp_path, scan_file):
        content = scan_file.read_bytes()
        scan_file.write_bytes(content[: len(content) // 2])
        self.refuse(tmp_path, scan_file, "scan.h5")

    def test_nan_samples(self, tmp_path, scan_file):
        with h5py.File(scan_file, "r+") as file:
            lines = file["dataset/data"][:]
            lines[-3]["data"][5] = np.nan
            file["dataset/data"][:] = lines
        self.refuse(tmp_path, scan_file, "scan.h5", "NaN")

    def test_zero_field_of_view(self, tmp_path, scan_file):
        with h5py.File(scan_file, "r+") as file:
            xml = file["dataset/xml"][0]
            text = xml.decode() if isinstance(xml, bytes) else xml
            changed = text.replace("<x>48.0</x>", "<x>0.0</x>")
            assert changed != text
            file["dataset/xml"][0] = changed
        self.refuse(tmp_path, scan_file, "scan.h5")

    def test_no_calibration_region(self, tmp_path):
        kspace = torch.randn((1, 4, 32, 32), dtype=torch.complex64)
        mask = torch.zeros(1, 32, 32, dtype=torch.bool)
        mask[:, 1::4] = True
        path = write_ismrmrd(tmp_path / "scan.h5", scan_of(kspace, mask))
        self.refuse(tmp_path, path, "calibration", "rss")

    def test_a_mask_that_contradicts_the_data(self, tmp_path):
        np.save(tmp_path / "k.npy", np.ones((2, 16, 16), np.complex64))
        np.save(tmp_path / "m.npy", np.zeros((16, 16), bool))
        self.refuse(
            tmp_path,
            tmp_path / "k.npy",
            "mask",
            options=("--axes", "coil,ky,kx", "--fov-mm", "16,16,1", "--mask", tmp_path / "m.npy"),
        )

    @pytest.mark.parametrize(
        ("options", "word"),
        [
            (("--method", "magic"), "--method"),
            (("--coils", 0), "--coils"),
            (("--maps", 3), "--maps"),
            (("--lamda", -1), "--lamda"),
            (("--fov-mm", "1,2"), "--fov-mm"),
            (("--device", "abacus"), "--device abacus"),
            (("--config", "medical/nothing"), "medical/reconstruction"),
        ],
    )
    def test_a_wrong_option_is_named(self, tmp_path, scan_file, options, word):
        self.refuse(tmp_path, scan_file, word, options=options)

    def test_an_output_of_unknown_kind(self, tmp_path, scan_file):
        done = fewstep("mri", "reconstruct", scan_file, "-o", tmp_path / "x.jpg")
        assert_one_clear_line(done, "x.jpg")

    def test_an_existing_output_stays_as_it_is(self, tmp_path, scan_file):
        (tmp_path / "x.nii.gz").write_bytes(b"precious")
        done = fewstep("mri", "reconstruct", scan_file, "-o", tmp_path / "x.nii.gz")
        assert_one_clear_line(done, "--overwrite")
        assert (tmp_path / "x.nii.gz").read_bytes() == b"precious"
        done = fewstep("mri", "reconstruct", scan_file, "-o", tmp_path / "x.nii.gz", "--method", "rss", "--overwrite")
        assert done.returncode == 0, done.stderr
        assert isinstance(nibabel.load(tmp_path / "x.nii.gz"), nibabel.Nifti1Image)


def test_one_coil_is_reconstructed_by_every_method(tmp_path):
    image = blobs((1, 32, 32), seed=2).to(torch.complex64)
    kspace = fft_centred(image[:, None])
    path = write_ismrmrd(tmp_path / "one.h5", scan_of(kspace))
    for method in ("rss", "sense", "wavelet", "tv"):
        done = fewstep("mri", "reconstruct", path, "-o", tmp_path / f"{method}.nii", "--method", method)
        assert done.returncode == 0, done.stderr
        found = torch.from_numpy(np.asarray(nibabel.load(tmp_path / f"{method}.nii").dataobj)).permute(2, 1, 0)
        inside = image.abs() > 0.1 * image.abs().max()
        assert nrmse_best_scalar(image.abs() * inside, found * inside) < 0.1, method

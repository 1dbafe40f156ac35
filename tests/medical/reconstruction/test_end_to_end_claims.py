"""What an image claims about itself is true: noise units, residual, coil maps, checkpoints; and refusals come early."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medical import reconstruction as mri
from medical.metrics import nrmse_best_scalar
from medical.reconstruction import methods
from medical.reconstruction.formats.ismrmrd_writer import write_ismrmrd
from medical.reconstruction.fourier import fft_centred
from medical.reconstruction.raw import RawScan
from shared.errors import InputError
from tests.medical.reconstruction import phantom
from tests.medical.reconstruction.scans import scan_of
from tests.medical.reconstruction.test_cli import assert_one_clear_line, fewstep

SIZE, COILS, NOISE = 48, 8, 0.01
TRUTH = phantom.head((SIZE, SIZE))
INSIDE = TRUTH.abs() > 0.2
MIXING = torch.eye(COILS) + 0.3 * torch.randn((COILS, COILS), generator=torch.Generator().manual_seed(5))


def noisy_scan(seed: int = 0, *, oversampled: bool = False, acceleration: int = 1) -> RawScan:
    """Head seen by eight coils with correlated noise and a noise scan; optionally with a doubled readout."""
    generator = torch.Generator().manual_seed(seed)
    coils = torch.zeros(1, COILS, SIZE, 2 * SIZE if oversampled else SIZE, dtype=torch.complex128)
    first = SIZE // 2 if oversampled else 0
    coils[..., first : first + SIZE] = phantom.coil_maps((SIZE, SIZE), COILS) * TRUTH
    kspace = fft_centred(coils)
    mixing = NOISE * MIXING.to(kspace.dtype)
    kspace = kspace + torch.einsum(
        "ab,sb...->sa...", mixing, torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
    )
    noise = mixing @ torch.randn((COILS, 50000), dtype=kspace.dtype, generator=torch.Generator().manual_seed(99))
    mask = phantom.every_nth_line(tuple(kspace.shape[2:]), acceleration, 18)
    scan = scan_of(kspace.to(torch.complex64), mask, noise=noise.to(torch.complex64))
    if oversampled:
        geometry = replace(scan.geometry, fov_mm=(2.0 * SIZE, float(SIZE), 1.0))
        asked = {"recon_matrix": (1, SIZE, SIZE), "recon_fov_mm": (float(SIZE), float(SIZE), 1.0)}
        scan = replace(scan, geometry=geometry, **asked)
    return scan


def run(scan: RawScan, **settings: object) -> mri.Image:
    chosen = mri.Settings(**settings)
    return mri.reconstruct(mri.prepare(scan, chosen), chosen)


@pytest.mark.parametrize(
    ("changes", "settings", "sd"),
    [
        ({}, {}, 1.0),
        ({"oversampled": True}, {"virtual_coils": 6}, 1.0),
        ({"recon_matrix": (1, 2 * SIZE, 2 * SIZE)}, {}, 1.0),
        ({"recon_matrix": (1, SIZE // 2, SIZE // 2)}, {}, 0.5),
    ],
    ids=["plain", "oversampled and compressed", "interpolated", "coarser"],
)
def test_the_noise_of_a_full_sense_image_has_the_standard_deviation_that_its_units_say(changes, settings, sd):
    finer = changes.get("recon_matrix", (1, SIZE, SIZE))
    images = []
    for seed in range(16):
        scan = noisy_scan(seed, oversampled=changes.get("oversampled", False))
        if "recon_matrix" in changes:
            scan = replace(scan, recon_matrix=finer)
        images.append(run(scan, method="sense", lamda=1e-6, **settings))
    spread = torch.stack([image.data.abs() for image in images]).std(0)[0]
    step = finer[1] / SIZE
    inside = (
        INSIDE.repeat_interleave(2, 0).repeat_interleave(2, 1)
        if step == 2
        else INSIDE[:: int(1 / step), :: int(1 / step)]
    )
    # The magnitude of a strong signal has one of the two components of complex noise of variance one.
    assert float(spread[inside].mean()) * 2**0.5 == pytest.approx(sd, rel=0.06)
    assert f"noise standard deviation {sd:g} in each coil" in images[0].provenance["units"]


@pytest.mark.parametrize("acceleration", [1, 3])
def test_the_residual_is_that_of_noise_with_right_maps_and_far_more_with_wrong_ones(acceleration, monkeypatch):
    def ratio(image: mri.Image) -> float:
        return image.provenance["residual"] / image.provenance["residual_expected"]

    assert 0.85 < ratio(run(noisy_scan(acceleration=acceleration), method="sense")) < 1.05
    real = methods.coil_maps_of
    monkeypatch.setattr(methods, "coil_maps_of", lambda *a, **o: (real(*a, **o)[0].roll(1, 2), ""))
    assert ratio(run(noisy_scan(acceleration=acceleration), method="sense")) > 5


def test_units_and_expected_residual_are_claimed_only_of_data_that_were_whitened():
    chosen = mri.Settings(method="sense")
    facts = mri.reconstruct(mri.prepare(noisy_scan(), mri.Settings(whiten=False)), chosen).provenance
    assert facts["units"] == "scanner"
    assert facts["residual_expected"] is None


def body_scan(**changes: object) -> RawScan:
    weights = torch.tensor([1.0, 0.8j])[None, :, None, None]
    generator = torch.Generator().manual_seed(8)
    kspace = fft_centred(TRUTH[None, None] * weights)
    kspace = kspace + NOISE * torch.randn(kspace.shape, dtype=kspace.dtype, generator=generator)
    return scan_of(kspace.to(torch.complex64), source="body", **changes)


@pytest.mark.data
def test_body_coil_maps_of_an_undersampled_brain_do_not_hold_its_aliases(data_file):
    kspace = torch.from_numpy(np.load(data_file("mri/pulseq_cimaX_brain_16ch_128.npy"), allow_pickle=False))[None]
    body = torch.from_numpy(np.load(data_file("mri/pulseq_cimaX_brain_bodycoil_2ch_128.npy"), allow_pickle=False))[None]
    rss = torch.linalg.vector_norm(methods.coil_images_of(scan_of(kspace)), dim=1)
    inside = rss > 0.1 * rss.max()
    chosen = mri.Settings(method="sense")
    scan = scan_of(kspace, phantom.every_nth_line((128, 128), 4, 24))
    image = mri.reconstruct(scan, chosen, reference=scan_of(body))
    # 0.089 with maps from the aliased images
    assert nrmse_best_scalar(rss * inside, image.data.abs() * inside) < 0.07
    assert "Coil maps measured against the body coil in the central 24 x 24 samples." in image.provenance["history"]


@pytest.mark.parametrize("coils", [None, 6])
def test_body_coil_maps_serve_whitened_and_compressed_coils(coils):
    chosen = mri.Settings(method="sense", virtual_coils=coils)
    scan = mri.prepare(noisy_scan(acceleration=2), chosen)
    image = mri.reconstruct(scan, chosen, reference=body_scan())
    own = mri.reconstruct(scan, chosen)
    assert nrmse_best_scalar(own.data.abs() * INSIDE, image.data.abs() * INSIDE) < 0.04
    assert image.provenance["body_coil"] == "body"


def test_a_body_coil_scan_of_another_place_is_refused():
    there = body_scan()
    there = replace(there, geometry=replace(there.geometry, positions_mm=((0.0, 0.0, 7.0),)))
    with pytest.raises(InputError, match=r"7\.0 mm away"):
        mri.reconstruct(noisy_scan(), mri.Settings(method="sense"), reference=there)


def test_finished_slices_of_one_reference_are_not_taken_for_those_of_another(tmp_path):
    scan, chosen = noisy_scan(acceleration=2), mri.Settings(method="sense")
    measured = mri.reconstruct(scan, chosen, reference=body_scan(), work=tmp_path)
    assert not torch.equal(mri.reconstruct(scan, chosen, work=tmp_path).data, measured.data)


def test_a_coarser_image_of_the_same_data_does_not_reuse_the_slices_of_the_finer_one(tmp_path):
    chosen = mri.Settings(method="rss")
    assert mri.reconstruct(noisy_scan(), chosen, work=tmp_path).data.shape == (1, SIZE, SIZE)
    coarse = replace(noisy_scan(), recon_matrix=(1, 24, 24))
    assert mri.reconstruct(coarse, chosen, work=tmp_path).data.shape == (1, 24, 24)


def test_the_magnitude_is_taken_of_interpolated_coil_images():
    """A cosine is band-limited; its magnitude has corners, which ring when interpolated."""
    coil = torch.cos(2 * torch.pi * torch.arange(32) / 32).expand(1, 1, 32, 32).to(torch.complex64)
    scan = replace(scan_of(fft_centred(coil)), recon_matrix=(1, 64, 64))
    image = run(scan, method="rss")
    exact = torch.cos(2 * torch.pi * torch.arange(64) / 64).abs()
    assert torch.allclose(image.data.real[0, 5], exact, atol=1e-4)
    assert bool((image.data.real >= 0).all())


@pytest.mark.parametrize("method", ["sense", "wavelet", "tv"])
def test_a_scan_of_noise_is_refused_where_coil_maps_are_needed(method):
    noise = torch.randn((1, 4, 32, 32), dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InputError, match="without signal"):
        run(scan_of(noise), method=method)


def test_an_empty_slice_among_others_stays_empty_and_is_named():
    full = noisy_scan().kspace
    empty = NOISE * torch.randn(full.shape, dtype=full.dtype, generator=torch.Generator().manual_seed(1))
    scan = scan_of(torch.cat([full, empty]))
    scan = replace(scan, geometry=replace(scan.geometry, positions_mm=((0.0, 0.0, 0.0), (0.0, 0.0, 1.0))))
    image = run(scan, method="wavelet", iterations=5)
    assert float(image.data[1].abs().max()) == 0 < float(image.data[0].abs().max())
    assert any(text.startswith("Slice 1: The calibration data") for text in image.provenance["warnings"])
    assert len(image.provenance["residual_by_slice"]) == 2


def test_a_slice_without_samples_is_reconstructed_to_zeros_by_rss():
    mask = torch.stack([torch.ones(32, 32), torch.zeros(32, 32)]).to(torch.bool)
    scan = scan_of(torch.ones((2, 2, 32, 32), dtype=torch.complex64), mask)
    scan = replace(scan, geometry=replace(scan.geometry, positions_mm=((0.0, 0.0, 0.0), (0.0, 0.0, 1.0))))
    assert float(run(scan, method="rss").data[1].abs().max()) == 0


def test_missing_corners_are_not_taken_for_aliasing():
    y, x = torch.meshgrid(torch.arange(32) - 16, torch.arange(32) - 16, indexing="ij")
    scan = scan_of(torch.ones((1, 2, 32, 32), dtype=torch.complex64), (y**2 + x**2 < 200)[None])
    assert not any("aliased" in text for text in run(scan, method="rss").provenance["warnings"])
    every_other = scan_of(scan.kspace, scan.mask & (y % 2 == 0))
    assert any("aliased" in text for text in run(every_other, method="rss").provenance["warnings"])


class TestRefusals:
    """Before the work: one line, exit code 2, nothing written."""

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return write_ismrmrd(tmp_path / "input" / "scan.h5", noisy_scan(acceleration=2))

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            (("--coils", 99), ("coils", "99", "1 to 8")),
            (("--repetition", 7), ("repetition 7",)),
            (("--contrast", 2), ("contrast 2",)),
            (("--device", "cuda:77"), ("cuda:77",)),
        ],
    )
    def test_an_option_that_the_scan_cannot_fulfil(self, tmp_path, source, options, words):
        out = tmp_path / "out"
        out.mkdir()
        done = fewstep("mri", "reconstruct", source, "-o", out / "x.nii", "--method", "rss", *options)
        assert_one_clear_line(done, *words)
        assert list(out.iterdir()) == []

    def test_a_seed_beyond_64_bits(self, tmp_path, source):
        done = fewstep("mri", "reconstruct", source, "-o", tmp_path / "x.nii", "--seed", 2**70)
        assert done.returncode == 2
        assert "--seed" in done.stderr
        assert not (tmp_path / "x.nii").exists()

    def test_an_output_whose_sidecar_exists_is_refused_before_the_scan_is_read(self, tmp_path):
        (tmp_path / "x.json").write_text("{}")
        done = fewstep("mri", "reconstruct", tmp_path / "no_scan.h5", "-o", tmp_path / "x.nii")
        assert_one_clear_line(done, "x.json", "--overwrite")

    @pytest.mark.parametrize("which", ["-o", "--report"])
    def test_a_folder_that_cannot_be_written_is_refused_before_the_scan_is_read(self, tmp_path, which):
        (tmp_path / "file").write_text("not a folder")
        places = {"-o": tmp_path / "x.nii", "--report": tmp_path / "x.html"}
        places[which] = tmp_path / "file" / places[which].name
        options = [word for pair in places.items() for word in pair]
        done = fewstep("mri", "reconstruct", tmp_path / "no_scan.h5", *options)
        assert_one_clear_line(done, places[which].name, "writable")

    def test_the_path_of_numbers_is_printed_on_one_line(self, tmp_path, source):
        path = tmp_path / ("long" * 30) / "numbers.json"
        done = fewstep("mri", "info", source, "--json", path)
        assert str(path) in done.stdout.splitlines()


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_an_interrupted_command_says_so_in_one_line_writes_nothing_and_resumes(tmp_path):
    slices = 6
    one = noisy_scan(acceleration=2)
    scan = scan_of(one.kspace.repeat(slices, 1, 1, 1), one.mask.repeat(slices, 1, 1))
    positions = tuple((0.0, 0.0, float(z)) for z in range(slices))
    scan = replace(scan, geometry=replace(scan.geometry, positions_mm=positions))
    source, out, work = write_ismrmrd(tmp_path / "scan.h5", scan), tmp_path / "out", tmp_path / "work"
    out.mkdir()
    program = "import sys; from shared.cli import main; sys.argv[0] = 'fewstep'; main()"
    words = ["mri", "reconstruct", source, "-o", out / "x.nii", "--work", work, "-q", "--iterations", 200]
    words = [str(word) for word in words]
    running = subprocess.Popen([sys.executable, "-c", program, *words], stderr=subprocess.PIPE, text=True)
    while not list(work.glob("*/slice_*.npz")) and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert (running.returncode, told) == (130, "fewstep: interrupted\n")
    assert list(out.iterdir()) == []
    finished = {path: path.stat().st_mtime_ns for path in work.glob("*/slice_*.npz")}
    assert 0 < len(finished) < slices
    assert fewstep(*words).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in finished} == finished

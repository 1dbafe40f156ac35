"""The four calls for scripts; work that survives an interrupt."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from medical import reconstruction as mri
from medical.reconstruction import pipeline
from medical.reconstruction.fourier import fft_centred
from tests.medical.reconstruction.scans import blobs, scan_of


def small_scan(slices: int = 3):
    image = blobs((slices, 32, 32), seed=4).to(torch.complex64)
    weights = torch.tensor([1.0, 0.5j, -0.7], dtype=torch.complex64)[None, :, None, None]
    coils = image[:, None] * weights
    scan = scan_of(fft_centred(coils))
    positions = tuple((0.0, 0.0, float(z)) for z in range(slices))
    return replace(
        scan,
        geometry=replace(scan.geometry, fov_mm=(32.0, 32.0, 1.0), positions_mm=positions),
        recon_fov_mm=(32.0, 32.0, 1.0),
    )


def test_four_calls_from_raw_file_to_image_file(tmp_path):
    from medical.reconstruction.formats.ismrmrd_writer import write_ismrmrd

    path = write_ismrmrd(tmp_path / "scan.h5", small_scan())
    settings = mri.Settings(method="sense", virtual_coils=2)
    scan = mri.prepare(mri.read(path), settings)
    image = mri.reconstruct(scan, settings)
    written = mri.write(image, tmp_path / "image.nii.gz")
    assert all(output.exists() for output in written)
    assert scan.coils == 2
    assert image.data.dtype == torch.complex64
    assert image.data.shape == (3, 32, 32)
    assert any("compressed from 3 to 2" in step for step in image.provenance["history"])


def test_an_interrupted_run_resumes_with_the_finished_slices_and_gives_the_same_image(tmp_path, monkeypatch):
    scan, settings = small_scan(), mri.Settings(method="wavelet", iterations=5)
    whole = mri.reconstruct(scan, settings, seed=7)
    real, calls = pipeline.reconstruct_slice, []

    def interrupted(*arguments, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(pipeline, "reconstruct_slice", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mri.reconstruct(scan, settings, seed=7, work=tmp_path)
    monkeypatch.setattr(pipeline, "reconstruct_slice", lambda *a, **o: calls.append(1) or real(*a, **o))
    resumed = mri.reconstruct(scan, settings, seed=7, work=tmp_path)
    assert len(calls) == 3, "two slices before the interrupt and one after"
    assert torch.equal(resumed.data, whole.data)
    assert resumed.provenance == whole.provenance


def test_other_settings_or_data_do_not_reuse_finished_slices(tmp_path, monkeypatch):
    scan = small_scan(1)
    first = mri.reconstruct(scan, mri.Settings(method="sense"), work=tmp_path)
    other = mri.reconstruct(scan, mri.Settings(method="rss"), work=tmp_path)
    louder = mri.reconstruct(replace(scan, kspace=2 * scan.kspace), mri.Settings(method="sense"), work=tmp_path)
    assert not torch.equal(first.data, other.data)
    assert torch.allclose(louder.data, 2 * first.data, rtol=1e-3)


def test_a_damaged_work_file_counts_as_unfinished(tmp_path):
    scan, settings = small_scan(1), mri.Settings(method="rss")
    whole = mri.reconstruct(scan, settings, work=tmp_path)
    (file,) = tmp_path.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(mri.reconstruct(scan, settings, work=tmp_path).data, whole.data)


def test_the_same_seed_gives_the_same_bits():
    scan, settings = small_scan(1), mri.Settings(method="wavelet", iterations=5)
    assert torch.equal(mri.reconstruct(scan, settings, seed=1).data, mri.reconstruct(scan, settings, seed=1).data)

"""fastMRI files give fastMRI's own reference image, the same way up."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from medical.images import Image, display_oriented
from medical.reconstruction.formats import ReadOptions, describe, read_scan
from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.preprocess import crop_to_recon, remove_readout_oversampling
from shared.errors import InputError
from tests.medical.reconstruction.formats.mrd_files import xml
from tests.medical.reconstruction.scans import blobs

SLICES, COILS, HEIGHT, WIDTH = 3, 2, 32, 20
FIRST, LAST = 2, 16  # encoded columns; the others pad the matrix


def write_fastmri(path: Path, kspace: np.ndarray | None = None, mask: np.ndarray | None = None, **header) -> Path:
    """A file in fastMRI's layout: (slice, coil, readout, phase), limits that say which columns were encoded."""
    if kspace is None:
        kspace = true_kspace()
        if mask is not None:
            kspace = kspace * mask
    limits = (
        f"<kspace_encoding_step_1><minimum>0</minimum><maximum>{LAST - FIRST}</maximum>"
        f"<center>{WIDTH // 2 - FIRST}</center></kspace_encoding_step_1>"
    )
    facts = {"rx": HEIGHT // 2, "rfx": HEIGHT / 2, "fx": HEIGHT, "fy": WIDTH, "limits": limits, "vendor": "SIEMENS"}
    text = xml((1, WIDTH, HEIGHT), **(facts | header))
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        file["ismrmrd_header"] = text
        if mask is not None:
            file["mask"] = mask
        file.attrs.update({"max": 1.0, "norm": 1.0, "acquisition": "AXT2", "patient_id": "0123456789abcdef"})
    return path


def true_kspace() -> np.ndarray:
    images = torch.stack([blobs((COILS, HEIGHT, WIDTH), seed=s) for s in range(SLICES)])
    kspace = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(images, (-2, -1)), norm="ortho"), (-2, -1)).numpy()
    kspace[..., :FIRST] = kspace[..., LAST + 1 :] = 0
    return kspace.astype(np.complex64)


def reference_rss(kspace: np.ndarray) -> np.ndarray:
    """fastMRI's reference: centred inverse FFT of the last two axes, root sum of squares, centre crop."""
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    rss = np.sqrt((np.abs(image) ** 2).sum(1))
    return rss[:, HEIGHT // 4 : HEIGHT // 4 + HEIGHT // 2]


def test_image_is_the_reference_the_same_way_up(tmp_path: Path) -> None:
    path = write_fastmri(tmp_path / "f.h5")
    scan = remove_readout_oversampling(read_scan(path))
    rss = ifft_centred(scan.kspace).abs().square().sum(1).sqrt()
    rss, geometry = crop_to_recon(rss, scan)
    image = Image.placed(rss, geometry, fov_mm=scan.recon_fov_mm, volumetric=False)
    expected = reference_rss(true_kspace())
    assert expected.shape == (SLICES, HEIGHT // 2, WIDTH)
    np.testing.assert_allclose(display_oriented(image).data.numpy(), expected, atol=1e-6)
    assert geometry.nominal


def test_padded_columns_are_not_samples(tmp_path: Path) -> None:
    kspace = true_kspace()
    kspace[..., LAST] = 0  # measured as zero, which is a sample all the same
    scan = read_scan(write_fastmri(tmp_path / "f.h5", kspace))
    assert scan.kspace.shape == (SLICES, COILS, WIDTH, HEIGHT)
    assert not any("limits" in text for text in scan.warnings)
    columns = scan.mask[0].all(-1)
    assert columns.nonzero().flatten().tolist() == list(range(FIRST, LAST + 1))
    assert torch.equal(scan.mask.any(-1), columns.expand(SLICES, -1))


def test_test_files_mask_selects_columns(tmp_path: Path) -> None:
    mask = np.zeros(WIDTH, dtype=bool)
    mask[::4] = mask[9:12] = True
    scan = read_scan(write_fastmri(tmp_path / "f.h5", mask=mask))
    expected = [c for c in range(FIRST, LAST + 1) if mask[c]]
    assert scan.mask[0].any(-1).nonzero().flatten().tolist() == expected


def test_single_coil_files_have_one_coil(tmp_path: Path) -> None:
    scan = read_scan(write_fastmri(tmp_path / "f.h5", true_kspace()[:, 0]))
    assert scan.kspace.shape == (SLICES, 1, WIDTH, HEIGHT)


def test_one_slice_can_be_read_and_identity_stays_behind(tmp_path: Path) -> None:
    path = write_fastmri(tmp_path / "f.h5")
    scan = read_scan(path, ReadOptions(slice_index=2))
    np.testing.assert_array_equal(scan.kspace[0].numpy(), true_kspace()[2].swapaxes(-1, -2))
    facts = describe(path)
    assert facts["format"] == "fastMRI HDF5"
    assert facts["slices"] == SLICES
    assert scan.header["acquisition"] == "AXT2"
    assert "0123456789abcdef" not in f"{facts}{scan.header}"


def with_nan() -> np.ndarray:
    kspace = true_kspace()
    kspace[1, 1, 5, 6] = np.nan
    return kspace


BAD = {
    "mask false where sampled": ({"kspace": true_kspace(), "mask": np.arange(WIDTH) != 7}, "1 columns with samples"),
    "mask of another size": ({"mask": np.ones(WIDTH + 1), "kspace": true_kspace()}, "mask of 21 columns"),
    "NaN": ({"kspace": with_nan()}, r"1 samples that are NaN.*slice 1.*\(1, 5, 6\)"),
    "magnitudes": ({"kspace": np.abs(true_kspace())}, "float32"),
    "swapped axes": ({"kspace": true_kspace().swapaxes(-1, -2)}, "20 readout samples"),
    "zero field of view": ({"fy": 0}, "above 0"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_fastmri_files_are_one_clear_error(tmp_path: Path, name: str) -> None:
    changes, message = BAD[name]
    with pytest.raises(InputError, match=message):
        read_scan(write_fastmri(tmp_path / "f.h5", **changes))

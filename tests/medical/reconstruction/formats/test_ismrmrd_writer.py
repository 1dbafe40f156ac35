"""What `write_ismrmrd` writes is read back as the same scan, and by ISMRMRD's own package and tools."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
import torch

from medical.images import Geometry
from medical.reconstruction.formats import read_scan
from medical.reconstruction.formats.ismrmrd import write_ismrmrd
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.preprocess import remove_readout_oversampling
from medical.reconstruction.raw import RawScan
from shared.errors import InputError
from tests.medical.reconstruction.adjoint import complex_noise
from tests.medical.reconstruction.scans import blobs

OBLIQUE = {
    "read_dir": (0.0, 0.8, 0.6),
    "phase_dir": (1.0, 0.0, 0.0),
    "slice_dir": (0.0, 0.6, -0.8),
    "patient_position": "FFS",
}


def random(*shape: int) -> torch.Tensor:
    return complex_noise(shape, dtype=torch.complex64)


def stack(**changes) -> RawScan:
    """Three oblique slices, 2x oversampled, every second line and the first lines missing."""
    mask = torch.zeros(3, 12, 16, dtype=torch.bool)
    mask[:, 3::2] = mask[:, 6:8] = True
    positions = tuple((1.5, 0.6 * d, -0.8 * d) for d in (-6.0, 0.0, 6.0))
    scan = RawScan(
        kspace=random(3, 4, 12, 16) * mask[:, None],
        mask=mask,
        geometry=Geometry((64.0, 24.0, 5.0), positions_mm=positions, **OBLIQUE),
        recon_matrix=(1, 12, 8),
        recon_fov_mm=(32.0, 24.0, 5.0),
        source="test",
        header={"vendor": "Test", "field_strength_T": 1.5, "TR_ms": [10.0], "TE_ms": [3.0, 6.0], "dwell_us": 4.0},
    )
    return replace(scan, **changes)


def asymmetric() -> RawScan:
    mask = torch.zeros(1, 13, 15, dtype=torch.bool)
    mask[:, :9, 4:14] = True
    mask[:, 5, 4:6] = False
    scan = stack(mask=mask, kspace=random(1, 2, 13, 15) * mask[:, None], recon_matrix=(1, 13, 15))
    return replace(scan, geometry=replace(scan.geometry, positions_mm=((1.0, 2.0, 3.0),)))


def volume() -> RawScan:
    mask = torch.zeros(1, 6, 8, 10, dtype=torch.bool)
    mask[:, 1:5, 2:] = True
    scan = stack(mask=mask, kspace=random(1, 2, 6, 8, 10) * mask[:, None], recon_matrix=(6, 8, 5))
    geometry = replace(scan.geometry, positions_mm=((1.0, 2.0, 3.0),))
    return replace(scan, geometry=geometry, calibration=random(1, 2, 4, 4, 10))


def echo_planar() -> RawScan:
    reverse = torch.zeros(3, 12, dtype=torch.bool)
    reverse[:, 1::2] = True
    return stack(
        mask=torch.ones(3, 12, 16, dtype=torch.bool),
        kspace=random(3, 4, 12, 16),
        line_reversed=reverse,
        navigators=random(3, 3, 4, 16),
        navigator_reversed=torch.tensor([[False, True, False]]).repeat(3, 1),
    )


def radial(weights: bool) -> RawScan:
    angle = torch.arange(7) * torch.pi / 7
    radius = torch.arange(16) - 8.0
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], -1)[:, None]
    return stack(
        kspace=random(3, 4, 7, 16),
        mask=torch.ones(3, 7, 16, dtype=torch.bool),
        trajectory=points.expand(3, 7, 16, 2).contiguous(),
        density=torch.rand(3, 7, 16) if weights else None,
        recon_matrix=(1, 16, 16),
    )


SCANS = {
    "stack": stack,
    "noise": lambda: stack(noise=random(4, 5000), noise_bandwidth_ratio=0.5),
    "simulated Siemens": lambda: stack(simulated=True, header={"vendor": "SIEMENS", "dwell_us": 5.0}),
    "measured Siemens": lambda: stack(header={"vendor": "SIEMENS", "dwell_us": 5.0}, noise=random(4, 100)),
    "separate calibration": lambda: stack(calibration=random(3, 4, 7, 8)),
    "wide calibration": lambda: stack(calibration=random(3, 4, 12, 16)),
    "nominal geometry": lambda: stack(geometry=replace(stack().geometry, nominal=True)),
    "asymmetric echo": asymmetric,
    "volume": volume,
    "echo-planar": echo_planar,
    "asymmetric echo-planar": lambda: replace(
        asymmetric(), line_reversed=asymmetric().mask.any(-1) & (torch.arange(13) % 3 == 1)
    ),
    "radial": lambda: radial(False),
    "weighted radial": lambda: radial(True),
}


@pytest.mark.parametrize("name", SCANS)
def test_a_written_scan_is_read_back_the_same(tmp_path: Path, name: str) -> None:
    scan = SCANS[name]()
    path = write_ismrmrd(tmp_path / "scan.h5", scan)
    back = read_scan(path)
    for field in fields(RawScan):
        ours, theirs = getattr(scan, field.name), getattr(back, field.name)
        if isinstance(ours, torch.Tensor):
            assert torch.equal(ours, theirs), field.name
        elif field.name == "geometry":
            for part in fields(Geometry):
                a, b = getattr(ours, part.name), getattr(theirs, part.name)
                assert a == b if isinstance(a, (str, bool)) else np.allclose(a, b, atol=1e-6), part.name
        elif field.name not in ("source", "history", "warnings", "header"):
            assert ours == theirs, field.name
    assert {**back.header, "dwell_us": 0} == {**scan.header, "dwell_us": 0}


def test_ismrmrds_own_package_finds_lines_flags_and_header(tmp_path: Path) -> None:
    scan = stack(noise=random(4, 16), calibration=random(3, 4, 6, 16))
    path = write_ismrmrd(tmp_path / "scan.h5", scan)
    with ismrmrd.Dataset(str(path), mode="r") as dataset:
        header = ismrmrd.xsd.CreateFromDocument(dataset.read_xml_header())
        lines = [dataset.read_acquisition(i) for i in range(dataset.number_of_acquisitions())]
    limit = header.encoding[0].encodingLimits.kspace_encoding_step_1
    assert (limit.minimum, limit.maximum, limit.center) == (0, 8, 3)
    assert lines[0].is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    calibration = [a for a in lines if a.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)]
    assert len(calibration) == 18
    image = [a for a in lines if not a.flags]
    assert len(image) == int(scan.mask.any(-1).sum())
    for a in image:
        np.testing.assert_array_equal(a.data, scan.kspace[a.idx.slice, :, a.idx.kspace_encode_step_1 + 3].numpy())
        np.testing.assert_allclose(a.position, scan.geometry.positions_mm[a.idx.slice], atol=1e-6)


def test_measured_siemens_samples_are_stored_in_the_vendors_convention(tmp_path: Path) -> None:
    scan = stack(header={"vendor": "SIEMENS"})
    with ismrmrd.Dataset(str(write_ismrmrd(tmp_path / "scan.h5", scan)), mode="r") as dataset:
        first = dataset.read_acquisition(0)
    np.testing.assert_array_equal(first.data, scan.kspace[0, :, 3].numpy().conj())


@pytest.mark.peer
def test_ismrmrds_own_reconstruction_of_our_file_is_our_image(tmp_path: Path) -> None:
    tool = shutil.which("ismrmrd_recon_cartesian_2d")
    if tool is None:
        pytest.skip("needs ismrmrd_recon_cartesian_2d (Debian package ismrmrd-tools)")
    truth = blobs((32, 64)) * torch.tensor([1.0, 2j]).reshape(2, 1, 1)
    scan = RawScan(
        kspace=fft_centred(truth)[None].to(torch.complex64),
        mask=torch.ones(1, 32, 64, dtype=torch.bool),
        geometry=Geometry((128.0, 64.0, 5.0)),
        recon_matrix=(1, 32, 32),
        recon_fov_mm=(64.0, 64.0, 5.0),
        source="test",
    )
    path = write_ismrmrd(tmp_path / "scan.h5", scan)
    subprocess.run([tool, str(path)], check=True, capture_output=True, timeout=60)
    with h5py.File(path, "r") as file:
        peer = file["dataset/cpp/data"][()].squeeze()
    ours = ifft_centred(remove_readout_oversampling(scan).kspace[0]).abs().square().sum(0).sqrt().numpy()
    scale = (ours * peer).sum() / (peer * peer).sum()
    assert np.linalg.norm(scale * peer - ours) < 1e-5 * np.linalg.norm(ours)


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    path = write_ismrmrd(tmp_path / "scan.h5", stack())
    before = path.read_bytes()
    with pytest.raises(InputError, match="existing output"):
        write_ismrmrd(path, stack(simulated=True))
    assert path.read_bytes() == before


def test_scans_that_the_format_cannot_hold_are_refused(tmp_path: Path) -> None:
    mask = stack().mask.clone()
    mask[1, 7, 5] = False
    with pytest.raises(InputError, match="missing in the middle"):
        write_ismrmrd(tmp_path / "a.h5", stack(mask=mask))
    with pytest.raises(InputError, match="ramp-sampled"):
        write_ismrmrd(tmp_path / "a.h5", stack(readout_positions=torch.arange(16.0) - 8))
    assert list(tmp_path.iterdir()) == []

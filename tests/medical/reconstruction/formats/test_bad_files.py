"""Whatever is wrong with a file, the user gets one `InputError` that says what, and never another exception."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from medical.reconstruction.formats import ReadOptions, describe, read_scan
from shared.errors import InputError
from tests.medical.reconstruction.formats.mrd_files import line, point_lines, write_mrd, xml

SHAPE = (12, 16)


def lines(**labels) -> list:
    kspace = point_lines(SHAPE, (3, 10))
    return [line(kspace[:, ky], ky=ky, **labels) for ky in range(12)]


def odd_one(**labels) -> list:
    result = lines()
    result[5] = line(np.ones((2, 16)), **({"ky": 5} | labels))
    return result


def not_finite() -> list:
    result = lines()
    result[7].data[1, 3] = np.nan
    result[8].data[0, 0] = np.inf
    return result


def good(**changes) -> str:
    return xml((1, *SHAPE), (0, 6), **changes)


MULTIBAND = """<parallelImaging><accelerationFactor><kspace_encoding_step_1>1</kspace_encoding_step_1>
<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor><multiband><spacing><dZ>20</dZ></spacing>
<deltaKz>0.5</deltaKz><multiband_factor>2</multiband_factor><calibration>separable2D</calibration>
<calibration_encoding>0</calibration_encoding></multiband></parallelImaging>"""
NOISE = line(np.ones((2, 16)), "IS_NOISE_MEASUREMENT")
CASES = {
    "only noise": (good(), [NOISE], "1 noise lines; expected imaging lines"),
    "no lines": (good(), [], "no lines; expected imaging lines"),
    "NaN": (good(), not_finite(), r"2 samples that are NaN or infinite, the first in readout 7 .* index \(1, 3\)"),
    "zero field of view": (good(fx=0.0), lines(), "above 0"),
    "negative field of view": (good(fy=-3.0), lines(), "above 0"),
    "zero recon field of view": (good(rfx=0.0), lines(), "above 0"),
    "zero matrix": (good(rx=0), lines(), "sizes above 0"),
    "other coils": (good(), [*lines(), line(np.ones((3, 16)), ky=3)], "numbers of coils: 12 lines with 2, 1 lines"),
    "other samples": (good(), [*lines(), line(np.ones((2, 15)), ky=3)], "numbers of samples"),
    "one place twice": (good(), odd_one(ky=4), r"readouts 4 and 5 for one place .*\(0, 4\)"),
    "line outside": (good(), odd_one(ky=12), "ky index 12"),
    "centre of the header wrong": (xml((1, *SHAPE), (0, 2)), lines(), "ky index 12|ky index"),
    "samples outside": (good(), lines(center_sample=3), "covering kx"),
    "nothing but discarded": (good(), lines(discard_pre=9, discard_post=8), "covering kx"),
    "oblique nonsense": (good(), lines(phase_dir=(1.0, 0.0, 0.0)), "perpendicular"),
    "slices of two directions": (
        good(),
        [*lines(), line(np.ones((2, 16)), slice=1, read_dir=(0.0, 1.0, 0.0), phase_dir=(-1.0, 0.0, 0.0))],
        "different directions",
    ),
    "two slices in one place": (
        good(),
        [*lines(), line(np.ones((2, 16)), slice=1, position=(5.0, 0.0, 0.0))],
        "one position along the slice",
    ),
    "two slabs": (
        xml((4, *SHAPE), (2, 6)),
        [*lines(), line(np.ones((2, 16)), slice=1, position=(0.0, 0.0, 9.0))],
        "2 slabs",
    ),
    "simultaneous slices": (good(parallel=MULTIBAND), lines(), "2 slices excited at once"),
    "no trajectory": (good(trajectory="spiral"), lines(), "stored trajectory"),
    "trajectory too long": (
        good(trajectory="radial"),
        lines(trajectory=np.full((16, 2), 30.0)),
        "trajectory that reaches 30",
    ),
    "shots differ": (
        good(trajectory="radial"),
        [
            *lines(trajectory=np.full((16, 2), 0.2)),
            line(np.ones((2, 16)), slice=1, position=(0.0, 0.0, 9.0), trajectory=np.full((16, 2), 0.2)),
        ],
        r"\[1, 12\] shots",
    ),
    "header that is no XML": ("<ismrmrdHeader", lines(), "does not parse"),
    "header without encoding": ('<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"/>', lines(), "header"),
    "both polarities of one line": (
        good(),
        [*lines(), *(line(np.ones((2, 16)), "IS_REVERSE", ky=ky, average=1) for ky in range(12))],
        "both readout polarities",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_ismrmrd_file(tmp_path: Path, name: str) -> None:
    header, acquisitions, message = CASES[name]
    path = tmp_path / "scan.h5"
    if acquisitions:
        write_mrd(path, header, acquisitions)
    else:
        write_mrd(path, header, lines())
        with h5py.File(path, "a") as file:
            file["dataset/data"].resize((0,))
    with pytest.raises(InputError, match=message) as error:
        read_scan(path)
    assert error.value.source == str(path) or error.value.source == "geometry"
    assert "\n" not in str(error.value)


def test_absent_empty_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "empty.h5").touch()
    (tmp_path / "text.dat").write_text("no raw data at all, only a few words\n" * 500)
    (tmp_path / "zeros.dat").write_bytes(b"\x00" * 20000)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["image"] = np.ones(3)
    for name, message in (
        ("absent.h5", "no such file"),
        ("", "a folder"),
        ("empty.h5", "an empty file"),
        ("text.dat", "no known raw data format"),
        ("zeros.dat", "no known raw data format"),
        ("other.h5", "an HDF5 file with image"),
    ):
        for call in (read_scan, describe):
            with pytest.raises(InputError, match=message):
                call(tmp_path / name)


def test_hdf5_cut_anywhere(tmp_path: Path) -> None:
    whole = write_mrd(tmp_path / "scan.h5", good(), lines()).read_bytes()
    for size in range(20, len(whole) - 1, len(whole) // 40):
        (tmp_path / "cut.h5").write_bytes(whole[:size])
        with pytest.raises(InputError):
            read_scan(tmp_path / "cut.h5")


def test_hdf5_with_damaged_bytes_is_read_or_refused(tmp_path: Path) -> None:
    """Flipping bytes may hit a sample, which no reader can know, but never gives another exception."""
    whole = write_mrd(tmp_path / "scan.h5", good(), lines()).read_bytes()
    generator = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        broken = bytearray(whole)
        start = int(generator.integers(8, len(whole) - 64))
        broken[start : start + 64] = generator.bytes(64)
        (tmp_path / "broken.h5").write_bytes(broken)
        try:
            read_scan(tmp_path / "broken.h5")
        except InputError:
            refused += 1
    assert refused > 10


def test_a_field_of_line_headers_with_a_damaged_name_is_refused(tmp_path: Path) -> None:
    path = write_mrd(tmp_path / "scan.h5", good(), lines())
    content = path.read_bytes()
    assert content.count(b"contrast\x00") == 1
    path.write_bytes(content.replace(b"contrast\x00", b"contrasu\x00"))
    with pytest.raises(InputError, match="without contrast"):
        describe(path)


def test_a_field_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = write_mrd(tmp_path / "scan.h5", good(), lines())
    path.write_bytes(path.read_bytes().replace(b"contrast\x00", b"cont\xacast\x00"))
    with pytest.raises(InputError, match="cannot be read"):
        describe(path)


def test_options_for_arrays_are_refused_where_the_header_says_it(tmp_path: Path) -> None:
    path = write_mrd(tmp_path / "scan.h5", good(), lines())
    for options in (ReadOptions(axes="coil,ky,kx"), ReadOptions(fov_mm=(1, 1, 1)), ReadOptions(oversampling=2)):
        with pytest.raises(InputError, match="the option"):
            read_scan(path, options)

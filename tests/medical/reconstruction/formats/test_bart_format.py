"""BART arrays are read in BART's order of dimensions."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from medical.reconstruction.formats import ReadOptions, describe, read_scan
from medical.reconstruction.fourier import ifft_centred
from shared.errors import InputError


def write_cfl(path: Path, array: np.ndarray) -> Path:
    """Write (read, phase1, phase2, coil, ...) with the first axis fastest, as the format is defined."""
    dims = [*array.shape, *[1] * (16 - array.ndim)]
    path.with_suffix(".hdr").write_text("# Dimensions\n" + " ".join(map(str, dims)) + " \n# Command\nphantom\n")
    array.astype("<c8").ravel(order="F").tofile(path.with_suffix(".cfl"))
    return path.with_suffix(".cfl")


def random(*shape: int) -> np.ndarray:
    generator = np.random.default_rng(0)
    return (generator.normal(size=shape) + 1j * generator.normal(size=shape)).astype(np.complex64)


@pytest.mark.parametrize("suffix", [".cfl", ".hdr", ""])
def test_plane_has_read_along_x_and_phase_along_y(tmp_path: Path, suffix: str) -> None:
    array = random(8, 6, 1, 3)
    write_cfl(tmp_path / "k", array)
    scan = read_scan(tmp_path / f"k{suffix}")
    np.testing.assert_array_equal(scan.kspace[0].numpy(), array[:, :, 0].transpose(2, 1, 0))


def test_volume_slices_and_hybrid_planes(tmp_path: Path) -> None:
    volume, slices, hybrid = random(8, 6, 5, 3), random(8, 6, 1, 3, *[1] * 9, 4), random(1, 8, 6, 3)
    scan = read_scan(write_cfl(tmp_path / "volume", volume))
    np.testing.assert_array_equal(scan.kspace[0].numpy(), volume.transpose(3, 2, 1, 0))
    scan = read_scan(write_cfl(tmp_path / "slices", slices))
    np.testing.assert_array_equal(scan.kspace.numpy(), slices[:, :, 0].squeeze().transpose(3, 2, 1, 0))
    scan = read_scan(write_cfl(tmp_path / "hybrid", hybrid))
    np.testing.assert_array_equal(scan.kspace[0].numpy(), hybrid[0].transpose(2, 0, 1))


def test_one_echo_and_repetition_of_several_is_read(tmp_path: Path) -> None:
    array = random(8, 6, 1, 3, 1, 2, 1, 1, 1, 1, 4)
    path = write_cfl(tmp_path / "k", array)
    scan = read_scan(path, ReadOptions(contrast=1, repetition=3))
    expected = array[:, :, 0, :, 0, 1, 0, 0, 0, 0, 3]
    np.testing.assert_array_equal(scan.kspace[0].numpy(), expected.transpose(2, 1, 0))
    assert not any("read" in text for text in scan.warnings)
    assert sum("read" in text for text in read_scan(path).warnings) == 2
    with pytest.raises(InputError, match="4 repetition"):
        read_scan(path, ReadOptions(repetition=4))


@pytest.mark.peer
def test_barts_own_phantom_is_barts_own_image(tmp_path: Path) -> None:
    bart = shutil.which("bart")
    if bart is None:
        pytest.skip("needs BART")

    def run(*words: str) -> None:
        subprocess.run([bart, *words], check=True, cwd=tmp_path, capture_output=True, env={"OMP_NUM_THREADS": "1"})

    run("phantom", "-x", "32", "-s", "4", "-k", "k")
    run("fft", "-u", "-i", "3", "k", "image")
    image = np.fromfile(tmp_path / "image.cfl", dtype="<c8").reshape((32, 32, 4), order="F")
    scan = read_scan(tmp_path / "k")
    ours = ifft_centred(scan.kspace[0]).numpy()
    np.testing.assert_allclose(ours, image.transpose(2, 1, 0), atol=1e-6 * np.abs(image).max())
    assert describe(tmp_path / "k")["dimensions"][:4] == [32, 32, 1, 4]


def test_bad_bart_files_are_one_clear_error(tmp_path: Path) -> None:
    path = write_cfl(tmp_path / "k", random(8, 6, 1, 3))
    short = path.read_bytes()[:-8]
    path.write_bytes(short)
    with pytest.raises(InputError, match="1144 bytes; expected 1152"):
        read_scan(path)
    path.with_suffix(".hdr").write_text("# Dimensions\n8 six 1 3\n")
    with pytest.raises(InputError, match="no valid dimensions"):
        read_scan(path)
    path.with_suffix(".hdr").unlink()
    with pytest.raises(InputError, match="no such file"):
        read_scan(path)
    with pytest.raises(InputError, match="dimension 6"):
        read_scan(write_cfl(tmp_path / "coefficients", random(8, 6, 1, 3, 1, 1, 2)))
    nan = random(8, 6, 1, 3)
    nan[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="1 samples that are NaN"):
        read_scan(write_cfl(tmp_path / "nan", nan))
    with pytest.raises(InputError, match="axes"):
        read_scan(write_cfl(tmp_path / "k", random(8, 6, 1, 3)), ReadOptions(axes="coil,ky,kx"))

"""Arrays without a header become the scan that their options describe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medical.reconstruction.formats import ReadOptions, describe, read_scan
from shared.errors import InputError

NAMES = {"slice": 2, "coil": 3, "ky": 4, "kx": 6}


def samples(axes: str, sizes: dict[str, int] | None = None) -> np.ndarray:
    """Array whose value says the indices (slice, coil, kz, ky, kx) as decimal digits plus one."""
    sizes = sizes or NAMES
    names = axes.split(",")
    index = dict(zip(names, np.meshgrid(*[np.arange(sizes[n]) for n in names], indexing="ij"), strict=True))
    digits = sum(10**p * index.get(n, 0) for p, n in enumerate(("kx", "ky", "kz", "coil", "slice")))
    return (digits + 1 + 0.5j).astype(np.complex64)


def save(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


@pytest.mark.parametrize("axes", ["coil,ky,kx", "kx,ky,coil", "ky,coil,kx", "slice,coil,ky,kx", "kx,ky,slice,coil"])
def test_axes_in_any_order_land_in_ours(tmp_path: Path, axes: str) -> None:
    scan = read_scan(save(tmp_path / "k.npy", samples(axes)), ReadOptions(axes=axes, fov_mm=(12, 8, 3)))
    ours = "slice,coil,ky,kx" if "slice" in axes else "coil,ky,kx"
    np.testing.assert_array_equal(scan.kspace.numpy(), samples(ours).reshape(-1, 3, 4, 6))
    assert scan.geometry.fov_mm == (12, 8, 3)
    assert scan.geometry.nominal
    assert scan.slices == len(scan.geometry.positions_mm)


def test_volume_axes_give_a_volume(tmp_path: Path) -> None:
    sizes = {"coil": 2, "kz": 3, "ky": 4, "kx": 5}
    path = save(tmp_path / "k.npy", samples("kx,ky,kz,coil", sizes))
    scan = read_scan(path, ReadOptions(axes="kx,ky,kz,coil"))
    np.testing.assert_array_equal(scan.kspace[0].numpy(), samples("coil,kz,ky,kx", sizes))
    assert scan.recon_matrix == (3, 4, 5)
    assert len(scan.geometry.positions_mm) == 1


def test_zeros_in_all_coils_are_not_samples(tmp_path: Path) -> None:
    array = samples("coil,ky,kx")
    array[:, 1] = 0
    array[0, 2] = 0
    scan = read_scan(save(tmp_path / "k.npy", array), ReadOptions(axes="coil,ky,kx"))
    assert scan.mask[0].any(-1).tolist() == [True, False, True, True]


def test_given_mask_and_noise_are_used(tmp_path: Path) -> None:
    array = samples("coil,ky,kx")
    array[:, 1:] = 0
    mask = np.zeros((4, 6), dtype=np.uint8)
    mask[:2] = 1
    noise = np.arange(30).reshape(3, 10) * (1 + 1j)
    options = ReadOptions(axes="coil,ky,kx", mask=save(tmp_path / "m.npy", mask), noise=save(tmp_path / "n.npy", noise))
    scan = read_scan(save(tmp_path / "k.npy", array), options)
    np.testing.assert_array_equal(scan.mask[0].numpy(), mask)
    assert scan.noise is not None
    np.testing.assert_array_equal(scan.noise.numpy(), noise.astype(np.complex64))


@pytest.mark.parametrize(("centre", "size", "first"), [(1, 5, 1), (2, 4, 0), (3, 6, 0), (0, 7, 3)])
def test_a_zero_frequency_off_the_middle_extends_the_matrix(tmp_path: Path, centre: int, size: int, first: int) -> None:
    """The smallest N with line `centre` of 4 at N//2 and all 4 lines inside."""
    array = samples("coil,ky,kx")
    scan = read_scan(save(tmp_path / "k.npy", array), ReadOptions(axes="coil,ky,kx", centre=(centre, 3)))
    assert scan.kspace.shape[2:] == (size, 6)
    np.testing.assert_array_equal(scan.kspace[0, :, first : first + 4].numpy(), array)
    assert first + centre == size // 2
    assert int(scan.mask.any(-1).sum()) == 4


def test_oversampled_readout_halves_the_image(tmp_path: Path) -> None:
    path = save(tmp_path / "k.npy", samples("coil,ky,kx"))
    scan = read_scan(path, ReadOptions(axes="coil,ky,kx", fov_mm=(400, 200, 4), oversampling=2))
    assert scan.recon_matrix == (1, 4, 3)
    assert scan.recon_fov_mm == (200, 200, 4)


def test_slices_are_placed_as_the_options_say(tmp_path: Path) -> None:
    options = ReadOptions(axes="slice,coil,ky,kx", fov_mm=(9, 9, 3), position_mm=(1, 2, 3), slice_spacing_mm=4)
    scan = read_scan(save(tmp_path / "k.npy", samples("slice,coil,ky,kx")), options)
    assert scan.geometry.positions_mm == ((1, 2, 3), (1, 2, 7))


def test_npz_needs_a_key_only_when_it_holds_several(tmp_path: Path) -> None:
    array, path = samples("coil,ky,kx"), tmp_path / "k.npz"
    np.savez(path, k=array)
    assert torch.equal(
        read_scan(path, ReadOptions(axes="coil,ky,kx")).kspace,
        read_scan(path, ReadOptions(axes="coil,ky,kx", key="k")).kspace,
    )
    np.savez(path, k=array, mask=np.ones(4))
    with pytest.raises(InputError, match="k, mask"):
        read_scan(path, ReadOptions(axes="coil,ky,kx"))
    assert read_scan(path, ReadOptions(axes="coil,ky,kx", key="k")).coils == 3
    assert describe(path)["arrays"]["k"]["shape"] == [3, 4, 6]


@pytest.mark.data
def test_prospectively_undersampled_brain_has_its_known_density(data_file) -> None:
    scan = read_scan(data_file("mri/sigpy_brain_8ch_230x180_R8.npy"), ReadOptions(axes="coil,ky,kx"))
    assert scan.kspace.shape == (1, 8, 230, 180)
    assert float(scan.mask.float().mean()) == pytest.approx(0.124, abs=5e-4)


BAD = {
    "no axes": (samples("coil,ky,kx"), {}, "order of its axes"),
    "axes of another rank": (samples("coil,ky,kx"), {"axes": "ky,kx"}, "2 different|3 different"),
    "unknown axis": (samples("coil,ky,kx"), {"axes": "coil,y,x"}, "out of slice, coil"),
    "repeated axis": (samples("coil,ky,kx"), {"axes": "ky,ky,kx"}, "3 different"),
    "magnitudes": (np.ones((3, 4, 6)), {"axes": "coil,ky,kx"}, "float64"),
    "all zero": (np.zeros((3, 4, 6), complex), {"axes": "coil,ky,kx"}, "only zeros"),
    "zero field of view": (samples("coil,ky,kx"), {"axes": "coil,ky,kx", "fov_mm": (0, 1, 1)}, "above 0"),
    "negative field of view": (samples("coil,ky,kx"), {"axes": "coil,ky,kx", "fov_mm": (9, -9, 1)}, "above 0"),
    "centre outside": (samples("coil,ky,kx"), {"axes": "coil,ky,kx", "centre": (4, 0)}, "centre"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arrays_are_one_clear_error(tmp_path: Path, name: str) -> None:
    array, options, message = BAD[name]
    with pytest.raises(InputError, match=message):
        read_scan(save(tmp_path / "k.npy", array), ReadOptions(**options))


def test_samples_that_are_not_finite_are_counted_and_found(tmp_path: Path) -> None:
    array = samples("coil,ky,kx")
    array[1, 2, 3] = np.nan
    array[2, 0, 0] = np.inf
    with pytest.raises(InputError, match=r"2 samples that are NaN or infinite.*\(0, 1, 2, 3\)"):
        read_scan(save(tmp_path / "k.npy", array), ReadOptions(axes="coil,ky,kx"))


def test_masks_and_noise_that_contradict_the_data_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "k.npy", samples("coil,ky,kx"))
    for name, mask, message in (
        ("shape", np.ones((6, 4)), r"shape \(6, 4\)"),
        ("false where sampled", np.eye(4, 6), "20 samples that are not zero"),
        ("not binary", np.full((4, 6), 0.5), "zeros and ones"),
    ):
        options = ReadOptions(axes="coil,ky,kx", mask=save(tmp_path / f"{name}.npy", mask))
        with pytest.raises(InputError, match=message):
            read_scan(path, options)
    noise = save(tmp_path / "noise.npy", np.ones((2, 9), complex))
    with pytest.raises(InputError, match="one row per coil"):
        read_scan(path, ReadOptions(axes="coil,ky,kx", noise=noise))


def test_a_member_of_an_npz_file_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.npz"
    np.savez(path, kspace=np.ones((2, 16, 16), dtype=np.complex64))
    content = bytearray(path.read_bytes())
    content[900] ^= 1
    path.write_bytes(content)
    for attempt in (read_scan, describe):
        with pytest.raises(InputError, match="does not load"):
            attempt(path, ReadOptions(axes="coil,ky,kx"))


def test_damaged_files_and_python_objects_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "k.npy", samples("coil,ky,kx"))
    path.write_bytes(path.read_bytes()[:-20])
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "z.npz", k=samples("coil,ky,kx"))
    (tmp_path / "z.npz").write_bytes((tmp_path / "z.npz").read_bytes()[:-30])
    for name in ("k.npy", "o.npy", "z.npz"):
        with pytest.raises(InputError, match="does not load"):
            read_scan(tmp_path / name, ReadOptions(axes="coil,ky,kx"))

"""Siemens files land where their line headers say, upright, with noise, navigators and ramps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from medical.images import Image, affine_from_geometry
from medical.reconstruction.epi import correct_epi_ghost, regrid_readout
from medical.reconstruction.formats import ReadOptions, describe, read_scan
from medical.reconstruction.formats.twix_header import directions
from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.preprocess import crop_to_recon, remove_readout_oversampling, resize_centred
from medical.reconstruction.raw import RawScan
from shared.errors import InputError
from tests.medical.reconstruction.formats.mrd_files import point_lines
from tests.medical.reconstruction.formats.twix_files import NORMAL, POSITION, Readout, Scan, write_twix

SHAPE, PIXEL = (6, 16), (1, 11)
GRE, EPI = "mri/twixtools_skyra_gre_2ch.dat", "mri/twixtools_skyra_epi_2ch.dat"


def stored(shape: tuple[int, ...] = SHAPE, pixel: tuple[int, ...] = PIXEL, coils: int = 2) -> np.ndarray:
    """Samples as Siemens stores them: a forward transform gives the image."""
    return point_lines(shape, pixel, coils).conj()


def readouts(**changes) -> list[Readout]:
    return [Readout(stored()[:, ky], counters={"Lin": ky}, **changes) for ky in range(SHAPE[0])]


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("name", ["scan.dat", "scan"])
def test_both_generations_of_the_format_are_read_whatever_the_suffix(tmp_path: Path, old: bool, name: str) -> None:
    scan = read_scan(write_twix(tmp_path / name, Scan(readouts()), old=old))
    torch.testing.assert_close(scan.kspace[0], torch.from_numpy(stored().conj()))
    assert scan.mask.all()
    assert scan.geometry.fov_mm == (32.0, 12.0, 5.0)
    assert scan.recon_matrix == (1, 6, 8)
    assert scan.recon_fov_mm == (16.0, 12.0, 5.0)
    assert scan.geometry.patient_position == "FFS"
    assert scan.header["vendor"] == "SIEMENS"
    assert "Doe" not in f"{scan.header}{describe(tmp_path / name)}"


def test_quaternion_columns_are_phase_read_and_slice(tmp_path: Path) -> None:
    geometry = read_scan(write_twix(tmp_path / "a.dat", Scan(readouts()))).geometry
    np.testing.assert_allclose(geometry.phase_dir, (1, 0, 0), atol=1e-6)
    np.testing.assert_allclose(geometry.read_dir, (0, 0.8, -0.6), atol=1e-6)
    np.testing.assert_allclose(geometry.slice_dir, NORMAL, atol=1e-6)
    np.testing.assert_allclose(geometry.positions_mm, [POSITION], atol=1e-5)


def test_any_quaternion_gives_the_columns_of_its_rotation_matrix() -> None:
    """MDH quaternions put the scalar first, SciPy puts it last."""
    generator = np.random.default_rng(0)
    for quaternion in generator.normal(size=(20, 4)):
        quaternion /= np.linalg.norm(quaternion)
        phase, read, normal = Rotation.from_quat(quaternion[[1, 2, 3, 0]]).as_matrix().T
        np.testing.assert_allclose(directions(quaternion), [read, phase, normal], atol=1e-12)


def test_line_headers_that_contradict_the_protocol_are_said(tmp_path: Path) -> None:
    assert not read_scan(write_twix(tmp_path / "a.dat", Scan(readouts()))).warnings
    moved = read_scan(write_twix(tmp_path / "b.dat", Scan(readouts(position=(3.0, -20.0, 31.0)))))
    assert any("1.00 mm" in text for text in moved.warnings)
    assert moved.geometry.positions_mm[0][2] == 31.0


def test_interleaved_slices_are_sorted_by_position(tmp_path: Path) -> None:
    along = {0: 5.0, 1: -5.0, 2: 0.0}
    lines = [
        Readout(
            np.full((2, 16), along[s]),
            counters={"Lin": ky, "Sli": s},
            position=tuple(float(p) for p in np.array(POSITION) + along[s] * np.array(NORMAL)),
        )
        for ky in range(6)
        for s in along
    ]
    scan = read_scan(write_twix(tmp_path / "a.dat", Scan(lines)))
    assert scan.kspace[:, 0, 0, 0].real.tolist() == [-5.0, 0.0, 5.0]
    steps = np.diff(np.array(scan.geometry.positions_mm), axis=0)
    np.testing.assert_allclose(steps, 5 * np.array([NORMAL, NORMAL]), atol=1e-5)


def test_partial_fourier_and_asymmetric_echo_take_their_centre_from_the_line_headers(tmp_path: Path) -> None:
    """Lines 2..5 of 6 counted from 0 (centre 1), samples 6.. of 16 (centre 2) of which the first is cut off."""
    lines = [Readout(stored()[:, ky, 6:], counters={"Lin": ky - 2}, centre=(2, 1, 0), cut=(1, 0)) for ky in range(2, 6)]
    scan = read_scan(write_twix(tmp_path / "a.dat", Scan(lines)))
    expected = np.zeros(SHAPE, dtype=bool)
    expected[2:, 7:] = True
    np.testing.assert_array_equal(scan.mask[0].numpy(), expected)
    torch.testing.assert_close(scan.kspace[0], torch.from_numpy(stored().conj() * expected))


def test_volume_uses_partitions_and_slab_thickness(tmp_path: Path) -> None:
    kspace = stored((4, 6, 16), (3, 1, 11))
    lines = [
        Readout(kspace[:, kz, ky], counters={"Lin": ky, "Par": kz}, centre=(8, 3, 2))
        for kz in range(4)
        for ky in range(6)
    ]
    yaps = {
        "sKSpace.ucDimension": 4,
        "sKSpace.lPartitions": 4,
        "sKSpace.lImagesPerSlab": 2,
        "sKSpace.dSliceOversamplingForDialog": 1.0,
    }
    scan = read_scan(write_twix(tmp_path / "a.dat", Scan(lines, yaps=yaps)))
    torch.testing.assert_close(scan.kspace[0], torch.from_numpy(kspace.conj()))
    assert scan.geometry.fov_mm == (32.0, 12.0, 10.0)
    assert scan.recon_matrix == (2, 6, 8)
    assert scan.recon_fov_mm[2] == 5.0


def test_lines_beyond_the_protocols_count_enlarge_the_matrix_at_the_same_field_of_view(tmp_path: Path) -> None:
    lines = [Readout(np.ones((2, 16)), counters={"Lin": ky}) for ky in range(8)]
    scan = read_scan(write_twix(tmp_path / "a.dat", Scan(lines)))
    assert scan.kspace.shape[2:] == (9, 16)
    assert scan.mask[0].any(-1).nonzero().flatten().tolist() == list(range(1, 9))
    assert scan.geometry.fov_mm[1] == 12.0


def test_noise_of_an_earlier_measurement_with_the_same_coils_is_taken_in_their_order(tmp_path: Path) -> None:
    noise = Scan(
        [Readout(np.array([[1 + 1j] * 256, [2 + 2j] * 256]), ["NOISEADJSCAN"], channels=(7, 3))], "AdjCoilSens"
    )
    other = Scan([Readout(np.ones((3, 256)), ["NOISEADJSCAN"], channels=(1, 2, 3))], "AdjOther")
    image = Scan(readouts(channels=(3, 7)))
    scan = read_scan(write_twix(tmp_path / "a.dat", noise, other, image))
    assert scan.noise is not None
    assert scan.noise[:, 0].tolist() == [2 - 2j, 1 - 1j]
    assert scan.noise_bandwidth_ratio == pytest.approx(0.5)
    assert any("AdjCoilSens" in step for step in scan.history)
    assert read_scan(write_twix(tmp_path / "b.dat", other, image)).noise is None


def test_noise_lines_of_the_same_measurement_have_the_bandwidth_of_the_adjustment(tmp_path: Path) -> None:
    """130 Hz per sample of 256 are 30 us; the image has 10 us."""
    lines = [Readout(np.ones((2, 256)), ["NOISEADJSCAN"]), *readouts()]
    scan = read_scan(write_twix(tmp_path / "a.dat", Scan(lines)))
    assert scan.noise is not None
    assert scan.noise.shape == (2, 256)
    assert scan.noise_bandwidth_ratio == pytest.approx(3.0)


def test_feedback_and_stabilisation_lines_stay_out_and_navigators_are_kept(tmp_path: Path) -> None:
    junk = [
        Readout(np.full((2, 16), 1e6), [flag], {"Lin": 2})
        for flag in ("RTFEEDBACK", "HPFEEDBACK", "REFPHASESTABSCAN", "PHASESTABSCAN", "RETRO_DUMMYSCAN")
    ]
    navigators = [
        Readout(np.arange(32.0).reshape(2, 16), ["PHASCOR", "RTFEEDBACK", *(["REFLECT"] if n % 2 else [])], {"Lin": 3})
        for n in range(3)
    ]
    scan = read_scan(write_twix(tmp_path / "a.dat", Scan([*navigators, *junk, *readouts()])))
    torch.testing.assert_close(scan.kspace[0], torch.from_numpy(stored().conj()))
    assert scan.navigators is not None
    assert scan.navigator_reversed is not None
    assert scan.navigator_reversed.tolist() == [[False, True, False]]
    np.testing.assert_array_equal(scan.navigators[0, 1, 0].real.numpy(), np.arange(16.0)[::-1])


@pytest.mark.parametrize(("mode", "separate"), [(2, False), (4, True)])
def test_reference_lines_are_embedded_or_separate_as_the_protocol_says(
    tmp_path: Path, mode: int, separate: bool
) -> None:
    lines = [r for r in readouts() if r.counters["Lin"] % 2]
    reference = [Readout(stored()[:, ky], ["PATREFSCAN"], {"Lin": ky}) for ky in (2, 4)]
    reference += [Readout(stored()[:, 3], ["PATREFSCAN"], {"Lin": 3})] if separate else []
    yaps = {"sPat.ucRefScanMode": mode}
    scan = read_scan(write_twix(tmp_path / "a.dat", Scan([*reference, *lines], yaps=yaps)))
    assert scan.mask[0].any(-1).nonzero().flatten().tolist() == ([1, 3, 5] if separate else [1, 2, 3, 4, 5])
    if separate:
        assert scan.calibration is not None
        torch.testing.assert_close(scan.calibration[0], torch.from_numpy(stored()[:, 2:5].conj()))
    else:
        assert scan.calibration is None


def test_repetition_is_chosen_and_averages_are_combined(tmp_path: Path) -> None:
    lines = [
        Readout(np.full((2, 16), 10.0 * rep + ave), counters={"Lin": ky, "Rep": rep, "Ave": ave})
        for ky in range(6)
        for rep in range(2)
        for ave in range(2)
    ]
    path = write_twix(tmp_path / "a.dat", Scan(lines))
    assert read_scan(path).kspace.real.unique().tolist() == [0.5]
    assert read_scan(path, ReadOptions(repetition=1)).kspace.real.unique().tolist() == [10.5]


@pytest.mark.data
def test_gre_and_epi_of_one_slice_land_on_one_affine(data_file) -> None:
    gre, epi = read_scan(data_file(GRE)), read_scan(data_file(EPI))
    affines = [affine_from_geometry(s.geometry, (1, 80, 80), s.recon_fov_mm, volumetric=False) for s in (gre, epi)]
    np.testing.assert_allclose(affines[0], affines[1], atol=1e-5)
    centre = affines[0] @ [40, 40, 0, 1]
    np.testing.assert_allclose(centre[:3], (2.58970, -53.92243, -53.99947), atol=1e-4)
    assert (gre.kspace.shape, epi.kspace.shape) == ((1, 2, 160, 320), (1, 2, 80, 160))
    assert epi.navigators is not None
    assert epi.navigators.shape == (1, 3, 2, 160)
    assert not gre.warnings
    assert not epi.warnings


def magnitude(scan: RawScan, size: int) -> np.ndarray:
    """Image of a slice on `size` pixels over the protocol's field of view."""
    scan = remove_readout_oversampling(scan)
    kspace = resize_centred(resize_centred(scan.kspace, size, -1), size, -2)
    return ifft_centred(kspace)[0].abs().square().sum(0).sqrt().numpy()


@pytest.mark.data
def test_gre_and_epi_are_the_same_way_up_and_in_one_place(data_file) -> None:
    """Of all flips, transposes and shifts the header's own placement correlates best."""
    gre = magnitude(read_scan(data_file(GRE)), 80)
    epi = magnitude(correct_epi_ghost(regrid_readout(read_scan(data_file(EPI)))), 80)
    turned = [t for flipped in (epi, epi[::-1], epi[:, ::-1], epi[::-1, ::-1]) for t in (flipped, flipped.T)]
    correlations = [np.corrcoef(gre.ravel(), t.ravel())[0, 1] for t in turned]
    assert correlations[0] > 0.9
    assert correlations[0] > max(correlations[1:]) + 0.2
    shifts = {
        (dy, dx): np.corrcoef(gre.ravel(), np.roll(epi, (dy, dx), (0, 1)).ravel())[0, 1]
        for dy in range(-3, 4)
        for dx in range(-3, 4)
    }
    assert max(shifts, key=lambda shift: shifts[shift]) == (0, 0)


@pytest.mark.data
def test_air_in_the_liquid_phantom_is_on_top_where_gravity_puts_it(data_file) -> None:
    """The phantom is a cylinder on the table of a supine scan: its flat, air-filled side must be anterior."""
    scan = remove_readout_oversampling(read_scan(data_file(GRE)))
    data, geometry = crop_to_recon(ifft_centred(scan.kspace).abs().square().sum(1).sqrt(), scan)
    image = Image.placed(data, geometry, fov_mm=scan.recon_fov_mm, volumetric=False)
    liquid = data[0].numpy() > 0.3 * float(data.quantile(0.98))
    rows = np.flatnonzero(liquid.sum(axis=1) > 16)  # wider than 20 mm, so no noise
    anterior = (image.affine[:3] @ np.stack([80 + 0 * rows, rows, 0 * rows, 1 + 0 * rows]))[1]
    width = liquid.sum(axis=1)[rows[np.argsort(anterior)]]
    assert width[-4:].mean() > 1.3 * width[:4].mean()


@pytest.mark.data
def test_ramp_sampled_positions_equal_those_of_twixtools(data_file) -> None:
    """twixtools integrates the gradient numerically; both are zero between the two middle samples."""
    from twixtools import read_twix
    from twixtools.recon_helpers import calc_regrid_traj

    path = data_file(EPI)
    header = read_twix(str(path), verbose=False, parse_pmu=False, parse_geometry=False)[-1]["hdr"]
    peer = calc_regrid_traj(header, ncol=160) * 400
    scan = read_scan(path)
    assert scan.readout_positions is not None
    np.testing.assert_allclose(scan.readout_positions.numpy(), peer, atol=0.02)
    np.testing.assert_allclose(scan.readout_positions + scan.readout_positions.flip(0), 0, atol=1e-5)


@pytest.mark.data
@pytest.mark.parametrize("size", [600_000, 5_000, 9_000, 60])
def test_truncated_real_file_is_one_clear_error(data_file, tmp_path: Path, size: int) -> None:
    path = tmp_path / "cut.dat"
    path.write_bytes(data_file(GRE).read_bytes()[:size])
    with pytest.raises(InputError, match=r"truncated|no known raw data format"):
        read_scan(path)


@pytest.mark.parametrize("old", [True, False])
def test_cut_anywhere_is_one_clear_error(tmp_path: Path, old: bool) -> None:
    whole = write_twix(tmp_path / "a.dat", Scan(readouts()), old=old).read_bytes()
    start = 0 if old else 10240
    for size in range(start + 100, len(whole) - 352, 97):
        (tmp_path / "cut.dat").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"truncated|protocol|no known raw"):
            read_scan(tmp_path / "cut.dat")


@pytest.mark.parametrize(("place", "word"), [(2**63 + 8, "no known raw"), (10**9, "no known raw")])
def test_a_measurement_that_starts_beyond_the_file_is_one_clear_error(tmp_path: Path, place: int, word: str) -> None:
    path = write_twix(tmp_path / "scan.dat", Scan(readouts()))
    content = bytearray(path.read_bytes())
    content[16:24] = place.to_bytes(8, "little")  # the offset of the first entry
    path.write_bytes(content)
    with pytest.raises(InputError, match=word):
        read_scan(path)


def test_only_noise_is_one_clear_error(tmp_path: Path) -> None:
    noise = Readout(np.ones((2, 256)), ["NOISEADJSCAN"])
    with pytest.raises(InputError, match="1 noise lines; expected imaging lines"):
        read_scan(write_twix(tmp_path / "a.dat", Scan([noise])))
    with pytest.raises(InputError, match="no lines; expected imaging lines"):
        read_scan(write_twix(tmp_path / "b.dat", Scan([])))


def test_simultaneous_slices_are_one_clear_error(tmp_path: Path) -> None:
    scan = Scan(readouts(), yaps={"sSliceAcceleration.lMultiBandFactor": 3})
    with pytest.raises(InputError, match="3 slices excited at once"):
        read_scan(write_twix(tmp_path / "a.dat", scan))


def test_protocol_without_field_of_view_is_one_clear_error(tmp_path: Path) -> None:
    scan = Scan(readouts(), yaps={"sSliceArray.asSlice[0].dReadoutFOV": 0.0})
    with pytest.raises(InputError, match="above 0"):
        read_scan(write_twix(tmp_path / "a.dat", scan))

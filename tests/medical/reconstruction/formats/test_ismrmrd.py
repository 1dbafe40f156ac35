"""ISMRMRD files become scans whose image is where the header says, whatever the order and flags of the lines."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from medical.reconstruction.formats import ReadOptions, describe, read_scan
from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.preprocess import remove_readout_oversampling
from medical.reconstruction.raw import RawScan
from shared.errors import InputError
from tests.medical.reconstruction.formats.mrd_files import line, point_lines, write_mrd, xml

SHAPE, PIXEL = (12, 16), (3, 10)


def peak(scan: RawScan, coil: int = 0) -> tuple[int, ...]:
    image = ifft_centred(scan.kspace[0, coil], tuple(range(-len(scan.encoded_matrix), 0))).abs()
    return tuple(int(i) for i in np.unravel_index(int(image.argmax()), image.shape))


def plain_lines(shape=SHAPE, pixel=PIXEL, **labels):
    kspace = point_lines(shape, pixel)
    return [line(kspace[:, ky], ky=ky, **labels) for ky in range(shape[0])]


@pytest.mark.data
@pytest.mark.parametrize("name", ["full", "R4"])
def test_brain_file_equals_the_array_it_was_made_from(data_file, name: str) -> None:
    scan = read_scan(data_file(f"mri/cimaX_brain_16ch_128_{name}.mrd.h5"))
    kspace = np.load(data_file("mri/pulseq_cimaX_brain_16ch_128.npy"))
    mask = np.load(data_file("mri/bart080_golden_cimaX_brain_R4.npz"))["mask"].astype(bool)
    mask = mask if name == "R4" else np.ones_like(mask)
    np.testing.assert_array_equal(scan.kspace[0].numpy(), kspace * mask)
    np.testing.assert_array_equal(scan.mask[0].numpy(), mask)
    assert scan.geometry.fov_mm == (256.0, 256.0, 3.0)
    assert scan.calibration is None


@pytest.mark.data
def test_reading_leaves_the_file_as_it_was(data_file, tmp_path: Path) -> None:
    path = tmp_path / "scan.h5"
    shutil.copyfile(data_file("mri/cimaX_brain_16ch_128_R4.mrd.h5"), path)
    path.chmod(0o444)
    before = hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns
    read_scan(path)
    describe(path)
    assert (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) == before
    assert list(tmp_path.iterdir()) == [path]


def test_lines_in_any_order_give_the_same_scan(tmp_path: Path) -> None:
    lines = plain_lines()
    ordered = read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), lines))
    shuffled = read_scan(write_mrd(tmp_path / "b.h5", xml((1, *SHAPE), (0, 6)), lines[::3] + lines[1::3] + lines[2::3]))
    assert torch.equal(ordered.kspace, shuffled.kspace)
    assert peak(ordered) == PIXEL


def test_coils_keep_their_order_and_phase(tmp_path: Path) -> None:
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), plain_lines()))
    image = ifft_centred(scan.kspace[0])[:, PIXEL[0], PIXEL[1]]
    torch.testing.assert_close(image[1] / image[0], torch.tensor(2j, dtype=torch.complex64))


def test_partial_fourier_and_asymmetric_echo_keep_the_image_in_place(tmp_path: Path) -> None:
    """Lines 4.. of 12 counted from 0 with centre 2, samples 5.. of 16 with centre sample 3, of which 1 + 2 are junk."""
    kspace = point_lines(SHAPE, PIXEL)
    lines = []
    for counter, ky in enumerate(range(4, 12)):
        samples = kspace[:, ky, 4:].copy()
        samples[:, 0] = samples[:, -2:] = 99
        lines.append(line(samples, ky=counter, center_sample=4, discard_pre=1, discard_post=2))
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 2)), lines))
    expected = np.zeros(SHAPE, dtype=bool)
    expected[4:, 5:14] = True
    np.testing.assert_array_equal(scan.mask[0].numpy(), expected)
    torch.testing.assert_close(scan.kspace[0], torch.from_numpy(kspace * expected))


def test_odd_matrix_keeps_the_image_in_place(tmp_path: Path) -> None:
    header = xml((1, 11, 15), (0, 5))
    assert peak(read_scan(write_mrd(tmp_path / "a.h5", header, plain_lines((11, 15), (2, 12))))) == (2, 12)


def test_lines_recorded_backwards_are_flipped_with_their_discards(tmp_path: Path) -> None:
    kspace = point_lines(SHAPE, PIXEL)
    lines = []
    for ky in range(12):
        samples = kspace[:, ky].copy()
        samples[:, :3] = 99
        if ky % 2:
            lines.append(line(samples[:, ::-1], "IS_REVERSE", ky=ky, discard_post=3))
        else:
            lines.append(line(samples, ky=ky, discard_pre=3))
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6), trajectory="epi"), lines))
    torch.testing.assert_close(scan.kspace[0, :, :, 3:], torch.from_numpy(kspace[..., 3:]))
    assert not scan.mask[..., :3].any()
    assert scan.line_reversed is not None
    assert scan.line_reversed[0].tolist() == [bool(ky % 2) for ky in range(12)]
    assert scan.phase_encoding == "j"


def test_backwards_asymmetric_echo_has_its_centre_counted_from_the_other_end(tmp_path: Path) -> None:
    """k = 0 between samples c-1 and c forwards lies between n-c-1 and n-c after the flip."""
    kspace = point_lines(SHAPE, PIXEL)[:, :, 4:]
    forward = [line(kspace[:, ky], ky=ky, center_sample=4) for ky in range(12)]
    backward = [line(kspace[:, ky, ::-1], "IS_REVERSE", ky=ky, center_sample=8) for ky in range(12)]
    a = read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), forward))
    b = read_scan(write_mrd(tmp_path / "b.h5", xml((1, *SHAPE), (0, 6)), backward))
    assert torch.equal(a.kspace, b.kspace)


def test_blips_downwards_are_phase_encoding_j_minus(tmp_path: Path) -> None:
    kspace = point_lines(SHAPE, PIXEL)
    lines = [line(kspace[:, ky], *(["IS_REVERSE"] if ky % 2 else []), ky=ky) for ky in range(12)][::-1]
    assert read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), lines)).phase_encoding == "j-"


def test_other_lines_stay_out_of_the_image(tmp_path: Path) -> None:
    junk = np.full((2, 16), 1e6)
    flags = ["NAVIGATION_DATA", "RTFEEDBACK_DATA", "HPFEEDBACK_DATA", "DUMMYSCAN_DATA"]
    flags += ["SURFACECOILCORRECTIONSCAN_DATA", "PHASE_STABILIZATION", "PHASE_STABILIZATION_REFERENCE"]
    others = [line(junk, f"IS_{flag}", ky=5) for flag in flags]
    noise = [line(np.full((2, 16), i + 1), "IS_NOISE_MEASUREMENT", sample_time_us=30.0) for i in range(2)]
    navigators = [
        line(np.arange(32).reshape(2, 16) + n, "IS_PHASECORR_DATA", "IS_RTFEEDBACK_DATA", "IS_NAVIGATION_DATA", ky=6)
        for n in range(3)
    ]
    navigators[1].set_flag(22)  # recorded backwards
    path = write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), [*noise, *others, *navigators, *plain_lines()])
    scan = read_scan(path)
    torch.testing.assert_close(scan.kspace[0], torch.from_numpy(point_lines(SHAPE, PIXEL)))
    assert scan.noise is not None
    assert scan.noise.tolist() == [[1] * 16 + [2] * 16] * 2
    assert scan.noise_bandwidth_ratio == 3.0
    assert scan.navigators is not None
    assert scan.navigator_reversed is not None
    assert scan.navigator_reversed.tolist() == [[False, True, False]]
    np.testing.assert_array_equal(scan.navigators[0, 1, 0].real.numpy(), np.arange(16)[::-1] + 1)
    assert describe(path)["lines"] == {"image": 12, "noise": 2, "navigator": 3, "other": 7}


def test_noise_bandwidth_of_the_receiver_raises_the_ratio(tmp_path: Path) -> None:
    """Covariance in the image band is that of the noise scan times dwell ratio over effective bandwidth."""
    tag = "<relativeReceiverNoiseBandwidth>0.793</relativeReceiverNoiseBandwidth>"
    noise = line(np.ones((2, 16)), "IS_NOISE_MEASUREMENT", sample_time_us=5.0)
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6), bandwidth=tag), [noise, *plain_lines()]))
    assert scan.noise_bandwidth_ratio == pytest.approx(0.5 / 0.793)


def test_interleaved_slices_are_sorted_by_position(tmp_path: Path) -> None:
    """Numbers 0..4 were taken at 8, -4, 4, -8, 0 mm along an oblique normal."""
    normal = np.array([0.0, -0.6, 0.8])
    along = [8.0, -4.0, 4.0, -8.0, 0.0]
    labels = {"phase_dir": (0.0, 0.8, 0.6), "slice_dir": tuple(normal)}
    lines = []
    for ky in range(12):
        for number in (0, 2, 4, 1, 3):
            samples = np.full((2, 16), along[number])
            lines.append(line(samples, ky=ky, slice=number, position=tuple(along[number] * normal), **labels))
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), lines))
    assert scan.kspace[:, 0, 0, 0].real.tolist() == [-8.0, -4.0, 0.0, 4.0, 8.0]
    np.testing.assert_allclose(np.array(scan.geometry.positions_mm) @ normal, [-8, -4, 0, 4, 8], atol=1e-5)


def test_one_slice_of_several_can_be_read(tmp_path: Path) -> None:
    lines = [
        line(np.full((2, 16), s + 1), ky=ky, slice=s, position=(0, 0, 5.0 * s)) for ky in range(12) for s in (0, 1)
    ]
    path = write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), lines)
    scan = read_scan(path, ReadOptions(slice_index=1))
    assert scan.kspace.shape[0] == 1
    assert scan.kspace.real.max() == 2
    assert scan.geometry.positions_mm == ((0.0, 0.0, 5.0),)


def test_volume_is_placed_along_kz_too(tmp_path: Path) -> None:
    shape, pixel = (6, 8, 10), (1, 6, 7)
    kspace = point_lines(shape, pixel)
    lines = [line(kspace[:, kz, ky], kz=kz - 2, ky=ky) for kz in range(2, 6) for ky in range(8)]
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml(shape, (1, 4)), lines))
    assert scan.kspace.shape == (1, 2, *shape)
    torch.testing.assert_close(scan.kspace[0, :, 2:], torch.from_numpy(kspace[:, 2:]))
    assert not scan.mask[:, :2].any()
    assert scan.mask[:, 2:].all()


def test_averages_are_weighted_by_how_often_each_sample_was_measured(tmp_path: Path) -> None:
    lines = [
        line(np.full((2, 16), 1.0 + a), ky=ky, average=a) for a in range(3) for ky in range(12) if a < 2 or ky == 6
    ]
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), lines))
    assert scan.kspace[0, 0, 6].real.unique().tolist() == [2.0]
    assert scan.kspace[0, 0, :6].real.unique().tolist() == [1.5]
    assert any("3 averages" in text for text in scan.warnings)


def test_segments_are_merged(tmp_path: Path) -> None:
    lines = plain_lines()
    for acquisition in lines[::2]:
        acquisition.idx.segment = 1
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), lines))
    assert scan.mask.all()


@pytest.mark.parametrize("counter", ["contrast", "repetition", "set", "phase"])
def test_first_of_several_images_is_read_unless_another_is_asked_for(tmp_path: Path, counter: str) -> None:
    lines = [line(np.full((2, 16), v + 1.0), ky=ky, **{counter: v}) for ky in range(12) for v in (0, 1, 2)]
    path = write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), lines)
    scan = read_scan(path)
    assert scan.kspace.real.unique().tolist() == [1.0]
    assert any(f"3 {counter}s (0 to 2)" in text for text in scan.warnings)
    chosen = read_scan(path, ReadOptions(**{"set_index" if counter == "set" else counter: 2}))
    assert chosen.kspace.real.unique().tolist() == [3.0]
    assert not chosen.warnings
    with pytest.raises(InputError, match=f"{counter} 7"):
        read_scan(path, ReadOptions(**{"set_index" if counter == "set" else counter: 7}))


def calibrated(mode: str, calibration_lines, imaging_lines) -> tuple[str, list]:
    parallel = (
        "<parallelImaging><accelerationFactor><kspace_encoding_step_1>2</kspace_encoding_step_1>"
        "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
        f"<calibrationMode>{mode}</calibrationMode></parallelImaging>"
    )
    kspace = point_lines(SHAPE, PIXEL)
    lines = [line(kspace[:, ky], ky=ky) for ky in imaging_lines]
    lines += [line(kspace[:, ky], "IS_PARALLEL_CALIBRATION", ky=ky) for ky in calibration_lines]
    return xml((1, *SHAPE), (0, 6), parallel=parallel), lines


def test_embedded_calibration_lines_are_part_of_the_image(tmp_path: Path) -> None:
    scan = read_scan(write_mrd(tmp_path / "a.h5", *calibrated("embedded", [5, 7], range(0, 12, 2))))
    assert scan.mask[0].any(-1).nonzero().flatten().tolist() == [0, 2, 4, 5, 6, 7, 8, 10]
    assert scan.calibration is None


@pytest.mark.parametrize("mode", ["separate", "other"])
def test_separate_calibration_lines_are_a_block_around_the_centre(tmp_path: Path, mode: str) -> None:
    """Lines 3 to 8 around 6 hold the full block 3..8; line 10 has no neighbours and is left out."""
    scan = read_scan(write_mrd(tmp_path / "a.h5", *calibrated(mode, [3, 4, 5, 6, 7, 8, 10], range(0, 12, 2))))
    assert scan.mask[0].any(-1).sum() == 6
    assert scan.calibration is not None
    assert scan.calibration.shape == (1, 2, 6, 16)
    torch.testing.assert_close(scan.calibration[0], torch.from_numpy(point_lines(SHAPE, PIXEL)[:, 3:9]))


def test_siemens_samples_and_noise_are_conjugated_unless_simulated(tmp_path: Path) -> None:
    kspace = point_lines(SHAPE, PIXEL)
    lines = [line(kspace[:, ky].conj(), ky=ky) for ky in range(12)]
    noise = line(np.full((2, 16), 1 + 2j), "IS_NOISE_MEASUREMENT")
    header = xml((1, *SHAPE), (0, 6), vendor="SIEMENS")
    scan = read_scan(write_mrd(tmp_path / "a.h5", header, [noise, *lines]))
    torch.testing.assert_close(scan.kspace[0], torch.from_numpy(kspace))
    assert scan.noise is not None
    assert scan.noise[0, 0] == 1 - 2j
    assert any("onjugated" in step for step in scan.history)
    header = xml((1, *SHAPE), (0, 6), vendor="SIEMENS", institution="ISMRM Synthetic Imaging Lab")
    scan = read_scan(write_mrd(tmp_path / "b.h5", header, lines))
    torch.testing.assert_close(scan.kspace[0], torch.from_numpy(kspace.conj()))
    assert scan.simulated


def test_siemens_centre_line_kept_by_the_converter_wins_over_its_header(tmp_path: Path) -> None:
    kspace = point_lines(SHAPE, PIXEL).conj()
    lines = [line(kspace[:, ky], ky=ky - 4, user={5: 2}) for ky in range(4, 12)]
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6), vendor="SIEMENS"), lines))
    assert scan.mask[0].any(-1).nonzero().flatten().tolist() == list(range(4, 12))
    assert any("the lines win" in text for text in scan.warnings)


def test_absent_centres_are_assumed_in_the_middle_and_said(tmp_path: Path) -> None:
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE)), plain_lines(center_sample=0)))
    assert peak(scan) == PIXEL
    assert sum("assumed" in text for text in scan.warnings) == 2


def test_absent_directions_make_a_nominal_geometry(tmp_path: Path) -> None:
    zero = dict.fromkeys(("read_dir", "phase_dir", "slice_dir"), (0.0, 0.0, 0.0))
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), plain_lines(**zero)))
    assert scan.geometry.nominal
    assert any("axial" in text for text in scan.warnings)


def spokes(shots: int = 5, samples: int = 16) -> np.ndarray:
    """Radial trajectory (shot, sample, 2) in cycles per field of view of a 16 x 16 matrix."""
    radius, angle = np.arange(samples) - samples // 2, np.pi * np.arange(shots) / shots
    return radius[None, :, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)[:, None]


@pytest.mark.parametrize("scale", [1.0, 1 / 16])
@pytest.mark.parametrize("weights", [False, True])
def test_trajectories_in_either_unit_become_cycles_per_field_of_view(
    tmp_path: Path, scale: float, weights: bool
) -> None:
    points = spokes()
    stored = points * scale
    if weights:
        stored = np.concatenate([stored, np.abs(np.arange(16) - 8)[None, :, None].repeat(5, 0) / 16], axis=-1)
    samples = np.arange(5)[:, None, None] + np.arange(16) * 1j + np.zeros((5, 2, 1))
    lines = [line(samples[n], trajectory=stored[n], ky=n) for n in range(5)]
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml((1, 16, 16), trajectory="radial"), lines))
    assert scan.trajectory is not None
    np.testing.assert_allclose(scan.trajectory[0].numpy(), points, atol=1e-5)
    np.testing.assert_array_equal(scan.kspace[0].numpy(), samples.transpose(1, 0, 2).astype(np.complex64))
    assert (scan.density is not None) == weights
    if scan.density is not None:
        np.testing.assert_allclose(scan.density[0, 3].numpy(), np.abs(np.arange(16) - 8) / 16)


def test_stack_of_stars_takes_kz_from_the_partition_counter(tmp_path: Path) -> None:
    points = spokes()
    lines = [line(np.ones((2, 16)), trajectory=points[n], ky=n, kz=kz) for kz in range(4) for n in range(5)]
    scan = read_scan(write_mrd(tmp_path / "a.h5", xml((4, 16, 16), (2, 0), trajectory="radial"), lines))
    assert scan.trajectory is not None
    assert scan.trajectory.shape == (1, 20, 16, 3)
    assert scan.trajectory[0, ::5, 0, 2].tolist() == [-2, -1, 0, 1]


def test_cartesian_file_with_stored_coordinates_is_cartesian(tmp_path: Path) -> None:
    kspace = point_lines(SHAPE, PIXEL)
    lines = [line(kspace[:, ky], ky=ky, trajectory=np.ones((16, 2))) for ky in range(12)]
    assert peak(read_scan(write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), lines))) == PIXEL


def test_last_group_is_read_unless_another_is_named(tmp_path: Path) -> None:
    path = write_mrd(tmp_path / "a.h5", xml((1, *SHAPE), (0, 6)), plain_lines(), group="dataset_1")
    write_mrd(path, xml((1, *SHAPE), (0, 6)), plain_lines(pixel=(8, 2)), group="dataset_2")
    assert peak(read_scan(path)) == (8, 2)
    assert peak(read_scan(path, ReadOptions(key="dataset_1"))) == PIXEL
    with pytest.raises(InputError, match="dataset_1, dataset_2"):
        read_scan(path, ReadOptions(key="dataset_9"))


@pytest.fixture
def shepp_logan(tmp_path: Path):
    """Return a function that makes ISMRMRD's own phantom file with the given options."""
    tool = shutil.which("ismrmrd_generate_cartesian_shepp_logan")
    if tool is None:
        pytest.skip("needs ismrmrd_generate_cartesian_shepp_logan (Debian package ismrmrd-tools)")

    def make(*options: str) -> Path:
        path = tmp_path / "phantom.h5"
        subprocess.run(
            [tool, "-m", "64", "-c", "4", "-O", "2", *options, "-o", str(path)], check=True, capture_output=True
        )
        return path

    return make


@pytest.mark.peer
def test_ismrmrds_own_phantom_comes_out_as_it_went_in(shepp_logan) -> None:
    path = shepp_logan("-a", "1", "-n", "0")
    with h5py.File(path, "r") as file:
        read = [file["dataset"][name][()] for name in ("phantom", "csm")]
    phantom, maps = ((a["real"] + 1j * a["imag"])[0] for a in read)
    scan = remove_readout_oversampling(read_scan(path))
    image = ifft_centred(scan.kspace[0]).numpy()
    expected = maps * phantom
    scale = np.vdot(image, expected) / np.vdot(image, image)
    assert np.linalg.norm(scale * image - expected) < 1e-3 * np.linalg.norm(expected)


@pytest.mark.peer
def test_ismrmrds_undersampled_phantom_has_its_lines_and_noise(shepp_logan) -> None:
    scan = read_scan(shepp_logan("-a", "2", "-w", "12", "-C", "-n", "0.05", "-r", "1"))
    lines = sorted({*range(0, 64, 2), *range(26, 38)})
    assert scan.mask[0].any(-1).nonzero().flatten().tolist() == lines
    assert scan.noise is not None
    assert scan.noise.shape == (4, 128)
    assert scan.simulated
    corner = scan.kspace[0, :, 0, :8]
    assert 0.3 < float(corner.abs().square().mean() / scan.noise.abs().square().mean()) < 3

"""Encodings of disparities: round trips with unknowns, and files written by others."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from robotics.stereo.camera import StereoCamera
from robotics.stereo.formats import (
    decode,
    decode_depth,
    encode,
    encode_depth,
    from_ros,
    pfm_bytes,
    read_disparity,
    read_image,
    read_pfm,
    to_ros,
    write_disparity,
)  # fmt: skip
from shared.errors import InputError

STEPS = {"pfm": 0.0, "float": 0.0, "kitti": 1 / 256, "crestereo": 1 / 32, "middlebury": 1 / 4, "opencv": 1 / 16}


def some_disparities():
    rng = np.random.default_rng(0)
    values = rng.uniform(0.5, 60.0, (9, 13)).astype(np.float32)
    values[rng.random(values.shape) < 0.3] = np.nan
    return values


@pytest.mark.parametrize("encoding", STEPS)
def test_every_encoding_keeps_disparities_to_half_a_step_and_unknowns_exactly(encoding):
    values = some_disparities()
    back = decode(encode(values, encoding, scale=4), encoding, scale=4)
    assert back.dtype == np.float32
    assert np.array_equal(np.isnan(back), np.isnan(values))
    assert np.nanmax(np.abs(back - values)) <= STEPS[encoding] / 2 + 1e-6


def test_tiny_disparities_do_not_become_unknown_and_large_ones_are_refused():
    tiny = np.array([[1e-4, np.nan]], np.float32)
    assert np.isfinite(decode(encode(tiny, "kitti"), "kitti")).tolist() == [[True, False]]
    for encoding, limit in (("kitti", 256.0), ("opencv", 2048.0)):
        with pytest.raises(InputError, match="Write a PFM"):
            encode(np.array([[limit]], np.float32), encoding)


@pytest.mark.parametrize("order", ["<", ">"])
def test_pfm_is_bottom_up_in_either_byte_order_as_opencv_reads_it(tmp_path, order):
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    path = tmp_path / "map.pfm"
    header = f"Pf\n4 3\n{'-1.0' if order == '<' else '1.0'}\n".encode()
    path.write_bytes(header + values[::-1].astype(f"{order}f4").tobytes())
    assert np.array_equal(read_pfm(path), values)
    path.write_bytes(pfm_bytes(values))
    assert np.array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), values)


def test_pfm_faults_are_told(tmp_path):
    path = tmp_path / "map.pfm"
    for content, word in ((b"", "no PFM"), (b"PF\n2 2\n-1\n" + bytes(48), "one channel"),
                          (b"Pf\n2 2\n-1\n" + bytes(12), "12 bytes")):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(InputError, match=word):
            read_pfm(path)


def test_sgbm_output_of_opencv_decodes_with_its_invalid_value():
    rng = np.random.default_rng(1)
    scene = cv2.GaussianBlur(rng.integers(0, 256, (80, 200), np.uint8), (3, 3), 0)
    left, right = scene[:, 0:160].copy(), scene[:, 7:167].copy()  # d = x_l - x_r = 7
    for minimum in (0, 4):
        raw = cv2.StereoSGBM_create(minDisparity=minimum, numDisparities=16, blockSize=5).compute(left, right)
        found = decode(raw, "opencv", minimum=minimum)
        assert np.array_equal(np.isnan(found), raw == (minimum - 1) * 16)
        assert np.nanmedian(found) == 7.0


@pytest.mark.parametrize("suffix", [".pfm", ".png", ".npy"])
def test_files_round_trip_and_an_existing_one_is_kept(tmp_path, suffix):
    values, path = some_disparities(), tmp_path / f"map{suffix}"
    write_disparity(path, values)
    back = read_disparity(path)
    assert np.array_equal(np.isnan(back), np.isnan(values))
    assert np.nanmax(np.abs(back - values)) <= 1 / 512
    with pytest.raises(InputError, match="existing"):
        write_disparity(path, values)


def test_ros_disparities_are_preadjusted_by_doffs():
    # d - (cx_l - cx_r), so that Z = f T / d.
    camera = StereoCamera(13, 9, 100.0, 100.0, 6.0, 11.0, 4.0, 0.1)
    values = some_disparities()
    message = to_ros(values, camera.doffs)
    assert np.allclose(camera.fx * camera.baseline / message, camera.depth(values), equal_nan=True)
    message[np.isnan(values)] = -1.0  # what image_pipeline writes
    assert np.allclose(from_ros(message, 0.0, camera.doffs), values, atol=1e-5, equal_nan=True)


def test_depth_in_millimetres_round_trips_within_half_a_millimetre():
    camera = StereoCamera(13, 9, 444.0, 444.0, 6.0, 6.0, 4.0, 0.055)
    depth = np.array([[300, 0, 1000, 65535]], np.uint16)
    disparity = decode_depth(depth, camera)
    assert disparity[0, 2] == pytest.approx(444 * 0.055, rel=1e-6)
    assert np.isnan(disparity[0, 1])
    assert np.array_equal(encode_depth(disparity, camera), depth)
    far = np.array([[444 * 0.055 / 70.0]], np.float32)
    assert encode_depth(far, camera)[0, 0] == 0


def test_eight_bit_maps_ask_for_their_scale_and_colour_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((4, 4), 40, np.uint8))
    cv2.imwrite(str(tmp_path / "colour.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="scale"):
        read_disparity(tmp_path / "grey.png")
    assert (read_disparity(tmp_path / "grey.png", scale=4) == 10).all()
    with pytest.raises(InputError, match="one channel"):
        read_disparity(tmp_path / "colour.png")
    assert read_image(tmp_path / "grey.png").shape == (4, 4, 3)


@pytest.mark.data
def test_real_maps_have_the_disparities_of_their_data_sets(data_file):
    folder = data_file("stereo/middlebury/teddy")
    teddy = read_disparity(folder / "disp_left.png", scale=4)
    assert np.isnan(teddy).mean() == pytest.approx(0.020, abs=0.002)
    assert 10 < np.nanmin(teddy) < np.nanmax(teddy) < 64
    flow = read_disparity(data_file("stereo/noncommercial/sceneflow_A-0032-0006") / "disp_left.pfm")
    assert flow.shape == (540, 960)
    assert np.nanmin(flow) > 0


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive"])
def test_an_empty_or_damaged_array_is_one_clear_error(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match="no NumPy array"):
        read_disparity(path)

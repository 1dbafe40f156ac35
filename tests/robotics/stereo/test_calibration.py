"""Cameras: calibrations of others, depth, resizing and cropping."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from robotics.stereo.calibration import camera_from_projections, read_calibration, write_middlebury
from robotics.stereo.camera import StereoCamera
from robotics.stereo.geometry import points_of, warp_to_left, write_ply
from shared.errors import InputError

# Motorcycle at a quarter of its size, from the shelf's description: the published calibration.
MIDDLEBURY = """cam0=[994.978 0 311.193; 0 994.978 254.877; 0 0 1]
cam1=[994.978 0 342.279; 0 994.978 254.877; 0 0 1]
doffs=31.086
baseline=193.001
width=741
height=497
ndisp=70
"""
KITTI = """P0: 721.5377 0 609.5593 0 0 721.5377 172.854 0 0 0 1 0
P2: 721.5377 0 609.5593 44.85728 0 721.5377 172.854 0.2163791 0 0 1 0.002745884
P3: 721.5377 0 609.5593 -339.5242 0 721.5377 172.854 2.199936 0 0 1 0.002729905
"""


def ros_info(tx):
    p = [444.0, 0.0, 320.0, tx, 0.0, 444.0, 180.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    return f"image_width: 640\nimage_height: 360\nprojection_matrix: {{rows: 3, cols: 4, data: {p}}}\n"


def test_middlebury_depth_needs_doffs(tmp_path):
    path = tmp_path / "calib.txt"
    path.write_text(MIDDLEBURY)
    camera = read_calibration(path)
    assert camera.baseline == pytest.approx(0.193001)
    assert camera.doffs == pytest.approx(31.086)
    # Z = baseline f / (d + doffs), the formula of the data set's page.
    assert camera.depth(np.array([50.0])) == pytest.approx(0.193001 * 994.978 / 81.086, rel=1e-6)
    path.write_text(write_middlebury(camera))
    again = read_calibration(path)
    assert all(getattr(again, name) == pytest.approx(getattr(camera, name)) for name in camera.__dict__)


def test_kitti_baseline_is_of_the_colour_cameras(tmp_path):
    path = tmp_path / "000046.txt"
    path.write_text(KITTI)
    camera = read_calibration(path, size=(1242, 375))
    assert camera.baseline == pytest.approx(0.5327, abs=1e-4)
    with pytest.raises(InputError, match="no size"):
        read_calibration(path)
    path.write_text("P_rect_02: " + KITTI.splitlines()[1][3:] + "\nP_rect_03: " + KITTI.splitlines()[2][3:]
                    + "\nS_rect_02: 1.242e+03 3.75e+02\n")  # fmt: skip
    assert read_calibration(path) == camera


def test_ros_pair_and_its_baseline_sign(tmp_path):
    left, right = tmp_path / "left.yaml", tmp_path / "right.yaml"
    left.write_text(ros_info(0.0))
    right.write_text(ros_info(-444.0 * 0.055))
    assert read_calibration(left).baseline == pytest.approx(0.055)
    assert read_calibration(left, baseline=0.06).baseline == 0.06
    for tx in (0.0, 24.42):
        right.write_text(ros_info(tx))
        with pytest.raises(InputError, match=r"P\[3\]"):
            read_calibration(left)
    other = np.array([[500.0, 0, 320, -27], [0, 500, 180, 0], [0, 0, 1, 0]])
    with pytest.raises(InputError, match="Rectify"):
        camera_from_projections(
            np.array([[444.0, 0, 320, 0], [0, 444, 180, 0], [0, 0, 1, 0]]), other, (640, 360), source="right"
        )


def test_realsense_json_in_metres_or_millimetres(tmp_path):
    path = tmp_path / "d415.json"
    lens = {"width": 640, "height": 360, "fx": 443.9, "fy": 443.9, "ppx": 315.9, "ppy": 186.6}
    path.write_text(json.dumps({"intrinsics": lens, "stereo_baseline": 54.78}))
    camera = read_calibration(path)
    path.write_text(json.dumps({**lens, "baseline": 0.05478}))
    assert read_calibration(path).__dict__ == pytest.approx(camera.__dict__)
    path.write_text(json.dumps(lens))
    with pytest.raises(InputError, match="no 'baseline'"):
        read_calibration(path)


@pytest.mark.parametrize("text", ["", "hello", "cam0=[1 2]\ndoffs=0\n", "P2: 1 2 3\nP3: 1 2 3\n"])
def test_broken_calibrations_are_told(tmp_path, text):
    path = tmp_path / "calib.txt"
    path.write_text(text)
    with pytest.raises(InputError):
        read_calibration(path, size=(10, 10))
    path.write_text(MIDDLEBURY)
    with pytest.raises(InputError, match="741x497"):
        read_calibration(path, size=(10, 10))


def test_a_camera_without_a_positive_baseline_is_refused():
    with pytest.raises(InputError, match="swapped"):
        StereoCamera(4, 4, 10.0, 10.0, 1.5, 1.5, 1.5, -0.1)


def test_resized_and_cropped_images_give_the_same_points():
    camera = StereoCamera(64, 48, 70.0, 70.0, 30.0, 33.0, 22.0, 0.1)
    point = np.array([0.12, -0.07, 1.3])

    def seen(camera):
        z = point[2]
        return camera.cx_l + camera.fx * point[0] / z, camera.cx_r + camera.fx * (point[0] - camera.baseline) / z

    u, right = seen(camera)
    half = camera.resized(32, 24)
    # Areas of two pixels become one: the centre of pixel 0 at half size lies at 0.5 at full size.
    u_half, right_half = seen(half)
    assert u_half == pytest.approx((u + 0.5) / 2 - 0.5)
    assert half.depth(np.array([(u - right) / 2])) == pytest.approx(point[2], rel=1e-6)
    assert right_half == pytest.approx(u_half - (u - right) / 2)
    crop = camera.cropped(10, 5, 40, 30, right_image=7)
    u_crop, right_crop = seen(crop)
    assert (u_crop, right_crop) == pytest.approx((u - 10, right - 7))
    assert crop.depth(np.array([u_crop - right_crop])) == pytest.approx(point[2], rel=1e-6)
    assert crop.disparity(crop.depth(np.array([12.0]))) == pytest.approx(12.0, rel=1e-5)
    assert np.isnan(camera.depth(np.array([np.nan, -3.0]))).all()  # unknown, and at infinity


def test_points_are_those_of_opencvs_reprojection():
    camera = StereoCamera(12, 8, 70.0, 70.0, 5.0, 7.0, 3.5, 0.1)
    disparity = np.random.default_rng(0).uniform(2, 20, (8, 12)).astype(np.float32)
    q = np.array([[1, 0, 0, -5.0], [0, 1, 0, -3.5], [0, 0, 0, 70.0], [0, 0, 1 / 0.1, camera.doffs / 0.1]])
    theirs = cv2.reprojectImageTo3D(disparity, q)
    assert np.allclose(points_of(disparity, camera), theirs, rtol=1e-5)


def test_ply_leaves_unknown_points_out_and_reads_back(tmp_path):
    points = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    points[0, 1, 2] = np.nan
    colours = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert write_ply(tmp_path / "p.ply", points, colours) == 3
    head, _, body = (tmp_path / "p.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 3\n" in head
    rows = np.frombuffer(body, [("p", "<f4", 3), ("c", "u1", 3)])
    assert np.array_equal(rows["p"], points.reshape(-1, 3)[[0, 2, 3]])
    assert np.array_equal(rows["c"], colours.reshape(-1, 3)[[0, 2, 3]])


def test_warp_brings_the_right_image_over_the_left_one():
    right = np.tile(np.arange(10, dtype=np.float32) ** 2, (3, 1))
    disparity = np.full((3, 10), 1.5, np.float32)
    disparity[1, 5] = np.nan
    warped = warp_to_left(right, disparity)
    assert warped[0, 4] == pytest.approx((2**2 + 3**2) / 2)
    assert np.isnan(warped[0, :2]).all()
    assert np.isnan(warped[1, 5])

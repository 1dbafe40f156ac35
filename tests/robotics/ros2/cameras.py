"""The other side of the stereo node: a pair of cameras whose scene is a plane, and a listener to the maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header
from stereo_msgs.msg import DisparityImage

from robotics.ros2.stereo_messages import image_message
from robotics.stereo.camera import StereoCamera
from robotics.stereo.confidence import Confidence, FittedConfidence
from robotics.stereo.config import StereoConfig
from robotics.stereo.files import read_stereo, save_fitted, save_stereo
from tests.robotics.ros2.process import NodeProcess
from tests.robotics.stereo.matching import matching
from tests.robotics.stereo.test_networks import SMALL

FRAME = "left_camera_optical_frame"
CAMERA = StereoCamera(96, 64, fx=80.0, fy=82.0, cx_l=47.5, cx_r=49.5, cy=31.5, baseline=0.12)
SHIFT = 8.0  # px: d of the plane, so that it lies at 80 * 0.12 / (8 + 2) = 0.96 m
OUTPUTS = {
    "disparity": DisparityImage, "depth": Image, "depth_mm": Image, "confidence": Image, "points": PointCloud2,
}  # fmt: skip


def small_stereo(path: Path, config: StereoConfig = SMALL) -> Path:
    """Write a model that changes nothing of the map that it begins from, with a confidence."""
    config = config.model_copy(update={"spread": 1e-3})  # of what it sees in noise, nothing is left
    save_stereo(path, config, matching(config).state_dict(), {})
    numbers = Confidence(weights=(0.0, 0.5, 0.5, 0.5), offset=0.0, slope=1.0, factor=2.0)
    save_fitted(path, read_stereo(path), FittedConfidence(numbers=numbers, settings={}, data={}, measured={}))
    return path


class Cameras(NodeProcess):
    """Two cameras that send a frame when the test says so.

    Args:
        folder: for weights and logs.
        camera: size of the images and geometry.
    """

    def __init__(self, folder: Path, camera: StereoCamera = CAMERA) -> None:
        self.camera = camera
        self.maps: dict[str, list[Any]] = {name: [] for name in OUTPUTS}
        super().__init__(folder, "stereo_node", "stereo")
        sides = ("left", "right")
        self._images, self._infos = (
            {side: self.node.create_publisher(kind, f"/{side}/{name}", qos_profile_sensor_data) for side in sides}
            for kind, name in ((Image, "image_rect"), (CameraInfo, "camera_info"))
        )
        self._depth = self.node.create_publisher(Image, "/raw/depth", qos_profile_sensor_data)
        for name, kind in OUTPUTS.items():
            self.node.create_subscription(kind, f"/{name}", self.maps[name].append, QoSProfile(depth=50))
        blocks = (camera.height // 4, (camera.width + int(SHIFT)) // 4 + 1, 3)
        wide = np.random.default_rng(0).integers(0, 256, blocks, np.uint8).repeat(4, 0).repeat(4, 1)
        self.pictures = {"left": wide[:, : camera.width], "right": wide[:, int(SHIFT) :][:, : camera.width]}
        self.infos = {"left": self._info(camera.cx_l, 0.0), "right": self._info(camera.cx_r, camera.baseline)}

    def _info(self, cx: float, baseline: float) -> CameraInfo:
        camera = self.camera
        p = [camera.fx, 0.0, cx, -camera.fx * baseline, 0.0, camera.fy, camera.cy, 0.0, 0.0, 0.0, 1.0, 0.0]
        return CameraInfo(width=camera.width, height=camera.height, p=p)

    def send(self, stamp: int | None = None, *, depth: float | None = None, apart: float = 0.0) -> int:
        """Send a frame and return its stamp, ns.

        Args:
            stamp: ns; None is now.
            depth: of the plane by the sensor, m, with a hole in the middle; None sends no depth.
            apart: so much later is the right image, s.
        """
        stamp = self.node.get_clock().now().nanoseconds if stamp is None else stamp
        for side, late in (("left", 0.0), ("right", apart)):
            header = self._header(stamp + round(1e9 * late))
            self.infos[side].header = header
            self._infos[side].publish(self.infos[side])
            self._images[side].publish(self._picture(self.pictures[side], header))
        if depth is not None:
            plane = np.full(self.pictures["left"].shape[:2], round(1000 * depth), np.uint16)
            plane[20:40, 40:60] = 0
            self._depth.publish(image_message(plane, "16UC1", self._header(stamp)))
        return stamp

    @staticmethod
    def _header(nanoseconds: int) -> Header:
        header = Header(frame_id=FRAME)
        header.stamp.sec, header.stamp.nanosec = divmod(nanoseconds, 10**9)
        return header

    @staticmethod
    def _picture(pixels: np.ndarray, header: Header) -> Image:
        message = image_message(np.ascontiguousarray(pixels).reshape(len(pixels), -1), "rgb8", header)
        message.width = pixels.shape[1]
        return message

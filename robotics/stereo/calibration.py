"""Calibrations of others as one `StereoCamera`.

| source | what is read | baseline |
| --- | --- | --- |
| Middlebury calib.txt | cam0, cam1, doffs, baseline, width, height | mm |
| KITTI calib.txt, calib_cam_to_cam.txt | P2, P3 or P_rect_02, P_rect_03, else 0 and 1 | (P2[3] - P3[3]) / fx, m |
| ROS camera_info YAML, two files | projection_matrix, image_width, image_height | -P_right[3] / P_right[0], m |
| RealSense JSON | width, height, fx, fy, ppx, ppy, and baseline (m) or stereo_baseline (mm) | see left |

The JSON has the names of librealsense's rs2_intrinsics, at the top or under "intrinsics", and of its option
RS2_OPTION_STEREO_BASELINE, which is in mm.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from robotics.stereo.camera import StereoCamera
from shared.errors import InputError

FIX = "Give a calibration of this layout, or correct the file."
GIVE_BASELINE = "Correct the file, or give the baseline yourself (--baseline, m)."


def read_calibration(
    path: str | os.PathLike[str],
    *,
    right: str | os.PathLike[str] | None = None,
    size: tuple[int, int] | None = None,
    baseline: float | None = None,
) -> StereoCamera:
    """Read a calibration; its kind is told by the suffix and the keys.

    Args:
        path: of the calibration; of ROS, the left camera's YAML.
        right: of ROS, the right camera's YAML; None for the left one's name with "right" instead of "left".
        size: (width, height) of the images, for calibrations that do not say (KITTI). The others must agree.
        baseline: m, instead of the file's; for files that lack it.

    Raises:
        InputError: no calibration, a key is missing, or the size is another.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            path, found="no readable text file", expected="a calibration", fix="Check the path."
        ) from error
    suffix = path.suffix.lower()
    if suffix in (".yaml", ".yml"):
        camera = _ros(path, text, Path(right) if right is not None else _right_of(path), baseline)
    elif suffix == ".json":
        camera = _realsense(path, text, baseline)
    elif re.search(r"^cam0\s*=", text, re.MULTILINE):
        camera = _middlebury(path, text, baseline)
    elif re.search(r"^P(_rect_0)?\d\s*:", text, re.MULTILINE):
        camera = _kitti(path, text, size, baseline)
    else:
        raise InputError(
            path, found="an unknown layout", expected="Middlebury, KITTI, ROS YAML or RealSense JSON", fix=FIX
        )
    if size is not None and (camera.width, camera.height) != tuple(size):
        raise InputError(
            path, found=f"a calibration for {camera.width}x{camera.height} pixels", expected=f"{size[0]}x{size[1]}",
            fix="Give the calibration of these images, or use StereoCamera.resized.",
        )  # fmt: skip
    return camera


def write_middlebury(camera: StereoCamera) -> str:
    """Return the text of a Middlebury calib.txt; the baseline is in mm."""
    left, right = (
        f"[{camera.fx!r} 0 {cx!r}; 0 {camera.fy!r} {camera.cy!r}; 0 0 1]" for cx in (camera.cx_l, camera.cx_r)
    )
    return (
        f"cam0={left}\ncam1={right}\ndoffs={camera.doffs!r}\nbaseline={1000 * camera.baseline!r}\n"
        f"width={camera.width}\nheight={camera.height}\n"
    )


def _middlebury(path: Path, text: str, baseline: float | None) -> StereoCamera:
    pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    values = {key.strip(): value.strip() for key, value in pairs.items()}

    def numbers(key: str, count: int) -> list[float]:
        found = re.findall(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?", values.get(key, ""))
        if len(found) != count:
            raise InputError(path, found=f"{key}={values.get(key)!r}", expected=f"{count} numbers", fix=FIX)
        return [float(number) for number in found]

    left = numbers("cam0", 9)
    doffs = numbers("doffs", 1)[0]
    if baseline is None and "baseline" not in values:
        raise InputError(path, found="no baseline", expected="baseline=, mm", fix=GIVE_BASELINE)
    metres = _positive(path, numbers("baseline", 1)[0] / 1000 if baseline is None else baseline)
    width, height = (int(numbers(key, 1)[0]) for key in ("width", "height"))
    return StereoCamera(width, height, left[0], left[4], left[2], left[2] + doffs, left[5], metres)


def _kitti(path: Path, text: str, size: tuple[int, int] | None, baseline: float | None) -> StereoCamera:
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def matrix(number: int) -> np.ndarray | None:
        for key in (f"P{number}", f"P_rect_0{number}"):
            if key in lines:
                try:
                    return np.array(lines[key].split(), float).reshape(3, 4)
                except ValueError as error:
                    raise InputError(path, found=f"{key}:{lines[key]}", expected="12 numbers", fix=FIX) from error
        return None

    for first in (2, 0):
        left, right = matrix(first), matrix(first + 1)
        if left is not None and right is not None:
            break
    else:
        raise InputError(path, found="one projection matrix", expected="P2 and P3, or P0 and P1", fix=FIX)
    said = lines.get(f"S_rect_0{first}", "").split()
    if said:
        size = int(float(said[0])), int(float(said[1]))
    if size is None:
        raise InputError(
            path, found="no size of the images", expected="S_rect_02, or the images", fix="Give the images as well."
        )
    metres = _positive(path, float((left[0, 3] - right[0, 3]) / left[0, 0]) if baseline is None else baseline)
    return StereoCamera(
        size[0], size[1], float(left[0, 0]), float(left[1, 1]), float(left[0, 2]), float(right[0, 2]),
        float(left[1, 2]), metres,
    )  # fmt: skip


def _positive(path: Path, baseline: float) -> float:
    """Return a baseline, m, that is one."""
    if not baseline > 0:
        raise InputError(
            path, found=f"a baseline of {baseline:g} m", expected="a positive one",
            fix="Swap left and right if it is negative; if it is missing, give --baseline, m.",
        )  # fmt: skip
    return baseline


def _right_of(path: Path) -> Path:
    """Return the file of the right camera beside that of the left one."""
    if "left" not in path.name:
        raise InputError(
            path, found="one camera", expected="a pair of files, left and right", fix="Give --calib-right."
        )
    return path.with_name(path.name.replace("left", "right"))


def _ros(path: Path, text: str, right: Path, baseline: float | None) -> StereoCamera:
    infos = []
    for source, content in ((path, text), (right, right.read_text(encoding="utf-8") if right.is_file() else None)):
        if content is None:
            raise InputError(
                source, found="no such file", expected="the right camera's YAML", fix="Give --calib-right."
            )
        try:
            info = yaml.safe_load(content)
            matrix = np.array(info["projection_matrix"]["data"], float).reshape(3, 4)
            infos.append((matrix, int(info["image_width"]), int(info["image_height"])))
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                source, found="no camera_info", expected="image_width, image_height and projection_matrix", fix=FIX
            ) from error
    (p_left, width, height), (p_right, *_) = infos
    return camera_from_projections(p_left, p_right, (width, height), source=str(right), baseline=baseline)


def camera_from_projections(
    left: np.ndarray, right: np.ndarray, size: tuple[int, int], *, source: str, baseline: float | None = None
) -> StereoCamera:
    """Return the camera of two CameraInfo projection matrices P (3, 4): B = -P_r[0, 3] / P_r[0, 0].

    Args:
        left: of the left camera.
        right: of the right camera.
        size: (width, height), px.
        source: names the right camera in errors.
        baseline: m, instead of what P says.

    Raises:
        InputError: the baseline is zero or has the wrong sign, or the images are not rectified to the same focal
            length and row.
    """
    if left[0, 0] <= 0 or right[0, 0] <= 0:
        raise InputError(source, found="P[0] of 0", expected="a focal length", fix="Calibrate the camera.")
    if abs(left[0, 0] - right[0, 0]) > 1e-3 * left[0, 0] or abs(left[1, 2] - right[1, 2]) > 0.5:
        raise InputError(
            source, found=f"fx {right[0, 0]:g}, cy {right[1, 2]:g}",
            expected=f"those of the left camera: {left[0, 0]:g}, {left[1, 2]:g}", fix="Rectify the pair together.",
        )  # fmt: skip
    metres = 0.0 - right[0, 3] / right[0, 0] if baseline is None else baseline
    if not metres > 0:
        raise InputError(
            source, found=f"P[3] = {right[0, 3]:g}, a baseline of {metres:g} m",
            expected="P[3] = -fx * baseline < 0 in the right camera's info",
            fix="Swap left and right, or give the baseline yourself.",
        )  # fmt: skip
    return StereoCamera(
        size[0], size[1], float(left[0, 0]), float(left[1, 1]), float(left[0, 2]), float(right[0, 2]),
        float(left[1, 2]), float(metres),
    )  # fmt: skip


def _realsense(path: Path, text: str, baseline: float | None) -> StereoCamera:
    try:
        values: dict[str, Any] = json.loads(text)
        values = {**values, **values.get("intrinsics", {})}
        fx, fy, cx, cy = (float(values[key]) for key in ("fx", "fy", "ppx", "ppy"))
        width, height = int(values["width"]), int(values["height"])
        if baseline is None:
            millimetres = values.get("stereo_baseline")
            baseline = float(values["baseline"]) if millimetres is None else float(millimetres) / 1000
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        key = error.args[0] if isinstance(error, KeyError) else None
        raise InputError(
            path, found="no JSON of a camera" if key is None else f"no {key!r}",
            expected="width, height, fx, fy, ppx, ppy, and baseline (m) or stereo_baseline (mm)",
            fix=GIVE_BASELINE if key == "baseline" else FIX,
        ) from error  # fmt: skip
    return StereoCamera(width, height, fx, fy, cx, cx, cy, _positive(path, baseline))

"""Disparities and depths on disk, and in the messages of others; inside, unknown is NaN and nothing else.

| encoding | numbers | unknown | file |
| --- | --- | --- | --- |
| pfm | float32 px, rows from the bottom, sign of the scale is the byte order | inf, NaN | .pfm: Middlebury, SceneFlow |
| kitti | uint16, 1/256 px | 0 | .png |
| crestereo | uint16, 1/32 px | 0 | .png |
| middlebury | uint8, 1/scale px; the scale is the data set's | 0 | .png, .pgm |
| opencv | int16, 1/16 px | (minimum - 1) * 16 and less | .npy |
| float | float32 px | NaN | .npy, .npz |
| ros | float32 px, d - (cx_l - cx_r) = d + doffs | below min_disparity, NaN | stereo_msgs/DisparityImage |
| realsense | uint16 depth, 1 mm | 0 | .png |
"""

from __future__ import annotations

import os
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from robotics.stereo.camera import StereoCamera
from shared.errors import InputError
from shared.files import atomic_path

STEPS = {"kitti": 256.0, "crestereo": 32.0}
ENCODINGS = ("pfm", "kitti", "crestereo", "middlebury", "opencv", "float", "realsense")


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture as (height, width, 3) uint8 RGB; grey gives three equal channels, 16 bits keep the upper 8.

    Raises:
        InputError: it is no picture.
    """
    values = _read_pixels(path)
    if values.dtype != np.uint8:
        values = (values.astype(np.uint32) >> 8).astype(np.uint8)
    if values.ndim == 2:
        values = np.stack([values] * 3, -1)
    return np.array(values[..., :3])  # Pillow's own pixels are read-only, and torch warns of that


def decode(values: np.ndarray, encoding: str, *, scale: float = 1.0, minimum: int = 0) -> np.ndarray:
    """Return stored numbers as disparities, float32 in px with NaN unknown.

    Args:
        values: (height, width), as stored.
        encoding: pfm, kitti, crestereo, middlebury, opencv or float.
        scale: of middlebury: stored values a pixel.
        minimum: of opencv: its minDisparity, px.
    """
    match encoding:
        case "pfm" | "float":
            # Some copies of SceneFlow store the right map with a minus sign; a disparity has none.
            disparity = values.astype(np.float32)
            return np.where(np.isfinite(disparity), disparity, np.float32(np.nan))
        case "kitti" | "crestereo":
            step, known = STEPS[encoding], values > 0
        case "middlebury":
            step, known = scale, values > 0
        case "opencv":
            step, known = 16.0, values >= minimum * 16
        case _:
            raise ValueError(f"no encoding {encoding} of disparities")
    return np.where(known, values / step, np.nan).astype(np.float32)


def encode(disparity: np.ndarray, encoding: str, *, scale: float = 1.0, minimum: int = 0) -> np.ndarray:
    """Return disparities as stored numbers: the inverse of `decode`, rounded to the nearest step.

    A known disparity that would round to the number of the unknown takes the smallest known number instead.

    Raises:
        InputError: a disparity is beyond what the encoding can hold.
    """
    known = np.isfinite(disparity)
    dtype: type[np.generic]
    match encoding:
        case "pfm":
            return np.where(known, disparity, np.inf).astype(np.float32)
        case "float":
            return np.where(known, disparity, np.nan).astype(np.float32)
        case "kitti" | "crestereo":
            step, dtype, unknown, least = STEPS[encoding], np.uint16, 0, 1
        case "middlebury":
            step, dtype, unknown, least = scale, np.uint8, 0, 1
        case "opencv":
            step, dtype, unknown, least = 16.0, np.int16, (minimum - 1) * 16, minimum * 16
        case _:
            raise ValueError(f"no encoding {encoding} of disparities")
    stored = np.rint(np.where(known, disparity, 0.0).astype(np.float64) * step)
    most = np.iinfo(dtype).max
    if known.any() and (stored[known].max() > most or disparity[known].min() < min(0, minimum)):
        raise InputError(
            f"encoding {encoding}",
            found=f"disparities from {disparity[known].min():g} to {disparity[known].max():g} px",
            expected=f"{max(minimum, 0)} to {most / step:g} px",
            fix="Write a PFM file.",
        )
    return np.where(known, np.maximum(stored, least), unknown).astype(dtype)


def decode_depth(values: np.ndarray, camera: StereoCamera) -> np.ndarray:
    """Return a RealSense depth image, uint16 in mm with 0 unknown, as disparities in px."""
    return camera.disparity(np.where(values > 0, values.astype(np.float64) / 1000, np.nan))


def encode_depth(disparity: np.ndarray, camera: StereoCamera) -> np.ndarray:
    """Return disparities as a depth image, uint16 in mm; 0 where unknown or beyond 65.5 m (REP 118's 16UC1)."""
    depth = camera.depth(disparity).astype(np.float64) * 1000
    known = np.isfinite(depth) & (depth < 65535.5)
    return np.where(known, np.maximum(np.rint(np.where(known, depth, 0)), 1), 0).astype(np.uint16)


def from_ros(image: np.ndarray, min_disparity: float, doffs: float = 0.0) -> np.ndarray:
    """Return the image of a stereo_msgs/DisparityImage as disparities d = x_l - x_r; the message holds d + doffs."""
    values = image.astype(np.float32)
    with np.errstate(invalid="ignore"):
        known = np.isfinite(values) & (values >= min_disparity)
    return np.where(known, values - np.float32(doffs), np.float32(np.nan)).astype(np.float32)


def to_ros(disparity: np.ndarray, doffs: float = 0.0) -> np.ndarray:
    """Return disparities as the image of a stereo_msgs/DisparityImage: d + doffs, NaN unknown."""
    return (disparity + np.float32(doffs)).astype(np.float32)


def read_disparity(
    path: str | os.PathLike[str], encoding: str = "auto", *, scale: float | None = None,
    camera: StereoCamera | None = None,
) -> np.ndarray:  # fmt: skip
    """Read a disparity map, (height, width) float32 in px with NaN unknown.

    Args:
        path: a file of the module's table.
        encoding: one of `ENCODINGS`, or auto: pfm and npy by their suffix, 16-bit pictures are kitti, 8-bit ones
            middlebury.
        scale: of middlebury, which does not store it.
        camera: for realsense, to turn depths into disparities.

    Raises:
        InputError: the file is not of this encoding, or a scale or camera is lacking.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".pfm":
        return decode(read_pfm(path), "pfm")
    if suffix in (".npy", ".npz"):
        values = _read_array(path)
        return decode(values, "opencv" if values.dtype == np.int16 else "float")
    values = _read_pixels(path)
    if values.ndim == 3:
        raise InputError(
            path, found="a colour picture", expected="one channel of numbers", fix="Give the disparity map itself."
        )
    if encoding == "auto":
        encoding = "middlebury" if values.dtype == np.uint8 else "kitti"
    if encoding == "realsense":
        if camera is None:
            raise InputError(path, found="depths without a camera", expected="a calibration", fix="Give --calib.")
        return decode_depth(values, camera)
    if encoding == "middlebury" and scale is None:
        raise InputError(
            path, found="8-bit disparities without a scale", expected="how many grey levels are a pixel",
            fix="Give --scale: 4 for Middlebury 2003 at quarter size, 2 for 2005 and 2006 at half size, 8 or 16: 2001.",
        )  # fmt: skip
    if encoding not in STEPS and encoding != "middlebury":
        raise InputError(
            path, found=f"a picture as {encoding}", expected="kitti, crestereo, middlebury or realsense",
            fix="Correct --encoding.",
        )  # fmt: skip
    return decode(values, encoding, scale=scale or 1.0)


def write_disparity(
    path: str | os.PathLike[str], disparity: np.ndarray, encoding: str = "auto", *, scale: float = 1.0,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Write a disparity map; auto takes pfm for .pfm, float for .npy and kitti for .png.

    Raises:
        InputError: a disparity does not fit the encoding, or the suffix is another's.
    """
    path = Path(path)
    kinds = {".pfm": "pfm", ".npy": "float", ".png": "kitti"}
    if path.suffix not in kinds:
        raise InputError(path, found=f"the suffix {path.suffix!r}", expected=", ".join(kinds), fix="Rename it.")
    values = encode(disparity, kinds[path.suffix] if encoding == "auto" else encoding, scale=scale)
    with atomic_path(path, overwrite=overwrite) as scratch:
        if path.suffix == ".pfm":
            scratch.write_bytes(pfm_bytes(values))
        elif path.suffix == ".npy":
            np.save(scratch, values)
        else:
            from PIL import Image

            Image.fromarray(values).save(scratch)


def read_pfm(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a PFM file of one channel as it is, (height, width) float32, top row first.

    Header: "Pf", width and height, a scale whose sign is the byte order (negative: little endian).

    Raises:
        InputError: it is no such file, or it is too short.
    """
    content = Path(path).read_bytes() if Path(path).is_file() else b""
    fields: list[bytes] = []
    position = 0
    while len(fields) < 4 and position < min(len(content), 256):
        end = position
        while end < len(content) and not content[end : end + 1].isspace():
            end += 1
        if end > position:
            fields.append(content[position:end])
        position = end + 1
    try:
        kind, width, height, scale = fields[0], int(fields[1]), int(fields[2]), float(fields[3])
        if kind != b"Pf" or width < 1 or height < 1 or scale == 0:
            raise ValueError
    except (ValueError, IndexError) as error:
        raise InputError(
            path, found="no PFM header of one channel" if Path(path).is_file() else "no such file",
            expected="Pf, width, height, scale",
            fix="Give a grey PFM file.",
        ) from error  # fmt: skip
    size = 4 * width * height
    if len(content) - position < size:
        raise InputError(
            path, found=f"{len(content) - position} bytes of pixels", expected=f"{size} for {width}x{height}",
            fix="The file is cut off: copy it again.",
        )  # fmt: skip
    values = np.frombuffer(content, "<f4" if scale < 0 else ">f4", width * height, position)
    return values.reshape(height, width)[::-1].astype(np.float32)


def pfm_bytes(values: np.ndarray) -> bytes:
    """Return (height, width) float32, top row first, as a little-endian PFM file."""
    height, width = values.shape
    return f"Pf\n{width} {height}\n-1.0\n".encode() + values[::-1].astype("<f4").tobytes()


def _read_array(path: Path) -> np.ndarray:
    try:
        loaded = np.load(path, allow_pickle=False)
        values = loaded if isinstance(loaded, np.ndarray) else loaded[loaded.files[0]]
    except (OSError, ValueError, IndexError, EOFError, BadZipFile) as error:
        raise InputError(path, found="no NumPy array", expected=".npy or .npz", fix="Give another file.") from error
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise InputError(
            path, found=f"{values.dtype} {values.shape}", expected="numbers (height, width)", fix="Give another array."
        )
    return np.asarray(values)


def _read_pixels(path: str | os.PathLike[str]) -> np.ndarray:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            plainer = {"P": "RGB", "LA": "L", "1": "L"}.get(picture.mode)
            values = np.asarray(picture if plainer is None else picture.convert(plainer))
    except (OSError, UnidentifiedImageError) as error:
        found = "no readable picture" if Path(path).exists() else "no such file"
        raise InputError(path, found=found, expected="a PNG, PGM or JPEG file", fix="Check the path.") from error
    # Pillow reads some 16-bit files as 32-bit integers.
    return values.astype(np.uint16) if values.dtype in (np.int32, np.uint32) else values

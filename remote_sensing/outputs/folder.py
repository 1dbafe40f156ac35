"""The folder of a comparison: checked before the work, written beside the results, moved into place at the end."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from remote_sensing.grid import MapGrid
from remote_sensing.settings import Settings, VectorFormat
from shared.errors import FewstepError, InputError
from shared.files import refuse_existing, require_writable

BYTES_A_PIXEL = 16  # on disk at most while the results are written: tiles, plain rasters, COGs
FULL = 1 << 20  # bytes: whatever failed with less room than this failed for want of room
FIXED_FILES = (
    "probability.tif", "change.tif", "quicklook.png", "report.html", "result.json", "item.json",
    "probability.qml", "change.qml", "changes.qml",
)  # fmt: skip


def check_output(output: Path, settings: Settings, *, overwrite: bool) -> None:
    """Refuse a folder that cannot take the results, or that holds some and may not be overwritten."""
    if output.exists() and not output.is_dir():
        raise InputError(output, found="a file", expected="a folder", fix="Choose another --output.")
    for name in (*FIXED_FILES, *(f"changes.{kind}" for kind in settings.vectors)):
        refuse_existing(output / name, overwrite=overwrite)
    require_writable(output / "result.json")


def require_space(output: Path, grid: MapGrid) -> None:
    """Refuse a disk that cannot hold the results on this grid."""
    parent = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    needed, free = BYTES_A_PIXEL * grid.width * grid.height, shutil.disk_usage(parent).free
    if free < needed:
        raise InputError(
            output,
            found=f"{free / 1e9:.1f} GB of free space",
            expected=f"{needed / 1e9:.1f} GB for {grid.width} x {grid.height} pixels",
            fix="Make room or choose another disk.",
        )


@contextmanager
def writing(output: Path) -> Iterator[None]:
    """Turn what GDAL and the system say of a full disk or a lost permission into an error to act on."""
    try:
        yield
    except FewstepError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and shutil.disk_usage(output).free > FULL:
            raise
        raise InputError(
            output,
            found=f"a write that failed ({error})",
            expected="a folder with room and permission",
            fix="Make room and run the same command again: it resumes.",
        ) from error


@contextmanager
def staging(output: Path) -> Iterator[Path]:
    """Give a folder beside the results, which is gone afterwards."""
    stage = Path(tempfile.mkdtemp(prefix=".writing.", dir=output))
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def publish(stage: Path, output: Path) -> list[Path]:
    """Move the files to where they are looked for, result.json last; nothing of an earlier run stays beside them."""
    for name in ("result.json", *FIXED_FILES, *(f"changes.{kind}" for kind in get_args(VectorFormat))):
        (output / name).unlink(missing_ok=True)
    paths = []
    for path in sorted(stage.iterdir(), key=lambda path: (path.name == "result.json", path.name)):
        paths.append(path.replace(output / path.name))
    return paths

"""From the labels and samples of readouts to a `RawScan`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from medical.reconstruction.formats.companions import calibration_block, navigator_lines, noise_scan
from medical.reconstruction.formats.grid import Grid, LineReader, fill
from medical.reconstruction.formats.lines import LineTable, Source
from medical.reconstruction.formats.noncartesian import assemble_shots
from medical.reconstruction.formats.options import ReadOptions
from medical.reconstruction.formats.placing import place_slices
from medical.reconstruction.formats.selection import require_one_shape, select, with_embedded_calibration
from medical.reconstruction.raw import RawScan
from shared.errors import InputError


def assemble(source: Source, options: ReadOptions) -> RawScan:
    """Read the samples of one image and return them in the conventions of `RawScan`.

    Raises:
        InputError: no imaging lines, lines that contradict each other or the header, or samples that are not finite.
    """
    image, warnings = select(source, options)
    require_one_shape(source, image)
    image, embedded = with_embedded_calibration(source, image)
    lines = source.lines.take(image)
    numbers, geometry, place_warnings = place_slices(source, lines, options)
    if source.encoding.volumetric and len(numbers) > 1:
        raise InputError(
            source.path,
            found=f"{len(numbers)} slabs",
            expected="one 3-D slab",
            fix="Choose one with the option slice_index.",
        )
    reader = LineReader(source)
    noise, ratio, noise_warnings = noise_scan(reader, lines)
    history = [f"Read {len(image)} imaging lines of {source.format}.", *source.history]
    if embedded:
        history.append(f"{embedded} calibration lines fill gaps between the imaging lines and count as such.")
    parts = _cartesian if source.encoding.trajectory in ("cartesian", "epi") else _shots
    fields, steps, part_warnings = parts(reader, image, numbers)
    reader.check.finish()
    return RawScan(
        geometry=geometry,
        recon_matrix=source.encoding.recon_matrix,
        recon_fov_mm=source.encoding.recon_fov_mm,
        source=source.path,
        noise=noise,
        noise_bandwidth_ratio=ratio,
        header=source.header,
        simulated=source.simulated,
        history=(*history, *steps),
        warnings=(*source.warnings, *warnings, *place_warnings, *noise_warnings, *part_warnings),
        **fields,
    )


Parts = tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]
"""Fields of a `RawScan`, history and warnings."""


def _cartesian(reader: LineReader, image: np.ndarray, numbers: np.ndarray) -> Parts:
    source = reader.source
    lines = source.lines.take(image)
    grid = Grid.of(source, lines, numbers)
    kspace, count = fill(reader, image, grid)
    calibration, calibration_warnings = calibration_block(reader, image, grid)
    navigators, navigator_reversed, navigator_warnings = navigator_lines(reader, lines, grid)
    line_reversed = _line_reversed(source, image, grid)
    steps, warnings = [], [*calibration_warnings, *navigator_warnings]
    if line_reversed is not None:
        steps.append("Flipped the lines that were recorded backwards into ascending kx.")
    if grid.off_centre is not None:
        steps.append("Corrected the off-centre demodulation of the ramp-sampled readout.")
    if count.max() > 1:
        warnings.append(f"{int(count.max())} averages were combined, each sample by the number of its measurements.")
    if calibration is not None and line_reversed is not None:
        warnings.append("The calibration lines are echo-planar as well and are not corrected for ghosts.")
    fields = {
        "kspace": torch.from_numpy(kspace),
        "mask": torch.from_numpy(count > 0),
        "calibration": calibration,
        "navigators": navigators,
        "navigator_reversed": navigator_reversed,
        "line_reversed": line_reversed,
        "readout_positions": None if grid.positions is None else torch.from_numpy(grid.positions.astype(np.float32)),
        "phase_encoding": _phase_encoding(lines) if line_reversed is not None else "j",
    }
    return fields, tuple(steps), tuple(warnings)


def _shots(reader: LineReader, image: np.ndarray, numbers: np.ndarray) -> Parts:
    kspace, mask, trajectory, density, step = assemble_shots(reader, image, numbers)
    fields = {"kspace": kspace, "mask": mask, "trajectory": trajectory, "density": density}
    return fields, (step,), ()


def _line_reversed(source: Any, image: np.ndarray, grid: Grid) -> Tensor | None:
    """Return which lines (slice, ky) were recorded backwards, None when none was."""
    table = source.lines
    if not table.reverse[image].any():
        return None
    seen = np.zeros((2, grid.shape[0], grid.matrix[1]), dtype=bool)
    for row in image:
        place = grid.line(table, row)
        seen[int(table.reverse[row]), place[0], place[-1]] = True
    if (seen[0] & seen[1]).any():
        s, ky = np.argwhere(seen[0] & seen[1])[0]
        raise InputError(
            source.path,
            found=f"lines of both readout polarities at slice {s}, ky {ky}",
            expected="one polarity for each line",
            fix="Read one average, set or repetition on its own.",
        )
    return torch.from_numpy(seen[1])


def _phase_encoding(lines: LineTable) -> str:
    """Return "j" when the echo train walks towards higher ky, "j-" when it walks towards lower."""
    ky = lines.ky[lines.slice == lines.slice[0]].astype(int)
    return "j-" if np.sign(np.diff(ky)).sum() < 0 else "j"

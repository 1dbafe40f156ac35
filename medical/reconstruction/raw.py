"""`RawScan`: a scanner's raw data after reading, the same for every file format.

Readers (`medical.reconstruction.formats`) turn a file into a `RawScan`; preprocessing maps a `RawScan` to a
`RawScan`; reconstruction maps it to an `Image`. Conventions that readers guarantee, so that nothing downstream has
cases for vendors or formats:

- The inverse Fourier transform exp(+2 pi i k r) gives the image (Siemens data are conjugated on reading).
- k-space lies on the encoded matrix with the zero frequency at index N//2 of every encoded axis, so partial Fourier
  and asymmetric echoes show as missing samples on one side, not as a shifted centre.
- Only imaging lines are in `kspace`; noise, navigator and separate calibration lines have fields of their own.
- `mask` is true exactly where a sample was acquired; padding is false even where the file stores zeros.
- Lines recorded backwards (EPI) are already reversed into ascending k.
- Slices are sorted by position along `geometry.slice_dir`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from medical.images import Geometry


@dataclass(frozen=True)
class RawScan:
    """Raw k-space of one image volume.

    Attributes:
        kspace: complex64. Cartesian 2-D: (slice, coil, ky, kx); Cartesian 3-D: (1, coil, kz, ky, kx);
            non-Cartesian: (slice, coil, shot, sample). Zero where not sampled.
        mask: bool, the shape of `kspace` without the coil axis. True where a sample was acquired.
        geometry: field of view, directions and positions of the *encoded* space.
        recon_matrix: (z, y, x) the header asks for after cropping (readout oversampling, phase oversampling);
            z counts partitions for 3-D scans and is 1 for 2-D scans.
        recon_fov_mm: (read, phase, slice) extent of `recon_matrix`.
        source: the file it came from.
        trajectory: float32 (slice, shot, sample, 2) or (..., 3) in cycles per FOV, columns (kx, ky[, kz]), range
            [-N/2, N/2); None for Cartesian scans.
        density: float32 (slice, shot, sample) density compensation weights if the file gives them.
        calibration: complex64 (slice, coil, ky, kx) or (1, coil, kz, ky, kx) separately acquired calibration lines
            (ACS), a block centred on DC at index N//2; None when the calibration lines are part of `kspace`.
        noise: complex64 (coil, sample) noise-only scan; None when absent.
        noise_bandwidth_ratio: receiver bandwidth (noise dwell / imaging dwell); noise covariance is multiplied by it.
        navigators: complex64 (slice, navigator, coil, kx) EPI phase-correction lines, already reversed into
            ascending kx like the imaging lines; None when absent.
        navigator_reversed: bool (slice, navigator), the lines that were recorded backwards.
        line_reversed: bool (slice, ky), the imaging lines that were recorded backwards; None when none was.
        readout_positions: float32 (kx,) position of each sample in cycles per encoded FOV when the readout was sampled
            on a gradient ramp and is not yet regridded; None for uniform sampling. Lines in one scan share it.
        phase_encoding: BIDS code "j" or "j-" when the polarity is known, else "j".
        header: JSON-able protocol facts (sequence, TE, TR, field strength, vendor). No patient identity.
        history: what was done to the data, one sentence a step, first reading.
        warnings: what a user must know, one sentence each.
        simulated: the k-space was computed, not measured.
    """

    kspace: Tensor
    mask: Tensor
    geometry: Geometry
    recon_matrix: tuple[int, int, int]
    recon_fov_mm: tuple[float, float, float]
    source: str
    trajectory: Tensor | None = None
    density: Tensor | None = None
    calibration: Tensor | None = None
    noise: Tensor | None = None
    noise_bandwidth_ratio: float = 1.0
    navigators: Tensor | None = None
    navigator_reversed: Tensor | None = None
    line_reversed: Tensor | None = None
    readout_positions: Tensor | None = None
    phase_encoding: str = "j"
    header: dict[str, Any] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    simulated: bool = False

    @property
    def is_cartesian(self) -> bool:
        """Whether samples lie on a grid."""
        return self.trajectory is None

    @property
    def slices(self) -> int:
        """Number of independent slices (1 for 3-D scans)."""
        return self.kspace.shape[0]

    @property
    def coils(self) -> int:
        """Number of receive channels."""
        return self.kspace.shape[1]

    @property
    def encoded_matrix(self) -> tuple[int, ...]:
        """Shape of the encoded grid: (ky, kx) or (kz, ky, kx)."""
        return tuple(self.kspace.shape[2:])

    @property
    def centre(self) -> tuple[int, ...]:
        """Index of the zero frequency on each encoded axis."""
        return tuple(n // 2 for n in self.encoded_matrix)

    @property
    def acceleration(self) -> float:
        """True acceleration: grid points of the encoded matrix per acquired sample."""
        return self.mask.numel() / max(int(self.mask.sum()), 1)

    def after(self, step: str, *warnings: str, **changes: Any) -> RawScan:
        """Return a copy with fields changed, the step added to the history and warnings appended."""
        return replace(self, history=(*self.history, step), warnings=(*self.warnings, *warnings), **changes)

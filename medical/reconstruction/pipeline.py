"""The four calls of a reconstruction script: `read`, `prepare`, `reconstruct`, `write`.

```python
from medical import reconstruction as mri

settings = mri.Settings(method="wavelet", virtual_coils=8)
scan = mri.prepare(mri.read("brain.mrd.h5"), settings)
image = mri.reconstruct(scan, settings)
mri.write(image, "brain.nii.gz")
```
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medical.images import Image
from medical.reconstruction import checkpoint
from medical.reconstruction.coil_compression import compress_coils
from medical.reconstruction.epi import correct_epi_ghost, regrid_readout
from medical.reconstruction.methods import SliceResult, reconstruct_slice
from medical.reconstruction.preprocess import crop_to_recon, prewhiten, remove_readout_oversampling
from medical.reconstruction.raw import RawScan
from medical.reconstruction.settings import Settings
from shared.errors import InputError
from shared.progress import tracked

DEFAULT = Settings()


def prepare(scan: RawScan, settings: Settings = DEFAULT) -> RawScan:
    """Take a scan through the steps before reconstruction; `scan.history` tells which were done.

    Ramp-sampled readouts are regridded, EPI ghosts corrected with navigators if there are any, the noise prewhitened,
    readout oversampling removed, and the coils compressed if `settings.virtual_coils` says so.

    Raises:
        InputError: data or header do not allow a step; the error says which.
    """
    scan = regrid_readout(scan)
    if scan.navigators is not None and scan.line_reversed is not None:
        scan = correct_epi_ghost(scan)
    if settings.whiten:
        scan = prewhiten(scan)
    if scan.is_cartesian:
        scan = remove_readout_oversampling(scan)
    if settings.virtual_coils is not None and settings.virtual_coils < scan.coils:
        method = settings.compression if scan.is_cartesian else "scc"
        scan = compress_coils(scan, settings.virtual_coils, method=method)
    return scan


def reconstruct(
    scan: RawScan,
    settings: Settings = DEFAULT,
    *,
    reference: RawScan | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    work: Path | None = None,
    progress: str | None = None,
) -> Image:
    """Reconstruct a prepared scan into a complex image volume with its place in the patient.

    Args:
        scan: the result of `prepare`.
        settings: method and parameters.
        reference: body-coil scan of the same slices; coil maps are then measured against it instead of by ESPIRiT.
        seed: seed of the wavelet shifts.
        device: where to compute; the result is on the CPU.
        work: folder in which finished slices are kept, so that an interrupted call goes on where it stopped. It
            holds one file a slice, named by a hash of data and settings; delete it when done.
        progress: label of the progress bar of long runs; None is silent.

    Returns:
        Image with complex64 data (slice, y, x), or (z, y, x) for 3-D scans, of the header's reconstruction matrix.
        RSS images are real and non-negative. Values keep the scale of the (whitened) k-space under an orthonormal
        Fourier transform.

    Raises:
        InputError: no calibration region for coil maps, or settings that do not fit the scan.
    """
    if reference is not None and reference.slices != scan.slices:
        raise InputError(
            reference.source,
            found=f"{reference.slices} slices",
            expected=f"the {scan.slices} slices of {scan.source}",
            fix="Give the body-coil scan of the same slices.",
        )
    store = checkpoint.Store.open(work, scan, settings, seed)
    results = []
    for index in tracked(range(scan.slices), progress):
        result = store.load(index)
        if result is None:
            against = None if reference is None else one_slice(reference, index)
            generator = torch.Generator().manual_seed(seed + index)
            part = one_slice(scan, index)
            result = reconstruct_slice(part, settings, reference=against, generator=generator, device=device)
            store.save(index, result)
        results.append(result)
    data = torch.cat([result.image for result in results]) if len(scan.encoded_matrix) == 2 else results[0].image
    data, geometry = crop_to_recon(data, scan)
    volumetric = len(scan.encoded_matrix) == 3 or (scan.trajectory is not None and scan.trajectory.shape[-1] == 3)
    return Image.placed(
        data,
        geometry,
        fov_mm=geometry.fov_mm,
        volumetric=volumetric,
        provenance=_provenance(scan, settings, results, seed),
        phase_encoding=scan.phase_encoding,
    )


def one_slice(scan: RawScan, index: int) -> RawScan:
    """Return slice `index` of a scan as a scan of one slice."""

    def cut(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[index : index + 1]

    return replace(
        scan,
        kspace=scan.kspace[index : index + 1],
        mask=scan.mask[index : index + 1],
        trajectory=cut(scan.trajectory),
        density=cut(scan.density),
        calibration=cut(scan.calibration),
    )


def _provenance(scan: RawScan, settings: Settings, results: list[SliceResult], seed: int) -> dict[str, Any]:
    white = settings.whiten and scan.noise is not None
    facts: dict[str, Any] = {
        "method": settings.method,
        "parameters": {**results[0].parameters, "seed": seed},
        "acceleration": scan.acceleration,
        "acquired_matrix": scan.encoded_matrix,
        "coils": scan.coils,
        "units": "SNR (noise standard deviation 1 in each coil)" if white else "scanner",
        "source": scan.source,
        "simulated": scan.simulated,
        "header": scan.header,
        "history": (*scan.history, *results[0].history),
        "warnings": tuple(dict.fromkeys((*scan.warnings, *(text for r in results for text in r.warnings)))),
    }
    energies = [(result.residual_energy, result.data_energy, result.noise_energy) for result in results]
    residual, data, noise = (sum(column) for column in zip(*energies, strict=True))
    if settings.method != "rss" and data > 0:
        facts["residual"] = math.sqrt(residual / data)
        facts["residual_expected"] = math.sqrt(noise / data) if white else None
    return facts

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
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medical.images import Geometry, Image
from medical.reconstruction import checkpoint
from medical.reconstruction.coil_compression import compress_coils
from medical.reconstruction.epi import correct_epi_ghost, regrid_readout
from medical.reconstruction.methods import SliceResult, reconstruct_slice
from medical.reconstruction.noncartesian import compensate_density, image_shape
from medical.reconstruction.preprocess import (
    is_white,
    noise_gain,
    prewhiten,
    recon_geometry,
    remove_readout_oversampling,
)
from medical.reconstruction.raw import RawScan
from medical.reconstruction.settings import TRAINED, Settings
from medical.sidecar import base_name
from shared.errors import InputError
from shared.progress import tracked

DEFAULT = Settings()
PLACE_TOLERANCE_MM = 1.0  # a patient moves as much between two scans


def prepare(scan: RawScan, settings: Settings = DEFAULT) -> RawScan:
    """Take a scan through the steps before reconstruction; `scan.history` tells which were done.

    Ramp-sampled readouts are regridded, EPI ghosts corrected with navigators if there are any, the noise prewhitened,
    readout oversampling removed (of non-Cartesian scans, the density compensated), and the coils compressed if
    `settings.virtual_coils` says so. Where readouts are not complete, "gcc" is done as "scc".

    Raises:
        InputError: data or header do not allow a step, or more virtual coils than coils; the error says which.
    """
    scan = regrid_readout(scan)
    if scan.navigators is not None and scan.line_reversed is not None:
        scan = correct_epi_ghost(scan)
    if settings.whiten:
        scan = prewhiten(scan)
    scan = remove_readout_oversampling(scan) if scan.is_cartesian else compensate_density(scan)
    if settings.virtual_coils is not None and settings.virtual_coils != scan.coils:
        complete = scan.is_cartesian and bool((scan.mask.all(-1) | ~scan.mask.any(-1)).all())
        method = settings.compression if complete else "scc"  # GCC needs whole readouts
        scan = compress_coils(scan, settings.virtual_coils, method=method)
    return scan


@dataclass(frozen=True)
class Reconstruction:
    """An image and what belongs to it.

    Attributes:
        image: complex, with its place and provenance.
        companions: images and maps of the same voxels, of trained methods; see `trusted`.
        scan: as the method saw it, for the report.
    """

    image: Image
    companions: dict[str, Image] = field(default_factory=dict)
    scan: RawScan | None = None


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
    """Reconstruct a prepared scan into an image; arguments, result and errors of `reconstruct_all`."""
    found = reconstruct_all(scan, settings, reference=reference, seed=seed, device=device, work=work, progress=progress)
    return found.image


def reconstruct_all(
    scan: RawScan,
    settings: Settings = DEFAULT,
    *,
    reference: RawScan | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    work: Path | None = None,
    progress: str | None = None,
) -> Reconstruction:
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
        Fourier transform. With a trained method also its companions, the classical image among them.

    Raises:
        InputError: no calibration region for coil maps, no signal in it, a reference of other slices, or settings
            that do not fit the scan; for a trained method also no weights, or a scan far outside the model card.
    """
    if reference is not None:
        _require_same_slices(scan, reference)
    model = None
    if settings.method in TRAINED:
        from medical.reconstruction import trained

        model = trained.load_model(settings, device)
        scan = trained.fitted(scan, model, settings)
    model_hash = None if model is None else model.sha256
    store = checkpoint.Store.open(work, scan, settings, reference, seed, torch.device(device).type, model_hash)
    results = []
    for index in tracked(range(scan.slices), progress):
        result = store.load(index)
        if result is None:
            against = None if reference is None else one_slice(reference, index)
            generator = torch.Generator().manual_seed(seed + index)
            part = one_slice(scan, index)
            if model is None:
                result = reconstruct_slice(part, settings, reference=against, generator=generator, device=device)
            else:
                from medical.reconstruction.trusted import reconstruct_trained

                result = reconstruct_trained(
                    part, settings, model, reference=against, generator=generator, device=device
                )
            store.save(index, result)
        results.append(result)
    if all(result.support == 0 for result in results):
        raise InputError(
            scan.source,
            found="calibration data without signal above noise, so no coil maps",
            expected="an object in the field of view",
            fix="Reconstruct with method rss to see what the scan holds.",
        )
    geometry = recon_geometry(scan)
    volumetric = len(scan.encoded_matrix) == 3 or (scan.trajectory is not None and scan.trajectory.shape[-1] == 3)
    provenance = _provenance(scan, settings, results, seed)
    if reference is not None:
        provenance["body_coil"] = base_name(reference.source)
        provenance["warnings"] += tuple(f"Body-coil scan: {text}" for text in reference.warnings)
    if model is not None:
        provenance["model"] = {"sha256": model.sha256, **model.card.model_dump(exclude={"network"})}

    def placed(volumes: list[Tensor], facts: dict[str, Any]) -> Image:
        return Image.placed(
            torch.cat(volumes),
            geometry,
            fov_mm=geometry.fov_mm,
            volumetric=volumetric,
            provenance=facts,
            phase_encoding=scan.phase_encoding if scan.is_cartesian else "",
        )

    companions = {
        name: placed([result.companions[name] for result in results], _of_companion(name, provenance, settings))
        for name in results[0].companions
    }
    return Reconstruction(placed([result.image for result in results], provenance), companions, scan)


def _of_companion(name: str, provenance: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the provenance of a companion: that of the scan, without what belongs to the trained image."""
    own = {"residual", "residual_expected", "residual_by_slice", "residual_expected_by_slice", "trust", "consistency"}
    facts = {key: value for key, value in provenance.items() if key not in own}
    if name == "classical":
        return {**facts, "method": settings.classical, "parameters": {}, "model": None}
    units = "1 - correlation" if name == "disagreement" else provenance["units"]
    return {**facts, "method": f"{name} of {settings.method}", "units": units}


def _require_same_slices(scan: RawScan, reference: RawScan) -> None:
    """Raise `InputError` unless the reference shows the same pixels: maps of another place would pass unnoticed."""
    found = expected = ""
    if reference.slices != scan.slices:
        found, expected = f"{reference.slices} slices", f"the {scan.slices} slices of {scan.source}"
    elif not (scan.geometry.nominal or reference.geometry.nominal):
        mine, theirs = (_corners(s.geometry) for s in (scan, reference))
        apart = max(math.dist(a, b) for a, b in zip(mine, theirs, strict=True))
        if apart > PLACE_TOLERANCE_MM:
            found, expected = f"a field of view that lies {apart:.1f} mm away", f"that of {scan.source}"
    if found:
        fix = "Give the body-coil scan of the same slices, on the same grid."
        raise InputError(reference.source, found=found, expected=expected, fix=fix)


def _corners(geometry: Geometry) -> list[tuple[float, ...]]:
    """LPS places of the slices and of the ends of their field of view along read and phase."""
    frame = geometry.frame()
    ends = [(0.0, 0.0), (geometry.fov_mm[0] / 2, 0.0), (0.0, geometry.fov_mm[1] / 2)]
    return [tuple(p + frame[:, 0] * u + frame[:, 1] * v) for p in geometry.positions_mm for u, v in ends]


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
    white = is_white(scan)
    facts: dict[str, Any] = {
        "method": settings.method,
        "parameters": {**_common(results), "seed": seed},
        "acquired_matrix": scan.encoded_matrix if scan.is_cartesian else image_shape(scan),
        "coils": scan.coils,
        "units": f"SNR (noise standard deviation {noise_gain(scan):.3g} in each coil)" if white else "scanner",
        "source": scan.source,
        "simulated": scan.simulated,
        "header": scan.header,
        "history": (*scan.history, *results[0].history),
        "warnings": (*scan.warnings, *_warnings(results)),
    }
    if scan.is_cartesian:
        facts["acceleration"] = scan.acceleration
    else:
        facts["shots"], facts["samples_per_shot"] = scan.encoded_matrix
    if settings.method == "rss":
        return facts
    energies = [(result.residual_energy, result.data_energy, result.noise_energy) for result in results]
    ratios = [_residual(*energy, white=white) for energy in (*energies, tuple(map(sum, zip(*energies, strict=True))))]
    facts["residual"], facts["residual_expected"] = ratios.pop()
    if results[0].trust:
        facts |= _trust(results, white=white)
    if len(results) > 1:
        facts["residual_by_slice"] = [residual for residual, _ in ratios]
        facts["residual_expected_by_slice"] = [expected for _, expected in ratios] if white else None
    return facts


def _trust(results: list[SliceResult], *, white: bool) -> dict[str, Any]:
    """Return the numbers of each slice, and for known noise where its residual lies among chi-square variables."""
    from medical.reconstruction.quality.consistency import chi_square

    names = [name for name in results[0].trust if name not in ("samples", "unknowns")]
    facts: dict[str, Any] = {"trust": {name: [result.trust.get(name) for result in results] for name in names}}
    if white:
        judged = [
            chi_square(result.residual_energy, int(result.trust["samples"]), int(result.trust["unknowns"]))
            for result in results
        ]
        facts["consistency"] = [{**asdict(found), "verdict": found.verdict} for found in judged]
    return facts


def _residual(residual: float, data: float, noise: float, *, white: bool) -> tuple[float, float | None]:
    """Return ||A x - y|| / ||y|| and what noise of variance 1 alone makes of it."""
    if data <= 0:
        return 0.0, None
    return math.sqrt(residual / data), math.sqrt(noise / data) if white else None


def _common(results: list[SliceResult]) -> dict[str, Any]:
    """Return the parameters of all slices; a number that differs between slices as its smallest and largest value."""
    parameters = dict(results[0].parameters)
    for name in parameters:
        values = [result.parameters[name] for result in results]
        if min(values) < max(values):
            parameters[name] = (min(values), max(values))
    return parameters


def _warnings(results: list[SliceResult]) -> tuple[str, ...]:
    """Return the warnings of the slices, each once; those of some slices only say of which."""
    told = []
    for text in dict.fromkeys(text for result in results for text in result.warnings):
        slices = [index for index, result in enumerate(results) if text in result.warnings]
        where = "" if len(slices) == len(results) else f"Slice {', '.join(map(str, slices))}: "
        told.append(where + text)
    return tuple(told)

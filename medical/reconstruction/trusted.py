"""A slice through a trained model, with everything that says how far to trust it.

| companion     | what it is                                                                                     |
| ------------- | ---------------------------------------------------------------------------------------------- |
| classical     | complex image of the same data by a classical method                                           |
| unmeasured    | magnitude of the part of the image that the data do not determine (`quality.null_space`)       |
| unexplained   | magnitude of the back-projected residual, A^H (y - A x)                                        |
| uncertainty   | standard deviation of posterior samples, of methods that draw them                             |
| disagreement  | 1 - ring correlation with the classical image, patch by patch (2-D slices)                     |

| number               | what it is                                                                             |
| -------------------- | -------------------------------------------------------------------------------------- |
| unmeasured_fraction  | ||unmeasured|| / ||image||                                                             |
| classical_nrmse      | NRMSE between the two magnitudes after the best scalar                                 |
| relative_uncertainty | ||uncertainty|| / ||image||                                                            |
| lowest_agreement     | smallest value of the agreement map                                                    |
| samples, unknowns    | of the chi-square range of the residual                                                |

All are on the pixels of the result. A x uses ESPIRiT's coil maps; a network's own where
its image is left as it is.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from medical import metrics
from medical.reconstruction.least_squares import SENSE_LAMDA
from medical.reconstruction.methods import SliceResult, coil_maps_of, fill_partial_fourier, reconstruct_slice, volume_of
from medical.reconstruction.operators import CartesianSense
from medical.reconstruction.preprocess import crop_to_recon, is_white
from medical.reconstruction.quality.consistency import consistent_image, residual_map
from medical.reconstruction.quality.null_space import split
from medical.reconstruction.quality.ring_correlation import agreement_map
from medical.reconstruction.raw import RawScan
from medical.reconstruction.settings import Settings
from medical.reconstruction.trained import TrainedImages, TrainedModel, images_of

SPLIT_ITERATIONS = 30
CONSISTENCY_ITERATIONS = 30
OWN_ERROR = 0.05
"""Error of a network on a real scan relative to the mean signal. On the in-vivo brain of docs/mri_learned.md, whose SNR
is 65, the weight that this gives, 0.1, comes nearer to the full scan than 0.2, 0.3 or none."""

MAPS = ("uncertainty", "unmeasured", "unexplained", "disagreement")


def reconstruct_trained(
    scan: RawScan,
    settings: Settings,
    model: TrainedModel,
    *,
    reference: RawScan | None = None,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
) -> SliceResult:
    """Reconstruct a scan of one slice (or slab) by a trained model onto the protocol's matrix and field of view.

    Args:
        scan: `trained.fitted` to the model, with one slice.
        settings: a trained method, and the classical one to show beside it.
        model: the model.
        reference: body-coil scan for the coil maps of the classical image.
        generator: of the classical method and of a posterior.
        device: where to compute.

    Raises:
        InputError: no calibration region, or a plane that does not fit the device's memory.
    """
    classical_settings = settings.model_copy(update={"method": settings.classical, "lamda": None, "iterations": None})
    classical = reconstruct_slice(scan, classical_settings, reference=reference, generator=generator, device=device)
    found, told = ended(scan, images_of(scan, model, generator), settings)
    image, maps = found.image.to(device), found.maps.to(device)
    operator, data = CartesianSense(maps, scan.mask.to(device)), scan.kspace.to(device)
    history = [f"Image by the trained model {model.card.name} (sha256 {model.sha256[:16]}).", told]
    unexplained = residual_map(operator, data, image)
    lamda = _relative_noise(image) if is_white(scan) else SENSE_LAMDA
    parts = split(operator, image, lamda=lamda, iterations=SPLIT_ITERATIONS)
    residual = float((operator(image) - data).norm()) ** 2
    samples = int(scan.mask.sum()) * scan.coils
    trust = {"unmeasured_fraction": parts.fraction, "samples": samples, "unknowns": image[0, 0].numel()}
    history.append(_meaning(lamda, parts.fraction, white=is_white(scan)))
    filled: tuple[str, ...] = ()
    if settings.partial_fourier != "zero":  # the network has filled what it was not given
        image, filled, _ = fill_partial_fourier(image, scan, settings)
    result = _on_protocol(image, scan)
    companions = {
        "classical": classical.image,
        "unmeasured": _on_protocol(parts.unmeasured, scan).abs(),
        "unexplained": _on_protocol(unexplained, scan).abs(),
    }
    if found.deviation is not None:
        companions["uncertainty"] = _on_protocol(found.deviation, scan).abs()
        trust["relative_uncertainty"] = float(found.deviation.norm() / found.image.norm())
    if bool(classical.image.any()):
        trust["classical_nrmse"] = metrics.nrmse_best_scalar(classical.image, result)
    if len(result) == 1:
        agreement = agreement_map(result[0], classical.image[0])
        companions["disagreement"] = 1 - agreement[None]
        trust["lowest_agreement"] = float(agreement.min())
    return SliceResult(
        result,
        {"model": model.card.name, "consistency": settings.consistency, "classical": settings.classical},
        residual_energy=residual,
        data_energy=float(data.norm()) ** 2,
        noise_energy=float(samples),
        history=(*history, *filled),
        companions=companions,
        trust=trust,
    )


def ended(scan: RawScan, found: TrainedImages, settings: Settings) -> tuple[TrainedImages, str]:
    r"""Return a network's images after the last step towards the data, in the frame of ESPIRiT's maps, and a sentence.

    With maps E of ESPIRiT, which are more exact than a network's S, and x_E = (E^H S) x, the soft step is

        argmin_z ||A_E z - y||^2 + lamda ||z - x_E||^2,      1 / lamda = C (||A_E x_E - y||^2 / m - 1)

    for C coils and m samples with noise of variance 1. The right-hand side estimates the error variance of a pixel:
    errors spread evenly over an image of N pixels leave N v / R of their energy N v among the m = N C / R samples. An
    image whose residual is that of noise stays as it is. The hard step is lamda = 0.

    A model that has weighed the data by their noise itself (`found.noise_std`) leaves no such residual to judge it by.
    The variance of its error is then taken for that of `OWN_ERROR` times the mean signal of the object, in its own
    maps. At low SNR that leaves the image as it is; at high SNR it puts back most of what was measured, noise and all.

    Args:
        scan: of one slice or slab, `trained.fitted`.
        found: the images.
        settings: `consistency`; posteriors are consistent as they are drawn and pass.
    """
    if settings.consistency == "none" or found.deviation is not None:
        return found, "The image is the model's own."
    if found.noise_std is not None and settings.consistency == "soft":
        own, lamda = CartesianSense(found.maps, scan.mask), _own_weight(found.image / found.noise_std)
        image = consistent_image(own, scan.kspace, found.image, lamda=lamda, iterations=CONSISTENCY_ITERATIONS)
        return replace(found, image=image), f"Ended with soft data consistency (lamda = {lamda:.3g})."
    if settings.consistency == "soft" and not is_white(scan):
        return found, "The image is the network's own: without a noise level there is no soft data consistency."
    maps, _ = coil_maps_of(scan, crop=0.0)
    operator = CartesianSense(maps, scan.mask)
    image = found.image * (maps.conj() * found.maps).sum(2)
    lamda = 0.0
    if settings.consistency == "soft":
        residual = float((operator(image) - scan.kspace).norm()) ** 2 / (int(scan.mask.sum()) * scan.coils)
        if residual <= 1:
            return found, "The image is the network's own: its residual is that of noise."
        lamda = 1 / (scan.coils * (residual - 1))
    image = consistent_image(operator, scan.kspace, image, lamda=lamda, iterations=CONSISTENCY_ITERATIONS)
    told = f"Ended with {settings.consistency} data consistency (lamda = {lamda:.3g}, ESPIRiT maps)."
    return replace(found, image=image, maps=maps), told


def _own_weight(image: Tensor) -> float:
    """Return 1 / (`OWN_ERROR` times the mean signal)^2 of an image in units of the noise."""
    magnitude = image.abs()
    inside = magnitude > 0.2 * float(torch.quantile(magnitude.flatten()[:: max(magnitude.numel() // 100_000, 1)], 0.99))
    signal = float(magnitude[inside].mean()) if bool(inside.any()) else 0.0
    return 1 / max(OWN_ERROR * signal, 1e-3) ** 2


def _on_protocol(image: Tensor, scan: RawScan) -> Tensor:
    """Crop (1, 1, *encodes) to the protocol: (1, y, x) or (z, y, x)."""
    return volume_of(crop_to_recon(image[:, 0], scan)[0])


def _relative_noise(image: Tensor) -> float:
    """Return s^-2 of whitened data: the inverse mean energy of the pixels above a tenth of the largest magnitude."""
    energy = image.abs().square()
    inside = energy > 0.01 * energy.max()
    return 1 / max(float(energy[inside].mean()), 1e-12) if bool(inside.any()) else 1.0


def _meaning(lamda: float, fraction: float, *, white: bool) -> str:
    level = f"at the scan's noise (s^-2 = {lamda:.3g})" if white else f"with the weight {lamda:.3g}, the noise unknown"
    return f"{100 * fraction:.1f} % of the image's amplitude is not determined by the data {level}."

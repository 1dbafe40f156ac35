"""Trained models on a scan: their weights and cards, the gate, and one plane of k-space after another.

A model sees what the classical methods see: prewhitened k-space without readout oversampling, on the encoded matrix.
Its image is cropped to the protocol by the same code. 3-D scans are transformed along an axis without gaps and become
planes, so memory is that of one plane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medical.reconstruction.coil_compression import compress_coils, principal_coils
from medical.reconstruction.coil_maps import calibration_region, espirit, fitting_kernel
from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.methods import CALIBRATION_SIZE, METHODS
from medical.reconstruction.preprocess import estimate_noise, is_white, noise_covariance
from medical.reconstruction.quality.card import Domain, ModelCard, card_path, read_card
from medical.reconstruction.quality.domain import admit, facts_of
from medical.reconstruction.quality.uncertainty import Uncertainty
from medical.reconstruction.raw import RawScan
from medical.reconstruction.settings import Settings
from shared import weights
from shared.errors import InputError

DEFAULT_WEIGHTS = {
    "no-varnet": "medical/no_varnet",
    "varnet": "medical/varnet",
    "modl": "medical/modl",
    "dds": "medical/slice_prior",
}

VIRTUAL_COILS = 12
"""Principal coils that the networks see, at most. Of the 16 of the in-vivo brain of docs/mri_learned.md, 12 lose 0.02
dB at most, 10 up to 0.09, 8 up to 0.5 and 6, on which the networks were trained, up to 1.3. The time of the coil maps,
the largest part, goes with the square of the number."""


@dataclass(frozen=True)
class TrainedImages:
    r"""What a model makes of a slice or slab, on the CPU.

    Attributes:
        image: complex64 (1, 1, \*encodes).
        maps: complex64 (1, 1, coil, \*encodes), of unit norm or zero.
        deviation: float32 (1, 1, \*encodes), standard deviation of posterior samples; None for a model of one image.
        noise_std: of the noise that the model weighed the data by; None for one that does not know it.
    """

    image: Tensor
    maps: Tensor
    deviation: Tensor | None = None
    noise_std: float | None = None


PlaneModel = Callable[[Tensor, Tensor, tuple[float, float], torch.Generator], TrainedImages]
"""(k-space (coil, y, x), mask (y, x), pixel size in mm (y, x), generator) -> images of one plane."""


@dataclass(frozen=True)
class TrainedModel:
    """A model with its card.

    Attributes:
        run: reconstructs one plane.
        card: what it was trained on.
        sha256: of its weights file.
        needs_noise: k-space is given to it in units of its noise.
        finest_mm: pixel size below which it leaves the detail to compressed sensing; None never does.
    """

    run: PlaneModel
    card: ModelCard
    sha256: str
    needs_noise: bool = False
    finest_mm: float | None = None


def load_model(settings: Settings, device: torch.device | str = "cpu") -> TrainedModel:
    """Return the model of a trained method.

    Args:
        settings: the method, and `weights` by name or path; None takes the packaged ones.
        device: where to run it.

    Raises:
        InputError: no such weights, no card, a card of another method, or weights that do not fit their network.
    """
    stored = weights.load(settings.weights or DEFAULT_WEIGHTS[settings.method])
    if settings.method == "dds":
        return _prior(stored, settings, device)
    card = read_card(stored.path, stored.metadata.get("card"))
    if card.method != settings.method:
        raise InputError(
            stored.path,
            found=f"a model of the method {card.method}",
            expected=settings.method,
            fix=f"Use --method {card.method}, or other weights.",
        )
    proximal = card.network.get("name") == "proximal"  # its cascades weigh the data by their noise
    finest = card.trained_on.spacing_mm[0] if proximal and card.trained_on.spacing_mm is not None else None
    run = _network(stored, card, finest, device)
    return TrainedModel(run, card, stored.sha256, needs_noise=proximal, finest_mm=finest)


def _network(
    stored: weights.Weights, card: ModelCard, finest_mm: float | None, device: torch.device | str
) -> PlaneModel:
    from medical.reconstruction.learned.band import in_band
    from medical.reconstruction.learned.build import network_from_data
    from medical.reconstruction.learned.calibration import calibration_box

    network = network_from_data(card.network)
    try:
        network.load_state_dict(
            {key: value if value.is_complex() else value.float() for key, value in stored.tensors.items()}
        )
    except RuntimeError as error:
        raise InputError(
            stored.path,
            found="tensors of another network",
            expected=f"those of {card.network.get('name')} as its card describes it",
            fix=f"Keep weights and card together ({str(error).splitlines()[-1].strip()[:160]})",
        ) from error
    network.to(device).eval().requires_grad_(False)

    def run(kspace: Tensor, mask: Tensor, spacing: tuple[float, float], generator: torch.Generator) -> TrainedImages:
        batch = mask[None]
        matrix = torch.eye(len(kspace), dtype=kspace.dtype)
        if len(kspace) > VIRTUAL_COILS:
            matrix = principal_coils(kspace[:, mask], VIRTUAL_COILS)
        few = torch.einsum("vc,cyx->vyx", matrix, kspace)
        given = (few[None].to(device), batch.to(device), calibration_box(batch).to(device), spacing)
        with torch.inference_mode():
            found = network(*given) if finest_mm is None else in_band(network, *given, finest_mm=finest_mm)
        maps = torch.einsum("vc,bvyx->bcyx", matrix.conj(), found.coil_maps.cpu())
        return TrainedImages(found.image.cpu()[None].clone(), maps[None])

    return run


def _prior(stored: weights.Weights, settings: Settings, device: torch.device | str) -> TrainedModel:
    """Return the diffusion posterior: independent samples, their mean as the image, their spread as the uncertainty."""
    from medical.reconstruction.posterior.prior import load_prior
    from medical.reconstruction.posterior.sampling import PosteriorSettings, sample_posterior

    prior = load_prior(stored.path, device)
    if card_path(stored.path).is_file():
        card = read_card(stored.path)
    else:
        # The network is a convolution without position: the size of a pixel matters to it, the matrix does not.
        facts = prior.facts.training
        known = {"spacing_mm": facts["ranges"]["pixel_mm"], "anatomy": ["brain"]} if "ranges" in facts else {}
        card = ModelCard(
            name=settings.weights or DEFAULT_WEIGHTS["dds"],
            method="dds",
            trained_on=Domain.model_validate(known),
            simulated=bool(facts.get("simulated")),
        )
    sampling = PosteriorSettings(samples=settings.samples, calls=settings.calls)

    def run(kspace: Tensor, mask: Tensor, spacing: tuple[float, float], generator: torch.Generator) -> TrainedImages:
        box = calibration_region(mask[None], size=CALIBRATION_SIZE)
        block, matrix = kspace[(slice(None), *box)], (mask.shape[0], mask.shape[1])
        kernel = fitting_kernel((block.shape[1], block.shape[2]))
        maps = espirit(block, matrix, kernel_size=kernel, crop=METHODS["wavelet"].map_crop)[0]
        drawn = sample_posterior(
            kspace.to(device), mask.to(device), maps[0].to(device), prior, sampling, generator=generator
        )
        spread = Uncertainty.of(drawn.images.cpu())
        return TrainedImages(spread.mean[None, None], maps[None], spread.standard_deviation[None, None])

    return TrainedModel(run, card, stored.sha256, needs_noise=True)


def fitted(scan: RawScan, model: TrainedModel, settings: Settings) -> RawScan:
    """Return the scan as the model takes it; what lies outside its card is among the warnings.

    Separate calibration lines move into k-space, and more coils than the model was trained with are compressed. For
    models that need its level the noise is estimated where it was not measured.

    Raises:
        InputError: a non-Cartesian scan, a 3-D scan with gaps along all axes, or one far outside the card without
            `settings.force`.
    """
    if not scan.is_cartesian:
        raise InputError(
            scan.source,
            found="a non-Cartesian trajectory",
            expected=f"k-space on a grid, which {model.card.name} was trained for",
            fix="Use the method sense, wavelet or tv.",
        )
    scan = _calibration_inside(scan)
    if model.needs_noise and scan.noise is None:
        scan = scan.after(
            "Noise level taken from the outermost k-space samples.",
            "The noise level is estimated from the image data, not measured.",
        )
    trained = model.card.trained_on.coils
    if trained is not None and scan.coils > trained[1]:
        complete = bool((scan.mask.all(-1) | ~scan.mask.any(-1)).all())
        scan = compress_coils(scan, int(trained[1]), method=settings.compression if complete else "scc")
    kspace, mask, spacing, _ = _planes(scan, scan.slices // 2)
    strongest = int(kspace.abs().square().sum((1, 2, 3)).argmax())
    facts = facts_of(kspace[strongest], mask, spacing, white=is_white(scan), header=scan.header)
    warnings = admit(model.card, facts, force=settings.force)
    text = f"Sampling pattern of the mask: {facts.pattern}, R = {facts.acceleration:.2f}."
    if model.finest_mm is not None and min(spacing) < model.finest_mm:
        text += f" The network makes detail down to pixels of {model.finest_mm:.2g} mm, compressed sensing the finer."
    return scan.after(text, *warnings)


def images_of(scan: RawScan, model: TrainedModel, generator: torch.Generator) -> TrainedImages:
    """Return the images of one slice, or of a slab put together from its planes.

    Args:
        scan: `fitted` to the model, with one slice.
        model: the model.
        generator: of a posterior.

    Raises:
        InputError: no fully sampled centre for the coil maps, or a plane that does not fit the device's memory.
    """
    kspace, mask, spacing, axis = _planes(scan, 0)
    noise_std = noise_level(scan) if model.needs_noise else None
    unit = noise_std or 1.0
    planes = []
    for plane in kspace:
        try:
            found = model.run(plane / unit, mask, spacing, generator)
        except torch.OutOfMemoryError as error:
            raise InputError(
                scan.source,
                found=f"planes of {len(plane)} coils and {tuple(plane.shape[1:])} samples",
                expected="one that fits the memory of the device",
                fix="Compress the coils with --coils, or use --device cpu.",
            ) from error
        deviation = None if found.deviation is None else unit * found.deviation
        planes.append(TrainedImages(unit * found.image, found.maps, deviation, noise_std))
    if axis is None:
        return planes[0]

    def stacked(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts).movedim(0, axis)

    deviations = [plane.deviation for plane in planes if plane.deviation is not None]
    return TrainedImages(
        stacked([plane.image for plane in planes]),
        stacked([plane.maps for plane in planes]),
        stacked(deviations) if deviations else None,
        noise_std,
    )


def noise_level(scan: RawScan) -> float:
    """Return the standard deviation of the noise of a coil: 1 of whitened scans, else that measured or estimated.

    An estimated covariance holds signal, so it is not used to whiten: the coils keep their weights and the image its
    unit.
    """
    if is_white(scan):
        return 1.0
    known = scan if scan.noise is not None else estimate_noise(scan)
    assert known.noise is not None
    covariance = noise_covariance(known.noise, known.noise_bandwidth_ratio)
    return max(float(covariance.diagonal().real.mean()) ** 0.5, 1e-30)


def _planes(scan: RawScan, index: int) -> tuple[Tensor, Tensor, tuple[float, float], int | None]:
    """Return one slice or slab as planes: k-space (plane, coil, a, b), mask (a, b), spacing in mm, and the 3-D axis.

    The axis, negative, is the one that the planes are stacked along; None for a 2-D slice, which is one plane.
    """
    kspace, mask = scan.kspace[index], scan.mask[index]
    fov = scan.geometry.fov_mm[::-1][-mask.ndim :]
    spacing = [extent / n for extent, n in zip(fov, mask.shape, strict=True)]
    if mask.ndim == 2:
        return kspace[None], mask, (spacing[0], spacing[1]), None
    for axis in (-3, -1, -2):
        sampled = mask.any(axis)
        line = mask.movedim(axis, 0).flatten(1).any(1)
        separable = bool((mask == sampled.unsqueeze(axis) & _along(line, axis)).all())
        if separable and _no_gaps(line):
            planes = ifft_centred(kspace, (axis,)).movedim(axis, 0)
            kept = [size for number, size in enumerate(spacing) if number != 3 + axis]
            return planes, sampled, (kept[0], kept[1]), axis
    raise InputError(
        scan.source,
        found="a 3-D scan with gaps along all three axes",
        expected="one axis without gaps, so that it falls into planes",
        fix="Use the method sense, wavelet or tv.",
    )


def _along(line: Tensor, axis: int) -> Tensor:
    return line.reshape([-1 if number == axis else 1 for number in (-3, -2, -1)])


def _no_gaps(line: Tensor) -> bool:
    places = torch.nonzero(line).flatten()
    return len(places) > 0 and int(places[-1] - places[0]) + 1 == len(places)


def _calibration_inside(scan: RawScan) -> RawScan:
    """Put separately acquired calibration samples where k-space has none."""
    if scan.calibration is None:
        return scan
    block, matrix = scan.calibration, scan.encoded_matrix
    if any(b > n for n, b in zip(matrix, block.shape[2:], strict=True)):
        raise InputError(
            scan.source,
            found=f"calibration samples of {tuple(block.shape[2:])} in k-space of {matrix}",
            expected="a block that k-space holds",
            fix="Use the method sense, wavelet or tv.",
        )
    kspace, mask = scan.kspace.clone(), scan.mask.clone()
    window = [slice(n // 2 - b // 2, n // 2 - b // 2 + b) for n, b in zip(matrix, block.shape[2:], strict=True)]
    centre = (slice(None), *window)
    missing = ~mask[centre]
    kspace[(slice(None), *centre)] = torch.where(missing[:, None], block, kspace[(slice(None), *centre)])
    mask[centre] = True
    return replace(
        scan.after(
            f"{int(missing[0].sum())} separate calibration samples a slice put into k-space.",
            "Separate calibration lines were taken for imaging lines: their contrast may differ.",
        ),
        kspace=kspace,
        mask=mask,
        calibration=None,
    )

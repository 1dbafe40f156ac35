"""Trained networks on a scan: their weights and cards, the gate, and one plane of k-space after another.

A network sees what the classical methods see: prewhitened k-space without readout oversampling, on the encoded matrix.
Its image is cropped to the protocol by the same code. 3-D scans are transformed along an axis without gaps and become
planes, so memory is that of one plane.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from medical.reconstruction.coil_compression import compress_coils
from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.preprocess import is_white
from medical.reconstruction.quality.card import ModelCard, read_card
from medical.reconstruction.quality.domain import admit, facts_of
from medical.reconstruction.raw import RawScan
from medical.reconstruction.settings import Settings
from shared import weights
from shared.errors import InputError

DEFAULT_WEIGHTS = {"no-varnet": "medical/no_varnet", "varnet": "medical/varnet", "modl": "medical/modl"}


@dataclass(frozen=True)
class TrainedModel:
    """A network with its card.

    Attributes:
        network: `forward(kspace, mask, calibration, spacing) -> LearnedOutput`, in evaluation mode.
        card: what it was trained on.
        sha256: of its weights file.
    """

    network: nn.Module
    card: ModelCard
    sha256: str


def load_model(method: str, name: str | None = None, *, device: torch.device | str = "cpu") -> TrainedModel:
    """Return the trained network of a method.

    Args:
        method: a key of `DEFAULT_WEIGHTS`.
        name: weights by name or path; None takes the packaged ones of the method.
        device: where to run it.

    Raises:
        InputError: no such weights, no card, a card of another method, or weights that do not fit their network.
    """
    from medical.reconstruction.learned.build import network_from_data

    stored = weights.load(DEFAULT_WEIGHTS[method] if name is None else name)
    card = read_card(stored.path, stored.metadata.get("card"))
    if card.method != method:
        raise InputError(
            stored.path,
            found=f"a model of the method {card.method}",
            expected=method,
            fix=f"Use --method {card.method}, or other weights.",
        )
    network = network_from_data(card.network)
    try:
        network.load_state_dict({key: value.float() for key, value in stored.tensors.items()})
    except RuntimeError as error:
        raise InputError(
            stored.path,
            found="tensors of another network",
            expected=f"those of {card.network.get('name')} as its card describes it",
            fix=f"Keep weights and card together ({str(error).splitlines()[-1].strip()[:160]})",
        ) from error
    return TrainedModel(network.to(device).eval().requires_grad_(False), card, stored.sha256)


def fitted(scan: RawScan, model: TrainedModel, settings: Settings) -> RawScan:
    """Return the scan as the model takes it; what lies outside its card is among the warnings.

    Separate calibration lines move into k-space, and more coils than the model was trained with are compressed.

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
    trained = model.card.trained_on.coils
    if trained is not None and scan.coils > trained[1]:
        complete = bool((scan.mask.all(-1) | ~scan.mask.any(-1)).all())
        scan = compress_coils(scan, int(trained[1]), method=settings.compression if complete else "scc")
    kspace, mask, spacing, _ = _planes(scan, scan.slices // 2)
    strongest = int(kspace.abs().square().sum((1, 2, 3)).argmax())
    facts = facts_of(kspace[strongest], mask, spacing, white=is_white(scan), header=scan.header)
    warnings = admit(model.card, facts, force=settings.force)
    text = f"Sampling pattern of the mask: {facts.pattern}, R = {facts.acceleration:.2f}."
    return scan.after(text, *warnings)


def network_image(scan: RawScan, model: TrainedModel) -> tuple[Tensor, Tensor]:
    r"""Return the network's image (1, 1, \*encodes) and coil maps (1, 1, coil, \*encodes) of one slice, on the CPU.

    A 3-D slab is put together from its planes.

    Raises:
        InputError: no fully sampled centre for the coil maps, or a plane that does not fit the device's memory.
    """
    from medical.reconstruction.learned.calibration import calibration_box

    kspace, mask, spacing, axis = _planes(scan, 0)
    device = next(model.network.parameters()).device
    box = calibration_box(mask[None]).to(device)
    images, maps = [], []
    with torch.inference_mode():
        for plane in kspace:
            try:
                found = model.network(plane[None].to(device), mask[None].to(device), box, spacing)
            except torch.OutOfMemoryError as error:
                raise InputError(
                    scan.source,
                    found=f"planes of {len(plane)} coils and {tuple(plane.shape[1:])} samples",
                    expected="one that fits the memory of the device",
                    fix="Compress the coils with --coils, or use --device cpu.",
                ) from error
            images.append(found.image.cpu())
            maps.append(found.coil_maps.cpu())
    if axis is None:
        return images[0][None].clone(), maps[0][None].clone()
    # (plane, y, x) -> the plane's index back on its axis
    image = torch.cat(images).movedim(0, axis)[None, None]
    return image.clone(), torch.cat(maps).movedim(0, axis)[None, None].clone()


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

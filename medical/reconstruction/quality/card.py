"""The model card of a trained reconstruction, as a program reads it: `<name>.json` beside `<name>.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from shared.errors import InputError

Range = tuple[float, float]


class Domain(BaseModel):
    """What a model was trained on; None where the card does not say, and then nothing is held against a scan.

    Attributes:
        patterns: equispaced, magic, random, gaussian, poisson, radial.
        acceleration: true R, grid points per sample, [lowest, highest] like all ranges.
        coils: receive channels.
        matrix: sides of the image in pixels.
        spacing_mm: pixel sizes.
        fov_mm: sides of the field of view.
        snr: of `domain.signal_to_noise`.
        calibration: shorter side of the fully sampled box, in samples.
        contrasts: weightings, such as "T1".
        anatomy: parts of the body.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    patterns: tuple[str, ...] | None = None
    acceleration: Range | None = None
    coils: Range | None = None
    matrix: Range | None = None
    spacing_mm: Range | None = None
    fov_mm: Range | None = None
    snr: Range | None = None
    calibration: Range | None = None
    contrasts: tuple[str, ...] | None = None
    anatomy: tuple[str, ...] | None = None

    @field_validator("acceleration", "coils", "matrix", "spacing_mm", "fov_mm", "snr", "calibration")
    @classmethod
    def _ordered(cls, value: Range | None) -> Range | None:
        if value is not None and not 0 <= value[0] <= value[1]:
            raise ValueError("a range [lowest, highest]")
        return value


class ModelCard(BaseModel):
    """What a trained model is and what it may be asked.

    Attributes:
        name: for example "medical/no_varnet".
        method: the method of `fewstep mri reconstruct` that it serves.
        network: what `learned.network_from_data` builds it from.
        trained_on: its domain.
        data: what it was trained on, a sentence.
        simulated: the training k-space was computed, not measured.
        licence: of the weights.
        measured: numbers from its tests.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    method: str
    network: dict[str, Any] = Field(default_factory=dict)
    trained_on: Domain = Domain()
    data: str = ""
    simulated: bool = False
    licence: str = ""
    measured: dict[str, Any] = Field(default_factory=dict)


def card_path(weights: Path) -> Path:
    """Return where the card of a weights file lies."""
    return weights.with_suffix(".json")


def read_card(weights: Path, embedded: str | None = None) -> ModelCard:
    """Read the card beside a weights file, or the one inside it where no file lies beside.

    Args:
        weights: the .safetensors file.
        embedded: JSON from the header of the weights.

    Raises:
        InputError: there is none, or it is no card; a model of unknown domain is not run.
    """
    path = card_path(weights)
    beside = path.is_file()
    if not beside and embedded is None:
        raise InputError(
            path,
            found="no model card",
            expected="what the model was trained on, in a JSON file beside its weights",
            fix="Write one; docs/mri_learned.md has its keys.",
        )
    try:
        return ModelCard.model_validate_json(path.read_text(encoding="utf-8") if beside else embedded or "")
    except (ValidationError, UnicodeDecodeError) as error:
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            found, expected = f"{where}: {str(first.get('input'))[:60]}", first["msg"]
        else:
            found, expected = "bytes that are no text", "UTF-8 JSON"
        raise InputError(path, found=found, expected=expected, fix="Correct the card.") from error

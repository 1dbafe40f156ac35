"""The part of a report that is about a trained network: the classical image, the maps of trust, the model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medical.images import Image
from medical.preview import preview
from shared.pictures import png_bytes
from shared.report import Picture, Table

TEXT = (
    "A trained network fills what was not measured with what it has learned, and can do so wrongly and plausibly. The "
    "classical image of the same data has no such prior: look for structure that only one of the two shows. The map of "
    "the undetermined part is how much of each pixel the data, at their noise, do not fix; the map of the unexplained "
    "part is where in the image the residual would go; high disagreement (0 is none) marks patches whose structure "
    "differs between the two images, and does not say which is right."
)
CAPTIONS = {
    "classical": "Classical image of the same data: {method}",
    "unmeasured": "Part of the image that the data do not determine",
    "unexplained": "Part of the data that the image does not explain, back-projected",
    "disagreement": "Disagreement with the classical image, 1 - ring correlation",
    "uncertainty": "Standard deviation of the posterior samples",
}


def trained_section(facts: Mapping[str, Any], companions: Mapping[str, Image]) -> tuple[str, list[Any]]:
    """Return the title and parts of the section.

    Args:
        facts: sidecar of the trained image.
        companions: images by name, see `medical.reconstruction.trusted`.
    """
    pictures = []
    for name, image in companions.items():
        bitmap, window, _ = preview(image)
        caption = CAPTIONS[name].format(method=image.provenance["method"])
        pictures.append(Picture(png_bytes(bitmap), f"{caption} [{window}]", alt=caption))
    numbers = Table(("number", "lowest slice", "highest slice"), _numbers(facts))
    model = facts["model"]
    card = [(key, model[key]) for key in ("name", "sha256", "data", "licence") if model.get(key)]
    trained = [(f"trained on {key}", _text(value)) for key, value in model["trained_on"].items() if value is not None]
    return "Beside the trained image", [TEXT, pictures, numbers, Table(("model card", ""), [*card, *trained])]


def _numbers(facts: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    rows = [(name.replace("_", " "), min(values), max(values)) for name, values in _known(facts.get("trust", {}))]
    judged = facts.get("consistency") or []
    if judged:
        ratios = [found["ratio"] for found in judged]
        rows.append(("residual energy per sample (noise: 1)", min(ratios), max(ratios)))
        rows.append(("expected, lowest and highest", judged[0]["low"], judged[0]["high"]))
        p_values = [found["p_value"] for found in judged]
        rows.append(("probability that noise leaves more", min(p_values), max(p_values)))
        verdicts = sorted({found["verdict"] for found in judged})
        rows.append(("verdict", verdicts[0], verdicts[-1]))
    return rows


def _known(trust: Mapping[str, list[float | None]]) -> list[tuple[str, list[float]]]:
    found = [(name, [value for value in values if value is not None]) for name, values in trust.items()]
    return [(name, values) for name, values in found if values]


def _text(value: Any) -> str:
    numbers = isinstance(value, (list, tuple)) and all(isinstance(item, (int, float)) for item in value)
    if numbers:
        return " to ".join(f"{item:.4g}" for item in value)
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)

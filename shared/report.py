"""One self-contained HTML page for people and one JSON file with the same facts for programs.

```python
report = Report("Brain, R = 4", "CG-SENSE against the full scan", notice="Not for diagnosis")
report.facts |= {"coils": 16, "acceleration": 2.56}
report.warnings.append("Partial Fourier was zero-filled.")
report.section("Images", "Magnitude, one window.", [Picture(sense, "SENSE", alt="axial brain slice"), ...])
report.section("Errors", Table(("method", "NRMSE"), (("sense", 0.12), ("wavelet", 0.105))))
report.write("brain.html")          # and brain.report.json
```
"""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.files import atomic_path, refuse_existing
from shared.jsontext import json_text, jsonable
from shared.pictures import Window, png_bytes, render

if TYPE_CHECKING:
    from PIL.Image import Image as Bitmap


@dataclass(frozen=True)
class Picture:
    """A picture with words for those who see it and those who do not.

    Attributes:
        pixels: PNG bytes, a Pillow bitmap, or a real 2-D array, which is shown gray from 0 to its 99.5th percentile
            of magnitude (symmetric about 0 if some value is negative); the caption then says the window.
        caption: shown below.
        alt: what the picture shows, for screen readers.
    """

    pixels: bytes | np.ndarray | Bitmap
    caption: str
    alt: str

    @property
    def png(self) -> bytes:
        """The picture as PNG bytes."""
        if isinstance(self.pixels, bytes):
            return self.pixels
        if isinstance(self.pixels, np.ndarray):
            return png_bytes(render(self.pixels, Window.at_percentile(self.pixels)))
        return png_bytes(self.pixels)

    @property
    def legend(self) -> str:
        """The caption, with the window of an array."""
        if isinstance(self.pixels, np.ndarray):
            return f"{self.caption} [{Window.at_percentile(self.pixels)}]"
        return self.caption


@dataclass(frozen=True)
class Table:
    """Rows under named columns. Floats are shown with four significant digits and kept whole in the JSON.

    Attributes:
        columns: headings.
        rows: one value per column each.
        caption: shown above.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"row {row!r} has {len(row)} values for {len(self.columns)} columns")


@dataclass(frozen=True)
class Code:
    """Text to copy, such as the command that made the page."""

    text: str


Part = str | Picture | Sequence[Picture] | Table | Code


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it, in order."""

    heading: str
    parts: tuple[Part, ...]


@dataclass
class Report:
    """A page in the making.

    Attributes:
        title: headline.
        subtitle: one line below it.
        notice: a sentence that stands at the top of the page and at its end, such as "Not for diagnosis".
        facts: name -> value, shown as a list at the top.
        warnings: sentences that the reader must not miss.
        sections: filled by `section`.
    """

    title: str
    subtitle: str = ""
    notice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)

    def section(self, heading: str, *parts: Part) -> Report:
        """Add a section: text, pictures (a sequence of pictures stands side by side), tables and code, in order."""
        self.sections.append(Section(heading, parts))
        return self

    def html(self) -> str:
        """Return the page: one file, nothing loaded from elsewhere."""
        from jinja2 import Environment, PackageLoader, StrictUndefined

        environment = Environment(
            loader=PackageLoader("shared"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        environment.filters.update(shown=_shown, base64=lambda png: base64.b64encode(png).decode("ascii"))
        environment.tests.update(numeric=_is_number)
        sections = [(section.heading, [_typed(part) for part in section.parts]) for section in self.sections]
        return environment.get_template("report.html").render(
            report=self, sections=sections, software=_software(), written=_now()
        )

    def as_json(self) -> dict[str, Any]:
        """Return the facts of the page without the pixels, in JSON types."""
        return jsonable(
            {
                "title": self.title,
                "subtitle": self.subtitle,
                "notice": self.notice,
                "software": _software(),
                "written": _now(),
                "facts": self.facts,
                "warnings": self.warnings,
                "sections": [
                    {"heading": section.heading, "parts": [_described(part) for part in section.parts]}
                    for section in self.sections
                ],
            }
        )

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> list[Path]:
        """Write the page and, beside `brain.html`, the same facts as `brain.report.json`; both or neither.

        Returns:
            The two paths.

        Raises:
            InputError: an output exists and may not be replaced.
        """
        page = Path(path)
        beside = page.with_name(f"{page.stem}.report.json")
        for output in (page, beside):
            refuse_existing(output, overwrite=overwrite)
        with (
            atomic_path(beside, overwrite=overwrite) as scratch_json,
            atomic_path(page, overwrite=overwrite) as scratch_page,
        ):
            scratch_json.write_text(json_text(self.as_json()), encoding="utf-8")
            scratch_page.write_text(self.html(), encoding="utf-8")
        return [page, beside]


def _typed(part: Part) -> tuple[str, Any]:
    """Name the kind of a part for the template; text becomes paragraphs."""
    if isinstance(part, str):
        return "text", [paragraph for paragraph in part.split("\n\n") if paragraph.strip()]
    if isinstance(part, Table):
        return "table", part
    if isinstance(part, Code):
        return "code", part
    return "pictures", [part] if isinstance(part, Picture) else list(part)


def _described(part: Part) -> dict[str, Any]:
    """Return a part without pixels."""
    kind, content = _typed(part)
    if kind == "pictures":
        return {"pictures": [{"caption": picture.legend, "alt": picture.alt} for picture in content]}
    if kind == "table":
        return {"table": {"caption": content.caption, "columns": content.columns, "rows": content.rows}}
    return {kind: content.text if kind == "code" else "\n\n".join(content)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """Return a value as people read it."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shown(item)}" for key, item in value.items())
    return "-" if value is None else str(value)


def _software() -> str:
    return f"fewstep {version('fewstep')}"


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")

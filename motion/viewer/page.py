"""The file: a page whose content-security policy lets its own two scripts run by their hashes, and nothing load.

Names of objects come from scene files of strangers. They stand in a JSON block without `<`, and the script sets them as
text, never as markup; the title is escaped by the template.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from motion.clips import Motion
from motion.scene.loading import Scene
from motion.viewer.body import drawn_body, floor_under
from motion.viewer.scenery import drawn_scene
from motion.viewer.three import three_js
from shared.errors import InputError
from shared.files import atomic_path, refuse_existing


@dataclass(frozen=True)
class GoalMarker:
    """A goal to be shown.

    Attributes:
        label: what it is, such as "sit: sofa".
        position: (x, y, z) or, on the floor, (x, y), m.
        met: whether the motion reached it; None where nobody has measured.
    """

    label: str
    position: Sequence[float]
    met: bool | None = None


def write_viewer(
    path: str | os.PathLike[str], motion: Motion, scene: Scene | None = None, goals: Sequence[GoalMarker] = (),
    path_points: Any = None, *, title: str | None = None, overwrite: bool = False,
) -> None:  # fmt: skip
    """Write a page that shows a motion: play, scrub, orbit, follow; it opens from disk in any browser with WebGL 2.

    Args:
        path: .html.
        motion: any skeleton and frame rate.
        scene: in which it moves; None for an empty floor at the height of the toes.
        goals: shown as pins, green where met and red where not.
        path_points: (N, 2) or (N, 3) m, N >= 2, the planned way, such as `Path.points`; the way that was walked is
            drawn in any case.
        title: of the page; None for the name of the file.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists or is no .html, a motion over 20 MB, goals or points that are no places.
        MissingExtra: trimesh, which brings three.js, is absent.
    """
    target = Path(path)
    require_page(target)
    refuse_existing(target, overwrite=overwrite)
    floor = floor_under(motion) if scene is None else scene.floor
    title = target.stem if title is None else title
    data = {
        "title": title,
        "floor": floor,
        "body": drawn_body(motion),
        "scene": None if scene is None else drawn_scene(scene),
        "goals": [_marked(goal, floor) for goal in goals],
        "path": None if path_points is None else _places("path_points", path_points, floor, least=2).tolist(),
    }
    content = _page(title, data)
    with atomic_path(target, overwrite=overwrite) as scratch:
        scratch.write_text(content, encoding="utf-8")


def require_page(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` unless a page can have this name. Call it before long work."""
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise InputError(path, found=f"the suffix {Path(path).suffix!r}", expected=".html", fix="Rename the output.")


def _page(title: str, data: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    folder = Path(__file__).parent
    style, viewer = ((folder / name).read_text(encoding="utf-8") for name in ("viewer.css", "viewer.js"))
    library = three_js()
    environment = Environment(
        loader=PackageLoader("motion.viewer", ""),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(
        title=title, style=style, library=library, viewer=viewer,
        style_hash=_hash(style), library_hash=_hash(library), viewer_hash=_hash(viewer),
        # In JSON, < occurs in strings only; as an escape it can neither end the block nor open a comment.
        data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
    )  # fmt: skip


def _hash(text: str) -> str:
    """Return the source expression that lets an inline script or style of this text run (CSP level 3)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


def _marked(goal: GoalMarker, floor: float) -> dict[str, Any]:
    (position,) = _places(f"goal {goal.label!r}", [goal.position], floor).tolist()
    return {"label": goal.label, "position": position, "met": None if goal.met is None else bool(goal.met)}


def _places(what: str, points: Any, floor: float, least: int = 1) -> np.ndarray:
    """Return points (N, 3); those of two numbers lie on the floor."""
    given = np.asarray(points, np.float64)
    if given.ndim != 2 or given.shape[1] not in (2, 3) or len(given) < least or not np.isfinite(given).all():
        raise InputError(
            what, found=f"shape {given.shape}" if np.isfinite(given).all() else "NaN or infinity",
            expected="finite (x, y) or (x, y, z), m" + (f", at least {least}" if least > 1 else ""), fix="Mend it.",
        )  # fmt: skip
    return given if given.shape[1] == 3 else np.column_stack([given, np.full(len(given), floor)])

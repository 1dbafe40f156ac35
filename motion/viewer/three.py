"""three.js, which trimesh carries inside its own viewer: it is taken from there when a page is written.

No copy lies in this package, and nothing is fetched. trimesh's public `scene_to_html` returns a page with the library's
UMD build (revision 140 in trimesh 5.2.0, MIT, its notice kept) in front of controls and a loader, which are left out.
"""

from __future__ import annotations

import re
from functools import cache

from motion.scene.packages import require
from shared.errors import InputError

START = re.compile(r"/\*\*\s*\*\s*@license\s*\*\s*Copyright [\d-]+ Three\.js Authors")
END = 'Object.defineProperty(t,"__esModule",{value:!0})}));'


@cache
def three_js() -> str:
    """Return the library as JavaScript that defines THREE.

    Raises:
        InputError: this trimesh has no three.js where it is looked for.
        MissingExtra: trimesh is absent.
    """
    require("trimesh", "for the three.js in it")
    import trimesh
    from trimesh.viewer.notebook import scene_to_html

    page = scene_to_html(trimesh.Scene(trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])))
    start = START.search(page)
    end = page.find(END, start.end()) if start else -1
    text = page[start.start() : end + len(END)] if start and end >= 0 else ""
    if "WebGLRenderer" not in text or "</script" in text.lower():
        raise InputError(
            f"trimesh {trimesh.__version__}", found="a viewer without the build of three.js that is known",
            expected="that of trimesh 5.2", fix="pip install trimesh==5.2.0",
        )  # fmt: skip
    return text

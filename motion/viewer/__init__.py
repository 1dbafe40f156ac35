"""A motion in its scene as one HTML file: three.js, the numbers and the page in one, nothing loaded from elsewhere.

| module | what |
| --- | --- |
| page | `write_viewer`, `GoalMarker`: the file |
| body, scenery | what the page draws: capsules over time; a scene made small enough to send |
| packing | arrays in JSON: base64 and quantised |
| three | three.js out of the installed trimesh |
"""

from motion.viewer.page import GoalMarker, write_viewer

__all__ = ["GoalMarker", "write_viewer"]

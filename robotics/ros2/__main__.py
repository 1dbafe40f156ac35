"""Run a node: `python -m robotics.ros2 policy_node|pusht_node|stereo_node|recorder --ros-args ...`."""

from __future__ import annotations

import sys
from importlib import import_module

from robotics.ros2 import require_ros
from shared.errors import FewstepError, InputError

NODES = ("policy_node", "pusht_node", "stereo_node", "recorder")


def main(arguments: list[str] | None = None) -> int:
    """Run the node that the first argument names; what a user can mend is told in one line, with exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if not given or given[0] not in NODES:
            raise InputError(
                "node", found=repr(given[0]) if given else "none", expected=f"one of {', '.join(NODES)}",
                fix="python -m robotics.ros2 policy_node --ros-args --params-file policy.yaml",
            )  # fmt: skip
        require_ros()
        import_module(f"robotics.ros2.{given[0]}").main(given)
    except FewstepError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""One function an executable; the nodes are in the Python package fewstep."""

import sys

from robotics.ros2.__main__ import main


def policy_node() -> int:
    """Run the policy node."""
    return main(["policy_node", *sys.argv[1:]])


def pusht_node() -> int:
    """Run the Push-T world."""
    return main(["pusht_node", *sys.argv[1:]])


def stereo_node() -> int:
    """Run the stereo node."""
    return main(["stereo_node", *sys.argv[1:]])


def recorder() -> int:
    """Run the recorder."""
    return main(["recorder", *sys.argv[1:]])

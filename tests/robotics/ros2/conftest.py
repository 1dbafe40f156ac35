"""ROS on the loopback only, in a domain of this process."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="module")
def ros(tmp_path_factory):
    """Return a folder for logs; both processes of a test see these variables."""
    folder = tmp_path_factory.mktemp("ros")
    values = {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "ROS_LOG_DIR": str(folder),
        "OMP_NUM_THREADS": "1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield folder

"""Fixtures of all tests: threads, and real data from the folder that FEWSTEP_TEST_DATA names (see tests/DATA.md)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

# Two workers share two cores: more threads only wait for each other (LAPACK then slows a hundredfold).
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


def data_folder() -> Path:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("FEWSTEP_TEST_DATA", default))


@pytest.fixture
def data_file():
    """Return a function from a relative name to the path of a real file; absent data skip here and fail in CI."""

    def find(name: str) -> Path:
        path = data_folder() / name
        if not path.exists():
            reason = f"{path} is absent; tests/DATA.md says where it comes from (set FEWSTEP_TEST_DATA)"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        return path

    return find

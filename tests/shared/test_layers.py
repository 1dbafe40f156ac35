"""Domains import `shared`, never each other; `shared` imports no domain."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOMAINS = {"medical", "remote_sensing", "robotics", "motion"}


def imported_packages(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ["shared", *sorted(DOMAINS)])
def test_packages_import_only_downwards(package):
    allowed = {package} - {"shared"}
    offenders = {
        str(path.relative_to(ROOT)): sorted(imported_packages(path) & DOMAINS - allowed)
        for path in (ROOT / package).rglob("*.py")
        if imported_packages(path) & DOMAINS - allowed
    }
    assert not offenders

"""The command line answers at once, and tells of bad input in one line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "scipy", "pydantic", "h5py", "nibabel", "matplotlib", "rich.console")


def run(*arguments: str, code: str = "from shared.cli import main; main()") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_help_imports_no_heavy_module_and_no_domain_command():
    code = (
        "import sys, json\nfrom shared.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('MODULES', json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = run("--help", code=code)
    modules = json.loads(done.stderr.split("MODULES ", 1)[1])
    assert "mri" in done.stdout
    assert "Reconstruct" in done.stdout, "a domain's line comes from its docstring"
    assert not [name for name in modules if name.split(".")[0] in HEAVY or name in HEAVY]
    assert not [name for name in modules if name.startswith("medical.reconstruction.")]
    assert len(modules) < 400


def test_an_unknown_command_ends_with_code_2_and_no_traceback():
    done = run("mrj")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_fewstep_error_becomes_one_line_and_code_2():
    done = run("mri", "info", "no/such/file.h5")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("fewstep: no/such/file.h5: found")


def test_version_is_printed():
    from importlib.metadata import version

    assert run("--version").stdout.strip() == version("fewstep")


def test_doctor_lists_every_extra_and_writes_flat_numbers(tmp_path):
    done = run("doctor", "--json", str(tmp_path / "doctor.json"))
    assert done.returncode == 0, done.stderr
    numbers = json.loads((tmp_path / "doctor.json").read_text())
    assert numbers["ready"] == 1.0
    assert numbers["extra_medical"] == 1.0, "the tests run with the medical extra"
    assert "extra_ros" in numbers
    assert all(isinstance(value, int | float) for value in numbers.values())
    assert "shared/digits_denoiser" in done.stdout


@pytest.mark.parametrize("name", ["remote-sensing", "ros"])
def test_doctor_says_how_to_get_an_absent_extra(name):
    from shared.doctor import Extra, examine

    extras = {extra.name: extra for extra in examine().extras}
    assert extras[name].packages
    assert Extra(name, {"absent": None}).complete is False

"""What is installed here, what is absent and how to get it: the facts behind `fewstep doctor`."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import typer

from shared import weights
from shared.numbers import write_numbers


@dataclass(frozen=True)
class Extra:
    """One optional part of the distribution: its packages by installed version, None where absent."""

    name: str
    packages: dict[str, str | None]

    @property
    def complete(self) -> bool:
        """Whether every package is installed."""
        return all(self.packages.values())


@dataclass(frozen=True)
class Examination:
    """Everything that `fewstep doctor` knows."""

    versions: dict[str, str]
    devices: dict[str, str]
    extras: list[Extra]
    weights: dict[str, Path]
    ready: bool


def examine() -> Examination:
    """Look at this installation; imports torch to see the devices, but no domain."""
    import torch

    devices = {"cpu": f"{os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f"cuda:{index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    versions = {
        "fewstep": version("fewstep"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
    }
    core = _packages("")
    extras = [Extra(name, _packages(name)) for name in _extra_names()]
    return Examination(versions, devices, extras, weights.available(), ready=all(core.values()))


def show(found: Examination, json: Path | None = None) -> None:
    """Print an examination; exit with code 1 when a core dependency is absent."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    facts = Table(box=None, show_header=False, pad_edge=False)
    for name, value in {**found.versions, **found.devices}.items():
        facts.add_row(f"[bold]{name}[/bold]", value)
    console.print(facts, "")
    extras = Table("extra", "state", "absent", "how to get it", box=None, pad_edge=False)
    for extra in found.extras:
        absent = [name for name, installed in extra.packages.items() if not installed]
        extras.add_row(
            extra.name,
            "ready" if extra.complete else "incomplete",
            ", ".join(absent) or "-",
            "-" if extra.complete else f"pip install 'fewstep\\[{extra.name}]'",
        )
    console.print(extras, "")
    trained = Table("weights", "size", "file", box=None, pad_edge=False)
    for name, path in found.weights.items():
        trained.add_row(name, f"{path.stat().st_size / 1e6:.1f} MB", str(path))
    console.print(trained if found.weights else f"weights: none (put files under {weights.user_folder()})")
    if json is not None:
        numbers = {f"extra_{extra.name.replace('-', '_')}": float(extra.complete) for extra in found.extras}
        write_numbers(json, {"ready": float(found.ready), "weights": len(found.weights), **numbers})
        console.print(str(json))
    if not found.ready:
        raise typer.Exit(1)


def _requirements(extra: str) -> list[str]:
    """Names of the direct requirements of one extra ("" for the core) that apply to this machine."""
    from packaging.requirements import Requirement

    names = []
    for line in requires("fewstep") or ():
        requirement = Requirement(line)
        here = requirement.marker is None or requirement.marker.evaluate({"extra": extra})
        core = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if here and (core == (extra == "")) and requirement.name != "fewstep":
            names.append(requirement.name)
    return names


def _packages(extra: str) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in _requirements(extra):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _extra_names() -> list[str]:
    from importlib.metadata import metadata

    return [name for name in metadata("fewstep").get_all("Provides-Extra") or () if name not in ("all", "dev")]

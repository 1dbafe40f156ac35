"""The command that draws volumes towards volumes of structures, registered by `medical.brain.cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medical.brain.options import Condition, Guidance, Model, Strategy, loaded_model
from shared.errors import InputError
from shared.options import Device, Overwrite, Quiet, Seed


def steer(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder, a BIDS data set.")],
    target: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=CM3:TOLERANCE", help="Volume of a structure, such as lateral_ventricles=60:5; repeatable."
        ),
    ],
    model: Model = "medical/brain_small",
    count: Annotated[int, typer.Option("-n", min=1, help="Number of volumes.")] = 1,
    method: Annotated[str, typer.Option(help="gradient, particles or twisted.")] = "gradient",
    particles: Annotated[int, typer.Option(min=1, help="Of particles and twisted.")] = 4,
    steps: Annotated[int, typer.Option(min=2, help="Of the sampling.")] = 50,
    segmenter: Annotated[str, typer.Option(help="What measures the volumes.")] = "medical/brain_segmenter",
    strategy: Strategy = None,
    condition: Condition = None,
    guidance: Guidance = 1.0,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Draw synthetic heads whose structures have given volumes, as the segmenter sees them. Not for diagnosis.

    Run again to go on after a stop, or for more. Look at the volumes, and measure them with another segmenter.
    """
    import torch

    from medical.brain.conditions import parsed
    from medical.brain.generate import batch_facts
    from medical.brain.output import done, volume_path, write_description, write_synthetic
    from medical.brain.segmenter import load_segmenter
    from medical.brain.steer import Steering
    from medical.brain.steer import steer as steered
    from shared.files import require_writable

    targets = dict(_target(text) for text in target)
    loaded = loaded_model(model, strategy, device)
    measuring = load_segmenter(segmenter, device=loaded.device)
    spacing, conditions = loaded.config.spacing_mm, parsed(condition or [], loaded.config)
    settings = Steering(method=method, particles=particles, steps=steps)  # type: ignore[arg-type]
    denoiser = loaded.denoiser(conditions=conditions, guidance=guidance) if conditions else None
    require_writable(output / "x")
    how = {
        "method": method, "steps": steps, "particles": 1 if method == "gradient" else particles,
        "segmenter": segmenter, "targets_cm3": {name: list(pair) for name, pair in targets.items()},
    }  # fmt: skip
    facts = [
        batch_facts(loaded, seed, number, loaded.config.size, spacing, conditions, guidance) | {"steering": how}
        for number in range(1, count + 1)
    ]
    there = [done(volume_path(output, fact["number"]), fact, overwrite=overwrite) for fact in facts]
    for fact, found in zip(facts, there, strict=True):
        path = volume_path(output, fact["number"])
        if not found:
            generator = torch.Generator().manual_seed(fact["seed"])
            label = None if quiet else f"volume {fact['number']} of {count},"
            drawn = next(
                steered(
                    loaded, lambda x: measuring.soft_volumes(x[:, 0], spacing), targets, 1, settings, denoiser=denoiser,
                    generator=generator, progress=label,
                )
            )  # fmt: skip
            write_description(output, loaded.name)
            write_synthetic(path, drawn.volume, {**fact, "measured_cm3": drawn.scalars}, [])
            if not quiet:
                told = ", ".join(f"{name} {value:.1f} cm3" for name, value in drawn.scalars.items())
                typer.echo(f"{path.name}: {told}", err=True)
        typer.echo(str(path))


def _target(text: str) -> tuple[str, tuple[float, float]]:
    """Return name, volume and tolerance of "NAME=CM3:TOLERANCE"."""
    name, _, numbers = text.partition("=")
    volume, _, tolerance = numbers.partition(":")
    try:
        pair = float(volume), float(tolerance)
    except ValueError:
        pair = 0.0, 0.0
    if not name or not pair[0] > 0 or not pair[1] > 0:
        raise InputError(
            "--target", found=repr(text), expected="NAME=CM3:TOLERANCE, both above 0",
            fix="Such as lateral_ventricles=60:5.",
        )  # fmt: skip
    return name, pair

"""`fewstep motion synthesize`: a skeleton, a scene and tasks to a motion."""

from __future__ import annotations

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motion.options import clip_of, roles_of
from shared.errors import InputError
from shared.options import Device, Json, Overwrite, Quiet, Seed

if TYPE_CHECKING:
    from motion.policy import Policy
    from motion.skeleton import Skeleton


class PolicyName(StrEnum):
    """Policies of `motion.policy`."""

    FAST = "fast"
    PUBLISHED = "published"


def synthesize(
    scene: Annotated[Path, typer.Option("--scene", metavar="MESH", help="Room: .glb, .gltf, .obj, .ply, .stl, .off.")],
    tasks: Annotated[Path, typer.Option("--tasks", metavar="YAML", help="What to do, such as '- walk_to: sofa'.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to make.")],
    skeleton: Annotated[
        Path | None,
        typer.Option("--skeleton", metavar="CLIP", help="A clip whose skeleton is to move; default: the model's body."),
    ] = None,
    model: Annotated[str, typer.Option(help="Packaged name or .safetensors path.")] = "motion/base_small",
    policy: Annotated[
        PolicyName, typer.Option(help="fast, or published: DIP's 10 900 calls a window, hours.")
    ] = PolicyName.FAST,
    calls: Annotated[int | None, typer.Option(min=1, help="Steps of the sampler a window.")] = None,
    corrections: Annotated[int | None, typer.Option(min=0, help="Of each step through the network.")] = None,
    candidates: Annotated[
        int, typer.Option(min=1, help="Motions drawn of each window, of which the best is taken.")
    ] = 1,
    lock_feet: Annotated[bool, typer.Option("--lock-feet", help="Hold feet still where they touch the floor.")] = False,
    radius: Annotated[float, typer.Option(min=0.05, help="Of the body on its way, m.")] = 0.2,
    voxel: Annotated[float, typer.Option(min=0.01, help="Of the distance to the scene, m.")] = 0.05,
    scene_up: Annotated[str, typer.Option(help="Upward axis of the scene: y, z, -y ..., or auto.")] = "auto",
    scene_units: Annotated[str, typer.Option(help="Of the scene: m, cm, mm, in, ft, or auto.")] = "auto",
    scene_floor: Annotated[float | None, typer.Option(help="Height of the floor, m; default: found.")] = None,
    units: Annotated[str, typer.Option(help="Of --skeleton: m, cm, mm, in, cmu, or auto.")] = "auto",
    up: Annotated[str, typer.Option(help="Upward axis of --skeleton: y, z, or auto.")] = "auto",
    role: Annotated[
        list[str] | None, typer.Option(metavar="ROLE=JOINT", help="What a joint of --skeleton is for; may be repeated.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the windows that are done in this file, and go on from it."),
    ] = None,
    seed: Seed = 0,
    device: Device = "cpu",
    json: Json = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Make a motion that does tasks in a scene: walk, sit down, stand up, lie down, wait.

    Writes motion.bvh, motion.glb, viewer.html and result.json into DIR. A goal that is not met is told, never hidden.
    """
    from motion.files import read_model
    from motion.scene.loading import read_scene
    from motion.synthesize import synthesize, write_synthesis
    from motion.tasks import read_tasks
    from shared.devices import resolve_device
    from shared.files import refuse_existing, require_writable
    from shared.numbers import flat_numbers, write_numbers

    refuse_existing(output, overwrite=overwrite)
    require_writable(output)
    if work is not None:
        require_writable(work)
    chosen = _policy(policy, calls, corrections, candidates)
    todo = read_tasks(tasks)
    target = None if skeleton is None else _skeleton(skeleton, units, up, role)
    file = read_model(model)
    room = read_scene(
        scene, up=None if scene_up == "auto" else scene_up, unit=None if scene_units == "auto" else scene_units,
        floor=scene_floor,
    )  # fmt: skip
    for note in room.report:
        typer.echo(f"note: {scene}: {note}", err=True)
    begin = time.monotonic()
    made = synthesize(
        file.model(resolve_device(device)), room, todo, skeleton=target, policy=chosen, seed=seed, voxel=voxel,
        radius=radius, lock_feet=lock_feet, work=work, progress=None if quiet else "windows",
    )  # fmt: skip
    for note in made.schedule.notes:
        typer.echo(f"note: {tasks}: {note}", err=True)
    facts = {
        "model": {"name": model, "sha256": file.sha256},
        "policy": repr(chosen),
        "seed": seed,
        "computed_s": round(time.monotonic() - begin, 2),
    }
    write_synthesis(output, made, facts, overwrite=overwrite)
    for row in made.result["goals"]:
        typer.echo(f"{'met' if row['met'] else 'NOT MET':8} {row['name']}{': ' * (not row['met'])}{row['why']}")
    numbers = {name: value for name, value in made.result.items() if name != "goals"}
    for name, value in numbers.items():
        typer.echo(f"{name:20}" + ("unknown" if value is None else f"{value:.4g}"))
    typer.echo(str(output))
    if json is not None:
        write_numbers(json, flat_numbers(numbers | {"computed_s": facts["computed_s"]}))


def _policy(name: PolicyName, calls: int | None, corrections: int | None, candidates: int) -> Policy:
    from dataclasses import replace

    from motion.policy import FAST, PUBLISHED

    chosen = PUBLISHED if name is PolicyName.PUBLISHED else FAST
    given: dict[str, Any] = {"calls": calls, "corrections": corrections, "candidates": candidates}
    return replace(chosen, **{key: value for key, value in given.items() if value is not None})


def _skeleton(path: Path, units: str, up: str, role: list[str] | None) -> Skeleton:
    """Return the skeleton of a clip that can stand and walk."""
    skeleton = clip_of(path, units=units, up=up, roles=roles_of(role)).skeleton
    legs = [f"{side}_{joint}" for side in ("left", "right") for joint in ("hip", "knee", "ankle")]
    missing = [name for name in legs if name not in skeleton.roles]
    if missing or skeleton.rest is None:
        raise InputError(
            path, found=f"no {', '.join(missing)}" if missing else "a body that never stands",
            expected="a skeleton with two legs and feet, known to stand",
            fix="Say which joints they are, such as --role left_ankle=Foot_L, or give a clip in which it stands.",
        )  # fmt: skip
    return skeleton

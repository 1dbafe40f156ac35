"""Motion: look at clips, convert, retarget and measure them; train models and draw from them: `fewstep motion`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from motion.cli_distribution import (
    ENCODER,
    Encoder,
    HeldOut,
    ReferenceClips,
    clip_paths,
    compared,
    measured,
    show_numbers,
    train_encoder,
)
from motion.cli_models import collect, distil, draw, stream, train
from motion.cli_synthesize import synthesize
from motion.options import clip_of, roles_of
from shared.options import Json, Overwrite, Quiet, Seed

if TYPE_CHECKING:
    from motion.clips import Motion

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
for command in (collect, train, train_encoder, distil, draw, stream, synthesize):
    app.command()(command)

Clip = Annotated[Path, typer.Argument(metavar="CLIP", help=".bvh, .amc or DeepMimic's .json, with or without .gz.")]
Units = Annotated[str, typer.Option(help="Of CLIP: m, cm, mm, in, cmu (inches / 0.45), or auto: by the legs.")]
Up = Annotated[str, typer.Option(help="Upward axis of CLIP: y, z, or auto: from ankles to head.")]
SourceFps = Annotated[float | None, typer.Option(min=0.1, help="Frames a second of CLIP, whatever it says.")]
Asf = Annotated[Path | None, typer.Option(metavar="FILE", help="Skeleton of an .amc CLIP; default: the one beside it.")]
Role = Annotated[
    list[str] | None,
    typer.Option(metavar="ROLE=JOINT", help="What a joint is for, such as left_toe=Ball_L; may be repeated."),
]
RestFrame = Annotated[
    bool | None, typer.Option("--rest-frame/--no-rest-frame", help="Whether frame 0 is a rest pose; default: look.")
]


@app.command()
def info(
    clip: Clip, units: Units = "auto", up: Up = "auto", source_fps: SourceFps = None, asf: Asf = None,
    role: Role = None, rest_frame: RestFrame = None, json: Json = None,
) -> None:  # fmt: skip
    """Say what a clip holds: frames, joints, units, axes, what each joint is for, how high and fast the body goes."""
    from shared.numbers import flat_numbers, write_numbers

    motion = clip_of(clip, units=units, up=up, fps=source_fps, asf=asf, roles=roles_of(role), rest_frame=rest_frame)
    facts = _facts(motion)
    for name, value in facts.items():
        typer.echo(f"{name:16}{value:.4g}" if isinstance(value, float) else f"{name:16}{value}")
    if json is not None:
        write_numbers(json, flat_numbers(facts))


@app.command()
def convert(
    clip: Clip,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help=".bvh, or .glb with its animation.")],
    fps: Annotated[
        float | None, typer.Option(min=0.1, help="Frames a second of the output; default: those of CLIP.")
    ] = None,
    mirror: Annotated[bool, typer.Option("--mirror", help="Exchange left and right.")] = False,
    skeleton: Annotated[
        Path | None, typer.Option(metavar="TARGET", help="A clip whose skeleton is to do the motion.")
    ] = None,
    stand: Annotated[
        bool, typer.Option("--stand", help="Make the zero pose a standing one, for programs that show or bind it.")
    ] = False,
    units: Units = "auto", up: Up = "auto", source_fps: SourceFps = None, asf: Asf = None, role: Role = None,
    rest_frame: RestFrame = None, overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Write a clip in another format, at another rate, on another skeleton, or seen in a mirror."""
    from motion.formats import require_writer, write_clip
    from motion.mirror import mirrored
    from motion.retarget import retargeted
    from motion.stance import standing
    from shared.files import refuse_existing

    require_writer(output)
    refuse_existing(output, overwrite=overwrite)
    motion = clip_of(clip, units=units, up=up, fps=source_fps, asf=asf, roles=roles_of(role), rest_frame=rest_frame)
    if fps is not None:
        motion = motion.resampled(fps)
    if mirror:
        motion = mirrored(motion)
    if skeleton is not None:
        motion = retargeted(motion, clip_of(skeleton).skeleton)
    if stand:
        motion = standing(motion)
    write_clip(output, motion, overwrite=overwrite)
    typer.echo(str(output))


@app.command()
def evaluate(
    clips: Annotated[
        list[Path], typer.Argument(metavar="CLIP...", help="Clips as of `info`, and folders of them; means over clips.")
    ],
    floor: Annotated[
        float | None, typer.Option(help="Height of the floor, m; default: what toes reach down to in 2 % of frames.")
    ] = None,
    reference: ReferenceClips = None, encoder: Encoder = ENCODER, held_out: HeldOut = None, seed: Seed = 0,
    units: Units = "auto", up: Up = "auto", source_fps: SourceFps = None, asf: Asf = None, role: Role = None,
    rest_frame: RestFrame = None, json: Json = None, quiet: Quiet = False,
) -> None:  # fmt: skip
    """Measure clips: skating after GMD and Kimodo, contact after DIMOS, jerk. Compare with real clips, not with 0.

    With --reference the set of clips is also compared with real ones: Frechet distance beside that of real motion,
    diversity, distance to the nearest window of the training. Dozens of clips of 2 s or more are wanted for that.
    """
    from shared.numbers import write_numbers

    paths = clip_paths(clips)
    options: dict[str, Any] = {"units": units, "up": up, "fps": source_fps, "asf": asf, "rest_frame": rest_frame}
    motions = [clip_of(path, **options, roles=roles_of(role)) for path in paths]
    names = [path.name for path in paths]
    numbers = measured(motions, names, floor)
    if reference is not None:
        numbers |= compared(motions, names, reference, encoder, held_out, seed=seed, quiet=quiet)
    show_numbers(numbers)
    if json is not None:
        write_numbers(json, numbers)


@app.command()
def view(
    clip: Clip,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help=".html, one file, for any browser.")],
    scene: Annotated[
        Path | None, typer.Option("--scene", metavar="MESH", help="In which it moves: .glb, .gltf, .obj, .ply ...")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page; default: the name of CLIP.")] = None,
    units: Units = "auto", up: Up = "auto", source_fps: SourceFps = None, asf: Asf = None, role: Role = None,
    rest_frame: RestFrame = None, overwrite: Overwrite = False,
) -> None:  # fmt: skip
    """Write a page that plays a clip in 3-D, with its scene; it opens from disk and loads nothing."""
    from motion.scene.loading import read_scene
    from motion.viewer.page import require_page, write_viewer
    from shared.files import refuse_existing

    require_page(output)
    refuse_existing(output, overwrite=overwrite)
    motion = clip_of(clip, units=units, up=up, fps=source_fps, asf=asf, roles=roles_of(role), rest_frame=rest_frame)
    surroundings = None if scene is None else read_scene(scene)
    for note in () if surroundings is None else surroundings.report:
        typer.echo(f"note: {scene}: {note}", err=True)
    write_viewer(output, motion, surroundings, title=title or clip.name, overwrite=overwrite)
    typer.echo(str(output))


def _facts(motion: Motion) -> dict[str, Any]:
    skeleton = motion.skeleton
    conventions = skeleton.conventions
    facts: dict[str, Any] = {
        "frames": motion.frames,
        "fps": motion.fps,
        "seconds": motion.seconds,
        "joints": len(skeleton),
        "end sites": len(skeleton.end_joints),
        "metres per unit": conventions.metres_per_unit,
        "up": conventions.up,
        "moving offsets": motion.offsets is not None,
        "rest pose": "unknown" if skeleton.rest is None else "known",
    }
    if "hips" in skeleton.roles:
        hips = motion.positions()[:, skeleton.roles["hips"]]
        facts["hips height"] = float(hips[:, 2].mean())
        if motion.frames > 1:
            facts["hips speed"] = float(hips[:, :2].diff(dim=0).norm(dim=-1).mean() * motion.fps)
    for role, joint in sorted(skeleton.roles.items()):
        facts[role] = skeleton.names[joint]
    return facts

"""Options that several commands of `fewstep stereo` share."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from shared.errors import InputError

if TYPE_CHECKING:
    from robotics.stereo.guidance import GuidanceWeights

LeftImage = Annotated[Path, typer.Argument(metavar="LEFT", help="Left image.")]
RightImage = Annotated[Path, typer.Argument(metavar="RIGHT", help="Right image.")]
Calib = Annotated[
    Path | None, typer.Option(help="Calibration: Middlebury or KITTI .txt, ROS .yaml (left), RealSense .json.")
]
CalibRight = Annotated[
    Path | None, typer.Option(help="ROS .yaml of the right camera; default: 'left' becomes 'right' in --calib.")
]
Baseline = Annotated[float | None, typer.Option(help="m; instead of the calibration's.")]
MaxDisparity = Annotated[float | None, typer.Option(min=1, help="px; default: 30 % of the width.")]
ModelName = Annotated[str, typer.Option("--model", help="A .safetensors file, or a packaged name.")]
ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="A .safetensors file, or a packaged name such as robotics/stereo_small.")
]
Scenes = Annotated[
    list[Path], typer.Option("--data", metavar="SCENES", help="Folder of `fewstep stereo generate`; may be repeated.")
]
Calls = Annotated[int, typer.Option(min=1, help="Network calls of a sampling.")]
Samples = Annotated[int, typer.Option(min=1, help="Drawn of each pair; their median is the map.")]
First = Annotated[
    Literal["sgbm", "raw", "none"], typer.Option(help="Map to begin from: sgbm, raw (a sensor's), or none.")
]
Enlarge = Annotated[
    float,
    typer.Option(min=1, max=4, help="The network sees the images so many times larger; results keep their size."),
]
Glass = Annotated[
    float,
    typer.Option(min=0, max=0.99, help="Share of the picture that may be glass or mirrors; 0 does not look for them."),
]
GuidanceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--guidance",
        metavar="NAME=VALUE",
        help="Weight of photometric, left_right, smooth or raw, or cap_px, rounds; may be repeated. Default: none.",
    ),
]


def size_of(text: str, source: str = "--size") -> tuple[int, int]:
    """Return (width, height) of "WxH", px.

    Raises:
        InputError: it is no size, or below 32 pixels.
    """
    width, _, height = text.partition("x")
    if width.isdecimal() and height.isdecimal() and int(width) >= 32 and int(height) >= 32:
        return int(width), int(height)
    raise InputError(source, found=repr(text), expected="WxH of at least 32 pixels each", fix="Such as 320x240.")


def guidance_of(words: list[str] | None) -> GuidanceWeights:
    """Return the weights of "name=value" words; without any, guidance is off.

    Raises:
        InputError: an unknown name, or a value that does not fit.
    """
    from pydantic import ValidationError

    from robotics.stereo.guidance import GuidanceWeights

    try:
        return GuidanceWeights.model_validate(dict(word.partition("=")[::2] for word in words or []))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            "--guidance", found=f"{'.'.join(map(str, first['loc']))}={first.get('input')}", expected=first["msg"],
            fix=f"Names are {', '.join(GuidanceWeights.model_fields)}.",
        ) from error  # fmt: skip


def command_line(context: typer.Context) -> str:
    """Return the command of a context as one types it, defaults left out."""
    words = ["fewstep", "stereo", str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        if parameter.param_type_name == "argument":
            words.append(str(value))
        elif isinstance(value, list | tuple):
            words += [word for item in value for word in (parameter.opts[0], str(item))]
        elif value is not None and value is not False and value != parameter.default:
            words += [parameter.opts[0]] if value is True else [parameter.opts[0], str(value)]
    return shlex.join(words)

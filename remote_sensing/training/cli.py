"""`fewstep change pretrain` and `fewstep change train`: a change detector of one's own, from rasters."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from remote_sensing.packages import require_packages
from shared.errors import InputError
from shared.options import Device, Overwrite, Quiet, number_or_word

if TYPE_CHECKING:
    from remote_sensing.ddpm_cd.loop import Trainer
    from remote_sensing.training.config import About, PretrainConfig, TrainConfig

Config = Annotated[str, typer.Argument(metavar="CONFIG", help="YAML file, or a packaged name: remote_sensing/light.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Weights to write: a .safetensors path.")]
Work = Annotated[
    Path | None, typer.Option(help="Folder of checkpoint, log and data as arrays; default: OUTPUT without its suffix.")
]
Bands = Annotated[str | None, typer.Option(help="Bands of all rasters: 4,3,2, or names. Default: all but alpha.")]
NoData = Annotated[str, typer.Option(help="A value, none, or auto: the file's own, else zeros that fill the border.")]
AboutOption = Annotated[
    str | None,
    typer.Option("--about", help="YAML with data, licence, warning and pixel_m for the card; or a packaged name."),
]


def pretrain(
    config: Config,
    data: Annotated[Path, typer.Option(help="Folder of rasters without labels, searched with its folders.")],
    output: Output,
    held_out: Annotated[
        Path | None, typer.Option(help="Folder of rasters whose error is logged with each checkpoint.")
    ] = None,
    about: AboutOption = None,
    bands: Bands = None,
    nodata: NoData = "auto",
    work: Work = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Pretrain the diffusion network of ddpm-cd on rasters without labels; run again to go on after a stop."""
    require_packages()
    from remote_sensing.ddpm_cd.pretraining import PretrainingTrainer
    from remote_sensing.training.config import PretrainConfig
    from remote_sensing.training.data import rasters_in, read_scene, require_fit
    from shared.config import load_config
    from shared.devices import resolve_device
    from shared.files import require_new_weights

    require_new_weights(output, overwrite=overwrite)
    described, told = load_config(config, PretrainConfig), _about(about)
    settings, folder = described.settings(), work or output.with_suffix("")
    place = resolve_device(device)
    groups = [rasters_in(data), rasters_in(held_out) if held_out is not None else []]
    scenes: list[list[Any]] = []
    for files in groups:
        scenes.append([read_scene(path, folder / "data", bands=bands, nodata=_nodata(nodata)) for path in files])
        for path, scene in zip(files, scenes[-1], strict=True):
            require_fit(
                path,
                scene,
                bands=settings.diffusion.unet.bands,
                crop=settings.crop,
                limits=settings.diffusion.limits,
            )
    trainer = PretrainingTrainer(settings, scenes[0], folder, device=place, held_out=scenes[1])
    words = [
        "pretrain",
        config,
        "--data",
        data.name,
        *_option("--held-out", held_out and held_out.name),
        *_option("--bands", bands),
    ]
    words += _option("--about", about)
    names = {"trained on": [_name(path, data) for path in groups[0]]}
    if held_out is not None:
        names["held out"] = [_name(path, held_out) for path in groups[1]]
    _finish(trainer, described, told, output, words, names, quiet=quiet, overwrite=overwrite)


def train(
    config: Config,
    pairs: Annotated[
        Path,
        typer.Option(help="Folder with A/, B/ and label/, or a CSV file with the columns before, after and label."),
    ],
    output: Output,
    leave_out: Annotated[list[str] | None, typer.Option(help="Names of pairs that are not used: test_2*.")] = None,
    validate: Annotated[
        list[str] | None, typer.Option(help="Names of pairs that are left out and scored with each checkpoint.")
    ] = None,
    start: Annotated[
        str | None, typer.Option(help="Pretrained network, by name or path; none starts at random. Default: CONFIG's.")
    ] = None,
    unet_share: Annotated[
        float | None, typer.Option(min=0, help="Rate of the UNet in units of the head's; 0 freezes it.")
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Detector whose probabilities are learned instead of labels: distillation.")
    ] = None,
    about: AboutOption = None,
    bands: Bands = None,
    nodata: NoData = "auto",
    pixel_grid: Annotated[
        bool, typer.Option("--pixel-grid", help="Images without georeference, compared pixel by pixel.")
    ] = False,
    work: Work = None,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Train the change detector ddpm-cd on labelled pairs; run again to go on after a stop."""
    require_packages()
    from remote_sensing.ddpm_cd.change_training import ChangeTrainer
    from remote_sensing.ddpm_cd.files import load_detector, load_diffusion
    from remote_sensing.training.config import TrainConfig
    from remote_sensing.training.data import chosen, pairs_in, read_pair, require_fit
    from shared.config import load_config
    from shared.devices import resolve_device
    from shared.files import require_new_weights

    require_new_weights(output, overwrite=overwrite)
    described, told = load_config(config, TrainConfig), _about(about)
    changes: dict[str, Any] = {"start": None if start == "none" else start} if start is not None else {}
    if unet_share is not None:
        changes["unet_share"] = unet_share
    described = described.model_copy(update=changes)
    unet, diffusion, known = (None, None, None) if described.start is None else load_diffusion(described.start)
    settings, folder = described.settings(diffusion), work or output.with_suffix("")
    place = resolve_device(device)
    taught, facts = (None, None) if teacher is None else load_detector(teacher)
    told = told.inheriting(known, facts)
    found = pairs_in(pairs, labelled=taught is None)
    validated = chosen(found, validate or (), "--validate")
    away = chosen(found, leave_out or (), "--leave-out") | validated
    limits = settings.detector.diffusion.limits
    scenes = {}
    for files in found:
        if files.name in away - validated:
            continue
        scene = read_pair(files, folder / "data", bands=bands, nodata=_nodata(nodata), pixel_grid=pixel_grid)
        for path, date in ((files.before, scene.before), (files.after, scene.after)):
            crop = 1 if files.name in validated else settings.crop
            require_fit(path, date, bands=len(limits), crop=crop, limits=limits)
        scenes[files.name] = scene
    trainer = ChangeTrainer(
        settings,
        [scene for name, scene in scenes.items() if name not in validated],
        folder,
        unet=unet,
        teacher=taught,
        held_out=[scene for name, scene in scenes.items() if name in validated],
        device=place,
    )
    words = ["train", config, "--pairs", pairs.name]
    for option, values in (("--leave-out", leave_out), ("--validate", validate)):
        for value in values or ():
            words += [option, value]
    words += [*_option("--start", start), *_option("--unet-share", unet_share), *_option("--teacher", teacher)]
    words += [*_option("--about", about), *_option("--bands", bands), *(["--pixel-grid"] if pixel_grid else [])]
    names = {"trained on": [name for name in scenes if name not in validated], "held out": sorted(validated)}
    _finish(trainer, described, told, output, words, names, quiet=quiet, overwrite=overwrite)


def _finish(
    trainer: Trainer,
    described: PretrainConfig | TrainConfig,
    about: About,
    output: Path,
    words: list[str],
    names: dict[str, list[str]],
    *,
    quiet: bool,
    overwrite: bool,
) -> None:
    """Train to the end and write weights and card."""
    from remote_sensing.training.card import write_weights

    def tell(line: dict[str, Any]) -> None:
        typer.echo(", ".join(f"{name} {value:.6g}" for name, value in line.items()), err=True)

    if trainer.step and not quiet:
        typer.echo(f"goes on from step {trainer.step} of {trainer.settings.steps} in {trainer.folder}", err=True)
    trainer.run(None if quiet else tell, None if quiet else described.name)
    command = shlex.join(["fewstep", "change", *words, "-o", output.name])
    scores = trainer.validate()
    for path in write_weights(
        output, trainer, described, about, command=command, files=names, scores=scores, overwrite=overwrite
    ):
        typer.echo(str(path))


def _about(name: str | None) -> About:
    from remote_sensing.training.config import About
    from shared.config import load_config

    return About() if name is None else load_config(name, About)


def _option(name: str, value: object) -> list[str]:
    return [] if value is None else [name, str(value)]


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _nodata(text: str) -> Any:
    value = number_or_word(text)
    if isinstance(value, str) and value not in {"auto", "none"}:
        raise InputError("--nodata", found=repr(text), expected="a number, auto or none", fix="Correct it.")
    return value

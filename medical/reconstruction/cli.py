"""Reconstruct MR images from raw k-space, evaluate and compare them, train networks: `fewstep mri`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medical.reconstruction.posterior.cli import train_prior
from medical.training.cli import train
from shared.errors import InputError
from shared.options import Device, Json, Overwrite, Quiet, Seed

if TYPE_CHECKING:
    from medical.reconstruction.formats import ReadOptions
    from medical.reconstruction.raw import RawScan
    from medical.reconstruction.settings import Settings

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

ScanFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="ISMRMRD or fastMRI .h5, Siemens .dat, BART .cfl, NumPy .npy or .npz.")
]
Contrast = Annotated[int | None, typer.Option(help="Which echo or contrast, when the file has several.")]
Repetition = Annotated[int | None, typer.Option(help="Which repetition, when the file has several.")]
Key = Annotated[str | None, typer.Option(help="Name inside an .npz or ISMRMRD file.")]
Axes = Annotated[str | None, typer.Option(help="Axes of an array file, for example coil,ky,kx.")]
Fov = Annotated[str | None, typer.Option("--fov-mm", help="READ,PHASE,SLICE extent in mm, for files without geometry.")]
Mask = Annotated[Path | None, typer.Option(help=".npy sampling mask, for array files.")]


@app.command()
def info(
    file: ScanFile,
    contrast: Contrast = None,
    repetition: Repetition = None,
    key: Key = None,
    axes: Axes = None,
    fov: Fov = None,
    mask: Mask = None,
    json: Json = None,
) -> None:
    """Say what a raw-data file holds: matrix, field of view, coils, acceleration, lines of each kind, protocol."""
    from rich.console import Console
    from rich.table import Table

    from medical.reconstruction.formats import describe
    from shared.jsontext import jsonable
    from shared.numbers import flat_numbers, write_numbers

    facts = jsonable(describe(file, _read_options(contrast, repetition, key, axes, fov, mask)))
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in facts.items():
        for line, (shown_name, shown) in enumerate(_lines(name, value)):
            table.add_row(f"[bold]{name if line == 0 else ''}[/bold]", shown_name, shown)
    console = Console(highlight=False)
    console.print(table)
    if json is not None:
        write_numbers(json, flat_numbers(facts))
        typer.echo(str(json))  # rich would wrap a long path


@app.command()
def reconstruct(
    file: ScanFile,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Image: .nii, .nii.gz, .dcm, .h5, .png, or a folder name for a DICOM series."
        ),
    ],
    method: Annotated[
        str | None,
        typer.Option(
            help="rss, sense, wavelet, tv; trained: no-varnet, varnet, modl, dds (diffusion posterior). "
            "Default: that of the configuration, wavelet."
        ),
    ] = None,
    coils: Annotated[int | None, typer.Option(help="Compress to this many virtual coils.")] = None,
    maps: Annotated[int | None, typer.Option(help="Sets of ESPIRiT maps: 2 if the object exceeds the FOV.")] = None,
    body_coil: Annotated[
        Path | None, typer.Option(help="Body-coil scan of the same slices, as the reference of the coil maps.")
    ] = None,
    lamda: Annotated[float | None, typer.Option("--lamda", help="Regularisation weight.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Iterations of the method.")] = None,
    partial_fourier: Annotated[str | None, typer.Option(help="zero, homodyne or pocs.")] = None,
    samples: Annotated[int | None, typer.Option(help="Posterior samples a slice, of dds.")] = None,
    calls: Annotated[int | None, typer.Option(help="Network calls a sample, of dds.")] = None,
    weights: Annotated[
        str | None, typer.Option(help="Weights of the trained model, by name or path; a model card lies beside them.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run a trained model on a scan far outside its model card.")
    ] = False,
    consistency: Annotated[
        str | None, typer.Option(help="How a trained network ends: soft (default), hard or none, towards the data.")
    ] = None,
    classical: Annotated[
        str | None, typer.Option(help="Method shown beside a trained one: wavelet (default), sense or tv.")
    ] = None,
    trust_maps: Annotated[
        bool, typer.Option("--trust-maps", help="Also write the maps of trust of a trained method, beside the image.")
    ] = False,
    config: Annotated[
        str, typer.Option(help="YAML file, or a packaged name, with the settings; options override it.")
    ] = "medical/reconstruction",
    report: Annotated[Path | None, typer.Option(help="Also write an HTML report with pictures and facts.")] = None,
    complex_output: Annotated[bool, typer.Option("--complex", help="Write complex voxels (NIfTI).")] = False,
    work: Annotated[
        Path | None, typer.Option(help="Keep finished slices in this folder, so that an interrupted run resumes.")
    ] = None,
    contrast: Contrast = None,
    repetition: Repetition = None,
    key: Key = None,
    axes: Axes = None,
    fov: Fov = None,
    mask: Mask = None,
    seed: Seed = 0,
    device: Device = "cpu",
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Turn a scanner's raw k-space into an image volume with its place in the patient. Not for diagnosis.

    A JSON file beside the image says how it was made. A trained method also writes the classical image.
    """
    from medical.images import check_output, write_image
    from medical.reconstruction import pipeline
    from medical.reconstruction.formats import read_scan
    from shared.devices import resolve_device

    check_output(output, overwrite=overwrite, complex_output=complex_output)
    if report is not None:
        from medical.reconstruction.page import check_page

        check_page(report, overwrite=overwrite)
    where = resolve_device(device)
    chosen = {
        "method": method,
        "virtual_coils": coils,
        "map_sets": maps,
        "lamda": lamda,
        "iterations": iterations,
        "partial_fourier": partial_fourier,
        "samples": samples,
        "calls": calls,
        "weights": weights,
        "force": force or None,
        "consistency": consistency,
        "classical": classical,
    }
    settings = _settings(config, {name: value for name, value in chosen.items() if value is not None})
    beside = _companion_paths(output, settings.method, trust_maps)
    for path in beside.values():
        check_output(path, overwrite=overwrite, complex_output=complex_output)
    options = _read_options(contrast, repetition, key, axes, fov, mask)
    scan = pipeline.prepare(read_scan(file, options), settings)
    reference = None if body_coil is None else _read_reference(body_coil, options, settings)
    label = None if quiet else f"{settings.method}: {file.name}"
    found = pipeline.reconstruct_all(
        scan, settings, reference=reference, seed=seed, device=where, work=work, progress=label
    )
    image = found.image
    written = write_image(image, output, overwrite=overwrite, complex_output=complex_output)
    for name, path in beside.items():
        if name in found.companions:
            written += write_image(found.companions[name], path, overwrite=overwrite)
    if report is not None:
        from medical.reconstruction.page import write_page

        shown = scan if found.scan is None else found.scan
        written += write_page(report, shown, image, companions=found.companions, overwrite=overwrite)
    if not quiet:
        for warning in image.provenance["warnings"]:
            typer.echo(f"warning: {warning}", err=True)
    for path in written:
        typer.echo(str(path))


@app.command()
def compare(
    image: Annotated[Path, typer.Argument(help="Volume to judge: NIfTI, HDF5 or .npy.")],
    reference: Annotated[Path, typer.Argument(help="Volume of the same matrix that counts as the truth.")],
    json: Json = None,
) -> None:
    """Measure how far one magnitude image is from another: NRMSE after the best scalar, NMSE, PSNR, SSIM, HFEN."""
    from medical.comparison import compare_files

    _tell_numbers(compare_files(image, reference), json)


@app.command()
def evaluate(
    reconstruction: Annotated[
        Path, typer.Argument(help="Volume to judge, or a folder of them: NIfTI, HDF5 (ours or fastMRI's) or .npy.")
    ],
    reference: Annotated[Path, typer.Argument(help="Volume, or folder of volumes, that counts as the truth.")],
    crop: Annotated[str, typer.Option(help="square (the central W x W pixels, as fastMRI) or none.")] = "square",
    key: Annotated[str | None, typer.Option(help="Data set of an HDF5 reference, when it is another.")] = None,
    json: Json = None,
) -> None:
    """Measure PSNR, SSIM, NMSE, NRMSE and HFEN as fastMRI's evaluation does: per volume, no rescaling, square crop."""
    from medical.comparison import evaluate_files

    if crop not in ("square", "none"):
        raise InputError("--crop", found=crop, expected="square or none", fix="See fewstep mri evaluate --help.")
    _tell_numbers(evaluate_files(reconstruction, reference, square=crop == "square", key=key), json)


app.command()(train)
app.command("train-prior")(train_prior)


def _tell_numbers(numbers: dict[str, float], json: Path | None) -> None:
    from shared.numbers import write_numbers

    for name, value in numbers.items():
        typer.echo(f"{name:20s} {value:.6g}")
    if json is not None:
        write_numbers(json, numbers)
        typer.echo(str(json))


def _companion_paths(output: Path, method: str, maps: bool) -> dict[str, Path]:
    """Return where the companions of a trained image are written: `brain_classical.nii.gz` beside `brain.nii.gz`."""
    from medical.reconstruction.settings import TRAINED
    from medical.reconstruction.trusted import MAPS

    if method not in TRAINED:
        return {}
    suffix = ".nii.gz" if output.name.lower().endswith(".nii.gz") else output.suffix
    stem = output.name[: len(output.name) - len(suffix)]
    names = ("classical", *(MAPS if maps else ()))
    return {name: output.with_name(f"{stem}_{name}{suffix}") for name in names}


def _settings(config: str, chosen: dict[str, object]) -> Settings:
    from pydantic import ValidationError

    from medical.reconstruction.settings import Settings
    from shared.config import load_config

    settings = load_config(config, Settings)
    try:
        return Settings.model_validate({**settings.model_dump(), **chosen})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise InputError(
            f"--{OPTION_OF.get(name, name).replace('_', '-')}",
            found=str(first.get("input")),
            expected=first["msg"].removeprefix("Input should be "),
            fix="See fewstep mri reconstruct --help.",
        ) from error


OPTION_OF = {"virtual_coils": "coils", "map_sets": "maps"}


def _read_options(
    contrast: int | None, repetition: int | None, key: str | None, axes: str | None, fov: str | None, mask: Path | None
) -> ReadOptions:
    from medical.reconstruction.formats import ReadOptions

    extent = None
    if fov is not None:
        try:
            read, phase, slice_ = (float(part) for part in fov.split(","))
        except ValueError as error:
            raise InputError(
                "--fov-mm", found=fov, expected="three numbers such as 256,256,3", fix="Give READ,PHASE,SLICE in mm."
            ) from error
        extent = (read, phase, slice_)
    return ReadOptions(contrast=contrast, repetition=repetition, key=key, axes=axes, fov_mm=extent, mask=mask)


def _read_reference(path: Path, options: ReadOptions, settings: Settings) -> RawScan:
    from dataclasses import replace

    from medical.reconstruction import pipeline
    from medical.reconstruction.formats import read_scan

    scan = read_scan(path, replace(options, mask=None))
    return pipeline.prepare(scan, settings.model_copy(update={"virtual_coils": None}))


def _lines(name: str, value: object) -> list[tuple[str, str]]:
    if isinstance(value, dict):
        return [(str(key), str(item)) for key, item in value.items()] or [("", "-")]
    if isinstance(value, list) and len(value) > 6:
        return [("", f"{', '.join(str(item) for item in value[:3])}, ... ({len(value)} in all)")]
    return [("", ", ".join(str(item) for item in value) if isinstance(value, list) else str(value))]

"""Find what changed between two satellite rasters, score it, and train detectors of change: `fewstep change`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from remote_sensing.packages import require_packages
from remote_sensing.training.cli import pretrain, train
from shared.errors import InputError
from shared.options import Device, Json, Overwrite, Quiet, number_or_word

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command()
def detect(
    before: Annotated[Path, typer.Argument(help="Raster of the first date: GeoTIFF, COG, VRT, JP2, ENVI, ...")],
    after: Annotated[Path, typer.Argument(help="Raster of the second date; CRS, resolution and extent may differ.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    method: Annotated[str, typer.Option(help="ir-mad, cva (change vectors), pca-kmeans; trained: ddpm-cd.")] = "ir-mad",
    weights: Annotated[
        str | None, typer.Option(help="Weights of ddpm-cd, by name or path; a model card lies beside them.")
    ] = None,
    normalise: Annotated[
        str, typer.Option(help="Radiometry of cva and pca-kmeans: invariant (pixels without change), zscore, none.")
    ] = "invariant",
    threshold: Annotated[
        str | None,
        typer.Option(
            help="otsu, chi2 (ir-mad), calibrated (needs --labels), or a number on the score of the method. Default: "
            "calibrated with --labels, else otsu."
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Raster of known changes of this pair: calibrates threshold and probability.")
    ] = None,
    unchanged: Annotated[
        Path | None, typer.Option(help="Raster of known unchanged pixels, when --labels are sparse.")
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Bands of both dates, numbers from 1 or names: 4,3,2. Default: all but alpha.")
    ] = None,
    bands_before: Annotated[str | None, typer.Option(help="Bands of the first date, when they differ.")] = None,
    bands_after: Annotated[str | None, typer.Option(help="Bands of the second date.")] = None,
    nodata: Annotated[
        str, typer.Option(help="A value, none, or auto: the file's own, else zeros that fill the border.")
    ] = "auto",
    exclude: Annotated[
        Path | None, typer.Option(help="Raster that is not 0 where pixels are left out, such as a cloud mask.")
    ] = None,
    grid: Annotated[Path | None, typer.Option(help="Raster whose grid is used instead of the first date's.")] = None,
    resampling: Annotated[str, typer.Option(help="nearest, bilinear or cubic, off the grid.")] = "bilinear",
    pixel_grid: Annotated[
        bool, typer.Option("--pixel-grid", help="Images without georeference, compared pixel by pixel.")
    ] = False,
    min_overlap: Annotated[float, typer.Option(help="Part of the smaller extent that must overlap.")] = 0.1,
    coregister: Annotated[
        bool, typer.Option("--coregister", help="Move the second date by the estimated sub-pixel shift.")
    ] = False,
    min_area: Annotated[float, typer.Option(help="Drop changed areas below so many m2.")] = 0.0,
    vectors: Annotated[str, typer.Option(help="Polygon formats: gpkg,fgb,geojson,parquet.")] = "gpkg",
    probability_type: Annotated[
        str, typer.Option(help="Of probability.tif: float32, or uint8 of a quarter of the size, with a scale.")
    ] = "float32",
    date_before: Annotated[str | None, typer.Option(help="ISO date; default: from the file.")] = None,
    date_after: Annotated[str | None, typer.Option(help="ISO date; default: from the file.")] = None,
    keep_going: Annotated[
        bool,
        typer.Option("--keep-going", help="Do the rest where a file is damaged: nodata there, and exit code 1."),
    ] = False,
    skip_unchanged: Annotated[
        float | None,
        typer.Option(help="Skip tiles of whose pixels IR-MAD calls less than this share changed, such as 0.005."),
    ] = None,
    audit: Annotated[
        float, typer.Option(help="Share of the skipped tiles that are run all the same, to estimate the recall lost.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the choice of those tiles.")] = 0,
    tile: Annotated[
        int | None,
        typer.Option(help="Rows and columns held in memory at a time; default: 1024, or as ddpm-cd was trained."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Threads that read ahead.")] = 2,
    cluster: Annotated[
        str | None, typer.Option(help="Number of local Dask workers, or the address of a scheduler.")
    ] = None,
    precision: Annotated[str, typer.Option(help="Of ddpm-cd: float32, bfloat16, or float16 on a GPU.")] = "float32",
    device: Device = "cpu",
    json: Json = None,
    quiet: Quiet = False,
    overwrite: Overwrite = False,
) -> None:
    """Compare two rasters of one place: probability and mask of change, polygons with areas, and a report.

    Writes probability.tif, change.tif, changes.gpkg, quicklook.png, report.html, result.json, item.json, QGIS styles.
    A run that was killed goes on where it stopped when the same command is given again.
    """
    require_packages()
    from pydantic import ValidationError

    from remote_sensing.pipeline import detect as run
    from remote_sensing.settings import Settings

    if bands is not None and (bands_before or bands_after):
        raise InputError(
            "--bands",
            found="also --bands-before or --bands-after",
            expected="one or the other",
            fix="Leave --bands out.",
        )
    try:
        settings = Settings.model_validate(
            {
                "method": method,
                "weights": weights,
                "precision": precision,
                "device": device,
                "normalisation": normalise,
                "threshold": None if threshold is None else number_or_word(threshold),
                "labels": labels,
                "unchanged": unchanged,
                "bands_before": bands_before or bands,
                "bands_after": bands_after or bands,
                "nodata": number_or_word(nodata),
                "exclude": exclude,
                "grid": grid,
                "resampling": resampling,
                "pixel_grid": pixel_grid,
                "min_overlap": min_overlap,
                "coregister": coregister,
                "keep_going": keep_going,
                "skip_unchanged": skip_unchanged,
                "audit": audit,
                "seed": seed,
                "tile": tile,
                "workers": workers,
                "cluster": cluster,
                "min_area": min_area,
                "vectors": tuple(part.strip() for part in vectors.split(",")),
                "probability_type": probability_type,
                "date_before": date_before,
                "date_after": date_after,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            f"--{str(first['loc'][0]).replace('_', '-').replace('normalisation', 'normalise')}",
            found=f"{first['input']!r}",
            expected=first["msg"].removeprefix("Input should be "),
            fix="See fewstep change detect --help.",
        ) from error
    result = run(before, after, output, settings, overwrite=overwrite, label=None if quiet else "detecting change")
    if json is not None:
        from shared.numbers import flat_numbers, write_numbers

        write_numbers(json, flat_numbers(result.facts))
    if not quiet:
        _tell(result.facts)
    for path in result.files:
        typer.echo(str(path))
    if lost := result.facts["damaged_windows"]:
        row, col, rows, cols = lost[0]
        typer.echo(
            f"fewstep: {len(lost)} of {result.facts['tiles']} tiles could not be read as a whole, such as rows "
            f"{row} to {row + rows}, columns {col} to {col + cols}: no data there. result.json lists them.",
            err=True,
        )
        raise typer.Exit(1)


@app.command()
def evaluate(
    mask: Annotated[Path, typer.Argument(help="Change mask, or probabilities; or a folder of them.")],
    label: Annotated[Path, typer.Argument(help="Reference: 0 unchanged, another value changed; or a folder.")],
    unchanged: Annotated[
        Path | None, typer.Option(help="Raster of the unchanged pixels, when labels are sparse; or a folder.")
    ] = None,
    threshold: Annotated[float, typer.Option(help="Of probabilities.")] = 0.5,
    objects: Annotated[
        bool, typer.Option("--objects", help="Also precision and recall of whole changed areas (IoU of 1/2 or more).")
    ] = False,
    json: Json = None,
    quiet: Quiet = False,
) -> None:
    """Score a change mask against labels: F1, IoU, overall accuracy, kappa, precision, recall, pooled and per scene."""
    require_packages()
    from remote_sensing.evaluate import evaluate_many, scenes_in
    from shared.numbers import write_numbers

    masks, labels, sparse = scenes_in(mask, label, unchanged)
    pooled, scenes = evaluate_many(masks, labels, sparse, threshold=threshold, objects=objects)
    if json is not None:
        write_numbers(json, pooled)
    if quiet:
        return
    names = ("f1", "iou", "oa", "kappa", "precision", "recall")
    if len(scenes) > 1:
        for path, scene in zip(masks, scenes, strict=True):
            typer.echo(f"{path.stem}: " + ", ".join(f"{name} {scene[name]:.4f}" for name in names))
    typer.echo("\n".join(f"{name:22s} {value:.6g}" for name, value in pooled.items()))


app.command()(pretrain)
app.command()(train)


def _tell(facts: dict) -> None:
    from remote_sensing.outputs.page import area_text

    for warning in facts["warnings"]:
        typer.echo(f"warning: {warning}", err=True)
    rates = ", ".join(f"{name} {facts[f'mpix_per_second_{name}']:.1f}" for name in ("read", "model", "write"))
    typer.echo(
        f"{facts['polygons']} changed areas, {area_text(facts['changed_area_m2'], facts['changed_pixels'])}, "
        f"{100 * facts['changed_share']:.2f} % of the pixels with data; "
        f"{100 * facts['data_share_both']:.1f} % of the grid has data at both dates. "
        f"{facts['seconds']:.1f} s (MPix/s: {rates}).",
        err=True,
    )

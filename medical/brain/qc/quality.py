"""The quality of synthetic heads against real ones: all numbers, tests, neighbours and warnings of one comparison."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medical.brain.qc.distances import distances
from medical.brain.qc.diversity import mean_similarity
from medical.brain.qc.features import SEGMENTER, UNCNN, check_features
from medical.brain.qc.inputs import (
    Grid,
    Source,
    find_volumes,
    grid_of,
    on_fixed_scale,
    provenance,
    read_heads,
)
from medical.brain.qc.measure import BINS, Measured, block_again, block_only, measured, small_of
from medical.brain.qc.meshnet import MeshNet
from medical.brain.qc.nearest import MOST_REPEATS, Cut, Matches, calibrated, nearest
from medical.brain.qc.permutation import PERMUTATIONS, StructureTest, compare_volumes, least_p
from medical.brain.segmenter import BrainSegmenter
from shared.errors import InputError

LEAST_REAL = 4
PICTURED = 4
IMPLAUSIBLE = 2.0  # a brain this many times larger or smaller than all real ones is no brain


@dataclass(frozen=True)
class QualitySettings:
    """What is measured.

    Attributes:
        features: names, see `medical.brain.qc.features`.
        permutations: of the tests of volumes.
        cut: NCC above which a head is a copy; None calibrates it on the reference.
        seed: of halves, pairs and shuffles.
        progress: show bars.
    """

    features: tuple[str, ...] = (SEGMENTER,)
    permutations: int = PERMUTATIONS
    cut: float | None = None
    seed: int = 0
    progress: bool = False


@dataclass(frozen=True)
class Neighbour:
    """The nearest training head to a synthetic one.

    Attributes:
        volume: name of the synthetic head.
        nearest: name of the training head.
        ncc: of the two.
        mirrored: whether left and right are exchanged.
        copied: whether the NCC is above the cut.
    """

    volume: str
    nearest: str
    ncc: float
    mirrored: bool
    copied: bool


@dataclass(eq=False)
class Quality:
    """The result.

    Attributes:
        grid: of all volumes.
        synthetic: what was measured of the synthetic heads.
        real: likewise of the real ones.
        numbers: flat.
        tests: of volumes of structures.
        neighbours: of every synthetic head.
        cut: of copies.
        nearest_small: (X, Y, Z) float16 of the nearest training heads of the first `PICTURED` neighbours.
        facts: provenance.
        warnings: sentences.
    """

    grid: Grid
    synthetic: Measured
    real: Measured
    numbers: dict[str, float]
    tests: list[StructureTest]
    neighbours: list[Neighbour]
    cut: Cut
    nearest_small: list[Tensor]
    facts: dict[str, Any]
    warnings: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return the numbers with the tables and the provenance, JSON types."""
        return {
            **self.numbers,
            "permutation": [asdict(test) for test in self.tests],
            "nearest": [asdict(neighbour) for neighbour in self.neighbours],
            "nearest_cut_source": self.cut.source,
            "volumes_cm3": {
                side: {name: dict(zip(found.names, values, strict=True)) for name, values in found.volumes_cm3.items()}
                for side, found in (("synthetic", self.synthetic), ("real", self.real))
            },
            "facts": self.facts,
            "warnings": self.warnings,
        }


def quality(
    folder: Path,
    reference: Path,
    segmenter: BrainSegmenter,
    settings: QualitySettings,
    *,
    training: Path | None = None,
    meshnet: MeshNet | None = None,
) -> Quality:
    """Measure the volumes of a folder against those of another.

    Args:
        folder: synthetic heads.
        reference: real heads.
        segmenter: of brains, features and, without a MeshNet, volumes.
        settings: what is measured.
        training: heads that copies are looked for among; None is the reference.
        meshnet: measures the volumes of structures instead, on voxels of 1 mm.

    Raises:
        InputError: folders or volumes that cannot be compared, see `medical.brain.qc.inputs`; unknown features.
    """
    check_features(list(settings.features))
    made, real = find_volumes(folder), find_volumes(reference, least=LEAST_REAL)
    seen = None if training is None else find_volumes(training, least=1)
    grid = grid_of(real)
    if meshnet and abs(grid.spacing_mm - 1) > 0.02:
        raise InputError(
            "--segmenter", found=f"MeshNet, and volumes of {grid.spacing_mm:g} mm", expected="volumes of 1 mm",
            fix="Leave --segmenter out: the packaged segmenter works at 4 mm.",
        )  # fmt: skip
    fixed = on_fixed_scale([*made, *real, *(seen or [])])

    def heads(sources: Sequence[Source], label: str) -> Any:
        return read_heads(sources, grid, fixed=fixed, progress=label if settings.progress else None)

    uncnn = UNCNN in settings.features
    ours = measured(heads(made, "synthetic heads"), segmenter, uncnn=uncnn, meshnet=meshnet)
    theirs = measured(heads(real, "real heads"), segmenter, uncnn=uncnn, meshnet=meshnet)
    blocks, names = theirs.blocks, theirs.names
    if seen is not None:
        blocks = [block_only(head, segmenter) for head in heads(seen, "training heads")]
        names = [source.name for source in seen]
    cut = _cut(settings, theirs, heads(real[:MOST_REPEATS], "repeats"), segmenter)
    found = nearest(ours.blocks, blocks)
    neighbours = [
        Neighbour(name, names[index], float(value), bool(mirrored), bool(value > cut.value))
        for name, index, value, mirrored in zip(ours.names, found.index, found.ncc, found.mirrored, strict=True)
    ]
    small = [small_of(head) for head in heads([(seen or real)[index] for index in found.index[:PICTURED]], "")]
    numbers = _numbers(ours, theirs, found, cut, neighbours, settings)
    tests = compare_volumes(theirs.cm3(), ours.cm3(), permutations=settings.permutations, seed=settings.seed)
    numbers |= _volume_numbers(tests)
    facts = {
        "synthetic": {"folder": folder.name, "sha256": _digest(made), **provenance(made)},
        "reference": {"folder": reference.name, "sha256": _digest(real), **provenance(real)},
        "training": ({"folder": training.name, "volumes": len(seen)} if training and seen else "the reference"),
        "grid": str(grid),
        "intensities": "fewstep's fixed scale" if fixed else "each volume's 0.1 and 99.9 percentiles",
        "segmenter": {"name": segmenter.name, "sha256": segmenter.sha256, "features and brains": True},
        "volumes": {"name": "MeshNet", "sha256": meshnet.sha256} if meshnet else segmenter.name,
        "seed": settings.seed,
    }
    warnings = _warnings(facts, ours, theirs, cut, neighbours, settings)
    return Quality(grid, ours, theirs, numbers, tests, neighbours, cut, small, facts, warnings)


def _cut(settings: QualitySettings, real: Measured, heads: Any, segmenter: BrainSegmenter) -> Cut:
    if settings.cut is not None:
        return Cut(settings.cut, "given")
    several = len(set(real.subjects)) < len(real.subjects)
    repeats = [] if several else [(k, block_again(head, segmenter, k)) for k, head in enumerate(heads)]
    return calibrated(real.blocks, real.subjects, repeats)


def _numbers(
    ours: Measured, theirs: Measured, found: Matches, cut: Cut, neighbours: list[Neighbour], settings: QualitySettings
) -> dict[str, float]:
    numbers: dict[str, float] = {"n": float(len(ours.sources)), "n_real": float(len(theirs.sources))}
    for name in settings.features:
        table = distances(
            torch.stack(ours.features[name]), torch.stack(theirs.features[name]), theirs.subjects, seed=settings.seed
        )
        end = "" if name == settings.features[0] else f"_{name}"
        numbers |= {f"{key}{end}" if key != "n" else f"fd_n{end}": value for key, value in table.items()}
    bar = "MS-SSIM" if settings.progress else None
    own = [str(k) for k in range(len(ours.sources))]
    numbers["ms_ssim"], pairs = mean_similarity(ours.small, own, seed=settings.seed, progress=bar)
    numbers["ms_ssim_real"], pairs_real = mean_similarity(
        theirs.small, theirs.subjects, seed=settings.seed, progress=bar
    )
    numbers |= {"ms_ssim_pairs": float(pairs), "ms_ssim_pairs_real": float(pairs_real)}
    among, alone = (nearest(side.blocks, side.blocks, among_themselves=True) for side in (ours, theirs))
    numbers |= {
        "nearest_ncc": float(found.ncc.mean()),
        "nearest_ncc_max": float(found.ncc.max()),
        "nearest_ncc_cut": cut.value,
        "nearest_ncc_strangers_max": cut.stranger_max,
        "nearest_ncc_repeats_min": cut.repeat_min,
        "nearest_ncc_real": float(alone.ncc.mean()),
        "nearest_ncc_among_synthetic_max": float(among.ncc.max()),
        "copied": float(np.mean([neighbour.copied for neighbour in neighbours])),
        "repeated": float(np.mean(among.ncc > cut.value)),
    }
    a, b = (np.stack(side.histograms) for side in (ours, theirs))
    numbers["histogram_distance"] = float(np.abs(np.cumsum(a.mean(0) - b.mean(0))).sum() / BINS)
    numbers["histogram_distance_real_floor"] = _histogram_floor(b, len(a), settings.seed)
    for name in ("air", "sharpness"):
        values, real_values = (np.array(getattr(side, name)) for side in (ours, theirs))
        numbers |= {name: float(np.nanmean(values)), f"{name}_real": float(np.nanmean(real_values))}
        numbers |= {f"{name}_real_sd": float(np.nanstd(real_values))}
    return numbers


def _histogram_floor(real: np.ndarray, count: int, seed: int) -> float:
    """Return the mean distance of the mean histograms of random halves, of at most `count` heads in the first."""
    source = np.random.default_rng(seed)
    found = []
    for _ in range(20):
        order = source.permutation(len(real))
        first, second = order[: len(real) // 2][:count], order[len(real) // 2 :]
        found.append(np.abs(np.cumsum(real[first].mean(0) - real[second].mean(0))).sum() / BINS)
    return float(np.mean(found))


def _volume_numbers(tests: list[StructureTest]) -> dict[str, float]:
    """Return means and corrected p of the raw volumes; the shares of the brain are in the table of tests."""
    numbers = {}
    for test in tests:
        if test.unit == "cm3" and test.statistic == "mean":
            numbers[f"volume_{test.structure}_cm3"] = test.mean_synthetic
            numbers[f"volume_{test.structure}_real_cm3"] = test.mean_real
            numbers[f"volume_{test.structure}_p_holm"] = test.p_holm
    return numbers


def _warnings(
    facts: dict[str, Any], ours: Measured, theirs: Measured, cut: Cut, neighbours: list[Neighbour],
    settings: QualitySettings,
) -> list[str]:  # fmt: skip
    n, m = len(ours.sources), len(theirs.sources)
    warnings = []
    if facts["reference"]["synthetic"]:
        warnings.append(f"{facts['reference']['synthetic']} of {m} volumes of the reference are marked synthetic")
    if facts["reference"]["simulated"]:
        warnings.append(f"{facts['reference']['simulated']} of {m} volumes of the reference are marked simulated")
    if copies := [neighbour for neighbour in neighbours if neighbour.copied]:
        shown = ", ".join(f"{copy.volume} (of {copy.nearest}, {copy.ncc:.3f})" for copy in copies[:5])
        warnings.append(f"{len(copies)} of {n} synthetic heads are as near to a training head as a repeat: {shown}")
    if not cut.separable:
        warnings.append(cut.source)
    for i, j, value in cut.alike[:3]:
        warnings.append(
            f"the reference holds two heads as alike as repeats: {theirs.names[i]}, {theirs.names[j]} ({value:.3f})"
        )
    sizes, real_sizes = (np.array(side.volumes_cm3["brain"]) for side in (ours, theirs))
    strange = (sizes > IMPLAUSIBLE * real_sizes.max()) | (sizes < real_sizes.min() / IMPLAUSIBLE)
    if strange.any():
        first = ours.names[int(strange.argmax())]
        warnings.append(f"{int(strange.sum())} synthetic heads without a plausible brain, such as {first}")
    least = least_p(n, m, settings.permutations)
    if (lowest := least * len(ours.volumes_cm3)) > 0.05:
        warnings.append(
            f"{n} and {m} volumes are too few for the tests of volumes: no corrected p can be below "
            f"{min(1.0, lowest):.2g}"
        )
    for name in settings.features:
        size = len(ours.features[name][0])
        if min(n, m // 2) <= size:
            warnings.append(
                f"fd of {name} is of {min(n, m // 2)} heads with {size} features: read it beside fd_real_floor only"
            )
    return warnings


def _digest(sources: Sequence[Source]) -> str:
    """Return the SHA-256 of the names and hashes of the files, which tells one set of volumes from any other."""
    from shared.weights import sha256

    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.name} {sha256(source.path)}\n".encode())
    return digest.hexdigest()

"""Scores of a change mask against reference labels.

With the counts of labelled pixels tp, fp, fn, tn and n = tp + fp + fn + tn:

    precision = tp / (tp + fp)          recall = tp / (tp + fn)
    F1 = 2 tp / (2 tp + fp + fn)        IoU = tp / (tp + fp + fn)        OA = (tp + tn) / n
    kappa = (OA - p_e) / (1 - p_e),     p_e = ((tp + fp)(tp + fn) + (fn + tn)(fp + tn)) / n^2
    area_bias = (tp + fp) / (tp + fn) - 1

Of objects (pixels that share a side) a found one is right, and a true one is found, where an IoU is at least 1/2.

Pixels without a label, and pixels of the mask without data, count nowhere. Where nothing is changed and nothing was
found, there was nothing to miss: F1, IoU, precision, recall and kappa are 1. A ratio whose denominator alone is 0
(precision of a mask that is empty although something changed) is 0. The bias of the changed area is 0.1 for 10 % too
much; it is left out where nothing is changed.

A mask of floating-point numbers is a probability, and so is one of whole numbers with a scale (`--probability-type
uint8`). It is cut at a threshold, and scored as it is: Brier score, expected calibration error over 20 bins, and
average precision, all from a histogram of 1,000 bins.

Several scenes are resampled with replacement to say how far F1 and IoU of other scenes like them may lie: 95 % of 2,000
bootstrap samples, of whole scenes, because pixels of one scene are not independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray

from remote_sensing.grid import MapGrid
from remote_sensing.labels import Labels, open_labels, require_two_values
from remote_sensing.sources import classes_on, open_raster
from shared.errors import InputError

BINS = 1000
RELIABILITY_BINS = 20
RESAMPLES = 2000


@dataclass
class Confusion:
    """Counts of labelled pixels, which add over scenes.

    Attributes:
        tp: changed and found.
        fp: unchanged and found.
        fn: changed and missed.
        tn: unchanged and not found.
        no_data: labelled pixels where the mask has no data.
        histogram: of probabilities, int64 (2, bins), of unchanged and of changed pixels; None for a mask of classes.
        squares: sum of (p - label)^2.
        objects: int64 (4,): found objects, right ones among them, true objects, found ones among them; None if unasked.
    """

    tp: int = 0
    fp: int = 0
    fn: int = 0
    tn: int = 0
    no_data: int = 0
    histogram: NDArray[np.int64] | None = field(default=None)
    squares: float = 0.0
    objects: NDArray[np.int64] | None = field(default=None)

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(
            self.tp + other.tp,
            self.fp + other.fp,
            self.fn + other.fn,
            self.tn + other.tn,
            self.no_data + other.no_data,
            _sum(self.histogram, other.histogram),
            self.squares + other.squares,
            _sum(self.objects, other.objects),
        )

    def scores(self) -> dict[str, float]:
        """Return the numbers of the module's formulas, and the counts."""
        tp, fp, fn, tn = (float(count) for count in (self.tp, self.fp, self.fn, self.tn))
        n = tp + fp + fn + tn
        oa = (tp + tn) / n
        chance = ((tp + fp) * (tp + fn) + (fn + tn) * (fp + tn)) / n**2
        nothing = tp + fp + fn == 0
        found = {
            "f1": 1.0 if nothing else 2 * tp / (2 * tp + fp + fn),
            "iou": 1.0 if nothing else tp / (tp + fp + fn),
            "oa": oa,
            "kappa": 1.0 if chance == 1 else (oa - chance) / (1 - chance),
            "precision": 1.0 if nothing else tp / max(tp + fp, 1),
            "recall": 1.0 if nothing else tp / max(tp + fn, 1),
            "tp": self.tp,
            "fp": self.fp,
            "fn": self.fn,
            "tn": self.tn,
            "labelled_without_data": self.no_data,
        }
        if tp + fn:
            found["area_bias"] = (tp + fp) / (tp + fn) - 1
        if self.objects is not None:
            objects, right, true, seen = (int(count) for count in self.objects)
            empty = objects + true == 0
            found |= {
                "objects_found": objects,
                "objects_true": true,
                "object_precision": 1.0 if empty else right / max(objects, 1),
                "object_recall": 1.0 if empty else seen / max(true, 1),
            }
        return found | (_calibration(self.histogram, self.squares) if self.histogram is not None else {})


def evaluate(
    mask: Path, label: Path, unchanged: Path | None = None, *, threshold: float = 0.5, objects: bool = False
) -> Confusion:
    """Count agreement of one mask with its labels, block by block.

    Args:
        mask: classes (0 and one other value; nodata is no data) or floating-point probabilities.
        label: reference on the mask's map or, without georeference, of its size.
        unchanged: raster of the unchanged pixels, if the labels are sparse.
        threshold: of a probability.
        objects: count objects too, for which mask and labels are held in memory.

    Raises:
        InputError: rasters that do not fit each other or hold other values, or no labelled pixel with data.
    """
    with open_raster(mask) as dataset:
        georeferenced = dataset.crs is not None
        floating = np.dtype(dataset.dtypes[0]).kind == "f" or dataset.scales[0] != 1
        grid = MapGrid.of(dataset)
    if not georeferenced:
        grid = MapGrid(None, rasterio.Affine.identity(), grid.width, grid.height)
    reader = classes_on(mask, grid)
    if not floating:
        require_two_values(mask, reader, grid)
    labels = open_labels(label, unchanged, grid)
    total = Confusion()
    pictures = np.zeros((2, *grid.shape), bool) if objects else None
    for window in grid.windows():
        values, valid = reader.read(window)
        truth = labels.read(window.row_off, window.col_off, valid.shape)
        known = truth != Labels.UNKNOWN
        scored = known & valid
        p, changed = values[0][scored], truth[scored] == Labels.CHANGED
        if floating and p.size and not (p.min() >= 0 and p.max() <= 1):
            raise InputError(
                mask,
                found=f"values from {p.min():g} to {p.max():g}",
                expected="probabilities between 0 and 1, or a mask of two classes",
                fix="Threshold or rescale it.",
            )
        found = p >= threshold if floating else p != 0
        part = Confusion(
            tp=int((found & changed).sum()),
            fp=int((found & ~changed).sum()),
            fn=int((~found & changed).sum()),
            tn=int((~found & ~changed).sum()),
            no_data=int((known & ~valid).sum()),
        )
        if floating:
            part.histogram = np.stack([np.histogram(p[changed == side], BINS, (0, 1))[0] for side in (False, True)])
            part.squares = float(np.sum((p.astype(np.float64) - changed) ** 2))
        total += part
        if pictures is not None:
            for picture, flags in zip(pictures, (found, changed), strict=True):
                picture[window.toslices()][scored] = flags
    if pictures is not None:
        total.objects = _objects(pictures[0], pictures[1])
    if total.tp + total.fp + total.fn + total.tn == 0:
        raise InputError(
            label,
            found="no labelled pixel where the mask has data",
            expected="labels on the mask",
            fix="Check that the two rasters are of one place.",
        )
    return total


def evaluate_many(
    masks: Sequence[Path],
    labels: Sequence[Path],
    unchanged: Sequence[Path | None],
    *,
    threshold: float = 0.5,
    objects: bool = False,
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return the scores of all scenes pooled, and those of each scene.

    With several scenes the pooled ones hold means over the scenes under "mean_", and the bounds of the bootstrap
    under "_low" and "_high".
    """
    parts = [
        evaluate(mask, label, sparse, threshold=threshold, objects=objects)
        for mask, label, sparse in zip(masks, labels, unchanged, strict=True)
    ]
    pooled = sum(parts, Confusion()).scores()
    scenes = [part.scores() for part in parts]
    if len(scenes) > 1:
        for name in ("f1", "iou", "oa", "kappa", "precision", "recall"):
            pooled[f"mean_{name}"] = float(np.mean([scene[name] for scene in scenes]))
        pooled["scenes"] = len(scenes)
        pooled |= _bounds(parts)
    return pooled, scenes


def _bounds(parts: Sequence[Confusion]) -> dict[str, float]:
    """Return the 2.5th and 97.5th percentile of pooled F1 and IoU over bootstrap samples of the scenes."""
    counts = np.array([[part.tp, part.fp, part.fn] for part in parts], dtype=np.float64)
    drawn = np.random.default_rng(0).integers(len(parts), size=(RESAMPLES, len(parts)))
    tp, fp, fn = counts[drawn].sum(1).T
    nothing = tp + fp + fn == 0
    wrong = np.where(nothing, 0.0, fp + fn)
    right = np.where(nothing, 1.0, tp)
    found = {"f1": 2 * right / (2 * right + wrong), "iou": right / (right + wrong)}
    return {
        f"{name}_{side}": float(np.percentile(values, percent))
        for name, values in found.items()
        for side, percent in (("low", 2.5), ("high", 97.5))
    }


def scenes_in(mask: Path, label: Path, unchanged: Path | None) -> tuple[list[Path], list[Path], list[Path | None]]:
    """Return the scenes of a command: the files themselves, or the files of equal stems in three folders.

    Raises:
        InputError: a folder is empty or lacks the label of a mask, or files and folders are mixed.
    """
    if not mask.is_dir():
        return [mask], [label], [unchanged]
    for folder in (label, *([unchanged] if unchanged else [])):
        if not folder.is_dir():
            raise InputError(
                folder, found="no folder", expected="a folder, since the masks are one", fix="Give folders."
            )
    masks = sorted(path for path in mask.iterdir() if path.is_file() and not path.name.startswith("."))
    if not masks:
        raise InputError(mask, found="an empty folder", expected="masks", fix="Check the path.")
    others = [_twin(path, label) for path in masks]
    return masks, others, [_twin(path, unchanged) if unchanged else None for path in masks]


def _twin(path: Path, folder: Path) -> Path:
    found = sorted(other for other in folder.iterdir() if other.stem == path.stem and other.is_file())
    if not found:
        raise InputError(
            folder, found=f"no file {path.stem}.*", expected=f"the label of {path.name}", fix="Name labels like masks."
        )
    return found[0]


def _sum(first: NDArray[np.int64] | None, second: NDArray[np.int64] | None) -> NDArray[np.int64] | None:
    return first if second is None else second if first is None else first + second


def _objects(found: NDArray[np.bool_], true: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the counts of `Confusion.objects`."""
    from scipy.ndimage import label

    (of_found, objects), (of_true, truths) = label(found), label(true)
    both = found & true
    pairs, shared = np.unique(np.stack([of_found[both], of_true[both]]), axis=1, return_counts=True)
    sizes = np.bincount(of_found.ravel())[pairs[0]] + np.bincount(of_true.ravel())[pairs[1]]
    alike = pairs[:, shared >= 0.5 * (sizes - shared)]
    return np.array([objects, len(np.unique(alike[0])), truths, len(np.unique(alike[1]))])


def _calibration(histogram: NDArray[np.int64], squares: float) -> dict[str, float]:
    """Return Brier score, expected calibration error and average precision.

    ECE = sum_b n_b |share of changed in b - mean p of b| / n. AP = sum_k (R_k - R_{k-1}) P_k over falling thresholds.
    """
    total = histogram.sum(0)
    centre = (np.arange(BINS) + 0.5) / BINS
    groups = np.arange(BINS) * RELIABILITY_BINS // BINS
    n, changed, p = (np.bincount(groups, weight, RELIABILITY_BINS) for weight in (total, histogram[1], total * centre))
    used = n > 0
    error = float(np.abs(changed[used] - p[used]).sum() / n.sum())
    tp, found = np.cumsum(histogram[1][::-1]), np.cumsum(total[::-1])
    positives = max(int(histogram[1].sum()), 1)
    precision = tp / np.maximum(found, 1)
    recall_steps = np.diff(tp, prepend=0) / positives
    return {
        "brier": squares / float(total.sum()),
        "ece": error,
        "average_precision": float((precision * recall_steps).sum()),
    }

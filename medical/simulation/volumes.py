"""Anatomies to train and test on: brain volumes with their licences, split by subject, as axial slices in a cache.

Two kinds: T1-weighted volumes (intensity 1 is white matter) and label maps of whole heads, which are painted with the
signal of any contrast. The folder holds the files of `SUBJECTS` under their names; absent files are left out.

The split is by subject and fixed here. The three patients C07, C19, C26 and patient L01 come from one clinic and may be
the same people, so all four train. Volumes under a non-commercial licence are left out unless asked for, and then only
ever test: weights that ship have seen open data alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from shared.errors import InputError, MissingExtra
from shared.files import atomic_path

Split = Literal["train", "validation", "test"]
Kind = Literal["t1", "labels"]

CACHE_VERSION = 1
LEAST_TISSUE_MM2 = 6000.0  # a slice with less is a few scalp or neck voxels, not a head


@dataclass(frozen=True)
class Subject:
    """A volume of one person.

    Attributes:
        name: of the person.
        file: below the data folder.
        kind: "t1" for a T1-weighted volume, "labels" for a label map (FreeSurfer codes, 5xx outside the brain).
        licence: of the file.
        split: what the person is used for.
    """

    name: str
    file: str
    kind: Kind
    licence: str
    split: Split

    @property
    def noncommercial(self) -> bool:
        """Whether the licence forbids commercial use."""
        return "NC" in self.licence


def _oasis(number: str) -> Subject:
    file = f"noncommercial_cc-by-nc/sub-OAS1{number}_ses-1_T1w_brain.nii.gz"
    return Subject(f"OAS1{number}", file, "t1", "CC BY-NC 3.0", "test")


def _synthseg(number: int, split: Split) -> Subject:
    file = f"open/labelmaps_head/sub-synthseg{number:02d}_dseg.nii.gz"
    return Subject(f"synthseg{number:02d}", file, "labels", "Apache-2.0", split)


SUBJECTS = (
    Subject("colin27", "open/sub-colin27_T1w.nii.gz", "t1", "BSD-3-Clause (MNI copyright)", "train"),
    Subject("omsC07", "open/sub-omsC07_space-MNI_T1w_brain.nii.gz", "t1", "CC BY", "train"),
    Subject("omsC19", "open/sub-omsC19_space-MNI_T1w_brain.nii.gz", "t1", "CC BY", "train"),
    Subject("omsC26", "open/sub-omsC26_space-MNI_T1w_brain.nii.gz", "t1", "CC BY", "train"),
    Subject("omsL01", "open/sub-omsL01_ses-1_acq-2D3mm_T1w.nii.gz", "t1", "CC BY", "train"),
    *(_synthseg(number, "train") for number in range(1, 10)),
    _synthseg(10, "validation"),
    Subject("pycortexS1", "open/sub-pycortexS1_T1w.nii.gz", "t1", "BSD-2-Clause", "test"),
    _synthseg(11, "test"),
    _synthseg(12, "test"),
    *(_oasis(number) for number in ("0040", "0061", "0083", "0101", "0117", "0239", "0285", "0300", "0331", "0368")),
)


@dataclass(frozen=True)
class AnatomySlice:
    """Neighbouring axial slices of one anatomy.

    Attributes:
        values: (layer, y, x), y to posterior and x to the left (LPS); float with white matter at 1, or integer labels.
        cell_mm: in-plane size of a cell along (y, x).
        thickness_mm: of all layers together.
        height: where the slice lies along z, from -1 (bottom of the volume) to 1 (top).
        subject: whose anatomy it is.
    """

    values: np.ndarray
    cell_mm: tuple[float, float]
    thickness_mm: float
    height: float
    subject: Subject


def subjects(
    split: Split, folder: str | os.PathLike[str] | None = None, *, noncommercial: bool = False
) -> tuple[Subject, ...]:
    """Return the subjects of a split.

    Args:
        split: "train", "validation" or "test".
        folder: the data folder; subjects whose file is absent there are left out. None keeps them.
        noncommercial: also those under a licence that forbids commercial use.

    Raises:
        InputError: the folder holds none of them.
    """
    wanted = [s for s in SUBJECTS if s.split == split and (noncommercial or not s.noncommercial)]
    present = [s for s in wanted if folder is None or (Path(folder) / s.file).is_file()]
    if not present:
        raise InputError(
            folder or "data",
            found=f"no volume of the {split} split",
            expected=f"files such as {wanted[0].file}",
            fix="Give the folder of brain volumes; tests/DATA.md says where they come from.",
        )
    return tuple(present)


class AnatomyCache:
    """Axial slices of some subjects, normalised once, in one array file a subject that is mapped into memory.

    Args:
        subjects: whose slices.
        data: folder of the volumes; read only for subjects that the cache lacks.
        cache: folder of the array files.
    """

    def __init__(
        self, subjects: tuple[Subject, ...], data: str | os.PathLike[str], cache: str | os.PathLike[str]
    ) -> None:
        self.subjects = subjects
        self._stacks = [_cached(subject, Path(data), Path(cache)) for subject in subjects]

    def __len__(self) -> int:
        return sum(len(stack) for stack, _ in self._stacks)

    def slice(self, subject: int, index: int, thickness_mm: float = 1.0) -> AnatomySlice:
        """Return the slices within `thickness_mm` around slice `index` of subject number `subject`.

        Index counts the slices with tissue from the feet; layers beyond the ends of the volume are left out.
        """
        stack, facts = self._stacks[subject]
        layers = max(1, round(thickness_mm / facts["slice_mm"]))
        first = min(max(index - layers // 2, 0), max(len(stack) - layers, 0))
        values = np.array(stack[first : first + layers])
        return AnatomySlice(
            values if self.subjects[subject].kind == "labels" else values.astype(np.float32),
            (facts["cell_mm"][0], facts["cell_mm"][1]),
            len(values) * facts["slice_mm"],
            2 * index / max(len(stack) - 1, 1) - 1,
            self.subjects[subject],
        )

    def slices(self, subject: int) -> int:
        """Return the number of slices with tissue of subject number `subject`."""
        return len(self._stacks[subject][0])

    def draw(self, generator: np.random.Generator, thickness_mm: float) -> AnatomySlice:
        """Return a random slice: half of them of T1-weighted volumes, and of each kind every subject equally often."""
        kinds = sorted({subject.kind for subject in self.subjects})
        kind = kinds[int(generator.integers(len(kinds)))]
        of_kind = [number for number, subject in enumerate(self.subjects) if subject.kind == kind]
        subject = of_kind[int(generator.integers(len(of_kind)))]
        return self.slice(subject, int(generator.integers(self.slices(subject))), thickness_mm)


def white_matter_level(volume: np.ndarray) -> float:
    """Return the intensity of white matter in a T1-weighted volume (z, y, x).

    It is the brightest common tissue of the deep brain: the highest mode, with a quarter of the largest count or more,
    of the intensities within an ellipsoid of half the head's extent in the upper part of the volume.
    """
    tissue = volume > 0.15 * np.percentile(volume, 98)
    box = tuple(slice(int(where.min()), int(where.max()) + 1) for where in np.nonzero(tissue))
    head = volume[box][-160:]  # no neck
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in head.shape], indexing="ij", sparse=True)
    deep = head[(x**2 + y**2 + z**2 < 0.3) & (head > 0.15 * np.percentile(volume, 98))]
    counts, edges = np.histogram(deep, bins=80, range=(0, np.percentile(deep, 99.8) * 1.05))
    smooth = np.convolve(counts, np.hanning(9) / np.hanning(9).sum(), mode="same")
    peaks = [
        i
        for i in range(1, len(smooth) - 1)
        if smooth[i] >= smooth[i - 1] and smooth[i] > smooth[i + 1] and smooth[i] > 0.25 * smooth.max()
    ]
    best = peaks[-1]
    return float((edges[best] + edges[best + 1]) / 2)


def _cached(subject: Subject, data: Path, cache: Path) -> tuple[np.ndarray, dict]:
    """Return the slices (slice, y, x) of a subject, mapped, and the facts stored beside them."""
    array, facts = cache / f"{subject.name}.npy", cache / f"{subject.name}.json"
    wanted = {"version": CACHE_VERSION, **asdict(subject)}
    if array.is_file() and facts.is_file():
        known = json.loads(facts.read_text(encoding="utf-8"))
        if all(known.get(key) == value for key, value in wanted.items()):
            return np.load(array, mmap_mode="r"), known
    stack, cell_mm, slice_mm = _axial_slices(subject, data)
    known = {**wanted, "cell_mm": cell_mm, "slice_mm": slice_mm}
    with atomic_path(array, overwrite=True) as path:
        np.save(path, stack)
    with atomic_path(facts, overwrite=True) as path:
        path.write_text(json.dumps(known), encoding="utf-8")
    return np.load(array, mmap_mode="r"), known


def _axial_slices(subject: Subject, data: Path) -> tuple[np.ndarray, tuple[float, float], float]:
    try:
        import nibabel
    except ImportError as error:
        raise MissingExtra("nibabel", extra="medical", purpose="to read brain volumes") from error

    path = data / subject.file
    if not path.is_file():
        raise InputError(path, found="no such file", expected="a brain volume", fix="Give the folder of the volumes.")
    nifti = nibabel.as_closest_canonical(nibabel.load(path))
    x_mm, y_mm, z_mm = (float(size) for size in nifti.header.get_zooms()[:3])
    volume = np.asarray(nifti.dataobj)[::-1, ::-1].transpose(2, 1, 0)  # RAS (x, y, z) to LPS (z, y, x)
    if subject.kind == "t1":
        volume = np.clip(volume.astype(np.float32) / white_matter_level(volume), 0, 4).astype(np.float16)
        tissue = volume > 0.15
    else:
        volume = volume.astype(np.int16)
        tissue = volume > 0
    area = tissue.sum((1, 2)) * x_mm * y_mm
    full = np.nonzero(area > LEAST_TISSUE_MM2)[0]
    used = volume[full[0] : full[-1] + 1]
    top = used[-round(150 / z_mm) :]  # head volumes reach down to the neck; brain scans do not
    return np.ascontiguousarray(top), (y_mm, x_mm), z_mm

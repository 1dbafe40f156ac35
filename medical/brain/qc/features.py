"""Named features of whole volumes, to measure distances of distributions in.

| name | what | size |
| --- | --- | --- |
| brain_segmenter | means of the segmenter's last features in each class, in units of its training's heads | 240 |
| uncnn | 3-D CNN of fixed random weights (PyPI `uncnn`, MIT), any grid resized to 91 x 109 x 91 | 9664 |

Those of `brain_segmenter` (`medical.brain.segmenter`) follow anatomy and contrast at 4 mm and do not mind the scale of
intensities; those of `uncnn` were trained on nothing, so nothing was trained towards them (bioRxiv 2026.06.07.730652).
That package is optional.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from medical.brain.qc.inputs import Head
from shared.errors import InputError

SEGMENTER, UNCNN = "brain_segmenter", "uncnn"
NAMES = (SEGMENTER, UNCNN)


def check_features(names: list[str]) -> None:
    """Raise `InputError` for an unknown name, or for `uncnn` where it is not installed."""
    for name in names:
        if name not in NAMES:
            raise InputError("--features", found=repr(name), expected=f"one of {', '.join(NAMES)}", fix="Correct it.")
    if UNCNN in names and importlib.util.find_spec(UNCNN) is None:
        raise InputError(
            "--features uncnn", found="no package uncnn", expected="an optional package",
            fix="Install it with pip install uncnn==1.0.0, or leave it out.",
        )  # fmt: skip


def uncnn_features(head: Head) -> Tensor:
    """Return what the package `uncnn` gives for a head, (9664,); it reads files only, and seeds torch: undone here."""
    import nibabel
    import uncnn

    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        path = Path(folder) / "head.nii"
        nibabel.Nifti1Image(head.x.numpy(), None).to_filename(path)
        return torch.from_numpy(uncnn.extract_features(str(path), batch_size=1, device="cpu")[0]).float()

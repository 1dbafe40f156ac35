"""Brainchop's network from its own files, against manual labels."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from medical.brain.qc.meshnet import QUANTILES, STRUCTURES, is_meshnet, load_meshnet
from medical.brain.volume import read_volume, to_lps
from shared.errors import InputError

pytest.importorskip("nibabel")
FOLDER = "brain/open/segmenter_meshnet18"
SCAN = "brain/noncommercial_cc-by-nc/sub-OAS10331_ses-1"


@pytest.mark.data
def test_deep_structures_agree_with_manual_labels(data_file):
    """Wrong axes, kernels or order of tensors find nothing. A part of a scan: the edges lack what lies around them."""
    meshnet = load_meshnet(data_file(FOLDER))
    assert sum(value.numel() for value in meshnet.network.parameters()) == 96_408
    scan = to_lps(read_volume(data_file(f"{SCAN}_T1w_brain.nii.gz"))).voxels
    manual = to_lps(read_volume(data_file(f"{SCAN}_desc-manual_dseg.nii.gz"))).voxels
    middle = np.argwhere(np.isin(manual, (59, 60))).mean(0).astype(int)  # thalamus
    part = tuple(slice(c - half, c + half) for c, half in zip(middle, (34, 34, 32), strict=True))
    limits = tuple(np.quantile(scan, QUANTILES))
    found = meshnet.labels(torch.from_numpy(scan[part].copy()), limits).numpy()
    mine, theirs = np.isin(found, STRUCTURES["thalamus"]), np.isin(manual[part], (59, 60))
    assert 2 * (mine & theirs).sum() / (mine.sum() + theirs.sum()) > 0.75


@pytest.mark.data
def test_files_of_another_network_are_told(data_file, tmp_path):
    folder = data_file(FOLDER)
    assert is_meshnet(str(folder))
    assert not is_meshnet("medical/brain_segmenter")
    with pytest.raises(InputError, match=r"model\.json"):
        load_meshnet(tmp_path)
    description = json.loads((folder / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(description))
    (tmp_path / "model.bin").write_bytes((folder / "model.bin").read_bytes()[:-4])
    with pytest.raises(InputError, match="96407 numbers"):
        load_meshnet(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(InputError, match="no description"):
        load_meshnet(tmp_path)

"""Weights are found by name, checked by hash, and never unpickled."""

from __future__ import annotations

import pickle

import pytest
import torch
from safetensors.torch import save_file

from shared import weights
from shared.errors import InputError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSTEP_WEIGHTS", str(tmp_path))
    (tmp_path / "medical").mkdir()
    save_file({"a": torch.arange(3.0)}, tmp_path / "medical" / "tiny.safetensors", metadata={"width": "3"})
    return tmp_path / "medical"


def test_a_name_resolves_to_the_user_folder_with_tensors_and_metadata(folder):
    loaded = weights.load("medical/tiny")
    assert torch.equal(loaded.tensors["a"], torch.arange(3.0))
    assert loaded.metadata == {"width": "3"}
    assert "medical/tiny" in weights.available()


def test_a_changed_byte_is_refused(folder):
    path = folder / "tiny.safetensors"
    (folder / "SHA256SUMS").write_text(f"{weights.sha256(path)}  tiny.safetensors\n")
    weights.load("medical/tiny")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="sha256"):
        weights.load("medical/tiny")


def test_a_pickle_is_refused_without_being_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was executed",))

    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="safetensors"):
        weights.load(path)


def test_an_unknown_name_lists_what_is_there(folder):
    with pytest.raises(InputError, match="medical/tiny"):
        weights.load("medical/nothing")


def test_every_packaged_file_has_a_recorded_hash_and_a_model_card():
    packaged = [path for path in weights.available().values() if path.is_relative_to(weights.user_folder()) is False]
    assert packaged
    for path in packaged:
        weights.load(path)
        assert path.name in (path.parent / "SHA256SUMS").read_text()
        assert path.with_suffix(".md").stat().st_size > 500

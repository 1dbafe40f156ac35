"""Outputs appear whole or not at all."""

from __future__ import annotations

import pytest

from shared.errors import InputError
from shared.files import atomic_path


def test_a_finished_output_is_renamed_into_place_and_nothing_else_is_left(tmp_path):
    with atomic_path(tmp_path / "new" / "brain.nii.gz") as scratch:
        assert scratch.name.endswith(".nii.gz")
        scratch.write_bytes(b"whole")
    assert (tmp_path / "new" / "brain.nii.gz").read_bytes() == b"whole"
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["brain.nii.gz"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_and_keeps_the_old_output(tmp_path, failure):
    old = tmp_path / "out.h5"
    old.write_bytes(b"old")
    with pytest.raises(failure), atomic_path(old, overwrite=True) as scratch:  # noqa: PT012 - the body fails halfway
        scratch.write_bytes(b"half")
        raise failure
    assert old.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5"]


def test_an_existing_output_is_refused_before_any_work(tmp_path):
    (tmp_path / "out.nii").write_bytes(b"old")
    reached = False
    with pytest.raises(InputError, match="--overwrite"), atomic_path(tmp_path / "out.nii"):
        reached = True
    assert not reached


def test_a_folder_replaces_a_folder(tmp_path):
    for content in ("first", "second"):
        with atomic_path(tmp_path / "series", overwrite=True) as scratch:
            scratch.mkdir()
            (scratch / f"{content}.txt").write_text(content)
    assert [p.name for p in (tmp_path / "series").iterdir()] == ["second.txt"]


def test_a_parent_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="writable folder"), atomic_path(tmp_path / "file" / "out.nii"):
        pass


def test_a_folder_with_other_peoples_files_is_not_replaced(tmp_path):
    (tmp_path / "home" / "letters").mkdir(parents=True)
    (tmp_path / "home" / "letters" / "dear.doc").write_text("dear")

    def write_series():
        with atomic_path(tmp_path / "home", overwrite=True) as new:
            new.mkdir()
            (new / "0001.dcm").write_bytes(b"image")

    with pytest.raises(InputError, match="nothing was deleted"):
        write_series()
    assert (tmp_path / "home" / "letters" / "dear.doc").read_text() == "dear"
    assert [p.name for p in tmp_path.iterdir()] == ["home"]

"""Finished slices kept on disk, so that an interrupted reconstruction goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from medical.reconstruction.methods import SliceResult
from medical.reconstruction.raw import RawScan
from medical.reconstruction.settings import Settings
from shared.files import atomic_path, require_writable


@dataclass(frozen=True)
class Store:
    """A folder of finished slices of one scan under one choice of settings; without a folder it keeps nothing.

    Attributes:
        folder: where the slices lie, or None.
    """

    folder: Path | None

    @classmethod
    def open(
        cls, work: Path | None, scan: RawScan, settings: Settings, reference: RawScan | None, *facts: object
    ) -> Store:
        """Return the store inside `work` for all that decides the result, the version of fewstep among it.

        Raises:
            InputError: `work` is a file or cannot be written.
        """
        if work is None:
            return cls(None)
        digest = hashlib.sha256(settings.model_dump_json().encode())
        digest.update(repr((version("fewstep"), *facts)).encode())
        for part in (scan, reference):
            if part is None:
                digest.update(b"none")
                continue
            extents = (part.geometry.fov_mm, part.recon_matrix, part.recon_fov_mm, part.noise is None)
            digest.update(repr(extents).encode())
            for tensor in (part.kspace, part.mask, part.calibration, part.trajectory, part.density):
                digest.update(repr(None if tensor is None else tuple(tensor.shape)).encode())
                if tensor is not None:
                    digest.update(tensor.contiguous().numpy().reshape(-1).view(np.uint8).data)
        folder = work / digest.hexdigest()[:16]
        require_writable(folder)
        return cls(folder)

    def load(self, index: int) -> SliceResult | None:
        """Return a finished slice, or None; a file that cannot be read counts as unfinished."""
        if self.folder is None or not self._path(index).is_file():
            return None
        try:
            with np.load(self._path(index), allow_pickle=False) as file:
                image = torch.from_numpy(file["image"])
                facts = json.loads(str(file["facts"]))
                companions = {name: torch.from_numpy(file[f"companion {name}"]) for name in facts.pop("companions")}
        except (OSError, ValueError, KeyError, BadZipFile):
            return None
        history, warnings = tuple(facts.pop("history")), tuple(facts.pop("warnings"))
        return SliceResult(image=image, history=history, warnings=warnings, companions=companions, **facts)

    def save(self, index: int, result: SliceResult) -> None:
        """Keep a finished slice; it appears whole or not at all."""
        if self.folder is None:
            return
        facts = asdict(replace(result, image=torch.empty(0), companions={}))
        del facts["image"]
        facts["companions"] = list(result.companions)
        arrays: dict[str, Any] = {f"companion {name}": tensor.numpy() for name, tensor in result.companions.items()}
        with atomic_path(self._path(index), overwrite=True) as scratch, scratch.open("wb") as file:
            np.savez(file, image=result.image.numpy(), facts=json.dumps(facts), **arrays)

    def _path(self, index: int) -> Path:
        assert self.folder is not None
        return self.folder / f"slice_{index:04d}.npz"

"""What a detector knows of a reference date, kept on disk: each later date then costs half.

Kept is g of the head (`ChangeDetector.embed`), smaller than the features by the number of timesteps. An entry is found
by what it depends on: detector, pixels and place. A wrong scene or other weights cannot be mistaken for it.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from remote_sensing.ddpm_cd.detector import ChangeDetector, origins_of, require_one_grid
from remote_sensing.ddpm_cd.files import fingerprint
from shared.files import atomic_path


class ReferenceCache:
    """`embed` of a reference date with a memory.

    Args:
        detector: whose embeddings are kept; its weights must not change afterwards.
        folder: where they lie, one safetensors file a tile; made when missing.

    Attributes:
        hits: tiles found.
        misses: tiles computed.
    """

    def __init__(self, detector: ChangeDetector, folder: str | os.PathLike[str]) -> None:
        self.detector, self.folder = detector, Path(folder)
        self.hits = self.misses = 0
        self._detector_hash = fingerprint(detector, detector.config.model_dump_json(), detector.precision)

    @torch.no_grad()
    def embed(self, images: Tensor, origins: Tensor | None = None) -> list[Tensor]:
        """Return g of tiles of the reference date, (N, C, H, W) in [-1, 1]; those not in the cache in one pass."""
        from safetensors.torch import load_file, save_file

        where = origins_of(images, origins)
        paths = [self._path(image, origin) for image, origin in zip(images, where, strict=True)]
        missing = [index for index, path in enumerate(paths) if not path.exists()]
        self.hits, self.misses = self.hits + len(paths) - len(missing), self.misses + len(missing)
        computed: dict[int, list[Tensor]] = {}
        if missing:
            levels = self.detector.embed(images[missing], where[missing])
            for row, index in enumerate(missing):
                computed[index] = [level[row] for level in levels]
                stored = {str(number): level.cpu().contiguous() for number, level in enumerate(computed[index])}
                with atomic_path(paths[index], overwrite=True) as scratch:
                    save_file(stored, scratch)
        tiles = []
        for index, path in enumerate(paths):
            if index in computed:
                tiles.append(computed[index])
            else:
                loaded = load_file(path)
                tiles.append([loaded[str(number)].to(images.device) for number in range(len(loaded))])
        return [torch.stack(level) for level in zip(*tiles, strict=True)]

    @torch.no_grad()
    def probability(self, before: Tensor, after: Tensor, origins: Tensor | None = None) -> Tensor:
        """Return what `ChangeDetector.probability` does, with the embeddings of `before` from the cache.

        They are the same where both dates have values everywhere. Where only the later date lacks some, it is given
        those of the reference, whose embedding is fixed; so tiles with such pixels come out slightly different.
        """
        detector = self.detector
        require_one_grid(before, after)
        lacking, absent = (~date.isfinite().all(1, keepdim=True) for date in (before, after))
        valid = ~(lacking | absent)[:, 0]
        first = torch.where(lacking, torch.nan, before)
        a = self.embed(detector.scaled(first), origins)
        b = detector.embed(detector.scaled(torch.where(lacking | absent, first, after)), origins, date=1)
        found = detector.compare(a, b, before.shape[-2:])
        return torch.where(valid, detector.calibrated(found), torch.nan)

    def _path(self, image: Tensor, origin: Tensor) -> Path:
        digest = hashlib.sha256(f"{self._detector_hash} {origin.tolist()} {tuple(image.shape)}".encode())
        digest.update(image.detach().cpu().contiguous().numpy().tobytes())
        return self.folder / f"{digest.hexdigest()[:40]}.safetensors"

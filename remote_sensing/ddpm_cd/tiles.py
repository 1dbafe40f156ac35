"""A change detector as `remote_sensing.tiling` takes it: from a patch of a pair to the probability of change.

Group normalisation and attention see the whole patch, so tiled and whole results cannot be equal: patches overlap and
are blended. They should have the size of the training crops. The noise is that of the place, whatever the tiles.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from remote_sensing.ddpm_cd.cache import ReferenceCache
from remote_sensing.ddpm_cd.detector import ChangeDetector
from remote_sensing.ddpm_cd.files import fingerprint

if TYPE_CHECKING:
    from remote_sensing.rasters import Patch


@dataclass
class PatchDetector:
    """A detector over patches.

    Attributes:
        detector: on its device, with its precision.
        training: facts of its training, of `load_detector`.
        cache: keeps what is known of the first date, for comparison with several others.
        notes: sentences that a user must read.
        threads: of torch on the CPU, wherever a patch is computed: products of matrices are split by threads and
            rounded accordingly, so workers with another number would not give the bits of one process.
    """

    detector: ChangeDetector
    training: dict[str, Any] = field(default_factory=dict)
    cache: ReferenceCache | None = None
    notes: tuple[str, ...] = ()
    threads: int = field(default_factory=torch.get_num_threads)

    halo = 0

    @property
    def size(self) -> int:
        """Return the rows and columns that a patch should have: those of the training crops."""
        return int(self.training.get("crop", 256))

    @property
    def blend(self) -> int:
        """Return the pixels by which tiles overlap: a quarter of them."""
        return self.size // 4

    def __call__(self, patch: Patch) -> NDArray[np.float32]:
        """Return the probability of change, float32 (rows, columns), NaN where not valid.

        A patch without valid pixels never reaches the network.
        """
        if not patch.valid.any():
            return np.full(patch.valid.shape, np.nan, np.float32)
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        device = next(self.detector.parameters()).device
        before, after = (torch.from_numpy(date)[None].to(device) for date in (patch.before, patch.after))
        origins = torch.tensor([[patch.row, patch.col]])
        asked = self.detector if self.cache is None else self.cache
        return asked.probability(before, after, origins)[0].cpu().numpy()

    def facts(self) -> dict[str, object]:
        """Return what is worth telling."""
        config = self.detector.config
        return {
            "method": "ddpm-cd",
            "score": "probability of change",
            "threshold_rule": "fixed",
            "threshold": 0.5,
            "timesteps": list(config.head.timesteps),
            "noise": config.noise,
            "precision": self.detector.precision,
            "threads": self.threads,
            "weights_sha256": fingerprint(self.detector, config.model_dump_json()),
            "training": self.training,
        }

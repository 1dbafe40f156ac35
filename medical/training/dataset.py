"""Simulated slices by number: slice n of a training is the same on every machine, with any workers, after any restart.

Nothing is stored but the anatomies: what is random about a slice comes from a generator seeded by (seed, n) alone.
"""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset

from medical.reconstruction.coil_compression import principal_coils
from medical.simulation.acquisition import SimulatedSlice, acquire
from medical.simulation.objects import draw_object
from medical.simulation.protocol import Ranges, draw_protocol
from medical.simulation.volumes import AnatomyCache, Split, subjects


class SimulatedSlices(Dataset[SimulatedSlice]):
    """Slices of a split's subjects, scanned with protocols drawn from ranges.

    Args:
        split: of the subjects.
        ranges: of the protocols.
        data: folder of the brain volumes.
        cache: folder of their axial slices, filled when first used.
        length: how many slices there are.
        seed: two data sets with one seed have the same slices.
        first: number of the first slice, when a training goes on.
        virtual_coils: larger arrays are compressed to so many coils.
    """

    def __init__(
        self,
        split: Split,
        ranges: Ranges,
        data: str | os.PathLike[str],
        cache: str | os.PathLike[str],
        *,
        length: int,
        seed: int = 0,
        first: int = 0,
        virtual_coils: int | None = None,
    ) -> None:
        self.anatomies = AnatomyCache(subjects(split, data), data, cache)
        self.ranges, self.length, self.seed, self.first = ranges, length, seed, first
        self.virtual_coils = virtual_coils

    def __len__(self) -> int:
        return self.length - self.first

    def __getitem__(self, index: int) -> SimulatedSlice:
        """Simulate slice number first + index."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        draws = np.random.default_rng([self.seed, self.first + index])
        protocol = draw_protocol(self.ranges, draws)
        anatomy = self.anatomies.draw(draws, float(draws.uniform(*self.ranges.thickness_mm)))
        scanned = draw_object(
            anatomy, protocol.contrast, draws, variation=self.ranges.variation, cell_mm=protocol.cell_mm
        )
        scan = acquire(scanned, protocol, draws)
        return scan if self.virtual_coils is None else compressed(scan, self.virtual_coils)


def compressed(scan: SimulatedSlice, coils: int) -> SimulatedSlice:
    """Return the slice in at most so many virtual coils: the principal components of what was acquired.

    The noise stays white. The true image and the unit norm of the maps are those of all coils, of which the virtual
    ones hold nearly all signal.
    """
    if len(scan.kspace) <= coils:
        return scan
    matrix = principal_coils(scan.kspace[:, scan.mask], coils)

    def mixed(x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("vc,cyx->vyx", matrix, x)

    return replace(
        scan, kspace=mixed(scan.kspace), full_kspace=mixed(scan.full_kspace), coil_maps=mixed(scan.coil_maps)
    )

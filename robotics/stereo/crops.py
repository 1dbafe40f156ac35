"""Random crops of generated scenes, as a training wants them."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np

from robotics.stereo.model import first_map
from robotics.stereo.pair import TRANSPARENT, StereoSample, Surface
from robotics.stereo.resizing import resized_disparity, resized_image, resized_mask

Batch = tuple[np.ndarray, ...]
HOLES = 6  # most rectangles taken out of a raw map
HARD = (*TRANSPARENT, Surface.MIRROR)
KNOWN_BY = 16  # scenes that identify a collection


class Scenes(Protocol):
    """A list of samples, or data sets on disk (`robotics.stereo.scenes.shards.SceneFolders`)."""

    def __len__(self) -> int:
        """Return the number of samples."""
        ...

    def __getitem__(self, index: int, /) -> StereoSample:
        """Return a sample."""
        ...


class Crops:
    """Windows of scenes; a scene is read when a window of it is cut.

    Args:
        samples: the scenes, none smaller than the windows.
    """

    def __init__(self, samples: Scenes) -> None:
        self.samples = samples
        self.count = len(samples)
        digest = hashlib.sha256(str(self.count).encode())
        for index in np.unique(np.linspace(0, self.count - 1, KNOWN_BY).astype(int)):
            digest.update(samples[int(index)].disparity_left.tobytes())
        self.fingerprint = digest.hexdigest()

    def draw(
        self,
        count: int,
        size: tuple[int, int],
        raw: float,
        enlarged: float,
        source: np.random.Generator,
        upside_down: float = 0.5,
    ) -> Batch:
        """Return left, right (N, 3, H, W) in [0, 1], truth, first map, known, seen and hard (N, 1, H, W), float32.

        "hard" is 1 on glass and mirrors, else 0.

        Args:
            count: N.
            size: H, W.
            raw: share that begins from the raw map, half of them with rectangles taken out; the others have no map.
            enlarged: share cut out of the scene smaller, by up to 2, and enlarged to H x W.
            source: of everything random.
            upside_down: share of crops that are, which keeps a pair a pair.
        """
        parts = [self._one(size, raw, enlarged, source, upside_down) for _ in range(count)]
        return tuple(np.stack(values) for values in zip(*parts, strict=True))

    def _one(
        self, size: tuple[int, int], raw: float, enlarged: float, source: np.random.Generator, upside_down: float
    ) -> Batch:
        sample = self.samples[int(source.integers(self.count))]
        share = source.uniform(0.5, 1) if source.random() < enlarged else 1.0
        tall, wide = round(share * size[0]), round(share * size[1])
        height, width = sample.pair.left.shape[:2]
        top, begin = source.integers(height - tall + 1), source.integers(width - wide + 1)
        rows = slice(top, top + tall)
        if source.random() < upside_down:
            rows = slice(top + tall - 1, top - 1 if top else None, -1)
        window = rows, slice(begin, begin + wide)
        chance = source.random()
        first: np.ndarray | None = None
        if chance < raw:
            first = resized_disparity(sample.raw[window].astype(np.float32), size)
            if chance < raw / 2:
                first = _with_holes(first, source)
        start, known = first_map(first, size)
        gain = source.uniform(0.8, 1.2)
        images = [
            np.clip(gain * resized_image(image[window], size).transpose(2, 0, 1).astype(np.float32) / 255, 0, 1)
            for image in (sample.pair.left, sample.pair.right)
        ]
        truth = resized_disparity(sample.disparity_left[window].astype(np.float32), size)
        # A partner left of the crop is out of view, however well the whole image shows it.
        seen = ~resized_mask(sample.occluded[window], size) & (np.arange(size[1]) - truth >= 0)
        hard = resized_mask(np.isin(sample.material[window], HARD), size)
        maps = (truth, start, known, seen.astype(np.float32), hard.astype(np.float32))
        return (*images, *(value[None] for value in maps))


def _with_holes(disparity: np.ndarray, source: np.random.Generator) -> np.ndarray:
    """Return a map with up to `HOLES` rectangles of at most a third of each side taken out."""
    disparity = disparity.copy()
    height, width = disparity.shape
    for _ in range(source.integers(1, HOLES + 1)):
        tall, wide = source.integers(4, height // 3 + 1), source.integers(4, width // 3 + 1)
        top, begin = source.integers(height - tall + 1), source.integers(width - wide + 1)
        disparity[top : top + tall, begin : begin + wide] = np.nan
    return disparity

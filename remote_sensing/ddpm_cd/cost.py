"""What a detector costs, counted without computing: multiply-adds of a pair of tiles, and parameters.

python -m remote_sensing.ddpm_cd.cost [preset] [tile size] [pairs to time]
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

from remote_sensing.ddpm_cd.config import PRESETS, DetectorConfig, detector_from_data
from remote_sensing.ddpm_cd.detector import ChangeDetector
from shared.ledger import flop_counter


@dataclass(frozen=True)
class Cost:
    """Counted on one tile; a multiply-add is two of the operations that torch counts.

    Attributes:
        unet_gmac: a whole pass of the UNet on one image, 1e9 multiply-adds.
        features_gmac: the same up to the last feature that the head uses.
        head_gmac: the head on one pair.
        pair_gmac: a pair of dates: 2 x timesteps passes and the head.
        mmac_per_pixel: the same by the pixels of the tile, 1e6.
        unet_parameters: of the UNet.
        head_parameters: of the head.
    """

    unet_gmac: float
    features_gmac: float
    head_gmac: float
    pair_gmac: float
    mmac_per_pixel: float
    unet_parameters: int
    head_parameters: int


def cost(config: DetectorConfig, size: int = 256) -> Cost:
    """Return the cost of a detector on tiles of size x size pixels."""
    steps = len(config.head.timesteps)
    with torch.device("meta"), torch.no_grad():
        detector = ChangeDetector(config).eval()
        image, level = torch.zeros(1, config.diffusion.unet.bands, size, size), torch.zeros(1)
        unet = _gmac(lambda: detector.unet(image, level))
        features = _gmac(lambda: detector.unet.features(image, level, config.used_scales))
        found = detector.unet.features(image, level, config.used_scales)
        date = {scale: feature.repeat(1, steps, 1, 1) for scale, feature in found.items()}
        head = _gmac(lambda: detector.head(date, date))
    pair = 2 * steps * features + head
    numbers = (sum(p.numel() for p in part.parameters()) for part in (detector.unet, detector.head))
    return Cost(unet, features, head, pair, pair * 1e3 / size**2, *numbers)


def main(arguments: Sequence[str]) -> None:
    """Write the cost of one preset, or of all, as JSON."""
    size = int(arguments[1]) if len(arguments) > 1 else 256
    costs: dict[str, dict[str, float]] = {}
    for name in arguments[:1] or PRESETS:
        config = detector_from_data({"preset": name})
        costs[name] = asdict(cost(config, size))
        if len(arguments) > 2:
            costs[name] |= {"seconds": seconds(config, size, int(arguments[2])), "threads": torch.get_num_threads()}
    sys.stdout.write(json.dumps(costs, indent=2) + "\n")


def seconds(config: DetectorConfig, size: int, repeat: int) -> float:
    """Return the least processor time of `repeat` pairs of tiles, after one that is not timed.

    Processor time, summed over threads, is that of a quiet machine even where others compute beside.
    """
    detector = ChangeDetector(config).eval()
    before, after = torch.rand(2, 1, config.diffusion.unet.bands, size, size)
    times = []
    for _ in range(repeat + 1):
        begun = time.process_time()
        detector.probability(before, after)
        times.append(time.process_time() - begun)
    return min(times[1:])


def _gmac(run: Callable[[], object]) -> float:
    with flop_counter() as counter:
        run()
    return counter.get_total_flops() / 2e9


if __name__ == "__main__":
    main(sys.argv[1:])

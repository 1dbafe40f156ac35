"""A cost volume whose answer is known, so that an untrained network begins where a test says."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from robotics.stereo.networks import StereoNetwork
from robotics.stereo.networks.volume import UNSEEN, seen


def say(network: StereoNetwork, entries: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the network's volume prefer these disparities alike (quarter pixels), everywhere in view."""

    def volume(left: torch.Tensor, _: torch.Tensor, disparities: int) -> torch.Tensor:
        score = torch.full((len(left), disparities, *left.shape[2:]), -30.0)
        score[:, list(entries)] = 0.0
        return torch.where(seen(disparities, left.shape[-1], left.device), score, 3 * UNSEEN)

    monkeypatch.setattr(network.volume, "forward", volume)

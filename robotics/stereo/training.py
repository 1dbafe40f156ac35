r"""Training of a stereo model on generated scenes.

    loss =   E |x^ - x_0|_1                                               the estimate, in the units of the diffusion
           + w_f E asinh(|d^ - d|)                                        the full map of the same estimate, px
           + w_v E [-log softmax(S)(d / 4)]   where the partner is seen   the cost volume, linear between entries

Pixels on glass and mirrors count 1 + w_h times in the first two: they are few, and the rest is no help for them.

The levels of half of a batch are those of pure noise, where a sampling of few calls decides most; the others are
uniform over the table. The map that the diffusion begins from is the sample's raw one, the same with more holes, or
none, by chance, so that one network serves all three.

Step n draws everything random from the seed and n, and a checkpoint holds network, average and moments.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, field_validator
from torch import Tensor
from torch.nn import functional

from robotics.stereo.config import StereoConfig
from robotics.stereo.crops import Crops
from robotics.stereo.files import save_stereo
from robotics.stereo.networks import StereoNetwork, reduced
from robotics.stereo.networks.upsample import FACTOR
from shared.training_run import Recipe, Share, TrainingRun


class StereoTraining(Recipe):
    """Everything that decides a training; a sample is a crop.

    Attributes:
        model: what is trained.
        crop: height and width of what is cut out of a scene, px, multiples of the model's `multiple`.
        max_disparity: of the cost volume in training, px.
        full_weight: w_f.
        volume_weight: w_v.
        hard_weight: w_h.
        enlarged: share of crops that are cut out smaller, by up to 2, and enlarged.
        raw: share of crops that begin from the raw map; half of them with more holes.
    """

    model: StereoConfig = StereoConfig()
    crop: tuple[PositiveInt, PositiveInt] = (128, 192)
    max_disparity: PositiveFloat = 88.0
    warmup: NonNegativeInt = 200
    full_weight: NonNegativeFloat = 0.2
    volume_weight: NonNegativeFloat = 0.05
    hard_weight: NonNegativeFloat = 0.0
    enlarged: Share = 0.0
    raw: Share = 0.75

    @field_validator("model")
    @classmethod
    def _plain(cls, model: StereoConfig) -> StereoConfig:
        if model.surfaces:
            raise ValueError("leave surfaces out: `fewstep stereo train-surfaces` adds them to a trained network")
        return model


class StereoTrainer(TrainingRun):
    """A training in progress; it goes on where the folder's checkpoint stopped.

    Args:
        settings: what to train.
        crops: scenes to cut from.
        folder: for checkpoint and log.
        start: state of a network of the same sizes to begin with; None begins at random.
        device: where to compute.

    Raises:
        InputError: crops that do not fit the model, or a folder with another training.
    """

    shown = "full"
    settings: StereoTraining
    network: StereoNetwork

    def __init__(
        self,
        settings: StereoTraining,
        crops: Crops,
        folder: Path,
        *,
        start: Mapping[str, Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        settings.model.require_crop(settings.crop)
        self.settings, self.crops, self.folder = settings, crops, Path(folder)
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = StereoNetwork(settings.model)
        if start is not None:
            self.network.load_state_dict(start)
        self.network.to(self.device)
        self.process = settings.model.process()
        begun_with = (value.cpu().contiguous().numpy().tobytes() for value in (start or {}).values())
        self.begin(crops.fingerprint.encode(), *begun_with)

    def losses(self, source: np.random.Generator) -> dict[str, Tensor]:
        """Return the three losses of a batch that the source draws, differentiable."""
        settings = self.settings
        cut = self.crops.draw(settings.batch, settings.crop, settings.raw, settings.enlarged, source)
        left, right, truth, first, known, seen, hard = (torch.from_numpy(value).to(self.device) for value in cut)
        disparities = math.ceil(settings.max_disparity / FACTOR) + 1
        prepared = self.network.prepare(left, right, first, known, disparities)
        x0 = self.network.encode(reduced(truth) / FACTOR - prepared.start).clamp(-1, 1)
        entry = source.integers(settings.model.steps, size=settings.batch)
        entry[: settings.batch // 2] = settings.model.steps - 1
        noise = torch.from_numpy(source.standard_normal(x0.shape, np.float32)).to(self.device)
        level = torch.from_numpy((entry + 1) / settings.model.steps).to(self.device)
        x = self.process.add_noise(x0, noise, level)
        estimate = self.network(x, torch.from_numpy(entry).to(self.device, torch.float32), prepared=prepared)
        full = self.network.full(estimate, prepared)
        weight = 1 + settings.hard_weight * hard
        return {
            "estimate": (functional.avg_pool2d(weight, FACTOR) * (estimate - x0).abs()).mean(),
            "full": (weight * torch.asinh((full - truth).abs())).mean(),
            "volume": volume_loss(prepared.score, truth, seen),
        }

    def train_step(self) -> dict[str, float]:
        """Make one step and return its losses."""
        settings = self.settings
        source = np.random.default_rng(np.random.SeedSequence([settings.seed, self.step]))
        losses = self.losses(source)
        total = losses["estimate"] + settings.full_weight * losses["full"] + settings.volume_weight * losses["volume"]
        self.take_step(total)
        return {name: float(value.detach()) for name, value in losses.items()}

    def export(self, path: Path, *, half: bool = False, origin: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write the averaged weights as a model file and return the facts in its header.

        Args:
            path: ending in .safetensors.
            half: store in float16.
            origin: more facts: "data", the scenes as `SceneFolders.facts`, and "start", the model it began with.
        """
        settings = self.settings
        facts = {
            **self.recipe_facts(),
            "crop": list(settings.crop),
            "scenes": self.crops.count,
            **(origin or {}),
        }
        save_stereo(path, settings.model, self.average.average, facts, half=half)
        return facts


def volume_loss(score: Tensor, truth: Tensor, seen: Tensor) -> Tensor:
    """Return the mean of -log softmax(S) at the true disparity, where its partner is seen.

    Args:
        score: (N, D, h, w).
        truth: (N, 1, H, W), px.
        seen: (N, 1, H, W), 1 where the right camera sees the point.
    """
    place = reduced(truth)[:, 0] / FACTOR
    used = (reduced(seen)[:, 0] == 1) & (place <= score.shape[1] - 1)
    low = place.floor().clamp(0, score.shape[1] - 2)
    share = (place - low).clamp(0, 1)
    logs = score.log_softmax(1)
    index = low.long()[:, None]
    found = (1 - share) * logs.gather(1, index)[:, 0] + share * logs.gather(1, index + 1)[:, 0]
    return -(found * used).sum() / used.sum().clamp(min=1)

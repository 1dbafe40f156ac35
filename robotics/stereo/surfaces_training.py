r"""Training of the branch for glass and mirrors, with the network around it frozen.

    loss =   E (1 + w_h hard) asinh(2 |d' - d_true|)      the estimate with the branch, everywhere, px
           + w_a E_hard asinh(2 |s - d_true|)             the branch alone, on glass and mirrors
           + w_p E [-log p(hard)]                         where they are

The share q in p is that of glass and mirrors in the crops, so that what is learnt is evidence alone.

asinh(2 e) asks for the most likely disparity rather than for the mean of what is possible. What the frozen network says
of a crop is computed once (`robotics.stereo.looked`), so that a step goes through the branch alone.

Step n draws everything random from the seed and n, and a checkpoint holds branch, average and moments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from torch import Tensor
from torch.nn import functional

from robotics.stereo.config import check_surfaces
from robotics.stereo.crops import Crops
from robotics.stereo.files import StereoFile, save_stereo
from robotics.stereo.looked import Looked, LookedCrops
from robotics.stereo.networks.surfaces import PREFIX, Surfaces, logit
from robotics.stereo.networks.upsample import FACTOR
from shared.errors import InputError
from shared.training_run import Recipe, Share, TrainingRun


class SurfacesTraining(Recipe):
    """Everything that decides a training; a sample is a crop.

    Attributes:
        channels: of the branch's levels, as `StereoConfig.surfaces`.
        crop: height and width of what is cut out of a scene, px, multiples of the model's `multiple`.
        crops: number of them; each is seen many times.
        max_disparity: of the cost volume, px.
        raw: share of crops that begin from the raw map; half of them with more holes.
        enlarged: share of crops that are cut out smaller, by up to 2, and enlarged.
        hard_weight: w_h.
        alone_weight: w_a.
        where_weight: w_p.
        bfloat16: compute in it, nearly twice as fast on processors that have it.
    """

    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (16, 48, 72, 96)
    crop: tuple[PositiveInt, PositiveInt] = (224, 320)
    crops: PositiveInt
    max_disparity: PositiveFloat = 96.0
    raw: Share = 0.85
    enlarged: Share = 0.3
    learning_rate: PositiveFloat = 1.5e-3
    weight_decay: NonNegativeFloat = 1e-3
    hard_weight: NonNegativeFloat = 2.0
    alone_weight: NonNegativeFloat = 0.3
    where_weight: NonNegativeFloat = 0.5
    bfloat16: bool = True

    @field_validator("channels")
    @classmethod
    def _fit(cls, channels: tuple[int, ...]) -> tuple[int, ...]:
        check_surfaces(channels)
        return channels


class SurfacesTrainer(TrainingRun):
    """A training in progress; it goes on where the folder's checkpoint stopped.

    Args:
        settings: what to train.
        start: model around the branch; a branch of the same sizes is begun with, else a random one.
        crops: scenes to cut from.
        folder: for checkpoint, log and what the frozen network says.
        device: where to compute.
        progress: label of a bar while the network looks at the crops; None is silent.

    Raises:
        InputError: crops that do not fit the model, or without glass and mirrors, or a folder with another training.
    """

    shown = "estimate"
    settings: SurfacesTraining
    network: Surfaces

    def __init__(
        self,
        settings: SurfacesTraining,
        start: StereoFile,
        crops: Crops,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        progress: str | None = None,
    ) -> None:
        self.config = start.config.model_copy(update={"surfaces": settings.channels})
        self.config.require_crop(settings.crop)
        self.settings, self.start, self.crops, self.folder = settings, start, crops, Path(folder)
        self.device = torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = Surfaces(settings.channels)
        if start.config.surfaces == settings.channels:
            branch = {name: value.float() for name, value in start.tensors.items() if name.startswith(PREFIX)}
            self.network.load_state_dict({name.removeprefix(PREFIX): value for name, value in branch.items()})
        self.network.to(self.device)
        self.begin(crops.fingerprint.encode(), start.sha256.encode())
        frozen = start.plain()
        digest = hashlib.sha256(frozen.config.model_dump_json().encode())
        for name in sorted(frozen.tensors):
            digest.update(frozen.tensors[name].float().contiguous().numpy().tobytes())
        self.looked = LookedCrops(
            frozen.model(device), crops, self.folder, count=settings.crops, size=settings.crop,
            max_disparity=settings.max_disparity, raw=settings.raw, enlarged=settings.enlarged, seed=settings.seed,
            origin=f"{crops.fingerprint} {digest.hexdigest()}", progress=progress,
        )  # fmt: skip
        self.share = self.looked.share()
        if not 0 < self.share < 1:
            raise InputError(
                "scenes", found=f"a share of {self.share:g} of glass and mirrors", expected="some, and something else",
                fix="Generate scenes with both (configs/robotics/stereo_glass.yaml).",
            )  # fmt: skip

    def losses(self, looked: Looked) -> dict[str, Tensor]:
        """Return the three losses of crops, differentiable."""
        maps, left, place, truth, hard = (
            getattr(looked, name).to(self.device).float() for name in ("maps", "left", "place", "truth", "hard")
        )
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            evidence, alone = self.network(
                maps.contiguous(memory_format=torch.channels_last), 4 * left / 255 - 2
            )  # fmt: skip
        chance = evidence + logit(self.share)
        new = torch.lerp(place, alone, torch.sigmoid(chance))

        def apart(found: Tensor) -> Tensor:
            return torch.asinh(2 * FACTOR * (found - truth).abs())

        return {
            "estimate": ((1 + self.settings.hard_weight * hard) * apart(new)).mean(),
            "alone": (hard * apart(alone)).sum() / hard.sum().clamp(min=1),
            "where": functional.binary_cross_entropy_with_logits(chance, hard),
        }

    def train_step(self) -> dict[str, float]:
        """Make one step and return its losses."""
        settings = self.settings
        source = np.random.default_rng(np.random.SeedSequence([settings.seed, self.step]))
        losses = self.losses(self.looked.batch(source.integers(settings.crops, size=settings.batch).tolist()))
        total = losses["estimate"] + settings.alone_weight * losses["alone"] + settings.where_weight * losses["where"]
        self.take_step(total)
        return {name: float(value.detach()) for name, value in losses.items()}

    def export(self, path: Path, *, half: bool = False, origin: Mapping[str, Any] | None = None) -> None:
        """Write the model with the averaged branch; the other tensors stay as they are stored.

        A confidence stays if it was fitted without looking for glass: there the maps are the same.

        Args:
            path: ending in .safetensors.
            half: store all in float16.
            origin: more facts: "data", the scenes as `SceneFolders.facts`, and "start", the model.
        """
        settings = self.settings
        branch = {PREFIX + name: value for name, value in self.average.average.items()}
        facts = {
            **self.recipe_facts(),
            "crop": list(settings.crop),
            "crops": settings.crops,
            "share": self.share,
            "scenes": self.crops.count,
            **(origin or {}),
        }
        fitted = self.start.fitted
        if fitted is not None and fitted.settings.get("glass"):
            fitted = None
        save_stereo(
            path,
            self.config,
            self.start.plain().tensors | branch,
            {**self.start.training, "surfaces": facts},
            half=half,
            fitted=fitted,
        )

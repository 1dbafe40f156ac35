r"""Training of the change detector on labelled pairs, and of a light student on unlabelled ones.

    loss = sum_i w_i H(p_i, q_i) / sum_i w_i,      H(p, q) = -p ln q - (1 - p) ln(1 - q),      w = 1 + (weight - 1) p

over the pixels i with a label: p is 1 where it is changed, and 0 elsewhere. With `overlap` there is added

    overlap (1 - 2 sum_i p_i s_i / sum_i (p_i + s_i)),      s the estimated probability, over the whole batch,

which is 1 - F1 where s is 0 or 1. For a student p is the probability of its teacher, and every pixel counts (Hinton,
Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015): a
detector with one timestep, or a small UNet, learns the map of a large one from pairs alone.

The published training keeps the UNet as pretrained, and so does `unet_share = 0`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from remote_sensing.ddpm_cd.augment import Augmentation, Augmenter
from remote_sensing.ddpm_cd.calibration import LogitCounts
from remote_sensing.ddpm_cd.config import DetectorConfig, Share
from remote_sensing.ddpm_cd.crops import CHANGED, UNKNOWN, PairCrops, PairScene, check_pairs, digest
from remote_sensing.ddpm_cd.detector import ChangeDetector
from remote_sensing.ddpm_cd.files import filled, fingerprint, save_detector
from remote_sensing.ddpm_cd.loop import LoopSettings, Trainer, seeded
from remote_sensing.ddpm_cd.unet import UNet
from shared.errors import InputError

SMALLEST_PROBABILITY = 1e-7  # beyond which the logit of a float32 is rounding


class ChangeTraining(LoopSettings):
    """Everything that decides the training of a detector.

    Attributes:
        detector: what is trained.
        change_weight: weight of changed pixels in the loss, in units of unchanged ones.
        overlap: weight of the overlap (Dice) in the loss.
        on_change: share of the crops that hold a changed pixel for certain; fewer after an augmentation.
        augment: what is done to the crops besides the symmetries of the square.
        unet_share: learning rate of the UNet in units of the head's; 0 keeps it as it is.
    """

    detector: DetectorConfig = DetectorConfig()
    change_weight: PositiveFloat = 1.0
    overlap: Annotated[float, Field(ge=0)] = 0.0
    on_change: Share = 0.5
    augment: Augmentation = Augmentation()
    unet_share: Annotated[float, Field(ge=0)] = 0.0


class ChangeTrainer(Trainer):
    """The training of a detector in progress.

    Args:
        settings: what to train.
        pairs: labelled ones; labels may be absent where a teacher is given.
        folder: where its files lie; resumed from if it holds `state.pt`.
        unet: pretrained, of the size in the settings; None starts with random weights.
        teacher: whose probability is learned instead of labels.
        held_out: labelled pairs on which F1 and IoU at probability 1/2 are logged with each checkpoint, and the
            probability is calibrated in the end.
        device: where to compute.

    Raises:
        InputError: pairs or a UNet that do not fit, no changed pixel, or a folder with another training.
    """

    output = "detector.safetensors"

    def __init__(
        self,
        settings: ChangeTraining,
        pairs: Sequence[PairScene],
        folder: Path,
        *,
        unet: UNet | None = None,
        teacher: ChangeDetector | None = None,
        held_out: Sequence[PairScene] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        config = settings.detector
        bands = config.diffusion.unet.bands
        check_pairs(pairs, bands, settings.crop, labelled=teacher is None)
        if held_out:
            check_pairs(held_out, bands, 1, labelled=True)
        self.config, self.held_out = config, held_out
        self.augmenter, self.crops = augmented_crops(
            settings.augment, pairs, config.diffusion.limits, settings.crop, settings.on_change
        )
        self.detector = seeded(lambda: ChangeDetector(config), settings.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            start_orthogonal(self.detector.head)
        if unet is not None:
            if unet.config != config.diffusion.unet:
                raise InputError(
                    "pretrained network",
                    found=f"{unet.config}",
                    expected=f"{config.diffusion.unet}",
                    fix="Take the UNet's configuration from the pretrained file.",
                )
            self.detector.unet.load_state_dict(unet.state_dict())
        self.detector.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher = None if teacher is None else teacher.to(device).eval()
        frozen = settings.unet_share == 0
        self.detector.unet.requires_grad_(not frozen)
        identity: dict[str, Any] = {
            "pairs": [
                [digest(part) for part in (pair.before, pair.after, pair.label) if part is not None] for pair in pairs
            ],
            "unet": fingerprint(self.detector.unet) if frozen else "trained",
            "teacher": "none" if teacher is None else fingerprint(teacher, teacher.config.model_dump_json()),
        }
        shares = [(list(self.detector.head.parameters()), 1.0)]
        if not frozen:
            shares.append((list(self.detector.unet.parameters()), settings.unet_share))
        self.options = settings
        super().__init__(
            settings,
            self.detector.head if frozen else self.detector,
            folder,
            device=device,
            shares=shares,
            identity=identity,
        )
        self.trained.train()
        self.detector.unet.train(not frozen)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Return the loss of the module docstring for one batch."""
        batch = self.augmenter(self.crops.draw(self.settings.batch, generator).to(self.device), generator)
        before, after = batch.before, batch.after
        valid = (before.isfinite() & after.isfinite()).all(1)
        target, known = (batch.label == CHANGED).float(), batch.label != UNKNOWN
        if self.teacher is not None:
            target = self.teacher.probability(before, after, batch.origins).nan_to_num(0.0)
            known = torch.ones_like(known)
        a, b = (self.detector.scaled(torch.where(valid[:, None], date, torch.nan)) for date in (before, after))
        logits = self.detector.logits(a, b, batch.origins).float()
        weight = (known & valid) * (1 + (self.options.change_weight - 1) * target)
        return change_loss(logits[:, 1] - logits[:, 0], target, weight, self.options.overlap)

    def validate(self) -> dict[str, float]:
        """Return F1 and IoU of change over all known pixels of the held-out pairs together."""
        if not self.held_out:
            return {}
        detector, counts = self.averaged(), torch.zeros(3, dtype=torch.int64)
        detector.precision = self.settings.precision
        for pair in self.held_out:
            if pair.label is not None:
                found, label = self._map(detector, pair), torch.from_numpy(pair.label.astype("uint8"))
                says, changed = found > 0.5, label == CHANGED
                known = (label != UNKNOWN) & ~found.isnan()
                counts += torch.stack(
                    [(part & known).sum() for part in (says & changed, says & ~changed, ~says & changed)]
                )
        hit, false, missed = counts.tolist()
        return {"f1": 2 * hit / max(2 * hit + false + missed, 1), "iou": hit / max(hit + false + missed, 1)}

    def _map(self, detector: ChangeDetector, pair: PairScene) -> Tensor:
        """Return the probability of change of a whole scene (y, x), in tiles of the size of the crops."""
        size, (height, width) = self.settings.crop, pair.before.shape[1:]
        whole = torch.empty(height, width)
        for row in range(0, height, size):
            for column in range(0, width, size):
                place = slice(row, row + size), slice(column, column + size)
                dates = (
                    torch.from_numpy(date[(slice(None), *place)].astype("float32"))
                    for date in (pair.before, pair.after)
                )
                before, after = (date[None].to(self.device) for date in dates)
                whole[place] = detector.probability(before, after, torch.tensor([[row, column]]))[0].cpu()
        return whole

    def averaged(self) -> ChangeDetector:
        """Return a copy of the detector with the averaged weights, in evaluation mode."""
        tensors = {name: value.clone() for name, value in self._tensors().items()}
        detector = filled(ChangeDetector(self.config), tensors, "average")
        return detector.to(self.device).eval().requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        """Return what is exported, with the weights of the last step."""
        return self.detector

    def facts(self) -> dict[str, Any]:
        """Return how far the training has come, in JSON types."""
        return {
            "steps": self.step, "batch": self.settings.batch, "crop": self.settings.crop,
            "seconds": round(self.seconds), "pairs": len(self.crops.pairs), "distilled": self.teacher is not None,
            "unet_share": self.options.unet_share,
        }  # fmt: skip

    def export_to(self, path: Path, described: Mapping[str, Any]) -> None:
        """Write the averaged weights, usable by `load_detector`, with facts besides those of `facts`.

        The probability is calibrated on the held-out pairs, if there are any; the boundary stays 1/2.
        """
        config, facts = self._calibrated()
        save_detector(path, config, self._tensors(), {**described, **self.facts(), **facts})

    def _calibrated(self) -> tuple[DetectorConfig, dict[str, Any]]:
        detector, counts = self.averaged(), LogitCounts()
        for pair in self.held_out:
            if pair.label is not None:
                p, label = self._map(detector, pair).numpy(), np.asarray(pair.label)
                known = (label != UNKNOWN) & np.isfinite(p)
                p = np.clip(p[known].astype(np.float64), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
                counts.add(np.log(p / (1 - p)), label[known] == CHANGED)
        fitted = counts.fit()
        if fitted is None:
            return self.config, {}
        temperature, shift = fitted
        updated = self.config.model_copy(update={"temperature": temperature, "logit_shift": shift})
        return updated, {"calibrated_on": len(self.held_out), "temperature": temperature, "logit_shift": shift}

    def _tensors(self) -> dict[str, Tensor]:
        if self.trained is self.detector:
            return self.average.average
        unet = {f"unet.{name}": value for name, value in self.detector.unet.state_dict().items()}
        return unet | {f"head.{name}": value for name, value in self.average.average.items()}


def augmented_crops(
    augment: Augmentation,
    pairs: Sequence[PairScene],
    limits: Sequence[tuple[float, float]],
    crop: int,
    on_change: float,
) -> tuple[Augmenter, PairCrops]:
    """Return an augmenter, and the source of the windows from which it makes crops."""
    reach = augment.reach(crop, min(min(pair.before.shape[1:]) for pair in pairs))
    return Augmenter(augment, pairs, limits, crop), PairCrops(pairs, reach, on_change, (reach - crop) // 2)


def change_loss(logit: Tensor, target: Tensor, weight: Tensor, overlap: float) -> Tensor:
    """Return the loss of the module docstring.

    Args:
        logit: of change, (N, H, W).
        target: p.
        weight: of each pixel; 0 is unknown.
        overlap: weight of the overlap.
    """
    error = F.binary_cross_entropy_with_logits(logit, target, reduction="none")
    loss = (weight * error).sum() / weight.sum().clamp_min(1e-6)
    if overlap:
        says, known = torch.sigmoid(logit), (weight > 0).float()
        shared = (known * says * target).sum()
        loss = loss + overlap * (1 - (2 * shared + 1) / ((known * (says + target)).sum() + 1))
    return loss


def start_orthogonal(module: nn.Module) -> None:
    """Give convolutions and linear layers orthogonal weights and no bias, as the published head starts."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def student_of(config: DetectorConfig, timestep: int) -> DetectorConfig:
    """Return the configuration of a student with one timestep and the teacher's UNet."""
    return config.model_copy(update={"head": config.head.model_copy(update={"timesteps": (timestep,)})})

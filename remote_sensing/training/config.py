"""What a training is, validated: the keys of `configs/remote_sensing/<name>.yaml`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from remote_sensing.ddpm_cd.augment import Augmentation
from remote_sensing.ddpm_cd.change_training import ChangeTraining
from remote_sensing.ddpm_cd.config import DiffusionConfig, Settings, Share, detector_from_data
from remote_sensing.ddpm_cd.loop import LoopSettings
from remote_sensing.ddpm_cd.pretraining import Pretraining

Name = Annotated[str, Field(pattern=r"^[a-z_]+/[a-z0-9_]+$")]


class About(Settings):
    """What the model card says and no file does; it is given apart, since a recipe serves other data as well.

    Attributes:
        data: what the weights are trained on, a sentence.
        licence: of the weights, which follows from that of the data.
        warning: what everyone who uses the weights must read.
        pixel_m: smallest and largest pixel of the training data in metres; detection elsewhere warns.
    """

    data: str = "the files below"
    licence: str = "not stated; it follows from that of the data"
    warning: str = ""
    pixel_m: tuple[float, float] | None = None

    def inheriting(self, *sources: dict[str, Any] | None) -> About:
        """Return the same with the warnings of weights that a training starts from or learns from."""
        warnings = [str(facts.get("warning", "")) for facts in sources if facts] + [self.warning]
        kept = dict.fromkeys(warning for warning in warnings if warning)
        return self.model_copy(update={"warning": " ".join(kept)})


class PretrainConfig(LoopSettings):
    """A pretraining: what `ddpm_cd.pretraining.Pretraining` holds, and a name.

    Attributes:
        name: of the weights, "<package>/<stem>".
        diffusion: the network, its noise and the limits of the bands.
    """

    name: Name
    diffusion: DiffusionConfig = DiffusionConfig()

    def settings(self) -> Pretraining:
        """Return what decides the weights."""
        return Pretraining.model_validate(self.model_dump(include=set(Pretraining.model_fields)))


class TrainConfig(LoopSettings):
    """A training of the detector: what `ddpm_cd.change_training.ChangeTraining` holds, its start and a name.

    Attributes:
        name: of the weights, "<package>/<stem>".
        detector: as `ddpm_cd.config.detector_from_data` reads it; without "diffusion" that of the start is taken.
        start: pretrained diffusion network, by name or path; None starts with random weights.
        change_weight: weight of changed pixels in the loss, in units of unchanged ones.
        overlap: weight of the overlap (Dice) in the loss.
        on_change: share of the crops that hold a changed pixel for certain; fewer after an augmentation.
        augment: what is done to the crops besides the symmetries of the square.
        unet_share: learning rate of the UNet in units of the head's; 0 keeps it as it is.
    """

    name: Name
    detector: dict[str, Any] = Field(default_factory=dict)
    start: str | None = None
    change_weight: Annotated[float, Field(gt=0)] = 1.0
    overlap: Annotated[float, Field(ge=0)] = 0.0
    on_change: Share = 0.5
    augment: Augmentation = Augmentation()
    unet_share: Annotated[float, Field(ge=0)] = 0.0

    def settings(self, diffusion: DiffusionConfig | None = None) -> ChangeTraining:
        """Return what decides the weights, with the configuration of the pretrained network where none is given.

        Raises:
            InputError: the detector is not described correctly.
        """
        values = dict(self.detector)
        if diffusion is not None and "diffusion" not in values:
            values["diffusion"] = diffusion.model_dump()
        kept = self.model_dump(include=set(ChangeTraining.model_fields) - {"detector"})
        return ChangeTraining.model_validate({**kept, "detector": detector_from_data(values)})

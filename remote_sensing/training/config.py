"""What a training is, validated: the keys of `configs/remote_sensing/<name>.yaml`."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from remote_sensing.ddpm_cd.change_training import ChangeTraining
from remote_sensing.ddpm_cd.config import DiffusionConfig, Settings, Share, detector_from_data
from remote_sensing.ddpm_cd.loop import LoopSettings
from remote_sensing.ddpm_cd.pretraining import Pretraining


class Described(Settings):
    """What the model card says and no number does.

    Attributes:
        name: of the weights, "<package>/<stem>".
        data: what they are trained on, a sentence.
        licence: of the weights, which follows from that of the data.
        warning: what everyone who uses the weights must read.
        pixel_m: smallest and largest pixel of the training data in metres; detection elsewhere warns.
    """

    name: Annotated[str, Field(pattern=r"^[a-z_]+/[a-z0-9_]+$")]
    data: str = "not described"
    licence: str = "not stated"
    warning: str = ""
    pixel_m: tuple[float, float] | None = None

    def facts(self) -> dict[str, Any]:
        """Return what is kept in the header of the weights."""
        return self.model_dump(mode="json", include=set(Described.model_fields))


class PretrainConfig(Described, LoopSettings):
    """A pretraining: what `ddpm_cd.pretraining.Pretraining` holds, and its description.

    Attributes:
        diffusion: the network, its noise and the limits of the bands.
    """

    diffusion: DiffusionConfig = DiffusionConfig()

    def settings(self) -> Pretraining:
        """Return what decides the weights."""
        return Pretraining.model_validate(self.model_dump(include=set(Pretraining.model_fields)))


class TrainConfig(Described, LoopSettings):
    """A training of the detector: what `ddpm_cd.change_training.ChangeTraining` holds, its start and description.

    Attributes:
        detector: as `ddpm_cd.config.detector_from_data` reads it; without "diffusion" that of the start is taken.
        start: pretrained diffusion network, by name or path; None starts with random weights.
        change_weight: weight of changed pixels in the loss, in units of unchanged ones.
        on_change: share of the crops that hold a changed pixel for certain.
        unet_share: learning rate of the UNet in units of the head's; 0 keeps it as it is.
    """

    detector: dict[str, Any] = Field(default_factory=dict)
    start: str | None = None
    change_weight: Annotated[float, Field(gt=0)] = 1.0
    on_change: Share = 0.5
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

"""The configuration of a prior's training: a YAML file, validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from medical.reconstruction.posterior.network import GROUP, SliceUNetConfig
from medical.simulation.protocol import Ranges

Share = Annotated[float, Field(ge=0, le=1)]


class PriorTraining(BaseModel):
    """Everything that decides a training.

    Attributes:
        data: folder of the anatomies, see `medical.simulation.volumes`; `--data` on the command line replaces it.
        cache: folder of their slices.
        ranges: of the simulated objects; its matrix is the size of all images.
        pool: training images kept, see `SlicePool`.
        fresh: training images made anew at each step.
        widths: channels of the network's levels.
        blocks: residual blocks a level.
        embedding: size of the embedding of the noise level.
        sigma_data: standard deviation of a real channel of the images in units of the prior.
        sigma_min: noise at the last call.
        sigma_max: noise from which samplings start.
        log_sigma_mean: mean of ln sigma in training.
        log_sigma_std: standard deviation of ln sigma in training.
        batch: images a step.
        steps: number of steps.
        rate: learning rate of AdamW at its height.
        warm_up: steps of linear rise; a cosine decays to 0 over the rest.
        weight_decay: of AdamW.
        average: decay of the average of weights.
        precision: "bfloat16" computes convolutions in bfloat16 (autocast).
        checkpoint_seconds: time between checkpoints.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Path("../shared/data/brain")
    cache: Path = Path("~/.cache/fewstep/anatomies")
    ranges: Ranges = Ranges(matrix=(128, 128), pixel_mm=(1.6, 2.3))
    pool: PositiveInt = 4096
    fresh: Annotated[int, Field(ge=0)] = 2
    widths: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = (64, 96, 128)
    blocks: PositiveInt = 1
    embedding: PositiveInt = 128
    sigma_data: PositiveFloat = 0.22
    sigma_min: PositiveFloat = 0.005
    sigma_max: PositiveFloat = 20.0
    log_sigma_mean: float = -1.5
    log_sigma_std: PositiveFloat = 1.4
    batch: PositiveInt = 16
    steps: PositiveInt = 3500
    rate: PositiveFloat = 1e-3
    warm_up: PositiveInt = 100
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    average: Share = 0.998
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    checkpoint_seconds: PositiveFloat = 120.0

    @model_validator(mode="after")
    def _fits(self) -> PriorTraining:
        if any(width % GROUP for width in self.widths):
            raise ValueError(f"widths must be multiples of {GROUP}")
        matrix, multiple = self.ranges.matrix, self.network.multiple
        if matrix is None or any(size % multiple for size in matrix):
            raise ValueError(f"ranges.matrix must be one size of multiples of {multiple}")
        return self

    @property
    def network(self) -> SliceUNetConfig:
        """Return the size of the network."""
        return SliceUNetConfig(self.widths, self.blocks, self.embedding)

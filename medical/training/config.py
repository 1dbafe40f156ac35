"""What a training is, validated: the keys of `configs/medical/<model>.yaml`."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from medical.simulation.protocol import Ranges


class TrainingConfig(BaseModel):
    """A network, its data and its budget.

    Attributes:
        name: of the weights, "<package>/<stem>".
        method: as `fewstep mri reconstruct --method` calls it.
        network: what `medical.reconstruction.learned.network_from_data` builds.
        ranges: of the simulated acquisitions.
        virtual_coils: larger simulated arrays are compressed to so many coils, which saves time; None keeps all.
        steps: of the optimiser.
        slices_per_step: simulated slices whose gradients are averaged in a step; each has a matrix and coils of its
            own, so they go through the network one by one.
        learning_rate: largest, after the warm-up; it then falls to zero along a half cosine.
        warmup: steps in which it rises from zero.
        weight_decay: of AdamW.
        clip: largest norm of the gradient.
        average: decay of the average of weights that is exported.
        complex_weight: of the L1 terms beside 1 - SSIM.
        precision: "bf16" for mixed precision; Fourier transforms stay in complex64.
        validation_slices: simulated slices of the validation subjects that are scored.
        validate_every: steps between two validations.
        checkpoint_minutes: time between two checkpoints.
        workers: processes that simulate; 0 simulates between steps.
        seed: of weights and data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z_]+/[a-z0-9_]+$")
    method: str = Field(pattern=r"^[a-z0-9-]+$")
    network: dict[str, Any]
    ranges: Ranges = Ranges()
    virtual_coils: PositiveInt | None = None
    steps: PositiveInt
    slices_per_step: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-3
    warmup: NonNegativeInt = 100
    weight_decay: NonNegativeFloat = 0.0
    clip: PositiveFloat = 1.0
    average: float = Field(default=0.995, ge=0, lt=1)
    complex_weight: NonNegativeFloat = 1.0
    precision: Literal["no", "bf16"] = "no"
    validation_slices: PositiveInt = 24
    validate_every: PositiveInt = 500
    checkpoint_minutes: NonNegativeFloat = 2.0
    workers: NonNegativeInt = 0
    seed: NonNegativeInt = 0

    def fingerprint(self) -> str:
        """Return a hash of everything that decides the weights: a checkpoint goes on only under the same one."""
        fixed = self.model_dump_json(
            exclude={"checkpoint_minutes", "workers", "validation_slices", "validate_every", "name", "method"}
        )
        return hashlib.sha256(fixed.encode()).hexdigest()

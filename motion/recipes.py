"""Recipes of trainings: which one a configuration describes, and its trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel

from motion.collection import Collection
from motion.control_training import ControlTrainer, ControlTraining
from motion.files import read_model
from motion.streaming.training import StreamTrainer, StreamTraining
from motion.training import MotionTrainer, MotionTraining
from shared.config import load_config
from shared.errors import InputError


class _Kind(BaseModel):
    kind: Literal["motion_transformer", "motion_control", "motion_stream"] = "motion_transformer"


RECIPES: dict[str, type[MotionTraining]] = {
    "motion_transformer": MotionTraining,
    "motion_control": ControlTraining,
    "motion_stream": StreamTraining,
}


def read_recipe(config: str, base: str | None = None) -> MotionTraining:
    """Return the settings of a configuration, of the class that its `kind` names; without one, a base model's.

    Args:
        config: YAML file or packaged name.
        base: of a branch, instead of the one that the configuration names.

    Raises:
        InputError: no such configuration, a wrong key or value, or a base for a training that has none.
    """
    settings = load_config(config, RECIPES[load_config(config, _Kind).kind])
    if base is None:
        return settings
    if not isinstance(settings, ControlTraining):
        raise InputError(
            "--base", found=base, expected="nothing: this configuration trains a model of its own", fix="Leave it out."
        )
    return settings.model_copy(update={"base": base})


def trainer_of(
    settings: MotionTraining, collection: Collection, folder: Path, *, device: torch.device | str = "cpu"
) -> MotionTrainer:
    """Return the trainer of settings; the base of a branch is read.

    Raises:
        InputError: as those of the trainers, or a base that is not found.
    """
    if isinstance(settings, ControlTraining):
        return ControlTrainer(settings, read_model(settings.base), collection, folder, device=device)
    kind = StreamTrainer if isinstance(settings, StreamTraining) else MotionTrainer
    return kind(settings, collection, folder, device=device)

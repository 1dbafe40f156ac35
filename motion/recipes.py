"""Recipes of trainings: which one a configuration describes, and its trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel

from motion.collection import Collection
from motion.streaming.training import StreamTrainer, StreamTraining
from motion.training import MotionTrainer, MotionTraining
from shared.config import load_config


class _Kind(BaseModel):
    kind: Literal["motion_transformer", "motion_stream"] = "motion_transformer"


RECIPES: dict[str, type[MotionTraining]] = {"motion_transformer": MotionTraining, "motion_stream": StreamTraining}


def read_recipe(config: str) -> MotionTraining:
    """Return the settings of a configuration, of the class that its `kind` names; without one, a base model's.

    Raises:
        InputError: no such configuration, or a wrong key or value.
    """
    return load_config(config, RECIPES[load_config(config, _Kind).kind])


def trainer_of(
    settings: MotionTraining, collection: Collection, folder: Path, *, device: torch.device | str = "cpu"
) -> MotionTrainer:
    """Return the trainer of settings.

    Raises:
        InputError: as those of the trainers.
    """
    kind = StreamTrainer if isinstance(settings, StreamTraining) else MotionTrainer
    return kind(settings, collection, folder, device=device)

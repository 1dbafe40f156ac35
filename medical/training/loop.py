"""The training loop: accelerate puts it on any device and in mixed precision, a checkpoint makes it resumable.

After a kill it goes on from the last checkpoint with the next slice, and ends with the same bits as if it had never
stopped: slices are numbered (`dataset`), the learning rate is a function of the step, and the global random state is
set from (seed, step) before each step.
"""

from __future__ import annotations

import json
import math
import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from medical.simulation.acquisition import SimulatedSlice
from medical.training.config import TrainingConfig
from medical.training.dataset import SimulatedSlices
from medical.training.loss import reconstruction_loss
from medical.training.validation import output_of, picture, score
from shared.checkpoint import load_checkpoint, save_checkpoint
from shared.errors import MissingExtra
from shared.progress import training_bar
from shared.training import AveragedWeights, rate_share

VALIDATION_SEED = 1_000_003  # of no training


@dataclass(frozen=True)
class Trained:
    """The end of a training, or how far it has come.

    Attributes:
        network: with the average of its weights.
        step: of the optimiser.
        seconds: spent in the loop so far, over all restarts.
        scores: of the last validation.
    """

    network: nn.Module
    step: int
    seconds: float
    scores: dict[str, float]


def train(
    config: TrainingConfig,
    network: nn.Module,
    *,
    data: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    work: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    progress: bool = False,
    stop_at: int | None = None,
) -> Trained:
    """Train a network, from the checkpoint in the work folder if there is one.

    Args:
        config: what to do.
        network: built from `config.network` after `torch.manual_seed(config.seed)`; its weights are the start.
        data: folder of the brain volumes.
        cache: folder of their axial slices.
        work: folder of `checkpoint.safetensors`, `log.jsonl` and pictures.
        device: "cpu", "cuda" or "mps".
        progress: show a bar on standard error.
        stop_at: stop after this step of the whole schedule, with a checkpoint; 0 only loads.

    Raises:
        InputError: no data, or a checkpoint of another configuration.
        MissingExtra: accelerate is not installed.
    """
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError as error:
        raise MissingExtra("accelerate", extra="train", purpose="to train networks") from error

    folder = Path(work)
    # accelerate keeps one device and precision a process, and a second training may want others.
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    accelerator = Accelerator(cpu=torch.device(device).type == "cpu", mixed_precision=config.precision)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    model, prepared = accelerator.prepare(network, optimizer)
    inner = accelerator.unwrap_model(model)
    averaged = AveragedWeights(inner, config.average)
    facts: dict[str, Any] = {"step": 0, "seconds": 0.0, "scores": {}, "fingerprint": config.fingerprint()}
    checkpoint = folder / "checkpoint.safetensors"
    if checkpoint.is_file():
        facts |= load_checkpoint(checkpoint, inner, averaged, optimizer, config.fingerprint())
    last = config.steps if stop_at is None else min(stop_at, config.steps)
    step: int = facts["step"]
    begin, saved = time.monotonic() - facts["seconds"], time.monotonic()

    def save() -> None:
        facts.update(step=step, seconds=time.monotonic() - begin)
        if accelerator.is_main_process:
            save_checkpoint(checkpoint, inner, averaged, optimizer, facts)

    if step < last:
        each = config.slices_per_step * accelerator.num_processes
        slices = SimulatedSlices(
            "train",
            config.ranges,
            data,
            cache,
            length=last * each,
            seed=config.seed,
            first=step * each,
            virtual_coils=config.virtual_coils,
        )
        mine = torch.utils.data.Subset(slices, range(accelerator.process_index, len(slices), accelerator.num_processes))
        source = iter(DataLoader(mine, batch_size=None, num_workers=config.workers))
        hidden = not (progress and accelerator.is_main_process)
        with training_bar(config.name, config.steps, step, hidden=hidden) as tell:
            while step < last:
                model.train()
                torch.manual_seed(config.seed * 1_000_003 + step)
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(config, step)
                loss = 0.0
                for number in range(config.slices_per_step):
                    final = number == config.slices_per_step - 1
                    with nullcontext() if final else accelerator.no_sync(model):
                        part = slice_loss(model, next(source), config, accelerator.device) / config.slices_per_step
                        accelerator.backward(part)
                    loss += float(part.detach())
                norm = float(accelerator.clip_grad_norm_(model.parameters(), config.clip))
                if math.isfinite(norm):  # one slice that overflows must not end a run
                    prepared.step()
                prepared.zero_grad()
                averaged.update(inner)
                step += 1
                if accelerator.is_main_process:
                    _log(folder, {"step": step, "loss": loss, "gradient": norm, "seconds": time.monotonic() - begin})
                if tell is not None:
                    tell(step, loss)
                if (step % config.validate_every == 0 or step == config.steps) and accelerator.is_main_process:
                    facts["scores"] = _validate(config, inner, averaged, data, cache, folder, step, accelerator.device)
                if time.monotonic() - saved >= 60 * config.checkpoint_minutes:
                    save()
                    saved = time.monotonic()
        save()
    inner.load_state_dict(averaged.average)
    return Trained(inner.eval(), step, facts["seconds"], facts["scores"])


def slice_loss(network: nn.Module, slice_: SimulatedSlice, config: TrainingConfig, device: torch.device) -> Tensor:
    """Return the loss of one slice."""
    return reconstruction_loss(
        output_of(network, slice_, device),
        slice_.image[None].to(device),
        slice_.full_kspace[None].to(device),
        complex_weight=config.complex_weight,
    )


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Return the learning rate of a step."""
    return config.learning_rate * rate_share(step, config.steps, config.warmup)


def _validate(
    config: TrainingConfig,
    network: nn.Module,
    averaged: AveragedWeights,
    data: str | os.PathLike[str],
    cache: str | os.PathLike[str],
    folder: Path,
    step: int,
    device: torch.device,
) -> dict[str, float]:
    """Score the averaged weights on the validation subjects and draw them; the trained weights stay."""
    slices = SimulatedSlices(
        "validation",
        config.ranges,
        data,
        cache,
        length=config.validation_slices,
        seed=VALIDATION_SEED,
        virtual_coils=config.virtual_coils,
    )
    trained = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(averaged.average)
    network.eval()
    scores = score(network, slices, device)
    picture(network, slices, device, folder / f"validation_{step:06d}.png")
    network.load_state_dict(trained)
    _log(folder, {"step": step, **scores})
    return scores


def _log(folder: Path, row: dict[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")

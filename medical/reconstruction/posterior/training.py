r"""Training of the slice prior: the EDM loss on drawn slices, resumable, on any device.

    loss = E_{x_0, eps, sigma} [ (sigma^2 + s^2) / (sigma s)^2 |D(x_0 + sigma eps, sigma) - x_0|^2 ]

A folder holds a training: `state.pt` (weights, average, optimiser, random state: a resumed run goes on where
it stopped, with a new pool of images), `prior.safetensors` (the averaged weights, usable at any time) and `log.jsonl`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medical.reconstruction.posterior.config import PriorTraining
from medical.reconstruction.posterior.network import SliceUNet
from medical.reconstruction.posterior.operator import to_channels
from medical.reconstruction.posterior.prior import PriorFacts, SlicePrior, save_prior
from medical.reconstruction.posterior.slices import SlicePool, draw_truth
from medical.simulation.volumes import AnatomyCache, subjects
from shared.denoiser import PreconditionedDenoiser
from shared.errors import InputError
from shared.files import atomic_path
from shared.process import VarianceExploding
from shared.training import AveragedWeights, denoising_loss, rate_share

Draw = Callable[[int, torch.Generator], Tensor]
"""(count, generator) -> clean images, real (count, 2, H, W) in units of the prior."""

VALIDATION_SIGMAS = (0.03, 0.1, 0.3, 1.0)
VALIDATION_IMAGES = 32
VALIDATION_SEED = 1234
# What may differ between a run and its resumption.
MAY_DIFFER = ("steps", "data", "cache", "ranges", "pool", "fresh", "checkpoint_seconds", "precision")
DESCRIBES = {"matrix", "pixel_mm", "contrasts", "coils", "thickness_mm"}  # what of the ranges decides an image


class PriorTrainer:
    """A training in progress.

    Args:
        config: what to train.
        draw: source of clean images.
        folder: where its files lie; resumed from if it holds `state.pt`.
        seed: of weights, images and noise.
        device: where to compute.
        facts: added to the training facts of the exported prior.

    Raises:
        InputError: the folder holds the training of another configuration.
    """

    def __init__(
        self,
        config: PriorTraining,
        draw: Draw,
        folder: Path,
        *,
        seed: int = 0,
        device: torch.device | str = "cpu",
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.draw, self.folder, self.device = config, draw, folder, torch.device(device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = SliceUNet(config.network)
        self.network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedWeights(self.network, config.average)
        process = VarianceExploding(config.sigma_min, config.sigma_max)
        self.denoiser = PreconditionedDenoiser(self.network, process, sigma_data=config.sigma_data)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=config.rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.seconds = 0.0
        self.extra = facts or {}
        if (folder / "state.pt").exists():
            self._resume(folder / "state.pt")

    def train_step(self) -> float:
        """Make one step and return its loss."""
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = config.rate * rate_share(self.step, config.steps, config.warm_up)
        x0 = self.draw(config.batch, self.generator).to(self.device, memory_format=torch.channels_last)
        log_sigma = config.log_sigma_mean + config.log_sigma_std * torch.randn(config.batch, generator=self.generator)
        sigma = log_sigma.exp().clamp(config.sigma_min, config.sigma_max).to(self.device)
        with self._precision():
            loss = denoising_loss(self.denoiser, x0, sigma, self.generator).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.average.update(self.network)
        self.step += 1
        return float(loss.detach())

    def run(self, held_out: Tensor | None = None, progress: Callable[[dict[str, Any]], None] | None = None) -> Path:
        """Train to the end, with checkpoints; return the path of the exported prior.

        Args:
            held_out: images (N, 2, H, W) whose denoising errors are logged with each checkpoint.
            progress: called with each line of the log.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        begun, losses = time.monotonic(), []
        saved = begun
        while self.step < self.config.steps:
            losses.append(self.train_step())
            if not math.isfinite(losses[-1]):
                raise InputError(
                    "loss", found=f"{losses[-1]} at step {self.step}", expected="a finite number", fix="Lower the rate."
                )
            now = time.monotonic()
            if now - saved >= self.config.checkpoint_seconds or self.step == self.config.steps:
                self.seconds += now - saved
                saved = now
                line: dict[str, Any] = {
                    "step": self.step,
                    "seconds": round(self.seconds),
                    "loss": sum(losses) / len(losses),
                }
                losses = []
                if held_out is not None:
                    line["held_out"] = self.validate(held_out)
                self.save()
                with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
                    log.write(json.dumps(line) + "\n")
                if progress is not None:
                    progress(line)
        return self.folder / "prior.safetensors"

    @torch.no_grad()
    def validate(self, images: Tensor) -> dict[str, float]:
        """Return |D(x_0 + sigma eps) - x_0|^2 / |x_0|^2 of the averaged weights, with the same noise every time."""
        denoiser = self.denoiser.with_network(self.prior().network)
        errors = {}
        for sigma in VALIDATION_SIGMAS:
            generator = torch.Generator().manual_seed(VALIDATION_SEED)
            noise = torch.randn(images.shape, generator=generator)
            t = sigma / self.config.sigma_max
            with self._precision():
                found = denoiser((images + sigma * noise).to(self.device), t).float().cpu()
            errors[f"{sigma:g}"] = float((found - images).square().sum() / images.square().sum())
        return errors

    def start_from(self, network: SliceUNet) -> None:
        """Begin with the weights of another network instead of random ones."""
        self.network.load_state_dict(network.state_dict())
        self.average = AveragedWeights(self.network, self.config.average)

    def prior(self) -> SlicePrior:
        """Return the averaged weights as a prior."""
        network = SliceUNet(self.config.network).to(self.device).eval()
        network.load_state_dict(self.average.average)
        return SlicePrior(network.requires_grad_(False), self.facts())

    def facts(self) -> PriorFacts:
        """Return the facts of the prior as it stands."""
        config = self.config
        training = {
            "steps": self.step, "batch": config.batch, "seconds": round(self.seconds),
            "ranges": config.ranges.model_dump(mode="json", include=DESCRIBES), "simulated": True,
        }  # fmt: skip
        return PriorFacts(
            config.sigma_data, config.sigma_min, config.sigma_max, config.widths, config.blocks, config.embedding,
            {**training, **self.extra},
        )  # fmt: skip

    def save(self) -> None:
        """Write the state and the prior, each as a whole."""
        state = {
            "config": self.config.model_dump_json(), "step": self.step, "seconds": self.seconds,
            "network": self.network.state_dict(), "average": self.average.average,
            "updates": self.average.updates, "optimiser": self.optimiser.state_dict(),
            "generator": self.generator.get_state(),
        }  # fmt: skip
        with atomic_path(self.folder / "state.pt", overwrite=True) as scratch:
            torch.save(state, scratch)
        save_prior(self.folder / "prior.safetensors", self.average.average, self.facts())

    def _resume(self, path: Path) -> None:
        state = torch.load(path, map_location="cpu", weights_only=True)
        before, now = json.loads(state["config"]), json.loads(self.config.model_dump_json())
        if differing := [key for key in now if key not in MAY_DIFFER and before.get(key) != now[key]]:
            raise InputError(
                path,
                found=f"a training with another {', '.join(differing)}",
                expected="the same configuration",
                fix="Choose another folder or restore the configuration.",
            )
        self.network.load_state_dict(state["network"])
        self.average.average = {name: value.to(self.device) for name, value in state["average"].items()}
        self.average.updates = state["updates"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.generator.set_state(state["generator"])
        self.step, self.seconds = state["step"], state["seconds"]

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.config.precision == "bfloat16")


def pool_of(config: PriorTraining, anatomies: AnatomyCache, *, seed: int = 0) -> SlicePool:
    """Return the renewed pool of training images of these anatomies."""

    def make(generator: np.random.Generator) -> Tensor:
        return draw_truth(anatomies, config.ranges, generator)

    return SlicePool(make, size=config.pool, fresh=config.fresh, seed=seed)


def validation_images(config: PriorTraining, data: Path) -> Tensor:
    """Return fixed images (N, 2, H, W) of the subjects of the validation split.

    Raises:
        InputError: the folder holds no such subject.
    """
    anatomies = AnatomyCache(subjects("validation", data), data, config.cache.expanduser())
    pool = pool_of(config, anatomies, seed=VALIDATION_SEED)
    pool.start = VALIDATION_IMAGES
    return to_channels(pool(VALIDATION_IMAGES, torch.Generator().manual_seed(VALIDATION_SEED)))


def train_prior(
    config: PriorTraining,
    folder: Path,
    *,
    data: Path | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> Path:
    """Train a prior on clean slices, or go on with the training in `folder`; return the path of the prior.

    Raises:
        InputError: the data folder lacks training or validation subjects, or `folder` holds another training.
    """
    where = config.data if data is None else data
    anatomies = AnatomyCache(subjects("train", where), where, config.cache.expanduser())
    facts = {"subjects": [f"{subject.name} ({subject.licence})" for subject in anatomies.subjects]}
    pool = pool_of(config, anatomies, seed=seed)

    def draw(count: int, generator: torch.Generator) -> Tensor:
        return to_channels(pool(count, generator))

    trainer = PriorTrainer(config, draw, folder, seed=seed, device=device, facts=facts)
    pool.generator = np.random.default_rng((seed, trainer.step))  # a resumed run makes other images
    return trainer.run(validation_images(config, where), progress)

r"""Pretraining of the diffusion network on images without labels.

    loss = E_{x_0, eps, t} |eps(alpha(t) x_0 + sigma(t) eps, alpha(t)) - eps|^2 / (C H W),      t ~ U[0, 1]

The published training draws one step for the whole batch and a level inside it for each image. Here each image has its
own t, one from each N-th part of [0, 1]: the same loss with less variance. It also starts with orthogonal weights; ours
starts as torch does, from which the loss fell faster on toy scenes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from remote_sensing.ddpm_cd.config import DiffusionConfig
from remote_sensing.ddpm_cd.crops import Scene, check_scenes, digest, draw_crops
from remote_sensing.ddpm_cd.detector import scaled
from remote_sensing.ddpm_cd.files import filled, save_diffusion
from remote_sensing.ddpm_cd.loop import LoopSettings, Trainer, seeded
from remote_sensing.ddpm_cd.schedule import NoiseLevelVP, noise_process
from remote_sensing.ddpm_cd.unet import UNet
from shared.process import standard_normal

VALIDATION_STEPS = (50, 100, 400)
VALIDATION_CROPS = 16
VALIDATION_SEED = 1234


class Pretraining(LoopSettings):
    """Everything that decides a pretraining.

    Attributes:
        diffusion: the network, its noise and the limits of the bands.
    """

    diffusion: DiffusionConfig = DiffusionConfig()


class PretrainingTrainer(Trainer):
    """A pretraining in progress.

    Args:
        settings: what to train.
        scenes: arrays (C, y, x) in the units of the sensor.
        folder: where its files lie; resumed from if it holds `state.pt`.
        device: where to compute.
        held_out: scenes whose error at steps 50, 100 and 400 is logged with each checkpoint.

    Raises:
        InputError: scenes that do not fit, or a folder with another training.
    """

    output = "diffusion.safetensors"

    def __init__(
        self,
        settings: Pretraining,
        scenes: Sequence[Scene],
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        held_out: Sequence[Scene] = (),
    ) -> None:
        bands = settings.diffusion.unet.bands
        check_scenes(scenes, bands, settings.crop)
        self.config, self.scenes = settings.diffusion, scenes
        self.process = noise_process(self.config.schedule)
        self.unet = seeded(lambda: UNet(self.config.unet), settings.seed)
        self.unet.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._held_out: Tensor | None = None
        if held_out:
            check_scenes(held_out, bands, settings.crop)
            generator = torch.Generator().manual_seed(VALIDATION_SEED)
            self._held_out = scaled(draw_crops(held_out, VALIDATION_CROPS, settings.crop, generator), self.config)
        super().__init__(
            settings,
            self.unet,
            folder,
            device=device,
            shares=[(list(self.unet.parameters()), 1.0)],
            identity={"scenes": [digest(scene) for scene in scenes]},
        )

    def loss(self, generator: torch.Generator) -> Tensor:
        """Return the loss of the module docstring for one batch."""
        count, crop = self.settings.batch, self.settings.crop
        x0 = scaled(draw_crops(self.scenes, count, crop, generator).to(self.device), self.config)
        t = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        noise = standard_normal(x0.shape, generator, dtype=x0.dtype, device=self.device)
        return noise_errors(self.unet, self.process, x0, noise, t.double().to(self.device)).mean()

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the loss of the averaged weights on crops of the held-out scenes, with the same noise every time."""
        if self._held_out is None:
            return {}
        unet, found = self.averaged(), {}
        for step in VALIDATION_STEPS:
            generator = torch.Generator().manual_seed(VALIDATION_SEED)
            errors = []
            for x0 in self._held_out.split(self.settings.batch):
                noise = torch.randn(x0.shape, generator=generator).to(self.device)
                t = torch.full((len(x0),), step / self.process.steps, dtype=torch.float64, device=self.device)
                with self.precision():
                    errors.append(noise_errors(unet, self.process, x0.to(self.device), noise, t))
            found[f"held_out_{step}"] = float(torch.cat(errors).mean())
        return found

    def averaged(self) -> UNet:
        """Return a copy of the network with the averaged weights, in evaluation mode."""
        tensors = {name: value.clone() for name, value in self.average.average.items()}
        unet = filled(UNet(self.config.unet), tensors, "average")
        return unet.to(self.device).eval().requires_grad_(False)

    @property
    def network(self) -> nn.Module:
        """Return what is exported, with the weights of the last step."""
        return self.unet

    def facts(self) -> dict[str, Any]:
        """Return how far the training has come, in JSON types."""
        return {
            "steps": self.step, "batch": self.settings.batch, "crop": self.settings.crop,
            "seconds": round(self.seconds), "scenes": len(self.scenes),
        }  # fmt: skip

    def export_to(self, path: Path, described: Mapping[str, Any]) -> None:
        """Write the averaged weights, usable by `load_diffusion`, with facts besides those of `facts`."""
        save_diffusion(path, self.config, self.average.average, {**described, **self.facts()})


def noise_errors(unet: UNet, process: NoiseLevelVP, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return |eps(x_t, alpha(t)) - eps|^2 / (C H W) of every image, (N,)."""
    found = unet(process.add_noise(x0, noise, t), process.network_time(t).to(x0.dtype))
    return (found.float() - noise).square().flatten(1).mean(1)

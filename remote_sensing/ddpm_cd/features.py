"""Features of images at chosen noise steps: all images and all steps in one pass of the network.

Level of step t: s_t = sqrt(abar_t). The published code draws it anew from [s_t, s_{t-1}] at each call, an interval of
width 1.2e-4 at t = 50; ours is fixed, so that a result is a function of the images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from remote_sensing.ddpm_cd.noise import ground_noise
from remote_sensing.ddpm_cd.schedule import NoiseLevelVP
from remote_sensing.ddpm_cd.unet import UNet
from shared.ledger import record_call


class FeatureExtractor:
    """Decoder features of noised images.

    Args:
        unet: the diffusion network.
        process: its noise.
        timesteps: t, 1 ... T.
        scales: outputs of the decoder, see `UNet.features`.
        seed: of the noise.
        most: images x timesteps put through the network at once; None is all. It bounds the memory, not the result.
    """

    def __init__(
        self,
        unet: UNet,
        process: NoiseLevelVP,
        timesteps: Sequence[int],
        scales: Iterable[int],
        *,
        seed: int = 0,
        most: int | None = None,
    ) -> None:
        self.unet, self.process, self.timesteps = unet, process, tuple(timesteps)
        self.scales, self.seed, self.most = tuple(scales), seed, most

    def noised(self, images: Tensor, origins: Tensor, date: int = 0) -> Tensor:
        """Return the images (N, C, H, W), in [-1, 1], at every timestep: (N, timesteps, C, H, W).

        Args:
            images: of one date.
            origins: row and column in the scene of each image's first pixel, int64 (N, 2).
            date: stream of the noise; the same for both dates where it is shared.
        """
        shape = (images.shape[1], images.shape[2], images.shape[3])
        steps = []
        for step in self.timesteps:
            noise = ground_noise(origins.to(images.device), shape, seed=self.seed, step=step, date=date)
            steps.append(self.process.add_noise(images, noise.to(images.dtype), step / self.process.steps))
        return torch.stack(steps, dim=1)

    def __call__(self, noised: Tensor) -> dict[int, Tensor]:
        """Return scale -> features (N, timesteps x width, H', W') of `noised` images, the timesteps in order."""
        count, steps = noised.shape[:2]
        flat = noised.flatten(0, 1)
        times = torch.tensor(self.timesteps, dtype=torch.float64, device=noised.device) / self.process.steps
        levels = self.process.network_time(times).to(noised.dtype).repeat(count)
        size = self.most or len(flat)
        parts = []
        for x, level in zip(flat.split(size), levels.split(size), strict=True):
            record_call(len(x))
            parts.append(self.unet.features(x, level, self.scales))
        return {
            scale: torch.cat([part[scale] for part in parts]).unflatten(0, (count, steps)).flatten(1, 2)
            for scale in self.scales
        }

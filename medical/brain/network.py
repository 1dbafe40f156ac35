"""The network of brain volumes: MONAI's `DiffusionModelUNet`, as MedForj builds it, at any width.

Ours may work on the Haar coefficients of blocks of 2 x 2 x 2 voxels, an eighth of the voxels with eight channels
(Friedrich et al., WDM: 3D Wavelet Diffusion Models, 2024). The transform is orthonormal: white noise stays white and a
sum of squares stays what it is, so process, predictions and losses are those of the voxels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medical.brain.conditions import ConditionEmbedding, numbers_told
from medical.brain.config import BrainConfig
from medical.brain.model import PREDICTIONS, brain_process, told_level
from medical.brain.stationary import StationaryModel
from shared.errors import MissingExtra
from shared.predictions import convert
from shared.process import along_batch


def haar(x: Tensor) -> Tensor:
    """Return the Haar coefficients (N, 8 C, X/2, Y/2, Z/2) of volumes (N, C, X, Y, Z), low first."""
    for axis in (2, 3, 4):
        even, odd = x.unflatten(axis, (-1, 2)).unbind(axis + 1)
        x = torch.cat([even + odd, even - odd], dim=1)
    return x * 8**-0.5


def unhaar(x: Tensor) -> Tensor:
    """Return the volumes of Haar coefficients: the inverse of `haar`."""
    for axis in (4, 3, 2):
        low, high = x.chunk(2, dim=1)
        x = torch.stack([low + high, low - high], dim=axis + 1).flatten(axis, axis + 1)
    return x * 8**-0.5


class ConditionedUNet(nn.Module):
    """A `DiffusionModelUNet` behind a fold and told conditions, perhaps around the estimate of a Gaussian model.

    Args:
        unet: with eight channels out if folded, and in as `entering` says.
        config: of the network.
    """

    def __init__(self, unet: nn.Module, config: BrainConfig) -> None:
        super().__init__()
        self.unet, self.folded, self.told = unet, config.fold == "haar", len(config.conditions)
        self.strategy = config.strategy
        columns = sum(condition.columns for condition in config.conditions)
        self.conditions = config.conditions
        self.heads = StationaryModel(config.size, columns) if config.skip == "stationary" else None
        if config.conditions:  # MONAI adds what its class embedding makes of the labels to that of the time
            unet.num_class_embeds = self.told  # type: ignore[assignment]
            unet.class_embedding = ConditionEmbedding(config.conditions, 4 * config.channels[0])

    def forward(self, x: Tensor, times: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return the prediction like x (N, 1, X, Y, Z).

        Args:
            x: noisy volumes.
            times: (N,).
            conditions: (N, K) or (1, K) as in `medical.brain.conditions`; None is unknown.
        """
        labels = None
        if self.told:
            unknown = torch.full((1, self.told), torch.nan, device=x.device)
            labels = (unknown if conditions is None else conditions.to(x)).expand(len(x), -1)
        if self.heads is not None:
            return self._around(self.heads, x, times, labels)
        answer: Tensor = self.unet(haar(x) if self.folded else x, times, class_labels=labels)
        return unhaar(answer) if self.folded else answer

    def _around(self, heads: StationaryModel, x: Tensor, times: Tensor, labels: Tensor | None) -> Tensor:
        """Return the prediction of g + s F, F the answer of the U-Net to what came in, g and the mean, band by band."""
        process, t = brain_process(self.strategy), told_level(self.strategy, times)
        alpha, sigma = process.alpha(t), process.sigma(t)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            of = heads.given(None if labels is None else numbers_told(self.conditions, labels))
            g, left = of.estimate(x, alpha, sigma)
            entered = torch.cat(
                [
                    haar(x - along_batch(alpha, x) * of.mean) / _spread(of.entering(alpha, sigma)),
                    haar(g - of.mean) / _spread(of.entering(torch.ones(1), torch.zeros(1))),
                    haar(of.mean.expand(len(x), -1, -1, -1, -1))[:, :1],
                ],
                dim=1,
            )
        answer = self.unet(entered, times, class_labels=labels).float()
        estimate = g + unhaar(_spread(left) * answer)
        return convert(
            estimate, x, t, process, source="sample", target=PREDICTIONS[self.strategy]
        )  # fmt: skip


def _spread(bands: Tensor) -> Tensor:
    return bands[:, :, None, None, None]


def brain_network(config: BrainConfig) -> nn.Module:
    """Return the network of a configuration with random weights: (x (N, 1, X, Y, Z), times (N,)) -> like x.

    The attention is torch's fused one: it has the weights of the plain one and never holds all scores at once.

    Raises:
        MissingExtra: MONAI or einops is not installed.
    """
    try:
        import einops  # noqa: F401 - MONAI imports it only when its attention is built
        from monai.networks.nets import DiffusionModelUNet
    except ImportError as error:
        raise MissingExtra(error.name or "monai", extra="brain", purpose="for the network of brain volumes") from error

    channels = 8 if config.fold == "haar" else config.sampled(config.size)[0]
    entering = 2 * channels + 1 if config.skip == "stationary" else channels
    network: nn.Module = DiffusionModelUNet(
        spatial_dims=3,
        in_channels=entering,
        out_channels=channels,
        channels=config.channels,
        attention_levels=config.attention,
        num_res_blocks=config.blocks,
        num_head_channels=config.head_channels,
        norm_num_groups=config.groups,
        use_flash_attention=True,
    )
    if config.fold == "none" and not config.conditions:
        return network  # the names of MedForj's tensors
    return ConditionedUNet(network, config)

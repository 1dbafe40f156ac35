"""The network of brain volumes: MONAI's `DiffusionModelUNet`, as MedForj builds it, at any width."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medical.brain.config import BrainConfig
from shared.errors import MissingExtra

if TYPE_CHECKING:
    from torch import nn


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

    network: nn.Module = DiffusionModelUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        channels=config.channels,
        attention_levels=config.attention,
        num_res_blocks=config.blocks,
        num_head_channels=config.head_channels,
        norm_num_groups=config.groups,
        use_flash_attention=True,
    )
    return network

"""Small untrained networks with every weight away from its initial value, so that each block does something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shared.networks import ResidualMLP
from shared.pruning import prunable_resnets
from shared.reuse import Block, stack


@dataclass(frozen=True)
class Specimen:
    network: nn.Module
    blocks: list[Block]
    example: tuple[Tensor, ...]
    other: tuple[Tensor, ...]
    conditioning: dict[str, Any]

    def answer(self, network: nn.Module) -> Tensor:
        with torch.no_grad():
            output = network(*self.other, **self.conditioning)
        return getattr(output, "sample", output)


def perturbed(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


def dit(layers: int = 4) -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=1, out_channels=1, num_layers=layers, sample_size=8,
        patch_size=4, num_embeds_ada_norm=10, norm_num_groups=4,
    )  # fmt: skip


def unet_2d() -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, layers_per_block=2, block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4, attention_head_dim=8,
    )  # fmt: skip


def unet_1d() -> nn.Module:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet1DModel(
        sample_size=16, in_channels=2, out_channels=2, time_embedding_type="positional", use_timestep_embedding=True,
        flip_sin_to_cos=False, freq_shift=1, down_block_types=("DownResnetBlock1D",) * 2,
        up_block_types=("UpResnetBlock1D",), mid_block_type="MidResTemporalBlock1D", out_block_type="OutConv1DBlock",
        block_out_channels=(16, 32), act_fn="mish", layers_per_block=1,
    )  # fmt: skip


def mlp(depth: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return ResidualMLP(16, width=24, depth=depth, embedding=16)


@pytest.fixture(params=["mlp", "dit", "unet_2d", "unet_1d"])
def specimen(request) -> Specimen:
    generator = torch.Generator().manual_seed(1)
    shape, make = {
        "mlp": ((16,), mlp), "dit": ((1, 8, 8), dit), "unet_2d": ((1, 8, 8), unet_2d), "unet_1d": ((2, 16), unet_1d)
    }[request.param]  # fmt: skip
    network = perturbed(make())
    conditioning = {"class_labels": torch.tensor([1, 2, 10])} if request.param == "dit" else {}
    example, other = ((torch.randn(3, *shape, generator=generator), torch.tensor([3.0, 40.0, 9.0])) for _ in range(2))
    if request.param in ("mlp", "dit"):
        blocks = stack(network, {"mlp": "blocks", "dit": "transformer_blocks"}[request.param])
    else:
        blocks = prunable_resnets(network, *example)
    return Specimen(network, blocks, example, other, conditioning)

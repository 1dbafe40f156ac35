"""MONAI's `DiffusionModelUNet` in slabs: the results of the network, in a fraction of its memory.

    small = sliced(network, 16)
    small(x, times)                     # network(x, times), under no_grad

What is in memory at full size: the outputs of residual blocks that a skip connection still needs, the input of the
block at work, and its output, which holds its intermediate map until then. The first convolution is never stored: its
planes are computed whenever they are read, which costs next to nothing. A joined skip, a normalised map or an upsampled
one exists in slabs only. Attention sees its whole map.

A map of a finer level is cut into more slabs, since all slabs have about as many values: those of the first level
divided by the number asked for. Small levels are one slab.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from shared.errors import InputError
from shared.memory.slabs import Activated, Convolved, Cut, Feature, Joined, Resized, Stored, refined, stored
from shared.reuse.interception import Block, Call, Output, intercepted

if TYPE_CHECKING:
    from monai.networks.nets import DiffusionModelUNet


class SlicedNetwork(nn.Module):
    """A network whose `DiffusionModelUNet`s compute in slabs; called as the network is, without gradients.

    The network itself is not changed, and its weights are not copied.

    Args:
        network: a `DiffusionModelUNet`, in two or three dimensions, or a module around one or several.
        slabs: of the maps of the first level, 1 or more; no more than their planes are made.

    Raises:
        InputError: no `DiffusionModelUNet` in the network, or fewer than one slab; at a call, an input that asks for
            gradients, or residuals of a ControlNet.
    """

    def __init__(self, network: nn.Module, slabs: int) -> None:
        super().__init__()
        if slabs < 1:
            raise InputError("slabs", found=f"{slabs}", expected="1 or more", fix="Such as 16.")
        self.network, self.slabs = network, slabs
        self._inside = [name for name, module in network.named_modules() if _is_unet(module)]
        if not self._inside:
            raise InputError(
                "slabs", found=f"a {type(network).__name__} without a DiffusionModelUNet of MONAI",
                expected="one inside", fix="Call the network itself.",
            )  # fmt: skip

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return what the network returns."""
        tensors = (x, *args, *kwargs.values())
        if torch.is_grad_enabled() and any(isinstance(value, Tensor) and value.requires_grad for value in tensors):
            raise InputError(
                "slabs", found="an input that asks for gradients", expected="none: slabs are for sampling only",
                fix="Use the network itself, or torch.no_grad().",
            )  # fmt: skip
        with torch.no_grad():
            if self._inside == [""]:
                return unet_in_slabs(self.network, self.slabs, x, *args, **kwargs)

            def rule(call: Call) -> Output:
                return unet_in_slabs(self.network.get_submodule(call.module), self.slabs, *call.args, **call.kwargs)

            with intercepted(self.network, [Block("unet", tuple(self._inside))], rule):
                return self.network(x, *args, **kwargs)


def sliceable(network: nn.Module) -> bool:
    """Return whether a network is or holds a `DiffusionModelUNet` of MONAI."""
    return any(_is_unet(module) for module in network.modules())


def sliced(network: nn.Module, slabs: int) -> SlicedNetwork:
    """Return the network in slabs; see `SlicedNetwork`."""
    return SlicedNetwork(network, slabs)


def unet_in_slabs(
    network: DiffusionModelUNet,
    slabs: int,
    x: Tensor,
    timesteps: Tensor,
    context: Tensor | None = None,
    class_labels: Tensor | None = None,
    down_block_additional_residuals: tuple[Tensor] | None = None,
    mid_block_additional_residual: Tensor | None = None,
) -> Tensor:
    """Return network(x, timesteps, context, class_labels), computed in slabs; no gradients.

    Args:
        network: the U-Net.
        slabs: of the maps of the first level.
        x: (N, C, X, Y, Z) or (N, C, X, Y).
        timesteps: (N,).
        context: as the network takes it.
        class_labels: (N,).
        down_block_additional_residuals: refused.
        mid_block_additional_residual: refused.

    Raises:
        InputError: residuals of a ControlNet.
        ValueError: context or class labels that the network does not take, or lacks, as it raises them itself.
    """
    if down_block_additional_residuals is not None or mid_block_additional_residual is not None:
        raise InputError(
            "slabs", found="residuals of a ControlNet", expected="none", fix="Use the network itself."
        )  # fmt: skip
    if context is not None and not network.with_conditioning:
        raise ValueError("model should have with_conditioning = True if context is provided")
    embedding = _embedding(network, x, timesteps, class_labels)
    cut = Cut(math.ceil(x.shape[0] * network.block_out_channels[0] * math.prod(x.shape[2:]) / slabs))
    told = {"context": context} if network.with_conditioning else {}

    h: Feature = Convolved(Stored(x), network.conv_in.conv)
    skips = [h]
    for block in network.down_blocks:
        for resnet, attention in _pairs(block):
            h = _attended(attention, _residual(resnet, h, embedding, cut), told)
            skips.append(h)
        if block.downsampler is not None:
            h = _resampled(block.downsampler, h, embedding, cut)
            skips.append(h)
    middle = network.middle_block
    h = _residual(middle.resnet_1, h, embedding, cut)
    h = _residual(middle.resnet_2, _attended(middle.attention, h, told), embedding, cut)
    for block in network.up_blocks:
        for resnet, attention in _pairs(block):
            h = _attended(attention, _residual(resnet, Joined(h, skips.pop()), embedding, cut), told)
        if block.upsampler is not None:
            h = _resampled(block.upsampler, h, embedding, cut)
    norm, _, convolution = network.out
    return stored(Convolved(Activated(h, norm, cut), convolution.conv), cut).tensor


def _is_unet(module: nn.Module) -> bool:
    try:
        from monai.networks.nets import DiffusionModelUNet
    except ImportError:  # then no module is one
        return False
    return isinstance(module, DiffusionModelUNet)


def _embedding(network: DiffusionModelUNet, x: Tensor, timesteps: Tensor, class_labels: Tensor | None) -> Tensor:
    from monai.networks.nets.diffusion_model_unet import get_timestep_embedding

    embedding: Tensor = network.time_embed(get_timestep_embedding(timesteps, network.block_out_channels[0]).to(x.dtype))
    if network.num_class_embeds is not None:
        if class_labels is None:
            raise ValueError("class_labels should be provided when num_class_embeds > 0")
        embedding = embedding + network.class_embedding(class_labels).to(x.dtype)
    return embedding


def _pairs(block: Any) -> list[tuple[nn.Module, nn.Module | None]]:
    """Return the residual blocks of a level, each with its attention or None."""
    attentions = getattr(block, "attentions", [None] * len(block.resnets))
    return list(zip(block.resnets, attentions, strict=True))


def _attended(attention: nn.Module | None, h: Stored, told: dict[str, Tensor | None]) -> Stored:
    return h if attention is None else Stored(attention(h.tensor, **told).contiguous())


def _residual(block: Any, x: Feature, embedding: Tensor, cut: Cut) -> Stored:
    """Return a `DiffusionUNetResnetBlock` of x."""
    inner: Feature = Activated(x, block.norm1, cut)
    if block.upsample is not None:
        inner, x = Resized(inner, block.upsample, up=2), Resized(x, block.upsample, up=2)
    elif block.downsample is not None:
        inner, x = Resized(inner, block.downsample, down=2), Resized(x, block.downsample, down=2)
    time = block.time_emb_proj(block.nonlinearity(embedding))
    h = stored(Convolved(inner, block.conv1.conv, added=time), cut)
    skip = x if isinstance(block.skip_connection, nn.Identity) else Convolved(x, block.skip_connection.conv)
    return refined(h, block.norm2, block.conv2.conv, skip, cut)


def _resampled(sampler: Any, h: Feature, embedding: Tensor, cut: Cut) -> Stored:
    """Return a downsampler or an upsampler of h: a residual block, a strided convolution, or neighbours and one."""
    if hasattr(sampler, "conv1"):
        return _residual(sampler, h, embedding, cut)
    if hasattr(sampler, "op"):
        return stored(Convolved(h, sampler.op.conv), cut)
    return stored(Convolved(Resized(h, sampler.upsample_non_trainable, up=2), sampler.postconv.conv), cut)

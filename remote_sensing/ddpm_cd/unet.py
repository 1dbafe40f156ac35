r"""The SR3 UNet of DDPM-CD: a noisy image and its noise level to the noise, or to the features of its decoder.

    e     = W_2 swish(W_1 [sin(l w), cos(l w)]),   w_k = 1e4^(-k / K), k = 0 ... K - 1, K = channels / 2
    block : h <- skip(h) + conv(dropout(swish(GN( conv(swish(GN(h))) + W e ))))     skip 1 x 1 where the width changes
    attend: h <- h + W_o softmax(q k^T / sqrt(C)) v,   q, k, v = W GN(h)             one head, over all places
    down  : level by level `blocks` blocks, then a strided convolution; all outputs are kept
    up    : level by level `blocks` + 1 blocks of [h, what was kept last], then nearest x 2 and a convolution

The names of all tensors are those of the published files, so that they load strictly. The level l is sqrt(abar) itself:
on [0, 1] all waves but the first few are almost straight, which is as published.

References:
    Saharia et al., Image Super-Resolution via Iterative Refinement, 2021.
    Bandara, Nair and Patel, DDPM-CD, arXiv 2206.11892.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from remote_sensing.ddpm_cd.config import ScheduleConfig, UNetConfig
from remote_sensing.ddpm_cd.schedule import published_buffers
from shared.errors import InputError


class LevelEncoding(nn.Module):
    """[sin(l w), cos(l w)] of the levels (N,), (N, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, level: Tensor) -> Tensor:
        """Return the encoding."""
        count = self.width // 2
        waves = torch.exp(-math.log(1e4) / count * torch.arange(count, dtype=level.dtype, device=level.device))
        angle = level[:, None] * waves
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class NormedConvolution(nn.Module):
    """conv(dropout(swish(GN(h))))."""

    def __init__(self, entering: int, leaving: int, groups: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.GroupNorm(groups, entering), nn.SiLU(), nn.Dropout(dropout), nn.Conv2d(entering, leaving, 3, padding=1)
        )

    def forward(self, h: Tensor) -> Tensor:
        """Return the result (N, leaving, H, W)."""
        return self.block(h)


class LevelShift(nn.Module):
    """h + W e, one number a channel."""

    def __init__(self, embedding: int, width: int) -> None:
        super().__init__()
        self.noise_func = nn.Sequential(nn.Linear(embedding, width))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return the shifted h."""
        return h + self.noise_func(embedding)[:, :, None, None]


class Residual(nn.Module):
    """The residual block of the module docstring."""

    def __init__(self, entering: int, width: int, config: UNetConfig) -> None:
        super().__init__()
        self.noise_func = LevelShift(config.channels, width)
        self.block1 = NormedConvolution(entering, width, config.groups)
        self.block2 = NormedConvolution(width, width, config.groups, config.dropout)
        self.res_conv = nn.Identity() if entering == width else nn.Conv2d(entering, width, 1)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return the next h."""
        return self.block2(self.noise_func(self.block1(h), embedding)) + self.res_conv(h)


class Attention(nn.Module):
    """Self-attention over all places, one head."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1, bias=False)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, h: Tensor) -> Tensor:
        """Return h and what it attends to."""
        places = self.qkv(self.norm(h)).flatten(2).transpose(1, 2).unsqueeze(1)
        attended = F.scaled_dot_product_attention(*(part.contiguous() for part in places.chunk(3, dim=-1)))
        return h + self.out(attended.squeeze(1).transpose(1, 2).reshape(h.shape))


class Stage(nn.Module):
    """A residual block, with attention behind it where asked."""

    def __init__(self, entering: int, width: int, config: UNetConfig, *, attention: bool) -> None:
        super().__init__()
        self.res_block = Residual(entering, width, config)
        self.attn = Attention(width, config.groups) if attention else None

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return the next h."""
        h = self.res_block(h, embedding)
        return h if self.attn is None else self.attn(h)


class Halve(nn.Module):
    """A 3 x 3 convolution at every second place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return h on half the grid."""
        return self.conv(h)


class Double(nn.Module):
    """Each pixel four times, then a 3 x 3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """Return h on twice the grid."""
        return self.conv(F.interpolate(h, scale_factor=2.0, mode="nearest"))


class UNet(nn.Module):
    """The network: forward(x (N, C, H, W), level (N,)) -> noise (N, C, H, W); H, W multiples of `config.multiple`.

    Args:
        config: its size.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, last = config.widths, len(config.widths) - 1
        enter, embedding = config.bands * config.fold**2, config.channels
        self.noise_level_mlp = nn.Sequential(
            LevelEncoding(embedding),
            nn.Linear(embedding, 4 * embedding),
            nn.SiLU(),
            nn.Linear(4 * embedding, embedding),
        )
        self.init_conv = nn.Conv2d(enter, config.channels, 3, padding=1)
        kept, now = [config.channels], config.channels
        downs: list[nn.Module] = []
        for level, width in enumerate(widths):
            for _ in range(config.blocks):
                downs.append(Stage(now, width, config, attention=level in config.attention))
                now = width
                kept.append(now)
            if level < last:
                downs.append(Halve(now))
                kept.append(now)
        ups: list[nn.Module] = []
        middle = now
        for level in range(last, -1, -1):
            for _ in range(config.blocks + 1):
                ups.append(Stage(now + kept.pop(), widths[level], config, attention=level in config.attention))
                now = widths[level]
            if level:
                ups.append(Double(now))
        self.downs, self.ups = nn.ModuleList(downs), nn.ModuleList(ups)
        self.mid = nn.ModuleList(Stage(middle, middle, config, attention=attention) for attention in (True, False))
        self.final_conv = NormedConvolution(now, enter, config.groups)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """Return the estimate of the noise, given one level sqrt(abar) a sample."""
        h, kept, embedding = self._encode(x, level)
        for stage in self.ups:
            h = stage(_joined(stage, h, kept), embedding)
        return F.pixel_shuffle(self.final_conv(h), self.config.fold)

    def features(self, x: Tensor, level: Tensor, scales: Iterable[int]) -> dict[int, Tensor]:
        """Return outputs of the decoder's blocks, by their number counted from the last one; the rest is not computed.

        Args:
            x: noisy images (N, C, H, W).
            level: sqrt(abar) of each (N,).
            scales: which outputs, 0 ... (blocks + 1) levels - 1.

        Returns:
            scale -> (N, widths[level], H', W'), where H' = H / (fold 2^level), level = scale // (blocks + 1).

        Raises:
            InputError: a scale that does not exist, or a size that is no multiple of `config.multiple`.
        """
        wanted, scale = set(scales), self.config.outputs
        if not wanted or min(wanted) < 0 or max(wanted) >= scale:
            raise InputError(
                "scales", found=str(sorted(wanted)), expected=f"numbers from 0 to {scale - 1}", fix="Correct the head."
            )
        h, kept, embedding = self._encode(x, level)
        found: dict[int, Tensor] = {}
        for stage in self.ups:
            h = stage(_joined(stage, h, kept), embedding)
            if isinstance(stage, Stage):
                scale -= 1
                if scale in wanted:
                    found[scale] = h
                    if len(found) == len(wanted):
                        break
        return found

    def _encode(self, x: Tensor, level: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
        """Return the middle, what was kept on the way down, and the embedding of the level."""
        if x.ndim != 4 or x.shape[1] != self.config.bands or any(n % self.config.multiple for n in x.shape[2:]):
            raise InputError(
                "image",
                found=f"shape {tuple(x.shape)}",
                expected=f"(N, {self.config.bands}, H, W) with H and W multiples of {self.config.multiple}",
                fix="Choose the network's bands and pad the image.",
            )
        embedding = self.noise_level_mlp(level.to(x.dtype))
        h = self.init_conv(F.pixel_unshuffle(x, self.config.fold))
        kept = [h]
        for stage in self.downs:
            h = stage(h, embedding)
            kept.append(h)
        for stage in self.mid:
            h = stage(h, embedding)
        return h, kept, embedding


def _joined(stage: nn.Module, h: Tensor, kept: list[Tensor]) -> Tensor:
    return torch.cat([h, kept.pop()], dim=1) if isinstance(stage, Stage) else h


class GaussianDiffusion(nn.Module):
    """The layout of a published diffusion file: the UNet under `denoise_fn`, and the 12 tables of its noise.

    Args:
        unet: the network.
        schedule: its noise.
    """

    def __init__(self, unet: UNet, schedule: ScheduleConfig) -> None:
        super().__init__()
        self.denoise_fn = unet
        for name, table in published_buffers(schedule).items():
            self.register_buffer(name, table)

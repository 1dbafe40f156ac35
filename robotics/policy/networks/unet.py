r"""The 1-D U-Net of diffusion policies: convolutions along the chunk, told step and observations by FiLM.

A residual block with the condition c (embedding of the step, then the observations):

    h = Block_1(x),   Block(x) = mish(GroupNorm(conv(x)))
    h = scale h + shift,   (scale, shift) = Linear(mish(c))
    y = Block_2(h) + residual(x)

Names and shapes of the weights, and the outputs, are those of `ConditionalUnet1D` of real-stanford/diffusion_policy;
`robotics.policy.official` maps those of LeRobot.

References:
    Janner et al., Planning with Diffusion for Flexible Behavior Synthesis, 2022 (the temporal U-Net).
    Chi et al., Diffusion Policy, RSS 2023, section IV-A; Perez et al., FiLM, 2018.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robotics.policy.networks.embedding import StepEmbedding, steps_of


class ConvBlock(nn.Module):
    """mish(GroupNorm(conv(x))) of the same length.

    Args:
        inputs: channels in.
        outputs: channels out.
        kernel: odd.
        groups: of the normalisation.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int = 8) -> None:
        super().__init__()
        convolution = nn.Conv1d(inputs, outputs, kernel, padding=kernel // 2)
        self.block = nn.Sequential(convolution, nn.GroupNorm(groups, outputs), nn.Mish())

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, T)."""
        return self.block(x)


class ResidualBlock(nn.Module):
    """The residual block of the module docstring.

    Args:
        inputs: channels in.
        outputs: channels out.
        condition: size of c.
        kernel: odd.
        groups: of the normalisations.
        scale: whether the condition scales, or only shifts.
    """

    def __init__(self, inputs: int, outputs: int, condition: int, kernel: int, groups: int, scale: bool) -> None:
        super().__init__()
        self.scale = scale
        self.blocks = nn.ModuleList(
            [ConvBlock(inputs, outputs, kernel, groups), ConvBlock(outputs, outputs, kernel, groups)]
        )
        self.cond_encoder = nn.Sequential(nn.Mish(), nn.Linear(condition, outputs * (2 if scale else 1)))
        self.residual_conv = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (N, outputs, T) from x (N, inputs, T) and the condition (N, condition)."""
        h = self.blocks[0](x)
        told = self.cond_encoder(condition)[:, :, None]
        if self.scale:
            scale, shift = told.chunk(2, dim=1)
            h = scale * h + shift
        else:
            h = h + told
        return self.blocks[1](h) + self.residual_conv(x)


class _Resampling(nn.Module):
    """A strided convolution, published under the name `conv`."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        """Return half or twice the length."""
        return self.conv(x)


class ConditionalUnet1D(nn.Module):
    """The U-Net of the module docstring; argument names are the published ones.

    Args:
        input_dim: A, numbers of one action.
        local_cond_dim: numbers of a condition given at each tick of the chunk.
        global_cond_dim: numbers of the condition of the whole chunk, the observations.
        diffusion_step_embed_dim: size of the embedding of the step.
        down_dims: channels of each level, finest first.
        kernel_size: odd.
        n_groups: of the normalisations (the last block always has 8).
        cond_predict_scale: whether the condition scales, or only shifts.
    """

    def __init__(
        self,
        input_dim: int,
        *,
        local_cond_dim: int | None = None,
        global_cond_dim: int | None = None,
        diffusion_step_embed_dim: int = 256,
        down_dims: Sequence[int] = (256, 512, 1024),
        kernel_size: int = 3,
        n_groups: int = 8,
        cond_predict_scale: bool = False,
    ) -> None:
        super().__init__()
        size = diffusion_step_embed_dim
        condition = size + (global_cond_dim or 0)

        def block(inputs: int, outputs: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, condition, kernel_size, n_groups, cond_predict_scale)

        def level(inputs: int, outputs: int, resampling: nn.Module) -> nn.ModuleList:
            return nn.ModuleList([block(inputs, outputs), block(outputs, outputs), resampling])

        widths = list(down_dims)
        self.diffusion_step_encoder = nn.Sequential(
            StepEmbedding(size), nn.Linear(size, 4 * size), nn.Mish(), nn.Linear(4 * size, size)
        )
        self.local_cond_encoder = (
            nn.ModuleList([block(local_cond_dim, widths[0]), block(local_cond_dim, widths[0])])
            if local_cond_dim is not None
            else None
        )
        self.mid_modules = nn.ModuleList([block(widths[-1], widths[-1]), block(widths[-1], widths[-1])])
        self.down_modules = nn.ModuleList(
            level(inputs, outputs, _down(outputs) if outputs_left else nn.Identity())
            for inputs, outputs, outputs_left in zip(
                [input_dim, *widths[:-1]], widths, range(len(widths) - 1, -1, -1), strict=True
            )
        )
        # The way up has a level less: every one of them resamples, and so the length returns.
        self.up_modules = nn.ModuleList(
            level(2 * above, below, _up(below)) for below, above in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.final_conv = nn.Sequential(
            ConvBlock(widths[0], widths[0], kernel_size), nn.Conv1d(widths[0], input_dim, 1)
        )

    @staticmethod
    def conditioning(observations: Tensor) -> dict[str, Tensor]:
        """Return the keyword arguments for normalised observations (N, T_o, D_o): all of them in a row."""
        return {"global_cond": observations.flatten(1)}

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        *,
        local_cond: Tensor | None = None,
        global_cond: Tensor | None = None,
    ) -> Tensor:
        """Return the prediction (N, T, A).

        Args:
            sample: noisy chunk (N, T, A); T a multiple of 2^(levels - 1).
            timestep: entry of the noise table, one number or (N,); floats between entries are allowed.
            local_cond: (N, T, local_cond_dim).
            global_cond: (N, global_cond_dim).
        """
        condition = self.diffusion_step_encoder(steps_of(timestep, sample)).to(sample.dtype)
        if global_cond is not None:
            condition = torch.cat([condition, global_cond], dim=1)
        local = None
        if local_cond is not None and self.local_cond_encoder is not None:
            # The second encoder has weights in published checkpoints, but its output was never added there.
            local = self.local_cond_encoder[0](local_cond.mT, condition)
        x = sample.mT
        kept = []
        for place, (first, second, resample) in enumerate(map(_parts, self.down_modules)):
            x = first(x, condition)
            if place == 0 and local is not None:
                x = x + local
            x = second(x, condition)
            kept.append(x)
            x = resample(x)
        for block in self.mid_modules:
            x = block(x, condition)
        for first, second, resample in map(_parts, self.up_modules):
            x = resample(second(first(torch.cat([x, kept.pop()], dim=1), condition), condition))
        return self.final_conv(x).mT


def _parts(level: nn.Module) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return the two blocks and the resampling of a level."""
    assert isinstance(level, nn.ModuleList)
    first, second, resample = level
    return first, second, resample


def _down(channels: int) -> nn.Module:
    return _Resampling(nn.Conv1d(channels, channels, 3, stride=2, padding=1))


def _up(channels: int) -> nn.Module:
    return _Resampling(nn.ConvTranspose1d(channels, channels, 4, stride=2, padding=1))

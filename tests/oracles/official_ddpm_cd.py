"""DDPM-CD written down plainly from the note on its published files: names, shapes and forward pass.

Everything reads the tensors of a published state dict by their published names; nothing is shared with the package.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nnf

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
TABLES = (
    "betas", "alphas_cumprod", "alphas_cumprod_prev", "sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod", "sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_variance",
    "posterior_log_variance_clipped", "posterior_mean_coef1", "posterior_mean_coef2",
)  # fmt: skip

# The published network, block by block: index, channels in, channels out; with inner_channel 128 as unit 1.
DOWN_BLOCKS = (
    (0, 1, 1),
    (1, 1, 1),
    (3, 1, 2),
    (4, 2, 2),
    (6, 2, 4),
    (7, 4, 4),
    (9, 4, 8),
    (10, 8, 8),
    (12, 8, 8),
    (13, 8, 8),
)
DOWN_CONVOLUTIONS = ((2, 1), (5, 2), (8, 4), (11, 8))
UP_BLOCKS = (
    (0, 16, 8), (1, 16, 8), (2, 16, 8), (4, 16, 8), (5, 16, 8), (6, 12, 8), (8, 12, 4), (9, 8, 4), (10, 6, 4),
    (12, 6, 2), (13, 4, 2), (14, 3, 2), (16, 3, 1), (17, 2, 1), (18, 2, 1),
)  # fmt: skip
UP_CONVOLUTIONS = ((3, 8), (7, 8), (11, 4), (15, 2))
ATTENTION = ("downs.12", "downs.13", "mid.0", "ups.0", "ups.1", "ups.2")
HEAD_LEVELS = ((14, 8), (11, 8), (8, 4), (5, 2), (2, 1))  # feature number, channels


def unet_shapes(inner: int = 128, bands: int = 3) -> Shapes:
    """The 362 tensors of the UNet, without their prefix `denoise_fn.`."""
    shapes: Shapes = {}

    def layer(name: str, *weight: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = weight
        if bias:
            shapes[f"{name}.bias"] = (weight[0],)

    def block(name: str, enter: int, leave: int) -> None:
        layer(f"{name}.res_block.noise_func.noise_func.0", leave, inner)
        layer(f"{name}.res_block.block1.block.0", enter)
        layer(f"{name}.res_block.block1.block.3", leave, enter, 3, 3)
        layer(f"{name}.res_block.block2.block.0", leave)
        layer(f"{name}.res_block.block2.block.3", leave, leave, 3, 3)
        if enter != leave:
            layer(f"{name}.res_block.res_conv", leave, enter, 1, 1)
        if name in ATTENTION:
            layer(f"{name}.attn.norm", leave)
            layer(f"{name}.attn.qkv", 3 * leave, leave, 1, 1, bias=False)
            layer(f"{name}.attn.out", leave, leave, 1, 1)

    layer("noise_level_mlp.1", 4 * inner, inner)
    layer("noise_level_mlp.3", inner, 4 * inner)
    layer("init_conv", inner, bands, 3, 3)
    for index, enter, leave in DOWN_BLOCKS:
        block(f"downs.{index}", enter * inner, leave * inner)
    for index, width in DOWN_CONVOLUTIONS:
        layer(f"downs.{index}.conv", width * inner, width * inner, 3, 3)
    for index in (0, 1):
        block(f"mid.{index}", 8 * inner, 8 * inner)
    for index, enter, leave in UP_BLOCKS:
        block(f"ups.{index}", enter * inner, leave * inner)
    for index, width in UP_CONVOLUTIONS:
        layer(f"ups.{index}.conv", width * inner, width * inner, 3, 3)
    layer("final_conv.block.0", inner)
    layer("final_conv.block.3", bands, inner, 3, 3)
    return shapes


def diffusion_shapes(inner: int = 128, bands: int = 3, steps: int = 2000) -> Shapes:
    """The 374 tensors of `*_gen.pth`."""
    shapes = {f"denoise_fn.{name}": shape for name, shape in unet_shapes(inner, bands).items()}
    return shapes | dict.fromkeys(TABLES, (steps,))


def head_shapes(inner: int = 128, timesteps: int = 3) -> Shapes:
    """The 56 tensors of `best_cd_model_gen.pth`; 46 with one timestep."""
    shapes: Shapes = {}

    def layer(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = weight, (weight[0],)

    widths = [width * inner for _, width in HEAD_LEVELS]
    for place, width in enumerate(widths):
        if timesteps > 1:
            layer(f"decoder.{2 * place}.block.0", width, timesteps * width, 1, 1)
        layer(f"decoder.{2 * place}.block.2", width, width, 3, 3)
        if place < 4:
            after = widths[place + 1]
            layer(f"decoder.{2 * place + 1}.block.0", after, width, 3, 3)
            layer(f"decoder.{2 * place + 1}.block.2.cSE.fc1", after // 2, after)
            layer(f"decoder.{2 * place + 1}.block.2.cSE.fc2", after, after // 2)
            layer(f"decoder.{2 * place + 1}.block.2.sSE.conv", 1, after, 1, 1)
    layer("clfr_stg1", 64, inner, 3, 3)
    layer("clfr_stg2", 2, 64, 3, 3)
    return shapes


def random_state(shapes: Shapes, seed: int = 0) -> State:
    """Random numbers of single precision that keep the size of what passes through."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        value = value / max(math.prod(shape[1:]), 1) ** 0.5 if len(shape) > 1 else 0.3 * value
        norm = any(part in name for part in ("block1.block.0", "block2.block.0", "attn.norm", "final_conv.block.0"))
        state[name] = value + 1 if norm and name.endswith("weight") else value
    return state


def tables(betas: np.ndarray) -> dict[str, np.ndarray]:
    """The 12 tables, entry by entry, in double precision."""
    rows = []
    abar = 1.0
    for beta in betas:
        before, abar = abar, abar * (1 - beta)
        variance = beta * (1 - before) / (1 - abar)
        rows.append(
            (
                beta, abar, before, math.sqrt(abar), math.sqrt(1 - abar), math.log(1 - abar), math.sqrt(1 / abar),
                math.sqrt(1 / abar - 1), variance, math.log(max(variance, 1e-20)),
                beta * math.sqrt(before) / (1 - abar), (1 - before) * math.sqrt(1 - beta) / (1 - abar),
            )
        )  # fmt: skip
    return dict(zip(TABLES, np.array(rows).T, strict=True))


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def convolve(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    return nnf.conv2d(x, weight, state.get(f"{name}.bias"), stride=stride, padding=weight.shape[-1] // 2)


def normalise(state: State, name: str, x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    grouped = x.reshape(n, groups, -1)
    mean, variance = grouped.mean(2, keepdim=True), grouped.var(2, unbiased=False, keepdim=True)
    flat = ((grouped - mean) / torch.sqrt(variance + 1e-5)).reshape(n, c, h, w)
    return flat * state[f"{name}.weight"].reshape(1, c, 1, 1) + state[f"{name}.bias"].reshape(1, c, 1, 1)


def linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def attend(state: State, name: str, x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    q, k, v = (
        convolve(state, f"{name}.qkv", normalise(state, f"{name}.norm", x, groups)).reshape(n, 3, c, h * w).unbind(1)
    )
    weights = torch.softmax(torch.einsum("ncp,ncq->npq", q, k) / math.sqrt(c), dim=2)
    return x + convolve(state, f"{name}.out", torch.einsum("npq,ncq->ncp", weights, v).reshape(n, c, h, w))


def block(state: State, name: str, x: Tensor, embedding: Tensor, groups: int) -> Tensor:
    inner = f"{name}.res_block"
    h = convolve(state, f"{inner}.block1.block.3", swish(normalise(state, f"{inner}.block1.block.0", x, groups)))
    h = h + linear(state, f"{inner}.noise_func.noise_func.0", embedding)[:, :, None, None]
    h = convolve(state, f"{inner}.block2.block.3", swish(normalise(state, f"{inner}.block2.block.0", h, groups)))
    h = h + (convolve(state, f"{inner}.res_conv", x) if f"{inner}.res_conv.weight" in state else x)
    return attend(state, f"{name}.attn", h, groups) if name in ATTENTION else h


def unet(state: State, x: Tensor, level: Tensor, groups: int = 32) -> tuple[Tensor, list[Tensor]]:
    """The noise, and the outputs of the 15 up blocks counted from the last one."""
    inner = state["init_conv.weight"].shape[0]
    angle = level[:, None] * torch.tensor([1e4 ** (-2 * k / inner) for k in range(inner // 2)], dtype=level.dtype)
    waves = torch.cat([torch.sin(angle), torch.cos(angle)], 1)
    embedding = linear(state, "noise_level_mlp.3", swish(linear(state, "noise_level_mlp.1", waves)))
    h = convolve(state, "init_conv", x)
    kept = [h]
    strided = dict(DOWN_CONVOLUTIONS)
    for index in range(14):
        if index in strided:
            h = convolve(state, f"downs.{index}.conv", h, stride=2)
        else:
            h = block(state, f"downs.{index}", h, embedding, groups)
        kept.append(h)
    for index in (0, 1):
        h = block(state, f"mid.{index}", h, embedding, groups)
    outputs = []
    rising = dict(UP_CONVOLUTIONS)
    for index in range(19):
        if index in rising:
            h = convolve(state, f"ups.{index}.conv", h.repeat_interleave(2, 2).repeat_interleave(2, 3))
        else:
            h = block(state, f"ups.{index}", torch.cat([h, kept.pop()], 1), embedding, groups)
            outputs.append(h)
    noise = convolve(state, "final_conv.block.3", swish(normalise(state, "final_conv.block.0", h, groups)))
    return noise, outputs[::-1]


def head(state: State, before: list[list[Tensor]], after: list[list[Tensor]]) -> Tensor:
    """The logits, given [timestep][feature number] of each date."""
    x: Tensor | None = None
    for place, (number, _) in enumerate(HEAD_LEVELS):
        sides = []
        for date in (before, after):
            f = torch.cat([step[number] for step in date], 1)
            if f"decoder.{2 * place}.block.0.weight" in state:
                f = convolve(state, f"decoder.{2 * place}.block.0", f).clamp_min(0)
            sides.append(convolve(state, f"decoder.{2 * place}.block.2", f).clamp_min(0))
        difference = (sides[0] - sides[1]).abs()
        if x is not None:
            difference = difference + x
        if place == 4:
            break  # the published code has computed the finest difference and now classifies x
        name = f"decoder.{2 * place + 1}.block"
        h = convolve(state, f"{name}.0", difference).clamp_min(0)
        channels = linear(state, f"{name}.2.cSE.fc2", linear(state, f"{name}.2.cSE.fc1", h.mean((2, 3))).clamp_min(0))
        places = convolve(state, f"{name}.2.sSE.conv", h)
        h = h / (1 + torch.exp(-channels))[:, :, None, None] + h / (1 + torch.exp(-places))
        x = nnf.interpolate(h, scale_factor=2, mode="bilinear")
    return convolve(state, "clfr_stg2", convolve(state, "clfr_stg1", x).clamp_min(0))

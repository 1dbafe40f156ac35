"""The published networks of Diffusion Policy as plain functions of a state dict, and the names and shapes in it.

Written from the description of the architecture (Chi et al. 2023; notes on the checkpoints), without the package: every
convolution, normalisation and attention is spelled out, so that agreement is evidence.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def sinusoid(steps: Tensor, size: int) -> Tensor:
    rows = []
    for k in steps.tolist():
        angles = [k * math.exp(-math.log(10000) * i / (size // 2 - 1)) for i in range(size // 2)]
        rows.append([*map(math.sin, angles), *map(math.cos, angles)])
    return torch.tensor(rows)


def mish(x: Tensor) -> Tensor:
    return x * torch.tanh(torch.log1p(torch.exp(x)))


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def group_norm(w: Weights, name: str, x: Tensor, groups: int) -> Tensor:
    n, c, t = x.shape
    parts = x.reshape(n, groups, -1)
    parts = (parts - parts.mean(2, keepdim=True)) / torch.sqrt(parts.var(2, unbiased=False, keepdim=True) + 1e-5)
    return parts.reshape(n, c, t) * w[f"{name}.weight"][:, None] + w[f"{name}.bias"][:, None]


def conv_block(w: Weights, name: str, x: Tensor, groups: int) -> Tensor:
    kernel = w[f"{name}.block.0.weight"]
    h = F.conv1d(x, kernel, w[f"{name}.block.0.bias"], padding=kernel.shape[2] // 2)
    return mish(group_norm(w, f"{name}.block.1", h, groups))


def residual_block(w: Weights, name: str, x: Tensor, condition: Tensor, groups: int, scale: bool) -> Tensor:
    h = conv_block(w, f"{name}.blocks.0", x, groups)
    told = linear(w, f"{name}.cond_encoder.1", mish(condition))[:, :, None]
    h = told[:, : h.shape[1]] * h + told[:, h.shape[1] :] if scale else h + told
    h = conv_block(w, f"{name}.blocks.1", h, groups)
    if f"{name}.residual_conv.weight" in w:
        x = F.conv1d(x, w[f"{name}.residual_conv.weight"], w[f"{name}.residual_conv.bias"])
    return h + x


def unet(w: Weights, x: Tensor, steps: Tensor, condition: Tensor, *, levels: int, groups: int, scale: bool) -> Tensor:
    size = w["diffusion_step_encoder.1.weight"].shape[1]
    e = linear(w, "diffusion_step_encoder.1", sinusoid(steps, size))
    e = linear(w, "diffusion_step_encoder.3", mish(e))
    c = torch.cat([e, condition], dim=1)

    def block(name: str, h: Tensor) -> Tensor:
        return residual_block(w, name, h, c, groups, scale)

    h, kept = x.transpose(1, 2), []
    for i in range(levels):
        h = block(f"down_modules.{i}.1", block(f"down_modules.{i}.0", h))
        kept.append(h)
        if i < levels - 1:
            name = f"down_modules.{i}.2.conv"
            h = F.conv1d(h, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)
    h = block("mid_modules.1", block("mid_modules.0", h))
    for i in range(levels - 1):
        h = torch.cat([h, kept[levels - 1 - i]], dim=1)
        h = block(f"up_modules.{i}.1", block(f"up_modules.{i}.0", h))
        name = f"up_modules.{i}.2.conv"
        h = F.conv_transpose1d(h, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1)
    h = conv_block(w, "final_conv.0", h, 8)
    return F.conv1d(h, w["final_conv.1.weight"], w["final_conv.1.bias"]).transpose(1, 2)


def unet_layout(
    actions: int, condition: int, *, embedding: int, widths: list[int], kernel: int, scale: bool
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def put(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, (shape[0],)

    def block(name: str, inputs: int, outputs: int) -> None:
        for i, channels in enumerate((inputs, outputs)):
            put(f"{name}.blocks.{i}.block.0", outputs, channels, kernel)
            put(f"{name}.blocks.{i}.block.1", outputs)
        put(f"{name}.cond_encoder.1", outputs * (2 if scale else 1), embedding + condition)
        if inputs != outputs:
            put(f"{name}.residual_conv", outputs, inputs, 1)

    put("diffusion_step_encoder.1", 4 * embedding, embedding)
    put("diffusion_step_encoder.3", embedding, 4 * embedding)
    for i, (a, b) in enumerate(zip([actions, *widths], widths, strict=False)):
        block(f"down_modules.{i}.0", a, b)
        block(f"down_modules.{i}.1", b, b)
        if i < len(widths) - 1:
            put(f"down_modules.{i}.2.conv", b, b, 3)
    for i in (0, 1):
        block(f"mid_modules.{i}", widths[-1], widths[-1])
    for i, level in enumerate(range(len(widths) - 1, 0, -1)):
        block(f"up_modules.{i}.0", 2 * widths[level], widths[level - 1])
        block(f"up_modules.{i}.1", widths[level - 1], widths[level - 1])
        put(f"up_modules.{i}.2.conv", widths[level - 1], widths[level - 1], 4)
    put("final_conv.0.block.0", widths[0], widths[0], kernel)
    put("final_conv.0.block.1", widths[0])
    put("final_conv.1", actions, widths[0], 1)
    return shapes


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]
    )


def attention(w: Weights, name: str, x: Tensor, memory: Tensor, heads: int, mask: Tensor | None) -> Tensor:
    n, t, e = x.shape
    matrices, biases = w[f"{name}.in_proj_weight"].chunk(3), w[f"{name}.in_proj_bias"].chunk(3)
    q, k, v = (
        (source @ matrix.T + bias).reshape(n, -1, heads, e // heads).transpose(1, 2)
        for source, matrix, bias in zip((x, memory, memory), matrices, biases, strict=True)
    )
    scores = q @ k.transpose(2, 3) / math.sqrt(e // heads)
    if mask is not None:
        scores = scores.masked_fill(mask, -math.inf)
    return linear(w, f"{name}.out_proj", (scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, e))


def transformer(
    w: Weights, x: Tensor, steps: Tensor, observations: Tensor, *, layers: int, heads: int, causal: bool
) -> Tensor:
    width = w["head.weight"].shape[1]
    told = torch.cat([sinusoid(steps, width)[:, None], linear(w, "cond_obs_emb", observations)], dim=1)
    memory = linear(w, "encoder.2", mish(linear(w, "encoder.0", told + w["cond_pos_emb"])))
    h = linear(w, "input_emb", x) + w["pos_emb"]
    action, seen = torch.arange(h.shape[1])[:, None], torch.arange(memory.shape[1])
    future = action < action.T if causal else None
    unseen = seen - 1 > action if causal else None
    for i in range(layers):
        name = f"decoder.layers.{i}"
        n = layer_norm(w, f"{name}.norm1", h)
        h = h + attention(w, f"{name}.self_attn", n, n, heads, future)
        h = h + attention(w, f"{name}.multihead_attn", layer_norm(w, f"{name}.norm2", h), memory, heads, unseen)
        f = linear(w, f"{name}.linear1", layer_norm(w, f"{name}.norm3", h))
        h = h + linear(w, f"{name}.linear2", f * 0.5 * (1 + torch.erf(f / math.sqrt(2))))
    return linear(w, "head", layer_norm(w, "ln_f", h))


def transformer_layout(
    actions: int, condition: int, horizon: int, observe: int, *, layers: int, width: int, causal: bool
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "_dummy_variable": (0,),
        "pos_emb": (1, horizon, width),
        "cond_pos_emb": (1, 1 + observe, width),
    }

    def put(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, (shape[0],)

    if causal:
        shapes |= {"mask": (horizon, horizon), "memory_mask": (horizon, 1 + observe)}
    put("input_emb", width, actions)
    put("cond_obs_emb", width, condition)
    put("encoder.0", 4 * width, width)
    put("encoder.2", width, 4 * width)
    for i in range(layers):
        for name in ("self_attn", "multihead_attn"):
            shapes[f"decoder.layers.{i}.{name}.in_proj_weight"] = (3 * width, width)
            shapes[f"decoder.layers.{i}.{name}.in_proj_bias"] = (3 * width,)
            put(f"decoder.layers.{i}.{name}.out_proj", width, width)
        put(f"decoder.layers.{i}.linear1", 4 * width, width)
        put(f"decoder.layers.{i}.linear2", width, 4 * width)
        for norm in ("norm1", "norm2", "norm3"):
            put(f"decoder.layers.{i}.{norm}", width)
    put("ln_f", width)
    put("head", actions, width)
    return shapes

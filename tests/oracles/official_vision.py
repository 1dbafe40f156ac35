"""The published image encoders as plain functions of a state dict, and the names and shapes in it.

Written from He et al. 2016 and the public layouts of LeRobot (`DiffusionRgbEncoder`) and robomimic (`VisualCore`);
every normalisation and the expectation over places are spelled out, so that agreement is evidence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]
EXPANDED = ((64, 1), (128, 2), (256, 2), (512, 2))  # channels and stride of the four stages of ResNet-18


def backbone_layout(channels: int) -> dict[str, tuple[int, ...]]:
    """Names of torchvision's ResNet-18 as children of a Sequential, without average and classifier."""
    found: dict[str, tuple[int, ...]] = {"0.weight": (64, channels, 7, 7), "1.weight": (64,), "1.bias": (64,)}
    before = 64
    for stage, (width, stride) in enumerate(EXPANDED):
        for block in (0, 1):
            name = f"{4 + stage}.{block}"
            found[f"{name}.conv1.weight"] = (width, before, 3, 3)
            found[f"{name}.conv2.weight"] = (width, width, 3, 3)
            for norm in ("bn1", "bn2"):
                found |= {f"{name}.{norm}.weight": (width,), f"{name}.{norm}.bias": (width,)}
            if block == 0 and stride == 2:
                found[f"{name}.downsample.0.weight"] = (width, before, 1, 1)
                found |= {f"{name}.downsample.1.weight": (width,), f"{name}.downsample.1.bias": (width,)}
            before = width
    return found


def norm(w: Weights, name: str, x: Tensor) -> Tensor:
    """Groups of 16 channels to mean 0 and variance 1."""
    n, c, height, width = x.shape
    parts = x.reshape(n, c // 16, -1)
    parts = (parts - parts.mean(2, keepdim=True)) / torch.sqrt(parts.var(2, unbiased=False, keepdim=True) + 1e-5)
    scale, shift = (w[f"{name}.{part}"][:, None, None] for part in ("weight", "bias"))
    return parts.reshape(n, c, height, width) * scale + shift


def backbone(w: Weights, x: Tensor) -> Tensor:
    x = norm(w, "1", F.conv2d(x, w["0.weight"], stride=2, padding=3)).clamp(min=0)
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    for stage, (_, stride) in enumerate(EXPANDED):
        for block in (0, 1):
            name, step = f"{4 + stage}.{block}", stride if block == 0 else 1
            h = norm(w, f"{name}.bn1", F.conv2d(x, w[f"{name}.conv1.weight"], stride=step, padding=1)).clamp(min=0)
            h = norm(w, f"{name}.bn2", F.conv2d(h, w[f"{name}.conv2.weight"], padding=1))
            if f"{name}.downsample.0.weight" in w:
                x = norm(w, f"{name}.downsample.1", F.conv2d(x, w[f"{name}.downsample.0.weight"], stride=step))
            x = (h + x).clamp(min=0)
    return x


def expected_places(logits: Tensor) -> Tensor:
    """Mean x and y of softmax weights, axes from -1 to 1: (N, K, H, W) to (N, K, 2)."""
    height, width = logits.shape[2:]
    weights = torch.exp(logits - logits.amax((2, 3), keepdim=True))
    weights = weights / weights.sum((2, 3), keepdim=True)
    x = sum(weights[..., j].sum(2) * (-1 + 2 * j / (width - 1)) for j in range(width))
    y = sum(weights[..., i, :].sum(2) * (-1 + 2 * i / (height - 1)) for i in range(height))
    return torch.stack([x, y], dim=2)


def encoder(w: Weights, conv: str, out: str, x: Tensor, temperature: float = 1.0) -> Tensor:
    """relu(linear(places)) from backbone names without prefix, and the names of the last two layers."""
    logits = F.conv2d(backbone(w, x), w[f"{conv}.weight"], w[f"{conv}.bias"]) / temperature
    return (expected_places(logits).flatten(1) @ w[f"{out}.weight"].T + w[f"{out}.bias"]).clamp(min=0)

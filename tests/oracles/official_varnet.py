"""The forward pass of fastMRI's VarNet and of NO-MRI, written down plainly from the published formulas and names.

Everything reads the tensors of a published state dict by their published names; nothing is shared with the package.
Complex images are complex tensors; the transforms are written with explicit shifts. Masks of lines only (last axis).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as nnf

from tests.oracles.disco import published_stencils

State = dict[str, Tensor]
Convolve = Callable[[Tensor, str, int], Tensor]


def u_tensors(prefix: str, kind: str, channels: int, functions: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of one U: kind "unet" (fastMRI) or "udno" (NO-MRI)."""
    down, middle, up, rise = (
        ("down_sample_layers", "conv", "up_conv", "up_transpose_conv")
        if kind == "unet"
        else ("down_sample_layers", "bottleneck", "up", "up_transpose")
    )
    window = (3, 3) if kind == "unet" else (functions,)
    c = channels
    shapes: dict[str, tuple[int, ...]] = {}
    widths = [(2, c), (c, 2 * c), (2 * c, 4 * c), (4 * c, 8 * c)]
    for i, (a, b) in enumerate(widths):
        shapes[f"{down}.{i}.layers.0.weight"] = (b, a, *window)
        shapes[f"{down}.{i}.layers.4.weight"] = (b, b, *window)
    shapes[f"{middle}.layers.0.weight"] = (16 * c, 8 * c, *window)
    shapes[f"{middle}.layers.4.weight"] = (16 * c, 16 * c, *window)
    for i, b in enumerate([8 * c, 4 * c, 2 * c, c]):
        place = f"{up}.{i}" if i < 3 else f"{up}.3.0"
        shapes[f"{place}.layers.0.weight"] = (b, 2 * b, *window)
        shapes[f"{place}.layers.4.weight"] = (b, b, *window)
        if kind == "unet":
            shapes[f"{rise}.{i}.layers.0.weight"] = (2 * b, b, 2, 2)
        else:
            shapes[f"{rise}.{i}.layers.1.weight"] = (b, 2 * b, *window)
    shapes[f"{up}.3.1.weight"] = (2, c, 1, 1)
    shapes[f"{up}.3.1.bias"] = (2,)
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def fastmri_tensors(cascades: int = 12, channels: int = 18, sens_channels: int = 8) -> dict[str, tuple[int, ...]]:
    shapes = u_tensors("sens_net.norm_unet.unet", "unet", sens_channels, 0)
    for j in range(cascades):
        shapes[f"cascades.{j}.dc_weight"] = (1,)
        shapes |= u_tensors(f"cascades.{j}.model.unet", "unet", channels, 0)
    return shapes


def no_mri_tensors(
    cascades: int = 6, channels: int = 18, kno_channels: int = 16, sens_channels: int = 8, functions: int = 36
) -> dict[str, tuple[int, ...]]:
    shapes = u_tensors("sens_net.norm_udno.udno", "udno", sens_channels, functions)
    shapes |= u_tensors("kno.udno", "udno", kno_channels, functions)
    for j in range(cascades):
        shapes[f"cascades.{j}.dc_weight"] = (1,)
        shapes |= u_tensors(f"cascades.{j}.model.udno", "udno", channels, functions)
    return shapes


def random_state(shapes: dict[str, tuple[int, ...]], dtype: torch.dtype = torch.float64) -> State:
    """Random numbers of single precision, so that a network of single precision holds them exactly."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: (torch.randn(shape, generator=generator) / max(math.prod(shape[1:]), 1) ** 0.5).to(dtype)
        for name, shape in shapes.items()
    }


def fft(x: Tensor) -> Tensor:
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(x, (-2, -1)), norm="ortho"), (-2, -1))


def ifft(x: Tensor) -> Tensor:
    return torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(x, (-2, -1)), norm="ortho"), (-2, -1))


def act(x: Tensor) -> Tensor:
    mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
    x = (x - mean) / (variance + 1e-5).sqrt()
    return torch.where(x > 0, x, 0.2 * x)


def u_shaped(
    x: Tensor, names: tuple[str, str, str], rise: Convolve, convolve: Convolve, state: State, p: str
) -> Tensor:
    down, middle, up = names

    def block(x: Tensor, place: str, level: int) -> Tensor:
        for layer in ("layers.0", "layers.4"):
            x = act(convolve(x, f"{p}.{place}.{layer}.weight", level))
        return x

    copies = []
    for level in range(4):
        x = block(x, f"{down}.{level}", level)
        copies.append(x)
        x = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).mean((3, 5))
    x = block(x, middle, 4)
    for i in range(4):
        x = act(rise(x, p, i))
        x = block(torch.cat([x, copies[3 - i]], 1), f"{up}.{i}" if i < 3 else f"{up}.3.0", 3 - i)
    return nnf.conv2d(x, state[f"{p}.{up}.3.1.weight"], state[f"{p}.{up}.3.1.bias"])


def unet_of(state: State) -> Callable[[Tensor, str], Tensor]:
    def convolve(x: Tensor, name: str, level: int) -> Tensor:
        return nnf.conv2d(x, state[name], padding=1)

    def rise(x: Tensor, p: str, i: int) -> Tensor:
        weight = state[f"{p}.up_transpose_conv.{i}.layers.0.weight"]
        # A transposed convolution of stride 2 with a 2 x 2 kernel writes every pixel into its own 2 x 2 pixels.
        out = torch.einsum("bihw,ioyx->bohywx", x, weight)
        return out.flatten(4, 5).flatten(2, 3)

    names = ("down_sample_layers", "conv", "up_conv")
    return lambda x, p: u_shaped(x, names, rise, convolve, state, p)


def udno_of(
    state: State, radius: float, shape: tuple[int, int], rings: int, angles: int
) -> Callable[[Tensor, str], Tensor]:
    stencils = [
        published_stencils(radius * 2**level, (shape[0] // 2**level, shape[1] // 2**level), rings, angles)
        for level in range(5)
    ]

    def convolve(x: Tensor, name: str, level: int) -> Tensor:
        kernel = torch.einsum("oik,kyx->oiyx", state[name], stencils[level])
        size = kernel.shape[-1]
        before, after = size // 2, (size + 1) // 2 - 1
        return nnf.conv2d(nnf.pad(x, (before, after, before, after)), kernel)

    def rise(x: Tensor, p: str, i: int) -> Tensor:
        finer = nnf.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        return convolve(finer, f"{p}.up_transpose.{i}.layers.1.weight", 3 - i)

    names = ("down_sample_layers", "bottleneck", "up")
    return lambda x, p: u_shaped(x, names, rise, convolve, state, p)


def norm_network(x: Tensor, network: Callable[[Tensor, str], Tensor], place: str) -> Tensor:
    """Complex (N, H, W) through a U: real and imaginary part brought to mean 0 and deviation 1, padded to 16."""
    parts = torch.stack([x.real, x.imag], dim=1)
    mean, deviation = parts.mean((2, 3), keepdim=True), parts.std((2, 3), keepdim=True)
    parts = (parts - mean) / deviation
    height, width = x.shape[-2:]
    tall, wide = ((height - 1) | 15) + 1, ((width - 1) | 15) + 1
    top, left = math.floor((tall - height) / 2), math.floor((wide - width) / 2)
    parts = nnf.pad(parts, (left, wide - width - left, top, tall - height - top))
    parts = network(parts, place)[..., top : top + height, left : left + width] * deviation + mean
    return torch.complex(parts[:, 0], parts[:, 1])


def forward(
    state: State, kspace: Tensor, mask: Tensor, network: Callable[[Tensor, str], Tensor], kind: str, lines: int
) -> Tensor:
    """Root sum of squares (H, W) of k-space (C, H, W) with a mask (W,) and `lines` central lines, even.

    kind "unet" is fastMRI's VarNet; "udno" is NO-MRI with reduction "batch" and skip "replace".
    """
    width = len(mask)
    start = (width - lines + 1) // 2
    centre = torch.zeros(width, dtype=torch.bool)
    centre[start : start + lines] = True
    maps = norm_network(ifft(kspace * centre), network, f"sens_net.norm_{kind}.{kind}")
    maps = maps / maps.abs().square().sum(0).sqrt()
    k = norm_network(kspace, network, "kno.udno") if kind == "udno" else kspace
    j = 0
    while f"cascades.{j}.dc_weight" in state:
        image = (maps.conj() * ifft(k)).sum(0, keepdim=True)
        model = fft(maps * norm_network(image, network, f"cascades.{j}.model.{kind}"))
        consistency = torch.where(mask, k - kspace, 0) * state[f"cascades.{j}.dc_weight"]
        k = k - consistency - model
        j += 1
    return ifft(k).abs().square().sum(0).sqrt()

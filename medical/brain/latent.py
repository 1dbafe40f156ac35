"""The autoencoder of MedForj's latent model: MAISI's, four channels at a quarter of the resolution.

    z = encode(x), (N, 4, X/4, Y/4, Z/4);   x = decode(z), (N, 1, X, Y, Z)

The network itself sees intensities from 0 to 1; here they are from -1 to 1, as everywhere. `ldm_rflow` was trained on
latents as the encoder gives them, without a scale. Its file has the latent network only; the autoencoder's is NVIDIA's
`autoencoder_v1.pt` (huggingface.co/nvidia/NV-Generate-CT), whose licence is not that of MedForj.

Convolutions run in slabs along y with a halo of three voxels, as many as divide the volume and are thicker than that:
then slabs are exact, which in MAISI's code they are not for every size. Normalisations are in float32: the published
configuration rounds them to half precision.

Reference: Guo et al., MAISI: Medical AI for Synthetic Imaging, 2024; piksl-research/medforj, `config_maisi.json`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medical.brain.config import LATENT_FACTOR
from medical.brain.official import require_tensors
from shared.errors import InputError, MissingExtra
from shared.interop.state_dict import read_state_dict
from shared.weights import sha256

WIDTHS = (64, 128, 256)
SLABS = (8, 4, 2)  # what is tried
THINNEST = 4  # voxels of a slab of latents


class Autoencoder:
    """MAISI's autoencoder, in evaluation mode.

    Args:
        network: MONAI's `AutoencoderKlMaisi`.
        name: of its file.
        sha256: of its file.
        device: where to compute.
    """

    def __init__(
        self, network: nn.Module, *, name: str = "", sha256: str = "", device: torch.device | str = "cpu"
    ) -> None:
        self.network: Any = network.eval().requires_grad_(False).to(device)
        self.name, self.sha256 = name, sha256

    @torch.no_grad()
    def decode(self, z: Tensor) -> Tensor:
        """Return the volumes (N, 1, 4 X, 4 Y, 4 Z), nominally in [-1, 1], of latents (N, 4, X, Y, Z)."""
        volume: Tensor = self._in_slabs(z.shape[3]).decode(z)
        return 2 * volume - 1

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Return the latents (N, 4, X / 4, Y / 4, Z / 4) of volumes (N, 1, X, Y, Z): the means, without noise.

        Raises:
            InputError: a side that is no multiple of 4.
        """
        if any(side % LATENT_FACTOR for side in x.shape[2:]):
            raise InputError(
                "volume", found="x".join(map(str, x.shape[2:])), expected=f"multiples of {LATENT_FACTOR}",
                fix="Pad it with air.",
            )  # fmt: skip
        mean: Tensor = self._in_slabs(x.shape[3] // LATENT_FACTOR).encode((x + 1) / 2)[0]
        return mean

    def _in_slabs(self, side: int) -> Any:
        """Return the network, its convolutions cut for latents of so many voxels along y."""
        slabs = next((n for n in SLABS if side % n == 0 and side // n >= THINNEST), 1)
        for module in self.network.modules():
            if hasattr(module, "num_splits"):
                module.num_splits = slabs
        return self.network


def autoencoder_network(widths: tuple[int, ...] = WIDTHS) -> nn.Module:
    """Return the network with random weights.

    Args:
        widths: channels of the levels; the published are the default.

    Raises:
        MissingExtra: MONAI is not installed.
    """
    try:
        from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
    except ImportError as error:
        raise MissingExtra(error.name or "monai", extra="brain", purpose="for MAISI's autoencoder") from error
    network: nn.Module = AutoencoderKlMaisi(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        latent_channels=4,
        num_channels=widths,
        num_res_blocks=(2,) * len(widths),
        attention_levels=(False,) * len(widths),
        norm_num_groups=min(32, widths[0]),
        with_encoder_nonlocal_attn=False,
        with_decoder_nonlocal_attn=False,
        num_splits=SLABS[0],
        dim_split=1,
        norm_float16=False,
    )
    return network


def load_autoencoder(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> Autoencoder:
    """Return the autoencoder of a file, `.pt` or `.safetensors`, with exactly its tensors.

    Raises:
        InputError: no such file, or other tensors than those of MAISI's autoencoder.
        MissingExtra: MONAI is not installed.
    """
    fix = "Give NVIDIA's autoencoder_v1.pt, that of MAISI version 1."
    path = Path(path)
    state = read_state_dict(path, fix=fix)
    network = autoencoder_network()
    require_tensors(network, state, path, fix)
    network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return Autoencoder(network, name=path.name, sha256=sha256(path), device=device)

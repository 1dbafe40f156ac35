"""Three small trained networks of the sizes and kinds that the domains use, to measure the core on.

    model = load_example("shared/photo_unet")
    sample(model.denoiser, model.process.noise((8, *model.shape), generator), grid, solver)

| name               | network (class of diffusers)      | data                                      | prediction |
| ------------------ | --------------------------------- | ----------------------------------------- | ---------- |
| shared/action_unet | 1-D UNet, `UNet1DModel`           | generated paths round an obstacle, 2 x 16 | sample     |
| shared/photo_unet  | 2-D UNet, `UNet2DModel`           | grey patches of two photographs, 16 x 16  | v          |
| shared/digits_dit  | transformer, `DiTTransformer2DModel` | labelled digits, 8 x 8                 | v          |

The model cards in `shared/weights/` say how each was trained. They need the extra `diffusers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shared.denoiser import NetworkDenoiser
from shared.errors import InputError, MissingExtra
from shared.models import Model
from shared.predictions import Prediction
from shared.process import VariancePreserving, squared_cosine_betas
from shared.weights import load

CLASSES = 10
NO_CLASS = CLASSES


@dataclass(frozen=True)
class Example:
    """What a small network is: its build, process and prediction.

    Attributes:
        build: returns the untrained network.
        betas: table of its process.
        prediction: what it predicts.
        shape: of one sample.
    """

    build: Callable[[], nn.Module]
    betas: Tensor
    prediction: Prediction
    shape: tuple[int, ...]


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError as error:
        raise MissingExtra("diffusers", extra="diffusers", purpose="for the example networks") from error
    return diffusers


def action_unet() -> nn.Module:
    """Return a 1-D UNet over (N, 2, 16): three levels of residual temporal blocks, 1.0 M parameters."""
    return _diffusers().UNet1DModel(
        sample_size=16, in_channels=2, out_channels=2, time_embedding_type="positional", use_timestep_embedding=True,
        flip_sin_to_cos=False, freq_shift=1, down_block_types=("DownResnetBlock1D",) * 3,
        up_block_types=("UpResnetBlock1D",) * 2, mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock", block_out_channels=(32, 64, 128), act_fn="mish", layers_per_block=1,
    )  # fmt: skip


def photo_unet() -> nn.Module:
    """Return a 2-D UNet over (N, 1, H, W), H and W multiples of 4: three levels, attention on the lowest."""
    return _diffusers().UNet2DModel(
        sample_size=16, in_channels=1, out_channels=1, layers_per_block=2, block_out_channels=(24, 48, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"), norm_num_groups=8, attention_head_dim=16,
    )  # fmt: skip


def digits_dit() -> nn.Module:
    """Return a diffusion transformer over (N, 1, 8, 8): 8 blocks, 16 tokens of width 96, class label in the norms."""
    return _diffusers().DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=24, in_channels=1, out_channels=1, num_layers=8, sample_size=8,
        patch_size=2, num_embeds_ada_norm=CLASSES, norm_num_groups=8,
    )  # fmt: skip


LINEAR_BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
EXAMPLES = {
    "shared/action_unet": Example(action_unet, squared_cosine_betas(100), "sample", (2, 16)),
    "shared/photo_unet": Example(photo_unet, LINEAR_BETAS, "v", (1, 16, 16)),
    "shared/digits_dit": Example(digits_dit, LINEAR_BETAS, "v", (1, 8, 8)),
}


def load_example(name: str, device: torch.device | str = "cpu") -> Model:
    """Return a trained example by name, ready to be sampled; `model.denoiser` is a `NetworkDenoiser`.

    The transformer is asked without a class; `labelled` gives it one.

    Raises:
        InputError: no such example, or no such weights.
        MissingExtra: diffusers is not installed.
    """
    if name not in EXAMPLES:
        raise InputError(name, found="no such example", expected=f"one of {', '.join(EXAMPLES)}", fix="Check the name.")
    example = EXAMPLES[name]
    network = example.build()
    network.load_state_dict({key: value.float() for key, value in load(name).tensors.items()})
    network.to(device).eval().requires_grad_(False)
    denoiser = NetworkDenoiser(network, VariancePreserving.from_betas(example.betas), example.prediction)
    if name == "shared/digits_dit":
        denoiser = labelled(denoiser, torch.tensor([NO_CLASS], device=device))
    return Model(name, denoiser, denoiser.process, example.shape)


def labelled(denoiser: NetworkDenoiser, labels: Tensor) -> NetworkDenoiser:
    """Return the transformer's denoiser for these classes.

    Args:
        denoiser: of shared/digits_dit.
        labels: (N,) for a batch of N, or (1,) for all; 0 to 9, or `NO_CLASS`.
    """
    return denoiser.given(class_labels=labels)

r"""MedForj's published weights, loaded unchanged: 394 tensors of MONAI's `DiffusionModelUNet`.

    conv_in.conv, time_embed.{0,2}
    down_blocks.{0-4}.resnets.{0,1}, up_blocks.{0-4}.resnets.{0-2}, middle_block.resnet_{1,2}:
        norm1, conv1.conv, time_emb_proj, norm2, conv2.conv, and skip_connection.conv where the width changes
    down_blocks.4.attentions.{0,1}, up_blocks.0.attentions.{0-2}, middle_block.attention:
        norm, attn.{to_q,to_k,to_v,out_proj}
    down_blocks.{0-3}.downsampler.op.conv, up_blocks.{0-3}.upsampler.postconv.conv
    out.0, out.2.conv

each with weight and bias.

Two kinds of file: `MedForj-weights-<strategy>_ema.safetensors` with these names, and older `.pt` files, also training
checkpoints, with them under "model". All strategies have the same tensors, so the strategy comes from the name of the
file or of its folder, or from the user; `answering` looks at what the network does. The latent model, ldm_rflow, is
known by its name as well: four levels, wider, on the four channels of an autoencoder that has a file of its own
(`medical.brain.latent`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from medical.brain.config import BrainConfig, Strategy
from medical.brain.model import STEPS, BrainModel
from medical.brain.network import brain_network
from shared.errors import InputError
from shared.interop.state_dict import read_state_dict
from shared.weights import sha256

FOLDERS: dict[str, Strategy] = {"epsilon": "noise", "sample": "clean"}  # folders of the older files
FIX = "Give a MedForj-weights-<strategy>_ema.safetensors, or an older model_epoch100.pt."
# At entry 999 data is 0.6 % of x_t, so that a network of a strategy answers slope * x_t + constant.
SLOPES: dict[Strategy, float] = {"noise": 1.0, "clean": 0.0, "velocity": 0.0, "flow": 1.0, "rflow": -1.0}
PROBE = (32, 32, 32)
LATENT = BrainConfig(
    strategy="rflow", channels=(64, 128, 256, 512), attention=(False, False, True, True), head_channels=32,
    latent="maisi",
)  # fmt: skip


def load_official(
    path: Path, strategy: Strategy | None = None, device: torch.device | str = "cpu", *, check: bool = True
) -> BrainModel:
    """Return the model of a file of MedForj.

    Args:
        path: the file.
        strategy: what the network predicts; None reads it from the name.
        device: where to compute.
        check: ask the network once, on a small volume of noise, whether it answers as the strategy does.

    Raises:
        InputError: other tensors than those of MedForj's pixel network, a strategy that is unknown or contradicts the
            name of the file, or a network that answers otherwise.
        MissingExtra: MONAI or einops is not installed.
    """
    config = _config(path, strategy)
    state = read_state_dict(path, fix=FIX, under="model")
    network = network_of(config, state, path).eval().requires_grad_(False)
    if check:
        check_strategy(network, config.strategy, path, config.sampled(PROBE)[0])
    return BrainModel(config, network, name=path.name, sha256=sha256(path), device=device)


def network_of(config: BrainConfig, state: dict[str, Tensor], source: Path) -> torch.nn.Module:
    """Return the network with exactly these tensors, in float32.

    Raises:
        InputError: a name or a shape is not that of the configuration.
    """
    with torch.device("meta"):
        network = brain_network(config)
    require_tensors(
        network, state, source, "Give the weights of one of MedForj's networks, or a model that fewstep wrote."
    )
    network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return network


def require_tensors(network: torch.nn.Module, state: dict[str, Tensor], source: Path, fix: str) -> None:
    """Raise `InputError` unless tensors are exactly those of a network, by name and shape."""
    needed = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    wrong = [name for name in sorted(needed.keys() | given.keys()) if needed.get(name) != given.get(name)]
    if wrong:
        first = wrong[0]
        raise InputError(
            source,
            found=f"{len(given)} tensors, {len(wrong)} of them absent, unknown or of another shape: "
            f"{first} {given.get(first, 'absent')}",
            expected=f"{len(needed)} tensors, {first} {needed.get(first, 'absent')}",
            fix=fix,
        )  # fmt: skip


def check_strategy(network: Callable[..., Any], strategy: Strategy, source: Path, channels: int = 1) -> None:
    """Raise `InputError` if the network does not answer pure noise as one of this strategy does."""
    slope = answering(network, channels)
    if abs(slope - SLOPES[strategy]) > 0.5:
        like = [name for name, value in SLOPES.items() if abs(slope - value) <= 0.5]
        raise InputError(
            source, found=f"a network that answers noise x with {slope:+.2f} x",
            expected=f"{SLOPES[strategy]:+.0f} x of strategy {strategy}",
            fix=f"Give --strategy {' or '.join(like)}." if like else "Give another file.",
        )  # fmt: skip


def answering(network: Callable[..., Any], channels: int = 1) -> float:
    """Return the slope of the network's answer over its input, white noise at the highest level (entry 999)."""
    x = torch.randn((1, channels, *PROBE), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        answer = network(x, torch.full((1,), STEPS - 1.0))
    centred = x - x.mean()
    return float((centred * answer).sum() / centred.square().sum())


def _config(path: Path, given: Strategy | None) -> BrainConfig:
    said = re.search(r"weights-([a-z_]+?)(?:_ema)?\.", path.name)
    name = said[1] if said else path.resolve().parent.name
    latent = name == "ldm_rflow"
    known: Any = LATENT.strategy if latent else FOLDERS.get(name, name if name in get_args(Strategy) else None)
    if given is not None and known is not None and given != known:
        raise InputError(
            path, found=f"a name that says {known}", expected=f"the strategy that was given, {given}",
            fix="Drop --strategy, or give the file of that strategy.",
        )  # fmt: skip
    if (strategy := given or known) is None:
        raise InputError(
            path, found="no strategy in the name", expected=f"one of {', '.join(get_args(Strategy))}",
            fix="Say what the network predicts with --strategy.",
        )  # fmt: skip
    return LATENT if latent else BrainConfig(strategy=strategy)

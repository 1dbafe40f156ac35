r"""An encoder of windows of motion, in whose features sets of motions are compared.

    u_k = (f_k, R_k^T (p_k - p_{k-1}) fps, |p_{k+1} - 2 p_k + p_{k-1}| fps^2)        input of frame k
    z   = W flatten(convolutions((u - mean) / spread))                             features of the window

with f the features of `motion.features` seen from the window's first frame, p the places of the driven joints and R_k
the heading. Ends of the window take the differences of their neighbours. The features have mean 0 and deviation 1 over
the windows of the training, so a distance of 1 is one deviation of real motion in one of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from motion.clips import Motion
from motion.collection import same_body
from motion.config import Settings
from motion.features import HEADING, Body, seen_from
from motion.retarget import retargeted
from motion.skeleton_data import skeleton_from_data, skeleton_to_data
from shared.errors import InputError
from shared.files import atomic_path

KIND = "fewstep motion encoder 1"
ENCODER = "motion/encoder_small"
HALVINGS = 3  # of the number of frames
BATCH = 256  # windows at a time


class EncoderConfig(Settings):
    """A network of `EncoderNetwork`.

    Attributes:
        kind: name of the architecture, in the files.
        width: channels of the convolutions.
        size: L, features of a window.
        frames: F of a window.
        fps: frames a second.
    """

    kind: Literal["motion_encoder"] = "motion_encoder"
    width: PositiveInt = 128
    size: PositiveInt = 32
    frames: Annotated[int, Field(ge=2**HALVINGS)] = 60
    fps: PositiveFloat = 30.0


class EncoderNetwork(nn.Module):
    """The network of the module's formulas.

    Args:
        config: sizes.
        inputs: numbers of a frame.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, config: EncoderConfig, inputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("spread", torch.ones(inputs))
        layers: list[nn.Module] = []
        for channels in (inputs, *[config.width] * (HALVINGS - 1)):
            layers += [nn.Conv1d(channels, config.width, 4, stride=2, padding=1), nn.SiLU()]
        self.layers = nn.Sequential(*layers)
        self.leave = nn.Linear(config.width * (config.frames // 2**HALVINGS), config.size)

    def normalised(self, inputs: Tensor) -> Tensor:
        """Return inputs (N, F, U) as the convolutions see them."""
        return (inputs - self.mean) / self.spread

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the features (N, L) of windows (N, F, U)."""
        found: Tensor = self.leave(self.layers(self.normalised(inputs).transpose(1, 2)).flatten(1))
        return found


class MotionEncoder:
    """A trained encoder with the body it knows.

    Args:
        config: of the network.
        body: whose windows it reads.
        network: in evaluation mode.
        facts: of the training.
        source: file or name, for messages.
    """

    def __init__(
        self, config: EncoderConfig, body: Body, network: EncoderNetwork, facts: Mapping[str, Any], source: str
    ) -> None:
        self.config, self.body, self.network = config, body, network.eval().requires_grad_(False)
        self.facts, self.source = dict(facts), source

    @torch.no_grad()
    def encode(self, features: Tensor, stride: int) -> Tensor:
        """Return the features (N, L) float64 of every `stride`-th window of a clip (F, D); none of a shorter clip.

        Raises:
            InputError: a clip of another body.
        """
        if features.ndim != 2 or features.shape[1] != self.body.size:
            raise InputError(
                "clip", found=str(tuple(features.shape)), expected=f"(frames, {self.body.size})",
                fix="Put it on the encoder's body with `on_body`.",
            )  # fmt: skip
        if len(features) < self.config.frames:
            return torch.zeros(0, self.config.size, dtype=torch.float64)
        inputs = frame_inputs(self.body, features.float(), self.config.fps)
        windows = seen_windows(windows_of(inputs, self.config.frames, stride), self.body.size)
        return torch.cat([self.network(part).double() for part in windows.split(BATCH)])


def inputs_of(body: Body) -> int:
    """Return U, the numbers of a frame that an encoder reads."""
    return body.size + 4 * len(joints_of(body))


def joints_of(body: Body) -> tuple[int, ...]:
    """Return the joints whose places count: the root and those that features turn."""
    return (0, *body.driven)


def frame_inputs(body: Body, features: Tensor, fps: float) -> Tensor:
    """Return what the network reads of a clip's frames (F, D), where it is in the world: (F, U), F at least 3."""
    positions = body.positions(features)[:, list(joints_of(body))]
    steps = positions.diff(dim=0)
    bends = functional.pad(steps.diff(dim=0).norm(dim=-1) * fps**2, (0, 0, 1, 1))
    cos, sin = functional.normalize(features[:, HEADING], dim=-1)[..., None].unbind(1)
    x, y, z = (functional.pad(steps, (0, 0, 0, 0, 1, 0)) * fps).unbind(-1)
    speeds = torch.stack([cos * x + sin * y, cos * y - sin * x, z], -1)
    return torch.cat([features, speeds.flatten(1), bends], 1)


def seen_windows(windows: Tensor, size: int) -> Tensor:
    """Return windows of inputs (N, F, U) seen from their first frame; nothing in them is from beyond their ends."""
    joints = (windows.shape[2] - size) // 4
    features, speeds, bends = windows.split([size, 3 * joints, joints], 2)
    speeds = torch.cat([speeds[:, 1:2], speeds[:, 1:]], 1)
    bends = torch.cat([bends[:, 1:2], bends[:, 1:-1], bends[:, -2:-1]], 1)
    return torch.cat([seen_from(features), speeds, bends], 2)


def windows_of(features: Tensor, frames: int, stride: int) -> Tensor:
    """Return every `stride`-th window of the frames of a clip (F, D), (N, frames, D); none of a shorter clip."""
    if len(features) < frames:
        return features.new_zeros(0, frames, features.shape[1])
    return features.unfold(0, frames, stride).transpose(1, 2)


def on_body(motion: Motion, body: Body, fps: float) -> tuple[Tensor, bool]:
    """Return the features of a motion on a body at a rate, (F, D), and whether it had to be retargeted.

    Raises:
        InputError: it cannot be retargeted.
    """
    motion = motion.resampled(fps)
    if motion.offsets is None and same_body(motion.skeleton, body.skeleton):
        return body.encode(Motion(body.skeleton, motion.root, motion.rotations, fps)).float(), False
    return body.encode(retargeted(motion, body.skeleton)).float(), True


def save_encoder(
    path: str | os.PathLike[str], config: EncoderConfig, body: Body, network: Mapping[str, Tensor],
    facts: Mapping[str, Any], *, half: bool = False,
) -> None:  # fmt: skip
    """Write an encoder; an existing file is replaced as a whole.

    Args:
        path: ending in .safetensors.
        config: of the network.
        body: whose windows it reads.
        network: its state.
        facts: what it was trained on and how, JSON types.
        half: store the weights in float16; statistics stay float32.
    """
    from safetensors.torch import save_file

    dtype = torch.float16 if half else torch.float32
    tensors = {
        name: value.detach().cpu().to(torch.float32 if name in ("mean", "spread") else dtype).contiguous().clone()
        for name, value in network.items()
    }
    header = {
        "kind": KIND,
        "config": config.model_dump_json(),
        "skeleton": json.dumps(skeleton_to_data(body.skeleton)),
        "training": json.dumps(dict(facts)),
    }
    with atomic_path(path, overwrite=True) as scratch:
        save_file(tensors, scratch, metadata=header)


def load_encoder(name: str | os.PathLike[str] = ENCODER) -> MotionEncoder:
    """Return the encoder of a packaged name or a file.

    Raises:
        InputError: no such weights, weights of another kind, or a damaged file.
    """
    from shared.weights import load

    weights = load(name)
    if weights.metadata.get("kind") != KIND:
        raise InputError(
            weights.path, found=f"kind {weights.metadata.get('kind')!r}", expected=repr(KIND),
            fix="Give an encoder: a packaged name, or what `fewstep motion train-encoder` wrote.",
        )  # fmt: skip
    try:
        config = EncoderConfig.model_validate_json(weights.metadata["config"])
        body = Body(skeleton_from_data(json.loads(weights.metadata["skeleton"])))
        network = EncoderNetwork(config, inputs_of(body))
        network.load_state_dict({key: value.float() for key, value in weights.tensors.items()})
        facts = json.loads(weights.metadata["training"])
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(
            weights.path, found=f"a damaged file ({' '.join(str(error).split())[:200]})", expected=repr(KIND),
            fix="Write the file again.",
        ) from error  # fmt: skip
    return MotionEncoder(config, body, network, facts, str(Path(weights.path)))

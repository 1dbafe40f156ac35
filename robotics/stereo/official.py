r"""D3RoMa as published, in pixel space (songlin/d3roma @3313032): its network, its files, its sampling.

    network([x_t, left, right, raw], t) = x_0,     x_0 = 2 min(d, bound) / bound - 1,  t = 0 ... 127

x_0 is the left disparity in `depth_channels` equal channels; images are 2 I / 255 - 1, the raw map as x_0 with 0 in its
holes. Channels of the input: c + 3 + 3 + c, or c + 3 + c for the conditions rgb and raw. The network is diffusers'
`UNet2DModel` with 113.7 million parameters, and a checkpoint is its folder `unet`:

    conv_in, conv_norm_out, conv_out, time_embedding.linear_{1,2}
    down_blocks.{0-5}.resnets.{0,1}, up_blocks.{0-5}.resnets.{0-2}, mid_block.resnets.{0,1}:
        norm1, conv1, time_emb_proj, norm2, conv2, and conv_shortcut where the width changes
    down_blocks.4.attentions.{0,1}, up_blocks.1.attentions.{0-2}, mid_block.attentions.0:
        group_norm, to_q, to_k, to_v, to_out.0
    down_blocks.{0-4}.downsamplers.0.conv, up_blocks.{0-4}.upsamplers.0.conv

each with weight and bias. It samples by DDPM at the entries 0, r, 2 r, ... of its table, r = 128 // calls ("leading"),
beginning with white noise; estimates are limited to [-1, 1] (its dynamic threshold cannot exceed 1). It was trained
with `pyramid_noise`.

Only its SceneFlow configuration is metric. Those of DREDS, HISS and ClearPose scale each map by the range of the true
one, so what they say is disparity up to a scale and a shift; they load, and `draw` reads them as if `bound_px` were
that range.

Published without a licence for products (CC BY-NC 4.0), and without pixel-space weights so far.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional

from robotics.packages import require
from robotics.stereo.config import Settings
from shared.denoiser import Denoiser, NetworkDenoiser, clipped
from shared.errors import InputError
from shared.grid import Grid, explicit_grid
from shared.interop.state_dict import read_state_dict
from shared.process import TableVP, VariancePreserving, squared_cosine_betas, standard_normal
from shared.sampling import sample
from shared.solvers.ancestral import Ancestral

if TYPE_CHECKING:
    from diffusers import UNet2DModel

MULTIPLE = 32
PYRAMID_LAYERS, PYRAMID_FACTOR = 10, 0.9
FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
LAYOUT: dict[str, Any] = {
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
}


class PixelConfig(Settings):
    """A pixel-space D3RoMa; the defaults are those of its SceneFlow configuration.

    Attributes:
        conditions: what it sees, in the order of its channels.
        depth_channels: c.
        bound_px: disparity that is x_0 = 1, at the size it works at.
        channels: of the levels.
        steps: of the squared cosine table of noise.
    """

    conditions: Literal["left+right+raw", "rgb+raw"] = "left+right+raw"
    depth_channels: Literal[1, 3] = 3
    bound_px: PositiveFloat = 128.0
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=6, max_length=6)] = (128, 128, 256, 256, 512, 512)
    steps: PositiveInt = 128

    @property
    def in_channels(self) -> int:
        """Return the channels of the network's input."""
        images = 6 if self.conditions == "left+right+raw" else 3
        return images + 2 * self.depth_channels

    def process(self) -> TableVP:
        """Return the noise process."""
        return VariancePreserving.from_betas(squared_cosine_betas(self.steps))

    def grid(self, calls: int) -> Grid:
        """Return the published levels of so many calls: entries 0, r, 2 r, ... with r = steps // calls, falling.

        Raises:
            InputError: more calls than entries.
        """
        if not 1 <= calls <= self.steps:
            raise InputError(
                "calls", found=f"{calls}", expected=f"1 to {self.steps}, the entries of the table", fix="Correct it."
            )
        entries = [index * (self.steps // calls) for index in reversed(range(calls))]
        return explicit_grid(self.process(), [*((entry + 1) / self.steps for entry in entries), 0.0])


class PixelD3RoMa:
    """The published model.

    Args:
        config: of the network.
        network: in evaluation mode.
        device: where to compute.
    """

    def __init__(self, config: PixelConfig, network: UNet2DModel, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self.network = network.to(self.device)

    def condition(self, images: list[np.ndarray], raw: np.ndarray) -> Tensor:
        """Return the channels beside x_t, (1, C, H, W), padded on all sides to multiples of 32 by repeating borders.

        Args:
            images: (height, width, 3) uint8: left and right, or the one of the conditions rgb and raw.
            raw: the sensor's map, (height, width) in px, NaN in holes.

        Raises:
            InputError: another number of images, or sizes that differ.
        """
        expected = 2 if self.config.conditions == "left+right+raw" else 1
        if len(images) != expected or any(image.shape != (*raw.shape, 3) for image in images):
            raise InputError(
                "images", found=f"{[image.shape for image in images]} beside a raw map {raw.shape}",
                expected=f"{expected} of (height, width, 3) for {self.config.conditions}",
                fix="Give the images of this map.",
            )  # fmt: skip
        seen = [torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 * 2 - 1 for image in images]
        known = torch.from_numpy(np.nan_to_num(raw, nan=0.0).astype(np.float32))
        seen.append(self.encode(known)[None].expand(self.config.depth_channels, -1, -1))
        return functional.pad(torch.cat(seen)[None], self._border(raw.shape), mode="replicate").to(self.device)

    def encode(self, disparity: Tensor) -> Tensor:
        """Return x_0 of disparities, px."""
        return 2 * disparity.clamp(max=self.config.bound_px) / self.config.bound_px - 1

    def decode(self, x: Tensor) -> Tensor:
        """Return disparities, px, (N, H, W), of x_0 (N, c, H, W)."""
        return (x.mean(1) + 1) / 2 * self.config.bound_px

    def denoiser(self, condition: Tensor) -> Denoiser:
        """Return the estimate of x_0 given what is seen, within [-1, 1]."""

        def network(x: Tensor, time: Tensor) -> Tensor:
            answer: Tensor = self.network(torch.cat([x, condition.expand(len(x), -1, -1, -1)], 1), time).sample
            return answer

        return clipped(NetworkDenoiser(network, self.config.process(), "sample"), -1.0, 1.0)

    def draw(
        self,
        images: list[np.ndarray],
        raw: np.ndarray,
        *,
        calls: int = 10,
        samples: int = 1,
        pyramid: bool = False,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return samples of the disparity, (samples, height, width) in px.

        Args:
            images: as of `condition`.
            raw: likewise.
            calls: of the network, each for all samples.
            samples: in one batch.
            pyramid: begin with the noise of the training, not with the published white one.
            generator: source of all noise.
        """
        condition = self.condition(images, raw)
        shape = (samples, self.config.depth_channels, *condition.shape[-2:])
        draw = pyramid_noise if pyramid else standard_normal
        x = draw(shape, generator, dtype=torch.float32, device=self.device)
        found = sample(self.denoiser(condition), x, self.config.grid(calls), Ancestral(), generator=generator)
        left, _, top, _ = self._border(raw.shape)
        return self.decode(found)[:, top : top + raw.shape[0], left : left + raw.shape[1]]

    @staticmethod
    def _border(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Return the columns added left and right and the rows added above and below."""
        rows, columns = (-side % MULTIPLE for side in shape)
        return columns // 2, columns - columns // 2, rows // 2, rows - rows // 2


def pixel_unet(config: PixelConfig) -> UNet2DModel:
    """Return the network of a configuration with random weights.

    Raises:
        MissingExtra: diffusers is not installed.
    """
    require("diffusers", "for the published network", extra="diffusers")
    from diffusers import UNet2DModel

    return UNet2DModel(
        in_channels=config.in_channels,
        out_channels=config.depth_channels,
        block_out_channels=config.channels,
        **{key: tuple(value) if isinstance(value, list) else value for key, value in LAYOUT.items()},
    )


def load_official(config: PixelConfig, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> PixelD3RoMa:
    """Return the model of a published state dict, in evaluation mode.

    Raises:
        InputError: names or shapes that are not those of the configuration; the first is named.
        MissingExtra: diffusers is not installed.
    """
    with torch.device("meta"):
        network = pixel_unet(config)
    needed = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in state.items()}
    for name in sorted(needed.keys() | given.keys()):
        if needed.get(name) != given.get(name):
            raise InputError(
                f"D3RoMa weights, {name}", found=f"{given.get(name, 'nothing')}",
                expected=f"{needed.get(name, 'nothing')}", fix="Give the unet of a pixel-space D3RoMa, and its config.",
            )  # fmt: skip
    network.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    return PixelD3RoMa(config, network.eval().requires_grad_(False), device)


def read_official(folder: str | os.PathLike[str], *, bound_px: float = 128.0) -> tuple[PixelConfig, dict[str, Tensor]]:
    """Read a published checkpoint: a pipeline's folder or its `unet`, as diffusers saves them.

    Args:
        folder: holds config.json and the weights.
        bound_px: of the normalisation, which the files do not say.

    Raises:
        InputError: files are absent, or it is another network.
    """
    place = Path(folder) / "unet" if (Path(folder) / "unet").is_dir() else Path(folder)
    try:
        values = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            place, found=f"no config.json that can be read ({error})", expected="the unet of a D3RoMa checkpoint",
            fix="Give the folder that diffusers saved.",
        ) from error  # fmt: skip
    path = next((place / name for name in FILES if (place / name).is_file()), None)
    if path is None:
        raise InputError(place, found="no weights", expected=" or ".join(FILES), fix="Give the whole folder.")
    return _config(values, place, bound_px), read_state_dict(path)


def _config(values: Mapping[str, Any], place: Path, bound_px: float) -> PixelConfig:
    depth, channels = (int(values.get(key) or 0) for key in ("out_channels", "in_channels"))
    conditions = {6 + 2 * depth: "left+right+raw", 3 + 2 * depth: "rgb+raw"}.get(channels)
    wrong = [key for key, expected in LAYOUT.items() if values.get(key) != expected]
    if conditions is None or depth not in (1, 3) or wrong or len(values.get("block_out_channels", ())) != 6:
        raise InputError(
            place, found=f"{values.get('_class_name')} with {channels} channels in, {depth} out"
            + (f", {wrong[0]} {values.get(wrong[0])}" if wrong else ""),
            expected="a UNet2DModel of the table in robotics/stereo/official.py",
            fix="The latent model, of Stable Diffusion, is not read.",
        )  # fmt: skip
    return PixelConfig.model_validate(
        {"conditions": conditions, "depth_channels": depth, "channels": values["block_out_channels"],
         "bound_px": bound_px}
    )  # fmt: skip


def pyramid_noise(
    shape: Sequence[int], generator: torch.Generator | None, *, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Draw the noise of its training, (N, c, H, W) of unit standard deviation over the batch.

    White noise plus up to ten layers i = 0, 1, ... of white noise whose size is that of the layer before divided by
    r^i, r uniform in [2, 4], enlarged bilinearly and weighted 0.9^i, until a side is one.

    Args:
        shape: N, c, H, W.
        generator: source of all noise.
        dtype: of the result.
        device: likewise.
    """
    count, channels, *size = shape

    def white(height: int, width: int) -> Tensor:
        return standard_normal((count, channels, height, width), generator, dtype=dtype, device=device)

    height, width = size
    total = white(height, width)
    for layer in range(PYRAMID_LAYERS):
        ratio = float(2 + 2 * torch.rand((), generator=generator)) ** layer
        height, width = max(1, int(height / ratio)), max(1, int(width / ratio))
        total = total + PYRAMID_FACTOR**layer * functional.interpolate(white(height, width), size=size, mode="bilinear")
        if 1 in (height, width):
            break
    return total / total.std()

r"""The structures of a head by a small network at 4 mm, as shares of voxels: volumes that a gradient passes through.

    V_k = v sum_i p_k(i)

with p_k(i) the share of structure k in voxel i (softmax of the network) and v the volume of a voxel. Its training is on
simulated heads of label maps alone, whose true shares are known (`medical.brain.segmenter_training`).

```python
segmenter = load_segmenter()
volumes = segmenter.soft_volumes(x, spacing_mm=4)        # {"thalamus": (N,) cm3, ...}, differentiable in x
```
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from shared.errors import InputError, MissingExtra

if TYPE_CHECKING:
    from shared.weights import Weights

KIND = "fewstep brain segmenter 1"
DEFAULT = "medical/brain_segmenter"
NOT_BRAIN = ("air", "head", "fluid", "lateral_ventricles")
CLASSES = (
    *NOT_BRAIN, "white_matter", "cortex", "cerebellum", "brain_stem", "thalamus", "caudate", "putamen", "pallidum",
    "hippocampus", "amygdala", "other_brain",
)  # fmt: skip
MEASURED = ("brain", *(name for name in CLASSES if name not in ("air", "head", "fluid", "other_brain")))


class SegmenterConfig(BaseModel):
    """The network as data.

    Attributes:
        kind: name of the architecture, in the files.
        classes: of voxels, in the order of the network's outputs.
        channels: of the levels of the U-Net.
        features: of a voxel before the last layer.
        spacing_mm: edge of a voxel.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["monai_unet_3d_refined"] = "monai_unet_3d_refined"
    classes: tuple[str, ...] = CLASSES
    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=2)] = (16, 32, 48, 64)
    features: PositiveInt = 16
    spacing_mm: PositiveFloat = 4.0

    @property
    def multiple(self) -> int:
        """Return what every side of the network's input must be a multiple of."""
        return int(2 ** (len(self.channels) - 1))


class SegmenterNetwork(nn.Module):
    """MONAI's U-Net, whose first layer halves the grid, and one layer on the full grid that sees the input again.

    Raises:
        MissingExtra: MONAI is not installed.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        try:
            from monai.networks.blocks import Convolution
            from monai.networks.nets import UNet
        except ImportError as error:
            raise MissingExtra(error.name or "monai", extra="brain", purpose="for the segmenter of brains") from error
        width = config.features
        self.trunk = UNet(3, 1, width, config.channels, (2,) * (len(config.channels) - 1))
        self.refine = Convolution(3, width + 1, width)
        self.classify = nn.Conv3d(width, len(config.classes), 1)

    def features(self, x: Tensor) -> Tensor:
        """Return the features (N, C, X, Y, Z) before the last layer, of standardised volumes (N, 1, X, Y, Z)."""
        found: Tensor = self.refine(torch.cat([self.trunk(x), x], dim=1))
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (N, K, X, Y, Z) of standardised volumes (N, 1, X, Y, Z)."""
        logits: Tensor = self.classify(self.features(x))
        return logits


class BrainSegmenter:
    """A segmenter ready to use.

    Args:
        config: of the network.
        network: in evaluation mode.
        typical: mean and standard deviation (2, C K) of the pooled features over heads of the training, or None.
        facts: of the training.
        name: of its file.
        sha256: of its file.
    """

    def __init__(
        self,
        config: SegmenterConfig,
        network: nn.Module,
        *,
        typical: Tensor | None = None,
        facts: Mapping[str, Any] | None = None,
        name: str = "",
        sha256: str = "",
    ) -> None:
        self.config, self.network, self.typical = config, network, typical
        self.facts, self.name, self.sha256 = dict(facts or {}), name, sha256

    def shares(self, x: Tensor, spacing_mm: float | None = None) -> Tensor:
        """Return the share of every class in each voxel, (N, K, X, Y, Z) on the grid of the network, differentiable.

        Args:
            x: (X, Y, Z) or (N, X, Y, Z), voxel order LPS, any intensities in which white matter is brighter than grey.
            spacing_mm: edge of its voxels, the network's divided by a whole number; None is the network's.

        Raises:
            InputError: another number of axes, or another spacing.
        """
        return self._on_grid(x, spacing_mm, lambda standard: self.network(standard).softmax(1))

    def soft_volumes(self, x: Tensor, spacing_mm: float | None = None) -> dict[str, Tensor]:
        """Return the volume in cm3 of every structure of `MEASURED`, (N,) each, differentiable in x.

        Args:
            x: see `shares`.
            spacing_mm: likewise.
        """
        return self.volumes_of(self.shares(x, spacing_mm))

    def volumes_of(self, shares: Tensor) -> dict[str, Tensor]:
        """Return the volumes in cm3 of shares (N, K, X, Y, Z); the brain is all but its fluid and the ventricles."""
        cm3 = shares.flatten(2).sum(2) * (self.config.spacing_mm**3 / 1000)
        of = {name: cm3[:, index] for index, name in enumerate(self.config.classes)}
        of["brain"] = torch.stack([value for name, value in of.items() if name not in NOT_BRAIN]).sum(0)
        return {name: of[name] for name in MEASURED}

    def shares_and_features(self, x: Tensor, spacing_mm: float | None = None) -> tuple[Tensor, Tensor]:
        r"""Return `shares`, and the features of whole volumes, (N, K C), in units of the heads of the training.

        f_kc = sum_i p_k(i) phi_c(i) / sum_i p_k(i): the means of the network's last features phi within each class.
        """
        shares, pooled = self.shares_and_raw_features(x, spacing_mm)
        if self.typical is not None:
            mean, spread = self.typical.to(pooled)
            pooled = (pooled - mean) / spread
        return shares, pooled

    def shares_and_raw_features(self, x: Tensor, spacing_mm: float | None = None) -> tuple[Tensor, Tensor]:
        """Return `shares_and_features` with the features in the network's own units."""

        def both(standard: Tensor) -> Tensor:
            features = self.network.features(standard)  # type: ignore[operator]
            return torch.cat([features, self.network.classify(features).softmax(1)], dim=1)  # type: ignore[operator]

        found = self._on_grid(x, spacing_mm, both)
        features, shares = found.split([self.config.features, len(self.config.classes)], dim=1)
        sums = torch.einsum("nkxyz,ncxyz->nkc", shares, features)
        return shares, (sums / shares.flatten(2).sum(2).clamp_min(1.0)[:, :, None]).flatten(1)

    def _on_grid(self, x: Tensor, spacing_mm: float | None, run: Any) -> Tensor:
        standard = standardised(on_spacing(x, spacing_mm or self.config.spacing_mm, self.config.spacing_mm))
        sides = standard.shape[2:]
        pads = [-side % self.config.multiple for side in sides]
        padded = F.pad(standard, (0, pads[2], 0, pads[1], 0, pads[0]))
        found: Tensor = run(padded)
        return found[:, :, : sides[0], : sides[1], : sides[2]]


def on_spacing(x: Tensor, spacing_mm: float, wanted_mm: float) -> Tensor:
    """Return volumes as (N, 1, X, Y, Z) on coarser voxels, each the mean of the finer ones in it.

    The first voxels begin at the same place; at the far ends the outermost values continue to a whole voxel.

    Raises:
        InputError: another number of axes, or a spacing that does not divide the wanted one.
    """
    if x.dim() not in (3, 4):
        raise InputError(
            "volume", found=f"a tensor of {tuple(x.shape)}", expected="(X, Y, Z) or (N, X, Y, Z)", fix="Reshape it."
        )
    parts = round(wanted_mm / spacing_mm)
    if parts < 1 or abs(parts * spacing_mm / wanted_mm - 1) > 0.01:
        raise InputError(
            "volume", found=f"voxels of {spacing_mm:g} mm", expected=f"{wanted_mm:g} mm divided by a whole number",
            fix="Resample it first, such as with fewstep brain prepare --spacing.",
        )  # fmt: skip
    batch = x.reshape(-1, 1, *x.shape[-3:])
    if parts == 1:
        return batch
    pads = [-side % parts for side in batch.shape[2:]]
    return F.avg_pool3d(F.pad(batch, (0, pads[2], 0, pads[1], 0, pads[0]), mode="replicate"), parts)


def standardised(x: Tensor) -> Tensor:
    """Return volumes (N, 1, X, Y, Z) with air near 0 and the mean of what is brighter than the mean at 1.

    Air is the 1 % quantile; a gradient takes it as given, or it would all fall on one voxel.
    """
    flat = x.flatten(1)
    flat = flat - flat.detach().quantile(0.01, dim=1, keepdim=True)
    bright = (flat > flat.detach().mean(1, keepdim=True)).to(flat)
    level = (flat * bright).sum(1, keepdim=True) / bright.sum(1, keepdim=True).clamp_min(1)
    return (flat / level.clamp_min(1e-6)).clamp(-1, 4).reshape(x.shape)


def save_segmenter(
    path: str | os.PathLike[str], segmenter: BrainSegmenter, state: Mapping[str, Tensor], *, half: bool = False
) -> None:
    """Write a segmenter; an existing file is replaced as a whole.

    Args:
        path: ending in .safetensors.
        segmenter: whose configuration, typical features and facts are written.
        state: of the network.
        half: store in float16.
    """
    from safetensors.torch import save_file

    from shared.files import atomic_path

    dtype = torch.float16 if half else torch.float32
    tensors = {f"network.{name}": value.detach().cpu().to(dtype).contiguous().clone() for name, value in state.items()}
    if segmenter.typical is not None:
        tensors["typical"] = segmenter.typical.detach().cpu().float().contiguous().clone()
    header = {
        "kind": KIND, "config": segmenter.config.model_dump_json(), "training": json.dumps(dict(segmenter.facts))
    }  # fmt: skip
    with atomic_path(path, overwrite=True) as scratch:
        save_file(tensors, scratch, metadata=header)


def load_segmenter(name: str | os.PathLike[str] = DEFAULT, device: torch.device | str = "cpu") -> BrainSegmenter:
    """Return the segmenter of a file, in evaluation mode; it runs in float32 and its weights take no gradient.

    Args:
        name: a path, or a packaged name.
        device: where to compute.

    Raises:
        InputError: no such weights, or weights of another kind.
        MissingExtra: MONAI is not installed.
    """
    from shared.weights import load

    weights = load(name)
    config = _config(weights)
    with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and replaced
        network = SegmenterNetwork(config)
    state = {
        key.removeprefix("network."): value.float() for key, value in weights.tensors.items() if key != "typical"
    }  # fmt: skip
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(
            weights.path, found="tensors that do not fit its header", expected=KIND, fix="Write the file again."
        ) from error
    typical = weights.tensors.get("typical")
    return BrainSegmenter(
        config,
        network.to(device).eval().requires_grad_(False),
        typical=None if typical is None else typical.to(device),
        facts=json.loads(weights.metadata.get("training", "{}")),
        name=weights.path.name,
        sha256=weights.sha256,
    )


def _config(weights: Weights) -> SegmenterConfig:
    kind = weights.metadata.get("kind")
    if kind != KIND:
        raise InputError(
            weights.path, found=f"kind {kind!r}", expected=repr(KIND), fix="Give weights of a brain segmenter."
        )
    try:
        return SegmenterConfig.model_validate_json(weights.metadata["config"])
    except (KeyError, ValueError) as error:  # pydantic's errors are ValueErrors
        raise InputError(weights.path, found="a damaged header", expected=KIND, fix="Write the file again.") from error

r"""Brainchop's MeshNet in torch: a published segmenter of 18 classes at 1 mm, from its own files.

Convolutions of 3 x 3 x 3 with growing and falling dilation, bias and ELU, then one of 1 x 1 x 1. `model.bin` holds the
tensors as little-endian float32 in the order of `weightsManifest` in `model.json`, kernels as (D, H, W, in, out).
Input: voxels of 1 mm in the order LIA (left, inferior, anterior), (x - q02)/(q98 - q02) of the volume's own quantiles.

Files: neuroneural/brainchop, `public/models/model18cls` (MIT); Masoud et al., JOSS 2023. Nothing of it ships here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from shared.errors import InputError

QUANTILES = (0.02, 0.98)
# Class numbers of colormap.json: unknown, cerebral white matter and cortex, lateral and inferior lateral ventricle,
# cerebellar white matter and cortex, thalamus, caudate, putamen, pallidum, third and fourth ventricle, brain stem,
# hippocampus, amygdala, accumbens, ventral diencephalon.
STRUCTURES: dict[str, tuple[int, ...]] = {
    "brain": (1, 2, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17),
    "lateral_ventricles": (3, 4),
    "white_matter": (1,),
    "cortex": (2,),
    "cerebellum": (5, 6),
    "brain_stem": (13,),
    "thalamus": (7,),
    "caudate": (8,),
    "putamen": (9,),
    "pallidum": (10,),
    "hippocampus": (14,),
    "amygdala": (15,),
}
CLASSES = 18


class MeshNet:
    """The segmenter, in evaluation mode.

    Args:
        network: standardised (1, 1, X, Y, Z) in LIA order -> logits.
        sha256: of `model.bin`.
    """

    def __init__(self, network: nn.Module, sha256: str) -> None:
        self.network, self.sha256 = network, sha256

    @torch.no_grad()
    def labels(self, x: Tensor, limits: tuple[float, float] | None = None) -> Tensor:
        """Return the class of every voxel (X, Y, Z) of a volume in voxel order LPS at 1 mm, uint8, in LPS.

        Args:
            x: the volume, or a part of one.
            limits: the quantiles of the whole volume; None for those of x.
        """
        lia = x.float().permute(0, 2, 1).flip(1, 2)  # LPS -> (L, S, P) -> (L, I, A)
        low, high = np.quantile(lia.numpy(), QUANTILES) if limits is None else limits
        logits = self.network(((lia - float(low)) / max(float(high - low), 1e-6))[None, None])
        return logits[0].argmax(0).to(torch.uint8).flip(1, 2).permute(0, 2, 1)

    def volumes(self, x: Tensor) -> dict[str, float]:
        """Return the volume in cm3 of every structure, of a volume (X, Y, Z) in voxel order LPS at 1 mm."""
        counts = torch.bincount(self.labels(x).flatten().long(), minlength=CLASSES) / 1000
        return {name: float(counts[list(codes)].sum()) for name, codes in STRUCTURES.items()}


def is_meshnet(name: str) -> bool:
    """Return whether a name is a path to brainchop's files, not to weights of ours."""
    return Path(name).is_dir() or name.endswith(".json")


def load_meshnet(path: Path) -> MeshNet:
    """Return the segmenter of a folder with `model.json` and `model.bin`, or of the path of its `model.json`.

    Raises:
        InputError: files that are absent, or no MeshNet of 18 classes.
    """
    from shared.weights import sha256

    description = path if path.suffix == ".json" else path / "model.json"
    weights = description.with_name("model.bin")
    for file in (description, weights):
        if not file.is_file():
            raise InputError(
                file, found="no such file", expected="model.json and model.bin of brainchop", fix="Check the folder."
            )
    try:
        layers = json.loads(description.read_text(encoding="utf-8"))["modelTopology"]["model_config"]["config"][
            "layers"
        ]
        manifest = json.loads(description.read_text(encoding="utf-8"))["weightsManifest"][0]["weights"]
        convolutions = [layer["config"] for layer in layers if layer["class_name"] == "Conv3D"]
        shapes = [tuple(entry["shape"]) for entry in manifest]
        dilations = [int(config["dilation_rate"][0]) for config in convolutions]
        fits = len(shapes) == 2 * len(convolutions) and shapes[-1] == (CLASSES,)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            description, found="no description of a network", expected="model.json of brainchop", fix="Check the file."
        ) from error
    values = np.frombuffer(weights.read_bytes(), dtype="<f4")
    wanted = sum(math.prod(shape) for shape in shapes)
    if not fits or len(values) != wanted:
        raise InputError(
            weights, found=f"{len(values)} numbers", expected=f"the {wanted} of a MeshNet of {CLASSES} classes",
            fix="Give model18cls of brainchop.",
        )  # fmt: skip
    parts = iter(torch.from_numpy(part.copy()) for part in np.split(values, np.cumsum([*map(math.prod, shapes)])[:-1]))
    modules: list[nn.Module] = []
    for number, dilation in enumerate(dilations):
        kernel = next(parts).reshape(shapes[2 * number]).permute(4, 3, 0, 1, 2)
        size = kernel.shape[-1]
        layer = nn.Conv3d(
            kernel.shape[1], kernel.shape[0], size, padding=dilation * (size // 2), dilation=dilation
        )  # fmt: skip
        layer.weight.data, layer.bias.data = kernel.contiguous(), next(parts)  # type: ignore[union-attr]
        modules += [layer, nn.ELU(inplace=True)]
    return MeshNet(nn.Sequential(*modules[:-1]).eval().requires_grad_(False), sha256(weights))

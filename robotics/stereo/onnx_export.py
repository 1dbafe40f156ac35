r"""A model for other runtimes: preparation and the whole few-step sampling as one ONNX graph of fixed sizes.

| input | shape | what |
| --- | --- | --- |
| left, right | (1, 3, H, W) | images, 0 to 1 |
| first | (1, 1, H, W) | map to begin from, px, holes filled (`first_map`); NaN everywhere for none |
| known | (1, 1, H, W) | 1 where it was measured, 0 where it was filled |
| noise | (K, 1, h, w) | standard normal, h = ceil(H / m) m / 4 and w likewise, m the model's `multiple` |

All are float32, and so is the output, `disparity` (K, H, W) in px. It is `StereoModel.look` and `draw` with DDIM on the
trailing grid: x_{k+1} = gain_k x_k + weight_k D(x_k, t_k), whose numbers are constants of the graph.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from robotics.packages import require
from robotics.stereo.model import StereoModel, View
from robotics.stereo.networks.upsample import FACTOR
from shared.grid import trailing_grid
from shared.solvers.ddim import DDIM

if TYPE_CHECKING:
    from collections.abc import Iterator

OPSET = 18
INPUTS = ("left", "right", "first", "known", "noise")
PARITY_PX = 1e-3  # largest difference from torch that is accepted


class SamplingGraph(nn.Module):
    """The function of the module's table.

    Args:
        model: on the CPU.
        size: (width, height) of the images, px.
        max_disparity: px.
        calls: of the network.
        glass: share of the picture that is expected to be glass or mirrors.

    Raises:
        InputError: glass that is asked of a model without a branch for it.
    """

    def __init__(
        self, model: StereoModel, size: tuple[int, int], max_disparity: float, calls: int, glass: float = 0.0
    ) -> None:
        super().__init__()
        model.require_glass(glass)
        self.model, self.network = model, model.network
        self.width, self.height = size
        self.glass = glass
        self.disparities = model.disparities(max_disparity, self.width)
        plan = DDIM().plan(trailing_grid(model.process, calls))
        self.updates = [
            (float(model.process.network_time(update.t)), update.gain, update.weights[0]) for update in plan.updates
        ]

    def noise_shape(self, samples: int) -> tuple[int, int, int, int]:
        """Return the shape of the input `noise`."""
        m = self.model.config.multiple
        return samples, 1, (self.height + -self.height % m) // FACTOR, (self.width + -self.width % m) // FACTOR

    def forward(self, left: Tensor, right: Tensor, first: Tensor, known: Tensor, noise: Tensor) -> Tensor:
        """Return the disparity, (K, H, W) px."""
        left, right, first, known = (self.model.padded(value) for value in (left, right, first, known))
        prepared = self.network.prepare(left, right, first, known, self.disparities).repeated(len(noise))
        x = noise
        for entry, gain, weight in self.updates:
            x = gain * x + weight * self.network(x, entry, prepared=prepared).clamp(-1, 1)
        return View(self.model, prepared, self.height, self.width, self.glass).disparity(x)


def export_onnx(
    graph: SamplingGraph, path: str | os.PathLike[str], *, samples: int = 1, facts: Mapping[str, str] | None = None
) -> None:
    """Write a graph with its weights as one file.

    Args:
        graph: to write.
        path: of the file.
        samples: K.
        facts: name to text, for the file's metadata.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
    """
    for package in ("onnx", "onnxscript"):
        require(package, "to write ONNX files", extra="onnx")
    inputs = _example(graph, samples)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph.eval(), inputs, dynamo=True, opset_version=OPSET, verbose=False,
            input_names=INPUTS, output_names=["disparity"],
        )  # fmt: skip
    assert program is not None
    program.model.metadata_props.update(facts or {})
    program.save(path, external_data=False)


def onnx_difference(graph: SamplingGraph, path: str | os.PathLike[str], *, samples: int = 1) -> float:
    """Return the largest difference, px, between an exported file in onnxruntime and `StereoModel.draw`.

    Both see a textured pair and the same noise, once with a first map and once without.

    Args:
        graph: that was exported.
        path: of the file.
        samples: K.

    Raises:
        MissingExtra: onnxruntime is not installed.
    """
    require("onnxruntime", "to run ONNX files", extra="onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    left, right, first, known, noise = _example(graph, samples)
    worst = 0.0
    for start in (first, torch.full_like(first, torch.nan)):
        measured = known * start.isfinite()
        given = dict(zip(INPUTS, (left, right, start, measured, noise), strict=True))
        (found,) = session.run(None, {name: value.numpy() for name, value in given.items()})
        expected = _drawn(graph, left, right, start, measured, noise=noise)
        worst = max(worst, float(np.abs(found - expected).max()))
    return worst


def _drawn(
    graph: SamplingGraph, left: Tensor, right: Tensor, first: Tensor, known: Tensor, noise: Tensor
) -> np.ndarray:
    """Return what `StereoModel.draw` makes of the same inputs."""
    model = graph.model
    with torch.no_grad():
        left, right, first, known = (model.padded(value) for value in (left, right, first, known))
        prepared = model.network.prepare(left, right, first, known, graph.disparities)
        view = View(model, prepared, graph.height, graph.width, graph.glass)
        return model.draw(view, calls=len(graph.updates), samples=len(noise), x=noise).disparity.numpy()


def _example(graph: SamplingGraph, samples: int) -> tuple[Tensor, ...]:
    """Return inputs: blobs of several sizes, a tenth of the width apart; a first map that is mostly known."""
    generator = torch.Generator().manual_seed(0)
    width, height, shift = graph.width, graph.height, graph.width // 10

    def blobs(step: int) -> Tensor:
        coarse = torch.rand((1, 3, height // step + 2, (width + shift) // step + 2), generator=generator)
        return nn.functional.interpolate(coarse, scale_factor=float(step), mode="bilinear")[
            ..., :height, : width + shift
        ]

    texture = (blobs(2) + blobs(5) + blobs(16)) / 3
    first = torch.full((1, 1, height, width), float(shift)) + torch.rand((1, 1, height, width), generator=generator)
    known = (torch.rand((1, 1, height, width), generator=generator) < 0.8).float()
    noise = torch.randn(graph.noise_shape(samples), generator=generator)
    return texture[..., :width].contiguous(), texture[..., shift:].contiguous(), first, known, noise


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on packages and passes that it does not need from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

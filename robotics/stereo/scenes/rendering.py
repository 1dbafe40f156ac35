"""Both views of a scene: light, exact disparities of the first surfaces, materials."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robotics.stereo.camera import StereoCamera
from robotics.stereo.pair import Surface
from robotics.stereo.scenes.optics import norm
from robotics.stereo.scenes.scene import Scene
from robotics.stereo.scenes.tracing import NOTHING, Shaded, Tracer

# Rays added to a pixel on an edge, px from its centre; with the centre their mean is the centre.
OFFSETS = ((0.33, 0.12), (-0.27, 0.30), (-0.06, -0.42))


@dataclass(frozen=True)
class View:
    """What one camera sees.

    Attributes:
        light: (height, width, 3) float32, linear.
        disparity: (height, width) float32, px; 0 where nothing was met.
        material: (height, width) uint8, values of `Surface`.
    """

    light: Tensor
    disparity: Tensor
    material: Tensor


def render_pair(
    scene: Scene,
    camera: StereoCamera,
    *,
    vertical_shift: float = 0.0,
    edge_samples: int = len(OFFSETS),
    device: torch.device | str = "cpu",
) -> tuple[View, View]:
    """Return the left and the right view.

    Args:
        scene: what is seen.
        camera: the pair.
        vertical_shift: rows by which the right image lies too low.
        edge_samples: rays added to each pixel that one ray does not settle, 0 to 3: silhouettes, edges of shadows,
            mirrors and glass.
        device: of the computation.
    """
    tracer = Tracer(scene, 1.0 / camera.fx, device)
    return (
        _view(tracer, camera, 0.0, camera.cx_l, camera.cy, edge_samples),
        _view(tracer, camera, camera.baseline, camera.cx_r, camera.cy + vertical_shift, edge_samples),
    )


def _view(tracer: Tracer, camera: StereoCamera, x: float, cx: float, cy: float, edge_samples: int) -> View:
    height, width = camera.height, camera.width
    rows, columns = torch.meshgrid(
        torch.arange(height, dtype=torch.float32, device=tracer.device),
        torch.arange(width, dtype=torch.float32, device=tracer.device),
        indexing="ij",
    )
    rows, columns = rows.reshape(-1), columns.reshape(-1)
    origin = torch.tensor([[x], [0.0], [0.0]], device=tracer.device)

    def cast(u: Tensor, v: Tensor) -> tuple[Shaded, Tensor]:
        ahead = torch.stack([(u - cx) / camera.fx, (v - cy) / camera.fy, torch.ones_like(u)])
        long = norm(ahead)
        return tracer.trace(origin, ahead / long), long

    center, long = cast(columns, rows)
    met = center.hits.primitive != NOTHING
    surface = torch.where(met, tracer.surface[tracer.material[center.hits.primitive]], 0)
    light = center.colour
    if edge_samples:
        chosen = _unsettled(center, surface, height, width).nonzero().squeeze(1)
        u = torch.cat([columns[chosen] + dx for dx, _ in OFFSETS[:edge_samples]])
        v = torch.cat([rows[chosen] + dy for _, dy in OFFSETS[:edge_samples]])
        if len(chosen):
            added = cast(u, v)[0].colour.reshape(3, edge_samples, -1).sum(1)
            light[:, chosen] = (light[:, chosen] + added) / (1 + edge_samples)
    disparity = camera.fx * camera.baseline * long / center.hits.distance - camera.doffs
    return View(
        light.T.reshape(height, width, 3),
        disparity.reshape(height, width),
        surface.to(torch.uint8).reshape(height, width),
    )


def _unsettled(center: Shaded, surface: Tensor, height: int, width: int) -> Tensor:
    """Return pixels, (N,) bool, that differ from a neighbour in primitive or shadow, or that show other surfaces."""
    key = (center.hits.primitive * 64 + center.lit).reshape(height, width)
    edge = torch.zeros(height, width, dtype=torch.bool, device=key.device)
    across, down = key[:, 1:] != key[:, :-1], key[1:] != key[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge.reshape(-1) | (surface >= Surface.MIRROR)

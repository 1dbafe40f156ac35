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

# Rays added to a pixel on an edge, px from its centre; the mean of each pair is the centre.
OFFSETS = ((0.31, 0.17), (-0.31, -0.17), (-0.17, 0.33), (0.17, -0.33))
TILE = 11  # edge of the square of pixels whose rays are about one bundle


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
    edge_samples: int = 2,
    device: torch.device | str = "cpu",
) -> tuple[View, View]:
    """Return the left and the right view.

    Args:
        scene: what is seen.
        camera: the pair.
        vertical_shift: rows by which the right image lies too low.
        edge_samples: rays added to each pixel that one ray does not settle, 0, 2 or 4: silhouettes, edges of shadows,
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
    order = _by_tiles(height, width).to(tracer.device)
    rows, columns = (order // width).float(), (order % width).float()
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
        key = torch.zeros_like(order)
        key[order] = 64 * center.hits.primitive + center.lit
        chosen = (_edges(key.reshape(height, width))[order] | (surface >= Surface.MIRROR)).nonzero().squeeze(1)
        if len(chosen):
            # Beside each other, the rays of a pixel stay in one bundle.
            u = torch.stack([columns[chosen] + dx for dx, _ in OFFSETS[:edge_samples]], 1).reshape(-1)
            v = torch.stack([rows[chosen] + dy for _, dy in OFFSETS[:edge_samples]], 1).reshape(-1)
            added = cast(u, v)[0].colour.reshape(3, -1, edge_samples).sum(2)
            light[:, chosen] = (light[:, chosen] + added) / (1 + edge_samples)
    disparity = camera.fx * camera.baseline * long / center.hits.distance - camera.doffs

    def image(values: Tensor) -> Tensor:
        placed = torch.empty_like(values)
        placed[..., order] = values
        return placed.reshape(*values.shape[:-1], height, width)

    return View(image(light).permute(1, 2, 0), image(disparity), image(surface.to(torch.uint8)))


def _by_tiles(height: int, width: int) -> Tensor:
    """Return the pixels' indices in an order in which neighbours of both directions are close: square tiles."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    key = (rows // TILE) * (width // TILE + 1) + columns // TILE
    return key.reshape(-1).argsort(stable=True)


def _edges(key: Tensor) -> Tensor:
    """Return pixels, (height * width,) bool, whose key differs from that of a neighbour."""
    edge = torch.zeros(key.shape, dtype=torch.bool, device=key.device)
    across, down = key[:, 1:] != key[:, :-1], key[1:] != key[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge.reshape(-1)

"""Which primitives a bundle of rays can meet, and where.

Rays come in bundles of `BUNDLE` neighbours. A bundle is a cone: a ball of origins and a range of directions about an
axis; a primitive whose bounding sphere is outside the cone is met by none of its rays. What is left, pairs of a bundle
and a primitive, is computed for all primitives of one kind at once, so the cost does not grow with their number but
with the part of the image that they cover.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from robotics.stereo.scenes.primitives import INFINITY, KINDS, WAVES, Primitive, interval, normal

BUNDLE = 128
PAIRS = 256  # in one computation: its temporaries stay in a core's cache


class Caster:
    """The primitives of a scene as tensors.

    Args:
        primitives: at least one.
        device: of all tensors.
    """

    def __init__(self, primitives: tuple[Primitive, ...], device: torch.device) -> None:
        self.device = device
        self.kinds = torch.tensor([KINDS.index(primitive.kind) for primitive in primitives], device=device)
        self.centers = self._tensor([primitive.center for primitive in primitives])
        self.rotations = self._tensor([primitive.rotation for primitive in primitives])
        self.sizes = self._tensor([(*primitive.size, 1.0, 1.0)[:3] for primitive in primitives])
        self.radii = self._tensor([primitive.radius for primitive in primitives]) * 1.001 + 1e-4
        waves = np.zeros((len(primitives), WAVES, 4))
        for index, primitive in enumerate(primitives):
            if primitive.waves is not None:
                waves[index, : len(primitive.waves)] = primitive.waves
        self.waves = self._tensor(waves)
        # Rows of the rotation, centre and size of each primitive, to be gathered for points.
        self.frames = torch.cat([self.rotations.reshape(-1, 9), self.centers, self.sizes], 1).T.contiguous()

    def _tensor(self, values: object) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(self.device)

    def meetings(
        self, origin: Tensor, direction: Tensor, reach: Tensor | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Yield primitives (K,), bundles (K,), no bundle twice, and t0, t1 (K, BUNDLE) of rays that may meet them.

        Args:
            origin: (T, 3, BUNDLE), or (1, 3, 1) for all.
            direction: (T, 3, BUNDLE) unit vectors.
            reach: (T, BUNDLE) where rays end; None for never.
        """
        near = self._near(origin, direction, reach)
        for kind, name in enumerate(KINDS):
            members = (self.kinds == kind).nonzero().squeeze(1)
            if not len(members):
                continue
            # (bundle, member) sorted by bundle; the n-th primitive of every bundle makes round n.
            bundles, columns = near[members].T.nonzero().unbind(1)
            if not len(bundles):
                continue
            first = torch.searchsorted(bundles, bundles)
            rounds = torch.arange(len(bundles), device=self.device) - first
            for number in range(int(rounds.max()) + 1):
                chosen = (rounds == number).nonzero().squeeze(1)
                for some in chosen.split(PAIRS):
                    primitive, bundle = members[columns[some]], bundles[some]
                    yield primitive, bundle, *self._interval(name, primitive, bundle, origin, direction)

    def _near(self, origin: Tensor, direction: Tensor, reach: Tensor | None) -> Tensor:
        """Return (P, T) bool: the bounding sphere of the primitive touches the cone of the bundle."""
        axis = direction.mean(2)
        axis = axis / axis.norm(dim=1, keepdim=True).clamp_min(1e-9)
        spread = (axis[:, :, None] * direction).sum(1).amin(1).clamp(-1.0, 1.0).arccos()
        middle = origin.mean(2)
        radius = (origin - middle[:, :, None]).square().sum(1).amax(1).sqrt()
        away = self.centers[:, None] - middle
        distance = away.norm(dim=2).clamp_min(1e-9)
        size = self.radii[:, None] + radius
        angle = ((away * axis).sum(2) / distance).clamp(-1.0, 1.0).arccos()
        near = (distance <= size) | (angle <= spread + (size / distance).clamp(max=1.0).arcsin() + 2e-3)
        if reach is not None:
            near &= distance - size <= reach.amax(1)
        return near

    def _interval(
        self, kind: str, primitive: Tensor, bundle: Tensor, origin: Tensor, direction: Tensor
    ) -> tuple[Tensor, Tensor]:
        turn = self.rotations[primitive].transpose(1, 2)
        starts = origin if origin.shape[0] == 1 else origin.index_select(0, bundle)
        local = torch.bmm(turn, starts - self.centers[primitive][:, :, None])
        rays = torch.bmm(turn, direction.index_select(0, bundle))
        x, y, z = self.sizes[primitive].unsqueeze(2).unbind(1)
        waves = self.waves[primitive] if kind == "heightfield" else None
        return interval(kind, local.unbind(1), rays.unbind(1), (x, y, z), waves)  # type: ignore[arg-type]

    def surfaces(self, point: Tensor, primitive: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return outward normals (3, N) and texture coordinates u, v (N,) in metres at points (3, N) on primitives.

        The texture is projected along the axis of the primitive's frame that the normal is closest to.
        """
        frames = self.frames.index_select(1, primitive)
        turn = frames[:9].reshape(3, 3, -1)
        local = ((point - frames[9:12])[:, None] * turn).sum(0)
        facing = torch.zeros_like(local)
        kinds = self.kinds.index_select(0, primitive)
        for kind, name in enumerate(KINDS):
            chosen = (kinds == kind).nonzero().squeeze(1)
            if not len(chosen):
                continue
            waves = self.waves[primitive[chosen]] if name == "heightfield" else None
            place, size = local.index_select(1, chosen), frames[12:].index_select(1, chosen)
            facing[:, chosen] = torch.stack(normal(name, tuple(place), tuple(size), waves))  # type: ignore[arg-type]
        x, y, z = facing.abs().unbind()
        first, last = (x >= y) & (x >= z), (z > x) & (z >= y)
        # Each primitive, and each pair of its faces, takes another part of the texture.
        shift = 0.61 * primitive + 0.37 * last - 0.37 * first
        u = torch.where(first, local[1], local[0]) + shift
        v = torch.where(last, local[1], local[2]) + shift
        return (turn * facing).sum(1), u, v


def bundled(flat: Tensor) -> Tensor:
    """Return (3, N) as (T, 3, BUNDLE) and (N,) as (T, BUNDLE); the last ray fills up the last bundle."""
    missing = -flat.shape[-1] % BUNDLE
    if missing:
        flat = torch.cat([flat, flat[..., -1:].expand(*flat.shape[:-1], missing)], -1)
    if flat.ndim == 1:
        return flat.reshape(-1, BUNDLE)
    return flat.reshape(3, -1, BUNDLE).transpose(0, 1).contiguous()


def nearest(enter: Tensor, leave: Tensor, least: float) -> Tensor:
    """Return the first of t0 and t1 beyond `least`, infinite where a primitive is missed or behind."""
    first = torch.where(enter > least, enter, leave)
    return first.masked_fill((enter > leave) | (first <= least), INFINITY)

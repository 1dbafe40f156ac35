r"""The nearest window of recordings to a window of motion: is it a copy?

    d = mean over frames and joints of |q_fj - p_fj|,   m

with q and p the places of the joints, both windows seen from where the body stands at their first frame. Every start of
every clip is looked at. The search is exact: over blocks of frames the mean of lengths is at least the length of the
mean (the triangle inequality), so

    d >= mean over blocks and joints of |mean of q - mean of p|

bounds d from below by a few numbers a window: first with one block, then, where that is under the best d so far, with
a few. Only windows whose bounds are under the best d are measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from motion.actions import ACTION
from motion.collection import Clip
from motion.encoder import joints_of
from motion.features import HEADING, PATH, Body, seen_from
from shared.progress import tracked

STILL = tuple(ACTION[name] for name in ("stand", "sit", "lie"))
BLOCKS = 4  # of a window, or fewer if they do not divide it
CANDIDATES = 64  # windows measured at a time
ROUNDING = 1e-5  # m


@dataclass(frozen=True, eq=False)
class Nearest:
    """The nearest window of each of N.

    Attributes:
        distance: (N,) m, float64.
        clip: (N,) index of its clip.
        start: (N,) its first frame in that clip.
    """

    distance: Tensor
    clip: Tensor
    start: Tensor


class NearestWindows:
    """Finds them among all windows of clips.

    A clip shorter than a window goes on in its last pose if it ends standing, sitting or lying still, as windows of the
    training do; another one is left out.

    Args:
        body: of the clips.
        clips: to search.
        frames: F of a window.
    """

    def __init__(self, body: Body, clips: Sequence[Clip], frames: int) -> None:
        self.body, self.frames = body, frames
        self.joints = list(joints_of(body))
        self.blocks = max(count for count in range(1, BLOCKS + 1) if frames % count == 0)
        positions, features, starts, owners, firsts = [], [], [], [], []
        total = 0
        for index, clip in enumerate(clips):
            filled = _filled(clip, frames)
            if filled is None:
                continue
            count = len(filled) - frames + 1
            firsts.append(torch.arange(count))
            starts.append(torch.arange(count) + total)
            owners.append(torch.full((count,), index))
            positions.append(body.positions(filled.float())[:, self.joints])
            features.append(filled.float())
            total += len(filled)
        self.positions, at = torch.cat(positions), torch.cat(features)
        self.starts, self.owners, self.firsts = torch.cat(starts), torch.cat(owners), torch.cat(firsts)
        self.origin = functional.pad(at[:, PATH], (0, 1))[self.starts]
        self.heading = functional.normalize(at[:, HEADING], dim=-1)[self.starts]
        self.means = self._means()
        self.rough = self.means.mean(1)

    def _means(self) -> Tensor:
        """Return the mean places of all windows in blocks, seen from the first frame, (3, B, J, W).

        Windows are last in memory, along which all sums then run.
        """
        sums = functional.pad(self.positions.double().cumsum(0), (0, 0, 0, 0, 1, 0))
        block = self.frames // self.blocks
        edges = self.starts[:, None] + torch.arange(0, self.frames + 1, block)
        means = (sums[edges].diff(dim=1) / block).float()
        return _seen(means, self.origin, self.heading).permute(3, 1, 2, 0).contiguous()

    def find(self, windows: Tensor, *, progress: str | None = None) -> Nearest:
        """Return the nearest window of each of `windows`, features (N, F, D) wherever they are.

        Args:
            windows: on the body.
            progress: label of a progress bar; None is silent.
        """
        places = self.body.positions(seen_from(windows.float()))[..., self.joints, :]
        found = [self._nearest(one) for one in tracked(list(places), progress)]
        distance = torch.tensor([best for best, _ in found], dtype=torch.float64)
        which = torch.tensor([index for _, index in found], dtype=torch.long)
        return Nearest(distance, self.owners[which], self.firsts[which])

    def _nearest(self, places: Tensor) -> tuple[float, int]:
        means = places.unflatten(0, (self.blocks, -1)).mean(1).permute(2, 0, 1)[..., None]
        rough = _mean_length(self.rough - means.mean(1))
        best, which = self._measured(places, rough.topk(min(CANDIDATES, len(rough)), largest=False).indices)
        left = (rough < best + ROUNDING).nonzero()[:, 0]
        bounds = _mean_length((self.means[..., left] - means).flatten(1, 2))
        order = bounds.argsort()
        for candidates in order.split(CANDIDATES):
            if not len(candidates) or float(bounds[candidates[0]]) >= best + ROUNDING:
                break
            distance, index = self._measured(places, left[candidates])
            if distance < best:
                best, which = distance, index
        return best, which

    def _measured(self, places: Tensor, windows: Tensor) -> tuple[float, int]:
        """Return the least distance, m, of some windows, and whose it is."""
        frames = self.starts[windows][:, None] + torch.arange(self.frames)
        real = _seen(self.positions[frames], self.origin[windows], self.heading[windows])
        distance, index = (real - places).norm(dim=-1).mean((1, 2)).min(0)
        return float(distance), int(windows[index])


def _mean_length(difference: Tensor) -> Tensor:
    """Return the mean length of K vectors, (W,), of (3, K, W)."""
    x, y, z = difference
    return (x * x + y * y + z * z).sqrt().mean(0)


def _seen(places: Tensor, origin: Tensor, heading: Tensor) -> Tensor:
    """Return places (W, F, J, 3) from origins (W, 3) and headings (W, 2; cosine and sine)."""
    x, y, z = (places - origin[:, None, None]).unbind(-1)
    cos, sin = (part[:, None, None] for part in heading.unbind(-1))
    return torch.stack([cos * x + sin * y, cos * y - sin * x, z], -1)


def _filled(clip: Clip, frames: int) -> Tensor | None:
    missing = frames - len(clip.features)
    if missing <= 0:
        return clip.features
    if int(clip.actions[-1]) not in STILL:
        return None
    return torch.cat([clip.features, clip.features[-1:].expand(missing, -1)])

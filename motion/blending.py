"""From one motion into the next: rotations on the geodesic, translations in a line.

    R(a) = Exp(a Log(R_2 R_1^T)) R_1,   p(a) = (1 - a) p_1 + a p_2.

DIP blends so over the frames that two rounds share ("rotation power space"), with shares that rise on a straight line;
here they rise on half a cosine, which starts and ends without a jump of speed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from motion.clips import Motion
from motion.rotations import interpolate
from shared.errors import InputError


def blend(first: Motion, second: Motion, share: Tensor) -> Motion:
    """Return the motion that is `first` where `share` is 0 and `second` where it is 1.

    Args:
        first: F frames.
        second: likewise, of the same skeleton and rate.
        share: a, (F,) in [0, 1].

    Raises:
        InputError: the two do not match.
    """
    _require_alike(first, second)
    if not first.frames == second.frames == len(share):
        raise InputError(
            "blend", found=f"{first.frames} and {second.frames} frames with {len(share)} shares",
            expected="one length", fix="Cut them to the frames that they share.",
        )  # fmt: skip
    share = share.to(first.root)
    offsets = None
    if first.offsets is not None or second.offsets is not None:
        offsets = torch.lerp(_offsets(first), _offsets(second), share[:, None, None])
    return replace(
        first,
        root=torch.lerp(first.root, second.root, share[:, None]),
        rotations=interpolate(first.rotations, second.rotations, share[:, None]),
        offsets=offsets,
    )


def joined(first: Motion, second: Motion, overlap: int) -> Motion:
    """Return `first` going over into `second`, whose first `overlap` frames are at the time of the last of `first`.

    a_k = (1 - cos(pi k / (n + 1))) / 2, k = 1 ... n, over the n frames of the overlap.

    Raises:
        InputError: the two do not match, or are shorter than the overlap.
    """
    _require_alike(first, second)
    if not 0 <= overlap <= min(first.frames, second.frames):
        raise InputError(
            "overlap", found=f"{overlap} frames", expected=f"0 to {min(first.frames, second.frames)}",
            fix="Give two motions that share so many frames.",
        )  # fmt: skip
    parts = []
    if overlap < first.frames:
        parts.append(first.cut(0, first.frames - overlap))
    if overlap:
        turns = torch.arange(1, overlap + 1, dtype=first.root.dtype) * math.pi / (overlap + 1)
        shares = (1 - turns.cos()) / 2
        parts.append(blend(first.cut(first.frames - overlap), second.cut(0, overlap), shares))
    if overlap < second.frames:
        parts.append(second.cut(overlap))
    return concatenated(parts)


def concatenated(parts: list[Motion]) -> Motion:
    """Return motions of one skeleton and rate one after the other, as they are.

    Raises:
        InputError: they do not match.
    """
    for part in parts[1:]:
        _require_alike(parts[0], part)
    offsets = None
    if any(part.offsets is not None for part in parts):
        offsets = torch.cat([_offsets(part) for part in parts])
    return replace(
        parts[0],
        root=torch.cat([part.root for part in parts]),
        rotations=torch.cat([part.rotations for part in parts]),
        offsets=offsets,
    )


def _offsets(motion: Motion) -> Tensor:
    if motion.offsets is not None:
        return motion.offsets
    return motion.skeleton.offsets.to(motion.root).expand_as(motion.rotations[..., 0])


def _require_alike(first: Motion, second: Motion) -> None:
    one, other = first.skeleton, second.skeleton
    if one.names != other.names or one.parents != other.parents or first.fps != second.fps:
        raise InputError(
            "motions", found=f"{len(one)} joints at {first.fps:g} a second and {len(other)} at {second.fps:g}",
            expected="one skeleton and one frame rate", fix="Retarget and resample one of them.",
        )  # fmt: skip

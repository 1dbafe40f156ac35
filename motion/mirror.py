"""The same motion done with the other hand."""

from __future__ import annotations

from dataclasses import replace

import torch

from motion.clips import Motion
from motion.kinematics import local_rotations
from motion.stance import rest_frames, symmetric


def mirrored(motion: Motion) -> Motion:
    """Return the motion reflected in the plane x = 0, left and right exchanged, on the same skeleton.

    With G the rotations in the world, A those at rest in axes of the body and made symmetric, D = G A^T the turn since
    rest, M = diag(-1, 1, 1) and s(j) the joint of the other side:

        D'_j = M D_s(j) M,  G'_j = D'_j A_j,  root' = M root.

    The axes of left and right joints may differ in any way, because D does not know them. Bones keep their lengths:
    where those of the two sides differ, positions are reflected only as far as the sides agree. Twice is the identity.

    Raises:
        InputError: no joint has a side, or the rest pose is unknown.
    """
    skeleton = motion.skeleton
    other = list(skeleton.mirror)
    rest = symmetric(skeleton, rest_frames(skeleton)).to(motion.root)
    reflection = torch.diag(torch.tensor([-1.0, 1.0, 1.0])).to(motion.root)
    _, turned = motion.pose()
    since_rest = turned @ rest.transpose(-1, -2)
    world = reflection @ since_rest[:, other] @ reflection @ rest
    offsets = None
    if motion.offsets is not None:
        above = torch.cat([torch.eye(3).to(rest)[None], rest[list(skeleton.parents[1:])]])
        still = skeleton.offsets.to(rest)
        moved = (above @ (motion.offsets - still)[..., None])[:, other]
        offsets = still + (above.transpose(-1, -2) @ reflection @ moved)[..., 0]
    return replace(motion, root=motion.root @ reflection, rotations=local_rotations(skeleton, world), offsets=offsets)

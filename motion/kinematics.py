"""Forward kinematics: from local rotations to joint positions, differentiable, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from motion.skeleton import Skeleton


def forward_kinematics(
    skeleton: Skeleton, root: Tensor, rotations: Tensor, offsets: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return where the joints are, (..., J, 3) m, and how they are turned in the world, (..., J, 3, 3).

    G_root = R_root, p_root = root;  G_j = G_parent R_j,  p_j = p_parent + G_parent o_j.

    Args:
        skeleton: J joints.
        root: (..., 3) m.
        rotations: R, local, (..., J, 3, 3).
        offsets: o, (J, 3) or (..., J, 3) m; None for the skeleton's.
    """
    moved = skeleton.offsets if offsets is None else offsets
    moved = moved.to(rotations).expand(*rotations.shape[:-2], 3)
    order, inverse = skeleton.levels
    turned, placed = [rotations[..., :1, :, :]], [root[..., None, :]]
    for joints, parents in order[1:]:
        above = turned[-1][..., parents, :, :]
        placed.append(placed[-1][..., parents, :] + (above @ moved[..., joints, :, None])[..., 0])
        turned.append(above @ rotations[..., joints, :, :])
    return torch.cat(placed, -2)[..., inverse, :], torch.cat(turned, -3)[..., inverse, :, :]


def local_rotations(skeleton: Skeleton, turned: Tensor) -> Tensor:
    """Return the local rotations of joints turned so in the world: R_j = G_parent^T G_j; both (..., J, 3, 3)."""
    above = turned[..., list(skeleton.parents[1:]), :, :]
    return torch.cat([turned[..., :1, :, :], above.transpose(-1, -2) @ turned[..., 1:, :, :]], -3)


def end_positions(skeleton: Skeleton, positions: Tensor, turned: Tensor) -> Tensor:
    """Return where the end sites are, (..., E, 3) m, from `forward_kinematics`."""
    joints = list(skeleton.end_joints)
    return positions[..., joints, :] + (turned[..., joints, :, :] @ skeleton.end_offsets.to(turned)[..., None])[..., 0]

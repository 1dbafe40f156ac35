"""Rotations as matrices (..., 3, 3) acting on columns: 6-D, interpolation, Euler angles, the least turn."""

from __future__ import annotations

import torch
from torch import Tensor

from shared.errors import MissingExtra

try:
    import roma
except ImportError as error:
    raise MissingExtra("roma", extra="motion", purpose="for rotations") from error


def rotation_6d(rotations: Tensor) -> Tensor:
    """Return (..., 6): the first column of each rotation, then its second (Zhou et al., CVPR 2019, arXiv 1812.07035).

    The map is continuous on all rotations, which no map to fewer than five numbers is.
    """
    return rotations[..., :2].transpose(-1, -2).flatten(-2)


def from_rotation_6d(values: Tensor) -> Tensor:
    """Return the rotations (..., 3, 3) that Gram-Schmidt makes of two columns (..., 6), which need not be orthonormal.

    b_1 = a_1 / |a_1|,  b_2 = (a_2 - (b_1 . a_2) b_1) / |.|,  b_3 = b_1 x b_2.
    """
    return roma.special_gramschmidt(values.unflatten(-1, (2, 3)).transpose(-1, -2))


def interpolate(first: Tensor, second: Tensor, share: Tensor | float) -> Tensor:
    """Return R = Exp(a Log(R_2 R_1^T)) R_1: from R_1 to R_2 at constant angular speed on the shorter arc.

    Args:
        first: R_1, (..., 3, 3).
        second: R_2, likewise.
        share: a in [0, 1], broadcast against the leading dimensions.
    """
    step = roma.rotmat_to_rotvec(second @ first.transpose(-1, -2))
    share = torch.as_tensor(share, dtype=first.dtype, device=first.device)
    return roma.rotvec_to_rotmat(share[..., None] * step) @ first


def geodesic(first: Tensor, second: Tensor) -> Tensor:
    """Return the angle between rotations, (...) in [0, pi] rad."""
    return torch.linalg.vector_norm(roma.rotmat_to_rotvec(second @ first.transpose(-1, -2)), dim=-1)


def from_euler(order: str, degrees: Tensor) -> Tensor:
    """Return R = R_a R_b R_c of the axes in `order`, such as ZXY (intrinsic: each turns about the axes moved so far).

    Args:
        order: one to three letters of X, Y, Z.
        degrees: (..., len(order)).
    """
    rotations = torch.eye(3, dtype=degrees.dtype).expand(*degrees.shape[:-1], 3, 3)
    for axis, angle in zip(order, torch.deg2rad(degrees).unbind(-1), strict=True):
        rotations = rotations @ about_axis("XYZ".index(axis), angle)
    return rotations


def to_euler(order: str, rotations: Tensor) -> Tensor:
    """Return the degrees (..., 3) in (-180, 180] of R = R_a R_b R_c; the middle one is in [-90, 90].

    Where the middle one is +-90 (gimbal lock) the last one is 0.
    """
    return roma.rotmat_to_euler(order, rotations, degrees=True)


def quaternions(rotations: Tensor) -> Tensor:
    """Return the unit quaternions x, y, z, w (..., 4) of rotations."""
    return roma.rotmat_to_unitquat(rotations)


def from_quaternions(values: Tensor) -> Tensor:
    """Return the rotations (..., 3, 3) of quaternions x, y, z, w (..., 4) of any length; q and -q are the same."""
    return roma.unitquat_to_rotmat(values / values.norm(dim=-1, keepdim=True))


def about_axis(axis: int, angle: Tensor) -> Tensor:
    """Return the rotations (..., 3, 3) by `angle`, rad, about the axis 0, 1 or 2."""
    one, zero, c, s = torch.ones_like(angle), torch.zeros_like(angle), torch.cos(angle), torch.sin(angle)
    b, d = (axis + 1) % 3, (axis + 2) % 3
    entries = [[zero] * 3 for _ in range(3)]
    entries[axis][axis] = one
    entries[b][b], entries[b][d], entries[d][b], entries[d][d] = c, -s, s, c
    return torch.stack([torch.stack(row, -1) for row in entries], -2)


def about_vectors(vectors: Tensor) -> Tensor:
    """Return the rotations (..., 3, 3) by |v|, rad, about v, (..., 3)."""
    return roma.rotvec_to_rotmat(vectors)


def least_turn(start: Tensor, end: Tensor) -> Tensor:
    """Return the rotation (3, 3) by the smallest angle that takes the direction of `start`, (3,), to that of `end`."""
    start, end = start / start.norm(), end / end.norm()
    axis = torch.linalg.cross(start, end)
    angle = torch.atan2(axis.norm(), start @ end)
    if axis.norm() < 1e-9:  # opposite: every axis across is as good; take one from the coordinate that is farthest away
        axis = torch.linalg.cross(start, torch.eye(3, dtype=start.dtype)[start.abs().argmin()])
    return roma.rotvec_to_rotmat(angle * axis / axis.norm())


def best_turn(start: Tensor, end: Tensor) -> Tensor:
    """Return the rotation R (3, 3) with the least sum of |R a - b|^2 over pairs of `start` a and `end` b, both (N, 3).

    Where all vectors lie in a line the turn about it is free, and R is the least turn of the longest.
    """
    covariance = end.T @ start
    spread = torch.linalg.svdvals(covariance)
    if spread[1] < 1e-4 * spread[0]:
        longest = int(start.norm(dim=-1).argmax())
        return least_turn(start[longest], end[longest])
    return roma.special_procrustes(covariance)


def frame_of(first: Tensor, second: Tensor) -> Tensor:
    """Return the right-handed frame (..., 3, 3) with its first column along `first`, its second near `second`."""
    return roma.special_gramschmidt(torch.stack([first, second], -1))

"""A body as capsules between its joints: how deep it is in the scene, and whether it touches it.

A capsule is what lies within r of the segment between two joints. Its signed distance to a scene of which only the
field phi is known is that of its axis less the radius, min over s of phi(a + s (b - a)) - r: no frames are needed, so
twist cannot matter, and the gradient moves the joints. Points on the surface serve the scores that count points.

Energies are in metres, differentiable, and zero with zero gradient where they are satisfied:

    penetration  mean over points of max(0, margin - phi(p))
    contact      max(0, |min over points of phi(p)| - tolerance)

Scores, after POSA (Hassan et al. 2021) and PROX (Hassan et al. 2019), per clip of F frames and P points:

    non-collision  share of all points with phi >= 0
    contact        share of frames in which at least one point has phi <= tolerance
    depth          of a frame: max over points of max(0, -phi); mean and maximum over frames, metres
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.errors import InputError

Distance = Callable[[Tensor], Tensor]  # (..., 3) m -> (...) m

# Radius of the bone that begins at a joint as a share of stature, by what its name holds; the first match counts.
# Rounded from breadths and circumferences of adults (half of them, a capsule being round).
RADII = (
    ("eye|finger|thumb|index|middle|mid\\d|ring|pinky", 0.008),
    ("toe|ball", 0.018),
    ("foot|ankle", 0.024),
    ("upleg|thigh|upperleg|femur|buttock|hipjoint|(^|[^a-z])[lr]_?hip|(left|right)_?hip|hip_?(left|right)", 0.043),
    ("leg|knee|shin|calf|tibia", 0.030),
    ("hand|wrist", 0.018),
    ("forearm|lowerarm|elbow|radius|ulna", 0.022),
    ("clavicle|collar|shoulder", 0.032),
    ("arm|humerus|shldr", 0.028),
    ("head", 0.052),
    ("neck", 0.034),
    ("hip|pelvis|root", 0.062),
    ("spine|chest|thorax|torso|abdomen|back|waist", 0.066),
)


@dataclass(frozen=True)
class Capsules:
    """Capsules on bones.

    Attributes:
        bones: (C, 2) int64, indices of the joints at both ends; equal ones make a ball.
        radii: (C,) float32, m.
    """

    bones: Tensor
    radii: Tensor

    def __post_init__(self) -> None:
        if self.bones.ndim != 2 or self.bones.shape[1] != 2 or self.radii.shape != self.bones.shape[:1]:
            raise InputError("capsules", found=f"bones {tuple(self.bones.shape)}, radii {tuple(self.radii.shape)}",
                             expected="bones (C, 2) and radii (C,)", fix="Give one radius a bone.")  # fmt: skip
        if not bool((torch.isfinite(self.radii) & (self.radii > 0)).all()):
            raise InputError("capsules", found="a radius that is not positive", expected="metres", fix="Mend it.")

    def axis_points(self, joints: Tensor, count: int = 4) -> tuple[Tensor, Tensor]:
        """Return points on the axes (..., C * count, 3) and their radii (C * count,), both ends included.

        Args:
            joints: (..., J, 3), m.
            count: points a bone, at least 2.
        """
        start, stop = self._ends(joints)
        share = torch.linspace(0, 1, count, device=joints.device, dtype=joints.dtype)[:, None]
        points = start.unsqueeze(-2) + share * (stop - start).unsqueeze(-2)
        radii = self.radii.to(joints).repeat_interleave(count)
        return points.flatten(-3, -2), radii

    def surface_points(self, joints: Tensor, around: int = 8, along: int = 3) -> Tensor:
        """Return points on the surfaces (..., C * (around * along + 2), 3), m.

        Rings of `around` points at `along` places from end to end, and the two poles. The rings' first direction is
        any one perpendicular to the bone.

        Args:
            joints: (..., J, 3), m.
            around: points a ring.
            along: rings a bone.
        """
        start, stop = self._ends(joints)
        bone = stop - start
        length = bone.norm(dim=-1, keepdim=True)
        up = torch.tensor([0.0, 0.0, 1.0], dtype=bone.dtype, device=bone.device)
        axis = torch.where(length > 1e-6, bone / length.clamp_min(1e-6), up)
        first, second = _perpendicular(axis)
        angle = torch.arange(around, device=bone.device, dtype=bone.dtype) * (2 * torch.pi / around)
        ring = first.unsqueeze(-2) * angle.cos()[:, None] + second.unsqueeze(-2) * angle.sin()[:, None]
        radius = self.radii.to(bone)[:, None, None]
        share = torch.linspace(0, 1, along, device=bone.device, dtype=bone.dtype)[:, None, None]
        centres = start[..., None, None, :] + share * bone[..., None, None, :]
        rings = (centres + (radius * ring).unsqueeze(-3)).flatten(-3, -2)
        poles = torch.stack([start - radius[..., 0] * axis, stop + radius[..., 0] * axis], -2)
        return torch.cat([rings, poles], -2).flatten(-3, -2)

    def distance(self, joints: Tensor, field: Distance, count: int = 4) -> Tensor:
        """Return the signed distances (..., C) of the capsules to the scene, m; negative where they are in it.

        Args:
            joints: (..., J, 3), m.
            field: signed distance to the scene.
            count: points an axis; the error is at most half their spacing.
        """
        points, radii = self.axis_points(joints, count)
        return (field(points) - radii).unflatten(-1, (-1, count)).amin(-1)

    def _ends(self, joints: Tensor) -> tuple[Tensor, Tensor]:
        if joints.shape[-1] != 3 or int(self.bones.max()) >= joints.shape[-2]:
            raise InputError("joints", found=f"shape {tuple(joints.shape)}",
                             expected=f"(..., J, 3) with J > {int(self.bones.max())}",
                             fix="Give the skeleton that the capsules were made for.")  # fmt: skip
        bones = self.bones.to(joints.device)
        return joints[..., bones[:, 0], :], joints[..., bones[:, 1], :]


def capsules_of(names: Sequence[str], parents: Sequence[int], *, stature: float = 1.75) -> Capsules:
    """Return a capsule for every bone, by the names of common BVH skeletons (see `RADII`).

    A bone takes its radius from the joint at which it begins: from LeftUpLeg to LeftLeg is a thigh. A joint without
    children gets a ball where that is thicker than the bone that ends there: a head, but not a hand.

    Args:
        names: of the joints.
        parents: index of each joint's parent, negative for the root.
        stature: of the body, m.

    Raises:
        InputError: names and parents that do not match, or a name that nothing is known of: build `Capsules` yourself.
    """
    if len(names) != len(parents) or any(parent >= len(names) for parent in parents):
        raise InputError("joints", found=f"{len(names)} names, {len(parents)} parents up to {max(parents, default=0)}",
                         expected="one parent a name", fix="Give both of one skeleton.")  # fmt: skip
    radii = [stature * _radius(name) for name in names]
    bones = [(parent, joint) for joint, parent in enumerate(parents) if parent >= 0]
    leaves = sorted(set(range(len(names))) - set(parents))
    bones += [(leaf, leaf) for leaf in leaves if parents[leaf] < 0 or radii[leaf] > radii[parents[leaf]]]
    return Capsules(torch.tensor(bones, dtype=torch.int64), torch.tensor([radii[start] for start, _ in bones]))


def penetration(points: Tensor, field: Distance, margin: float | Tensor = 0.0) -> Tensor:
    """Return the mean over points of max(0, margin - phi(p)), (...) m.

    Args:
        points: (..., P, 3), m.
        field: phi, for example a `DistanceField`.
        margin: distance to keep, m; or (P,), as the radii that `Capsules.axis_points` returns.
    """
    return torch.relu(margin - field(points)).mean(-1)


def contact(points: Tensor, field: Distance, tolerance: float = 0.01) -> Tensor:
    """Return max(0, |min over points of phi(p)| - tolerance), (...) m: how far a part is from just touching.

    Args:
        points: (..., P, 3), m, of the part that should touch.
        field: phi.
        tolerance: m.
    """
    return torch.relu(field(points).amin(-1).abs() - tolerance)


@dataclass(frozen=True)
class SceneScores:
    """Scores of a clip in a scene, see the module's text.

    Attributes:
        non_collision: in [0, 1], higher is better.
        contact: in [0, 1].
        mean_depth: mean over frames of the deepest point, m.
        max_depth: of all frames, m.
    """

    non_collision: float
    contact: float
    mean_depth: float
    max_depth: float


def scene_scores(points: Tensor, field: Distance, *, tolerance: float = 0.02, slack: float = 0.0) -> SceneScores:
    """Return the scores of surface points in a scene.

    Args:
        points: (F, P, 3), m, evenly spread over the body, as of `Capsules.surface_points`.
        field: phi.
        tolerance: of contact, m.
        slack: depth that is no collision, m: about half a voxel, since a body that stands touches the floor.
    """
    if points.ndim != 3 or points.shape[-1] != 3 or 0 in points.shape:
        raise InputError("points", found=f"shape {tuple(points.shape)}", expected="(F, P, 3), none of them zero",
                         fix="Give the points of every frame.")  # fmt: skip
    distance = field(points).detach()
    depth = torch.relu(-distance).amax(1)
    return SceneScores(
        non_collision=float((distance >= -slack).float().mean()),
        contact=float((distance.amin(1) <= tolerance).float().mean()),
        mean_depth=float(depth.mean()),
        max_depth=float(depth.max()),
    )


def _radius(name: str) -> float:
    for pattern, share in RADII:
        if re.search(pattern, name.lower().replace(" ", "")):
            return share
    raise InputError(
        f"joint {name!r}", found="a name that says no part of a body", expected="names as in BVH files of people",
        fix="Build Capsules with your own radii.",
    )  # fmt: skip


def _perpendicular(axis: Tensor) -> tuple[Tensor, Tensor]:
    """Return two unit vectors (..., 3) perpendicular to unit vectors and to each other.

    Duff et al. 2017, Building an orthonormal basis, revisited.
    """
    x, y, z = axis.unbind(-1)
    sign = torch.where(z >= 0, 1.0, -1.0)
    a = -1 / (sign + z)
    first = torch.stack([1 + sign * x * x * a, sign * x * y * a, -sign * x], -1)
    second = torch.stack([x * y * a, sign + y * y * a, -y], -1)
    return first, second

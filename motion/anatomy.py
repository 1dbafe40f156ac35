"""What guidance and finishing know of a skeleton: what its feet stand on, its flesh, and how knees and elbows bend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from motion.clips import Motion, heading
from motion.kinematics import end_positions, forward_kinematics
from motion.roles import SIDES, chain
from motion.scene.body import Capsules, capsules_of
from motion.skeleton import Skeleton
from motion.stance import TIP, soles
from shared.errors import InputError

LEG_OF_STATURE = 0.491  # hip to ankle: 0.530 - 0.039 of stature (Drillis and Contini 1966)
RESTING = 0.2  # m/s: slower feet on the floor rest
THINNEST = 0.01  # m, radius of the flesh of feet whose joints nearly touch the floor


@dataclass(frozen=True, eq=False)
class Limb:
    """Two bones with a hinge between them: a leg or an arm.

    Attributes:
        name: left_leg, right_leg, left_arm or right_arm.
        top: joint at which it begins: hip or shoulder.
        middle: knee or elbow.
        tip: ankle or hand.
        hinge: (3,) float64 unit axis in the frame of the top joint; turning the lower bone about it bends the limb.
    """

    name: str
    top: int
    middle: int
    tip: int
    hinge: Tensor


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A skeleton with what is known of its body.

    Attributes:
        skeleton: J joints, standing at rest.
        feet: joints of the left foot, then of the right one.
        foot_heights: (len(feet),) float64 m over the floor, of each when it rests.
        capsules: flesh on the joints and then the ends of `ends`.
        ends: places in `Skeleton.end_joints` of the end sites that carry flesh.
        limbs: legs, then arms as far as known.
        standing: height, m, of the pelvis over the soles of the standing body.
    """

    skeleton: Skeleton
    feet: tuple[int, ...]
    foot_heights: Tensor
    capsules: Capsules
    ends: tuple[int, ...]
    limbs: tuple[Limb, ...]
    standing: float

    @property
    def pelvis(self) -> tuple[int, int]:
        """Return both hip joints: the pelvis is midway between them, wherever the root of a skeleton is."""
        left, right = self.skeleton.joints("left_hip", "right_hip")
        return left, right

    @property
    def legs(self) -> tuple[Limb, Limb]:
        """Return the left and the right leg."""
        return self.limbs[0], self.limbs[1]

    def flesh(self, positions: Tensor, turned: Tensor) -> Tensor:
        """Return joints and ends, (..., J + E, 3) m, that `capsules` refers to, from `forward_kinematics`."""
        return torch.cat([positions, end_positions(self.skeleton, positions, turned)[..., list(self.ends), :]], -2)


def anatomy_of(skeleton: Skeleton, clips: Sequence[Motion] = (), *, foot_heights: Tensor | None = None) -> Anatomy:
    """Return the anatomy of a skeleton.

    Args:
        skeleton: with legs, feet and a rest pose.
        clips: motions of this skeleton on the floor z = 0, in which the heights of resting feet are measured: the
            lower quartile while a joint is slower than 0.2 m/s. Without them, those of the rest pose: where its toes
            hang, as in CMU's T-poses, they are 1 to 5 cm too low.
        foot_heights: (K,) m, instead of measuring them.

    Raises:
        InputError: unknown legs or rest pose, joints whose names say no part of a body, or a clip of other joints.
    """
    positions, turned, ground = _standing(skeleton)
    feet = tuple(joint for foot in skeleton.feet for joint in foot)
    heights = resting_heights(skeleton, clips) if foot_heights is None else foot_heights.to(positions)
    ends = tuple(
        place
        for place, joint in enumerate(skeleton.end_joints)
        if joint not in feet or skeleton.end_offsets[place].norm() < TIP * skeleton.leg
    )
    hips = positions[list(skeleton.joints("left_hip", "right_hip")), 2].mean()
    return Anatomy(
        skeleton, feet, heights, _capsules(skeleton, feet, heights, ends), ends, _limbs(skeleton, positions, turned),
        float(hips - ground),
    )  # fmt: skip


def resting_heights(skeleton: Skeleton, clips: Sequence[Motion] = ()) -> Tensor:
    """Return how high the joints of feet are over the floor when they rest, (K,) m, those of the left foot first.

    Args:
        skeleton: as `anatomy_of`; names need not say parts of a body.
        clips: likewise.

    Raises:
        InputError: unknown legs or rest pose, or a clip of other joints.
    """
    positions, _, ground = _standing(skeleton)
    feet = [joint for foot in skeleton.feet for joint in foot]
    found: list[list[Tensor]] = [[] for _ in feet]
    for clip in clips:
        if clip.skeleton.names != skeleton.names:
            raise InputError(
                "clips", found=f"one of {len(clip.skeleton)} other joints", expected="clips of the skeleton",
                fix="Retarget it.",
            )  # fmt: skip
        tracks = clip.positions()[:, feet].double()
        slow = tracks.diff(dim=0).norm(dim=-1) * clip.fps < RESTING
        for place in range(len(feet)):
            found[place].append(tracks[:-1][slow[:, place], place, 2])
    standing = positions[feet, 2] - ground
    measured = [torch.cat([standing[:0], *values]) for values in found]
    return torch.stack(
        [values.quantile(0.25) if len(values) else standing[place] for place, values in enumerate(measured)]
    )


def _standing(skeleton: Skeleton) -> tuple[Tensor, Tensor, Tensor]:
    """Return joints (J, 3) m and their rotations (J, 3, 3) at rest, and the height, m, of the ground under them."""
    skeleton.joints(*(f"{side}_{role}" for side in SIDES for role in ("hip", "knee", "ankle")))
    if skeleton.rest is None:
        raise InputError(
            "skeleton", found="no rest pose", expected="a skeleton that is known to stand",
            fix="Read it from a clip in which the body stands.",
        )  # fmt: skip
    positions, turned = forward_kinematics(skeleton, torch.zeros(3, dtype=skeleton.rest.dtype), skeleton.rest)
    return positions, turned, soles(skeleton, positions, turned).min()


def _capsules(skeleton: Skeleton, feet: tuple[int, ...], heights: Tensor, ends: tuple[int, ...]) -> Capsules:
    carried = [skeleton.end_joints[place] for place in ends]
    names = [*skeleton.names, *(f"{skeleton.names[joint]}_end" for joint in carried)]
    capsules = capsules_of(names, [*skeleton.parents, *carried], stature=skeleton.leg / LEG_OF_STATURE)
    # What is above the hips in the tree, such as a root on the floor, is no part of the body.
    above = torch.tensor(chain(skeleton.joints("hips")[0], skeleton.parents)[1:])
    kept = ~torch.isin(capsules.bones[:, 0], above)
    capsules = Capsules(capsules.bones[kept], capsules.radii[kept])
    # Feet at rest touch the floor and are not in it.
    thin = torch.isin(capsules.bones[:, 0], torch.tensor(feet))
    bound = heights.min().clamp(min=THINNEST).to(capsules.radii)
    return replace(capsules, radii=torch.where(thin, capsules.radii.minimum(bound), capsules.radii))


def _limbs(skeleton: Skeleton, positions: Tensor, turned: Tensor) -> tuple[Limb, ...]:
    """Return the limbs with a hinge u x f in the standing body: u along the upper bone, f where the lower one goes.

    Knees bend backward and elbows forward.
    """
    axes = heading(positions, skeleton)
    limbs = []
    for name, roles, sign in (("leg", ("hip", "knee", "ankle"), -1.0), ("arm", ("shoulder", "elbow", "hand"), 1.0)):
        for side in SIDES:
            if not all(f"{side}_{role}" in skeleton.roles for role in roles):
                continue
            top, middle, tip = skeleton.joints(*(f"{side}_{role}" for role in roles))
            hinge = torch.linalg.cross(positions[middle] - positions[top], sign * axes[:, 1])
            limbs.append(Limb(f"{side}_{name}", top, middle, tip, turned[top].T @ (hinge / hinge.norm())))
    return tuple(limbs)

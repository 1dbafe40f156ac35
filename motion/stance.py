"""How a body stands: the pose that retargeting and mirroring refer to.

Two skeletons mean the same pose by different numbers, because the axes of their joints differ. A pose in which both
stand alike relates them. That pose is a skeleton's `rest`, and it is looked for in this order:

1. the first frame, where it is a T-pose that jumps into the motion (CMU's BVH files);
2. the zero pose, where the body stands in it;
3. made from the clip: the torso as in the frame in which the body stands most upright, the feet as where they are
   lowest, both sides evened out; legs and arms stretched down and out, turned about their length so that knees and
   elbows bend as they bend in the clip.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from motion.clips import Motion, heading
from motion.kinematics import end_positions, forward_kinematics, local_rotations
from motion.roles import SIDES, chain
from motion.rotations import about_axis, best_turn, frame_of, geodesic, least_turn
from motion.skeleton import Skeleton
from shared.errors import InputError

UPRIGHT = 0.8  # share of the path along the bones from ankles to head that a standing body is tall
JUMP = math.radians(30.0)  # a joint turns by less in one frame of a recorded motion
TIP = 0.3  # longest end site of a foot, by the leg: 0.28 on ReActIdle, 0.53 on invented ones of Blender
ANKLE = 0.09  # height of an ankle above the sole, by the leg
BENDS = 0.1  # mean sine of a knee's or elbow's bend from which its axis is known
SHORT = 1e-3  # m, of bones without a direction
BODY = {"head", "hips", *(f"{side}_{limb}" for side in SIDES for limb in ("hip", "ankle"))}


def with_rest(motion: Motion, rest_frame: bool | None = None) -> tuple[Motion, list[str]]:
    """Return the motion with its skeleton's rest pose, without a first frame that is one; and notes on what was done.

    Args:
        motion: as read.
        rest_frame: whether frame 0 is a rest pose; None to look.
    """
    first = _is_rest_frame(motion) if rest_frame is None else rest_frame
    if first and motion.frames > 1:
        skeleton = replace(motion.skeleton, rest=motion.rotations[0])
        told = ["frame 0 is a rest pose that jumps into the motion: it is left out"] if rest_frame is None else []
        return replace(motion.cut(1), skeleton=skeleton), told
    skeleton = motion.skeleton
    zero = torch.eye(3, dtype=skeleton.offsets.dtype).expand(len(skeleton), 3, 3)
    if not set(skeleton.roles) >= BODY or float(upright(_posed(skeleton, zero), skeleton)) > UPRIGHT:
        return replace(motion, skeleton=replace(skeleton, rest=zero)), []
    rest = rest_of_clip(motion)
    note = "the zero pose is no pose of a body: the rest pose is made from the clip"
    if rest is None:
        note = "neither the zero pose nor the clip stands: the rest pose is unknown"
    return replace(motion, skeleton=replace(skeleton, rest=rest)), [note]


def upright(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """Return how tall a body stands, (...): height of the head above the ankles by the path along the bones; <= 1."""
    head, left, right = skeleton.joints("head", "left_ankle", "right_ankle")
    tall = positions[..., head, 2] - (positions[..., left, 2] + positions[..., right, 2]) / 2
    legs = (skeleton.length("hips", "left_ankle") + skeleton.length("hips", "right_ankle")) / 2
    return tall / (skeleton.length("hips", "head") + legs)


def soles(skeleton: Skeleton, positions: Tensor, turned: Tensor) -> Tensor:
    """Return the heights, (..., K) m, of what the feet stand on: their joints, and end sites that can be tips of toes.

    Programs that export bones invent end sites as long as the bone before: those longer than 0.3 of the leg are left
    out. An ankle with neither toe nor tip stands 0.09 of the leg above its sole.

    Raises:
        InputError: the feet are unknown.
    """
    skeleton.joints("left_ankle", "right_ankle", "left_hip", "right_hip")
    ends = end_positions(skeleton, positions, turned)
    heights = []
    for foot in skeleton.feet:
        tips = [
            place
            for place, joint in enumerate(skeleton.end_joints)
            if joint in foot and skeleton.end_offsets[place].norm() < TIP * skeleton.leg
        ]
        bare = 0.0 if tips or len(foot) > 1 else ANKLE * skeleton.leg
        heights += [positions[..., list(foot), 2] - bare, ends[..., tips, 2]]
    return torch.cat(heights, -1)


def rest_frames(skeleton: Skeleton) -> Tensor:
    """Return how the joints are turned at rest, (J, 3, 3), in the body's axes: x to its right, y forward, z up.

    Raises:
        InputError: the rest pose is unknown.
    """
    if skeleton.rest is None:
        raise InputError(
            "skeleton", found="no rest pose: neither its zero pose nor its clip stands upright",
            expected="a skeleton with a standing pose", fix="Read it from a clip in which the body stands.",
        )  # fmt: skip
    positions, turned = forward_kinematics(skeleton, torch.zeros(3, dtype=skeleton.rest.dtype), skeleton.rest)
    if not {"left_hip", "right_hip"} <= set(skeleton.roles):
        return turned
    return heading(positions, skeleton).T @ turned


def rest_of_clip(motion: Motion) -> Tensor | None:
    """Return a rest pose made from a clip (3. above), local rotations (J, 3, 3); None if the body never stands."""
    skeleton = motion.skeleton
    positions, turned = motion.pose()
    height = upright(positions, skeleton)
    frame = int(height.argmax())
    if height[frame] < UPRIGHT:
        return None
    axes = heading(positions, skeleton)
    body = axes[frame].T @ turned[frame]
    standing_frames = (height > UPRIGHT).nonzero()[:, 0]
    for foot in skeleton.feet:
        # Flat where its ankle and toe are lowest, which need not be where the body is most upright.
        flat = standing_frames[positions[standing_frames][:, list(foot), 2].sum(-1).argmin()]
        body[foot[0]] = axes[flat].T @ turned[flat, foot[0]]
    if skeleton.sided:
        body = symmetric(skeleton, body)
    known: dict[int, Tensor] = {}
    for side in SIDES:
        down = torch.tensor([0.0, 0.0, -1.0], dtype=body.dtype)
        out = torch.tensor([-1.0 if side == "left" else 1.0, 0.0, 0.0], dtype=body.dtype)
        known |= _stretched(motion, positions, turned, frame, body, side, ("hip", "knee", "ankle"), down)
        known |= _stretched(motion, positions, turned, frame, body, side, ("shoulder", "elbow", "hand"), out)
        ankle = skeleton.roles[f"{side}_ankle"]
        known[ankle] = body[ankle]
    rest: list[Tensor] = []
    for joint, parent in enumerate(skeleton.parents):
        if joint in known:
            rest.append(known[joint])
        elif any(above in known for above in chain(joint, skeleton.parents)):
            rest.append(rest[parent] @ motion.rotations[frame, joint])
        else:
            rest.append(body[joint])
    return local_rotations(skeleton, torch.stack(rest))


def standing(motion: Motion) -> Motion:
    """Return the same motion on the skeleton whose zero pose is the rest pose, facing -y (the +z of y-up files).

    What programs show of a BVH file before its first frame is the zero pose. With G the rest pose in the world,
    R_j -> G_parent R_j G_j^T and o_j -> G_parent o_j; no joint moves.

    Raises:
        InputError: the rest pose is unknown.
    """
    skeleton, kind = motion.skeleton, motion.root.dtype
    motion = motion.to(torch.float64)
    rest = about_axis(2, torch.tensor(math.pi, dtype=torch.float64)) @ rest_frames(skeleton)
    above = torch.cat([torch.eye(3).to(rest)[None], rest[list(skeleton.parents[1:])]])
    offsets = (above @ skeleton.offsets[..., None])[..., 0]
    moved = None if motion.offsets is None else (above @ motion.offsets[..., None])[..., 0]
    ends = (rest[list(skeleton.end_joints)] @ skeleton.end_offsets[..., None])[..., 0]
    zero = torch.eye(3).to(rest).expand(len(skeleton), 3, 3)
    return replace(
        motion,
        skeleton=replace(skeleton, offsets=offsets, end_offsets=ends, rest=zero),
        rotations=above @ motion.rotations @ rest.transpose(-1, -2),
        offsets=moved,
    ).to(kind)


def _posed(skeleton: Skeleton, rotations: Tensor) -> Tensor:
    return forward_kinematics(skeleton, torch.zeros(3, dtype=rotations.dtype), rotations)[0]


def _is_rest_frame(motion: Motion) -> bool:
    skeleton = motion.skeleton
    if motion.frames < 3 or not set(skeleton.roles) >= BODY:
        return False
    jump = geodesic(motion.rotations[:2], motion.rotations[1:3]).amax(-1)
    stands = upright(_posed(skeleton, motion.rotations[0]), skeleton) > UPRIGHT
    return bool(jump[0] > JUMP and jump[1] < 0.2 * jump[0] and stands)


def symmetric(skeleton: Skeleton, body: Tensor) -> Tensor:
    """Return joints turned, (J, 3, 3), so that each bone points between itself and the other side's reflection."""
    bones = torch.zeros(len(skeleton), 3, dtype=body.dtype)  # to each joint, from its parent
    parents = list(skeleton.parents[1:])
    bones[1:] = (body[parents] @ skeleton.offsets[1:, :, None])[..., 0]
    even = (bones + bones[list(skeleton.mirror)] * torch.tensor([-1.0, 1.0, 1.0])) / 2
    turned = body.clone()
    for joint in range(len(skeleton)):
        carried = [child for child, parent in enumerate(skeleton.parents) if parent == joint]
        carried = [child for child in carried if min(bones[child].norm(), even[child].norm()) > SHORT]
        if len(carried) == 1:
            turned[joint] = least_turn(bones[carried[0]], even[carried[0]]) @ body[joint]
        elif len(carried) > 1:
            turned[joint] = best_turn(bones[carried], even[carried]) @ body[joint]
    return turned


def _stretched(
    motion: Motion, positions: Tensor, turned: Tensor, frame: int, body: Tensor, side: str, limb: tuple[str, str, str],
    direction: Tensor,
) -> dict[int, Tensor]:  # fmt: skip
    """Return how a limb's upper and lower joint are turned when it is stretched along `direction`.

    A hinge's axis is u x f, of the upper bone u and the lower one f; seen from either bone it does not move.
    """
    roles = [f"{side}_{role}" for role in limb]
    if not set(roles) <= set(motion.skeleton.roles):
        return {}
    top, middle, tip = motion.skeleton.joints(*roles)
    upper, lower = positions[:, middle] - positions[:, top], positions[:, tip] - positions[:, middle]
    upper, lower = (bone / bone.norm(dim=-1, keepdim=True) for bone in (upper, lower))
    bend = torch.linalg.cross(upper, lower)
    # Knees bend backward, elbows forward.
    forward = torch.tensor([0.0, -1.0 if limb[0] == "hip" else 1.0, 0.0], dtype=body.dtype)
    axis = torch.linalg.cross(direction, forward)
    found = {}
    for joint, bone in ((top, upper), (middle, lower)):
        along = turned[frame, joint].T @ bone[frame]
        hinge = (turned[:, joint].transpose(-1, -2) @ bend[..., None])[..., 0].mean(0)
        if hinge.norm() > BENDS:
            found[joint] = frame_of(direction, axis) @ frame_of(along, hinge).T
        else:
            found[joint] = least_turn(body[joint] @ along, direction) @ body[joint]
    return found

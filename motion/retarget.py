"""The same motion on another skeleton.

With G the rotations in the world and A those at rest, both in axes of the body, a joint has turned by D = G A_s^T since
its skeleton stood at rest. The target's joint turns by the same:

    G_t = D S^T A_t,

where S is the least turn from the source's bone at rest to the target's: so upper arms, forearms, thighs and shins
point exactly where the source's do, whatever the two rest poses are. The hips travel in proportion to the legs. The
whole is set to the height at which the feet reach down to the floor z = 0 if the source's do to within 6 cm, and else
as low as the source's: joints of toes are up to 5 cm above the sole in one skeleton and on it in another.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from motion.clips import Motion
from motion.kinematics import forward_kinematics, local_rotations
from motion.roles import SIDES, between
from motion.rotations import interpolate, least_turn
from motion.skeleton import Skeleton
from motion.stance import rest_frames, soles

LIMBS = (("hip", "knee", "ankle"), ("shoulder", "elbow", "hand"))
LOWEST = 0.02  # quantile of the feet's height that counts as their lowest: noise and stumbles go below it
FLOOR = 0.06  # m
LIMB_ROLES = ("shoulder", "hip", "knee", "ankle")
NEEDED = ("hips", "chest", "head", *(f"{side}_{role}" for side in SIDES for role in LIMB_ROLES))


def retargeted(motion: Motion, target: Skeleton) -> Motion:
    """Return the motion on another skeleton: joint by joint where trees and names are one, else by roles.

    Between trees, spine and neck share the turn of the source's evenly along their length, limbs copy theirs, and
    joints without a role keep the target's rest pose. Offsets that move are left behind.

    Raises:
        InputError: a rest pose is unknown, or a body's joints are.
    """
    source = motion.skeleton
    positions, turned = motion.pose()
    rest_source, rest_target = (rest_frames(skeleton).to(turned) for skeleton in (source, target))
    turns = turned @ rest_source.transpose(-1, -2)
    same = source.names == target.names and source.parents == target.parents
    if same:
        followed: dict[int, Tensor] = dict(enumerate(turns.unbind(1)))
    else:
        followed = _by_roles(source, target, turns)
    followed |= _limbs(source, target, turns, rest_source, rest_target)
    local = local_rotations(target, rest_target)
    world: list[Tensor] = []
    for joint, parent in enumerate(target.parents):
        if joint in followed:
            world.append(followed[joint] @ rest_target[joint])
        else:
            above = world[parent] if parent >= 0 else torch.eye(3).to(turned)
            world.append(above @ local[joint].expand_as(turned[:, 0]))
    rotations = local_rotations(target, torch.stack(world, 1))
    hips_source = source.roles.get("hips", 0)
    hips_target = target.roles.get("hips", 0)
    still = Motion(target, torch.zeros_like(motion.root), rotations, motion.fps)
    root = positions[:, hips_source] * leg_ratio(source, target) - still.positions()[:, hips_target]
    return _grounded(replace(still, root=root), motion)


def lowest_foot(motion: Motion) -> float:
    """Return the height, m, that the feet reach down to, but for the lowest 2 % of the frames."""
    return float(soles(motion.skeleton, *motion.pose()).amin(-1).quantile(LOWEST))


def _grounded(motion: Motion, source: Motion) -> Motion:
    if not all(motion.skeleton.feet) or not all(source.skeleton.feet):
        return motion
    level = lowest_foot(source)
    shift = torch.zeros(3).to(motion.root)
    shift[2] = (0.0 if abs(level) < FLOOR else level) - lowest_foot(motion)
    return replace(motion, root=motion.root + shift)


def leg_ratio(source: Skeleton, target: Skeleton) -> float:
    """Return how far the target's hips travel for each metre of the source's: by the legs, or all bones."""
    if {f"{side}_{role}" for side in SIDES for role in ("hip", "ankle")} <= set(source.roles) & set(target.roles):
        return target.leg / source.leg
    return float(target.offsets.norm(dim=-1).sum() / source.offsets.norm(dim=-1).sum())


def _by_roles(source: Skeleton, target: Skeleton, turns: Tensor) -> dict[int, Tensor]:
    """Return how much the target's joints have turned since rest, (F, 3, 3) each."""
    for skeleton in (source, target):
        skeleton.joints(*NEEDED)
    followed = {joint: turns[:, source.roles[role]] for role, joint in target.roles.items() if role in source.roles}
    for above, below in (("hips", "chest"), ("chest", "head")):
        top, bottom = source.joints(above, below)
        line = [top, *between(top, bottom, source.parents)]
        joints = between(target.roles[above], target.roles[below], target.parents)
        if len(line) < 2 or not joints:
            continue
        for place, joint in enumerate(joints, 1):
            share = place / len(joints) * (len(line) - 1)
            low = min(int(share), len(line) - 2)
            followed[joint] = interpolate(turns[:, line[low]], turns[:, line[low + 1]], share - low)
    return followed


def _limbs(
    source: Skeleton, target: Skeleton, turns: Tensor, rest_source: Tensor, rest_target: Tensor
) -> dict[int, Tensor]:
    """Return D S^T of the joints of limbs; a hand takes the S of its forearm, a foot none: at rest it stands flat."""
    found: dict[int, Tensor] = {}
    placed_source, placed_target = _at_rest(source, rest_source), _at_rest(target, rest_target)
    for side in SIDES:
        for limb in LIMBS:
            roles = [f"{side}_{role}" for role in limb]
            swing = None
            for role, below in pairwise(roles):
                if not {role, below} <= set(source.roles) & set(target.roles):
                    continue
                bones = [
                    placed[skeleton.roles[below]] - placed[skeleton.roles[role]]
                    for placed, skeleton in ((placed_source, source), (placed_target, target))
                ]
                swing = least_turn(*bones)
                found[target.roles[role]] = turns[:, source.roles[role]] @ swing.T
            if limb[2] == "hand" and swing is not None and roles[2] in source.roles and roles[2] in target.roles:
                found[target.roles[roles[2]]] = turns[:, source.roles[roles[2]]] @ swing.T
    return found


def _at_rest(skeleton: Skeleton, rest: Tensor) -> Tensor:
    rotations = local_rotations(skeleton, rest)
    return forward_kinematics(skeleton, torch.zeros(3).to(rest), rotations)[0]

r"""A motion as numbers a network can learn: F frames of D features, and back.

| group | features of a frame |
| --- | --- |
| path | x, y of the hips, m |
| stance | their height, m; cos and sin of the heading; rotation of the hips without the heading, 6-D |
| pose | local rotations of the other driven joints, 6-D each |
| feet | for each joint of a foot 1 if it rests, else 0 |

The heading H is the turn about z of the axis from hip to hip (`motion.clips.heading`); the hips' rotation is H R. A
window is seen from where the body stands at one of its frames: path and heading are then relative to it, as
`Motion.canonical` makes them, and everything else is the same from everywhere.

Driven joints lie on the way from the hips to head, hands and toes; fingers keep their rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from motion.clips import Motion, heading
from motion.kinematics import forward_kinematics
from motion.roles import SIDES, chain
from motion.rotations import from_rotation_6d, rotation_6d
from motion.skeleton import Skeleton
from shared.errors import InputError

GROUPS = ("path", "stance", "pose", "feet")
RESTING = 0.3  # m/s; slower joints of feet rest: they jitter by up to 0.2 in recordings (Kimodo's threshold is 0.2)
PATH, HEIGHT, HEADING, HIPS, POSE = slice(0, 2), 2, slice(3, 5), slice(5, 11), 11


@dataclass(frozen=True, eq=False)
class Body:
    """A skeleton whose motions are features.

    Attributes:
        skeleton: its root is the hips; head, hands, hips and feet are known, and so is a rest pose.

    Raises:
        InputError: the skeleton is another one.
    """

    skeleton: Skeleton

    def __post_init__(self) -> None:
        skeleton = self.skeleton
        skeleton.joints("hips", "chest", "head", *(f"{side}_{role}" for side in SIDES for role in ("hip", "toe")))
        if skeleton.roles["hips"] != 0 or skeleton.rest is None:
            raise InputError(
                "body", found=f"hips {skeleton.names[skeleton.roles['hips']]} under the root {skeleton.names[0]}, "
                f"rest pose {'unknown' if skeleton.rest is None else 'known'}",
                expected="a skeleton with the hips as root and a known rest pose", fix="Take another skeleton.",
            )  # fmt: skip

    @cached_property
    def driven(self) -> tuple[int, ...]:
        """Return the joints that features turn, without the root."""
        tips = [self.skeleton.roles["head"], *self.skeleton.toes, *self.skeleton.hands]
        return tuple(sorted({joint for tip in tips for joint in chain(tip, self.skeleton.parents)} - {0}))

    @cached_property
    def feet(self) -> tuple[int, ...]:
        """Return the joints of both feet, left first."""
        return tuple(joint for foot in self.skeleton.feet for joint in foot)

    @cached_property
    def size(self) -> int:
        """Return D."""
        return POSE + 6 * len(self.driven) + len(self.feet)

    @cached_property
    def groups(self) -> Tensor:
        """Return the index in `GROUPS` of each feature, (D,)."""
        sizes = (2, POSE - 2, 6 * len(self.driven), len(self.feet))
        return torch.repeat_interleave(torch.arange(len(GROUPS)), torch.tensor(sizes))

    def encode(self, motion: Motion) -> Tensor:
        """Return the features of a motion, (F, D), where it is in the world.

        Raises:
            InputError: the motion is of another skeleton, or its offsets move.
        """
        skeleton = self.skeleton
        if motion.skeleton.names != skeleton.names or motion.offsets is not None:
            raise InputError(
                "motion", found=f"{len(motion.skeleton)} joints"
                f"{', offsets that move' * (motion.offsets is not None)}",
                expected=f"the {len(skeleton)} joints of the body with fixed offsets", fix="Retarget it to the body.",
            )  # fmt: skip
        positions = motion.positions()
        axes = heading(positions, skeleton)
        return torch.cat([
            motion.root,
            axes[:, :2, 0],
            rotation_6d(axes.transpose(-1, -2) @ motion.rotations[:, 0]),
            rotation_6d(motion.rotations[:, list(self.driven)]).flatten(1),
            resting(positions[:, list(self.feet)], motion.fps).to(motion.root),
        ], 1)  # fmt: skip

    def pose(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return root, (..., F, 3) m, and local rotations, (..., F, J, 3, 3), of features that need not be exact."""
        cos, sin = torch.nn.functional.normalize(features[..., HEADING], dim=-1).unbind(-1)
        six = features[..., HIPS.start : POSE + 6 * len(self.driven)].unflatten(-1, (-1, 6))
        turned = from_rotation_6d(six)
        hips = turned[..., 0, :, :]
        # H R, with H the turn about z.
        first, second = hips[..., 0, :], hips[..., 1, :]
        hips = torch.stack(
            [
                cos[..., None] * first - sin[..., None] * second,
                sin[..., None] * first + cos[..., None] * second,
                hips[..., 2, :],
            ],
            -2,
        )
        assert self.skeleton.rest is not None
        parts = list(self.skeleton.rest.to(features).expand(*features.shape[:-1], -1, -1, -1).unbind(-3))
        parts[0] = hips
        for place, joint in enumerate(self.driven, 1):
            parts[joint] = turned[..., place, :, :]
        return features[..., :3], torch.stack(parts, -3)

    def positions(self, features: Tensor) -> Tensor:
        """Return where the joints are, (..., F, J, 3) m."""
        return forward_kinematics(self.skeleton, *self.pose(features))[0]

    def decode(self, features: Tensor, fps: float) -> Motion:
        """Return the motion (F frames) of features (F, D): the inverse of `encode`, but for joints that are not driven.

        Raises:
            InputError: the features are not finite.
        """
        root, rotations = self.pose(features.double())
        return Motion(self.skeleton, root, rotations, fps)


def resting(feet: Tensor, fps: float) -> Tensor:
    """Return which joints of feet are slower than `RESTING` between the frames around, (F, K), of their places."""
    frames = torch.arange(len(feet))
    before, after = (frames - 1).clamp(min=0), (frames + 1).clamp(max=len(feet) - 1)
    seconds = ((after - before).clamp(min=1) / fps).to(feet)
    return (feet[after] - feet[before]).norm(dim=-1) / seconds[:, None] < RESTING


def seen_from(features: Tensor, frame: int = 0) -> Tensor:
    """Return features (..., F, D) seen from where the body stands at one frame, as `Motion.canonical` does."""
    cos, sin = features[..., frame, None, HEADING].unbind(-1)
    seen = features.clone()
    for place, origin in ((PATH, features[..., frame, None, PATH]), (HEADING, 0.0)):
        x, y = (features[..., place] - origin).unbind(-1)
        seen[..., place] = torch.stack([cos * x + sin * y, cos * y - sin * x], -1)
    return seen


def placed_at(features: Tensor, frame: Tensor) -> Tensor:
    """Return features (..., F, D) seen from a frame, (..., D), where that frame is: the inverse of `seen_from`."""
    cos, sin = frame[..., None, HEADING].unbind(-1)
    placed = features.clone()
    for place, origin in ((PATH, frame[..., None, PATH]), (HEADING, 0.0)):
        x, y = features[..., place].unbind(-1)
        placed[..., place] = torch.stack([cos * x - sin * y, sin * x + cos * y], -1) + origin
    return placed

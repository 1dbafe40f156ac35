"""A motion: a skeleton's root and local rotations over time; other frame rates, the other side, other places."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from motion.kinematics import forward_kinematics
from motion.rotations import about_axis, interpolate
from motion.skeleton import Skeleton
from shared.errors import InputError


@dataclass(frozen=True, eq=False)
class Motion:
    """F frames of J joints; z is up.

    Attributes:
        skeleton: J joints.
        root: (F, 3) m, where the root is.
        rotations: (F, J, 3, 3), local; the root's is that in the world.
        fps: frames a second; frame k is at k / fps seconds.
        offsets: (F, J, 3) m, offsets from the parent that some files move; None where the skeleton's hold.
    """

    skeleton: Skeleton
    root: Tensor
    rotations: Tensor
    fps: float
    offsets: Tensor | None = None

    def __post_init__(self) -> None:
        frames, joints = len(self.root), len(self.skeleton)
        shapes = {"root": (frames, 3), "rotations": (frames, joints, 3, 3), "offsets": (frames, joints, 3)}
        for name, shape in shapes.items():
            values = getattr(self, name)
            if values is None:
                continue
            if tuple(values.shape) != shape or not frames:
                raise InputError(
                    f"motion {name}", found=str(tuple(values.shape)), expected=f"{shape}, at least one frame",
                    fix="Give every frame of the skeleton's joints.",
                )  # fmt: skip
            if not torch.isfinite(values).all():
                raise InputError(
                    f"motion {name}", found="NaN or infinity", expected="finite numbers", fix="Leave out those frames."
                )
        _require_rate(self.fps)

    @property
    def frames(self) -> int:
        """Return F."""
        return len(self.root)

    @property
    def seconds(self) -> float:
        """Return the time from the first frame to the end of the last, s."""
        return self.frames / self.fps

    def pose(self) -> tuple[Tensor, Tensor]:
        """Return where the joints are, (F, J, 3) m, and how they are turned in the world, (F, J, 3, 3)."""
        return forward_kinematics(self.skeleton, self.root, self.rotations, self.offsets)

    def positions(self) -> Tensor:
        """Return where the joints are, (F, J, 3) m."""
        return self.pose()[0]

    @property
    def moving(self) -> Tensor:
        """Return which joints ever leave the skeleton's offset, by more than a micrometre, (J,); the root never."""
        if self.offsets is None:
            return torch.zeros(len(self.skeleton), dtype=torch.bool)
        away = (self.offsets - self.skeleton.offsets.to(self.offsets)).abs().amax((0, 2)) > 1e-6
        away[0] = False
        return away

    def to(self, kind: torch.dtype | torch.device | str) -> Motion:
        """Return the motion in another precision or on another device; its skeleton stays."""
        return replace(
            self,
            root=self.root.to(kind),
            rotations=self.rotations.to(kind),
            offsets=None if self.offsets is None else self.offsets.to(kind),
        )

    def cut(self, start: int, stop: int | None = None) -> Motion:
        """Return the frames from `start` up to, not with, `stop`."""
        window = slice(start, stop)
        return replace(
            self,
            root=self.root[window],
            rotations=self.rotations[window],
            offsets=None if self.offsets is None else self.offsets[window],
        )

    def resampled(self, fps: float) -> Motion:
        """Return the motion at another frame rate: rotations by slerp, positions linearly, up to the last frame.

        A frame at the time of an old one is that one, so whole divisors of the rate only leave frames out.

        Raises:
            InputError: the rate is not positive.
        """
        _require_rate(fps)
        count = int((self.frames - 1) * fps / self.fps + 1e-6) + 1
        time = torch.arange(count, dtype=torch.float64) * (self.fps / fps)
        low = time.round().where((time - time.round()).abs() < 1e-6, time.floor()).long()
        high = (low + 1).clamp(max=self.frames - 1)
        share = (time - low).clamp(min=0).to(self.root)

        def linear(values: Tensor) -> Tensor:
            weight = share.reshape(-1, *[1] * (values.ndim - 1))
            return values[low] + weight * (values[high] - values[low])

        return replace(
            self,
            root=linear(self.root),
            rotations=interpolate(self.rotations[low], self.rotations[high], share[:, None]),
            fps=fps,
            offsets=None if self.offsets is None else linear(self.offsets),
        )

    def placed(self, turn: Tensor, shift: Tensor) -> Motion:
        """Return the motion moved as a whole: p -> `turn` p + `shift`, with (3, 3) and (3,) m."""
        rotations = torch.cat([(turn @ self.rotations[:, 0])[:, None], self.rotations[:, 1:]], 1)
        return replace(self, root=self.root @ turn.T + shift, rotations=rotations)

    def canonical(self, frame: int = 0) -> tuple[Motion, Tensor, Tensor]:
        """Return the motion seen from where the body stands at one frame, and that place: (3, 3) axes and (3,) m.

        Axes as DIP's: x from the left hip to the right one flattened, y forward, z up. The origin is under the hips on
        the floor z = 0, so that heights stay heights (DIP puts it into the pelvis). `placed(axes, origin)` undoes it.
        """
        positions = self.positions()[frame]
        axes = heading(positions, self.skeleton)
        origin = positions[self.skeleton.joints("hips")[0]] * torch.tensor([1.0, 1.0, 0.0]).to(positions)
        return self.placed(axes.T, -(axes.T @ origin)), axes, origin


def heading(positions: Tensor, skeleton: Skeleton) -> Tensor:
    """Return the axes (..., 3, 3) of a body: x to its right, from hip to hip flattened, y forward, z up.

    Args:
        positions: (..., J, 3) m.
        skeleton: with the roles left_hip and right_hip.

    Raises:
        InputError: the hips are unknown.
    """
    left, right = skeleton.joints("left_hip", "right_hip")
    across = positions[..., right, :] - positions[..., left, :]
    return about_axis(2, torch.atan2(across[..., 1], across[..., 0]))


def _require_rate(fps: float) -> None:
    if not 0 < fps < math.inf:
        raise InputError("frames a second", found=f"{fps:g}", expected="a positive number", fix="Correct it.")

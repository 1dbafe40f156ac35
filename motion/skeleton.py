"""A skeleton: joints in a tree, how it stands, what each joint is for, and how its file writes it down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from motion.roles import ROLES, SIDES, between, side_of
from shared.errors import InputError

ROOT_CHANNELS = ("Xposition", "Yposition", "Zposition", "Zrotation", "Xrotation", "Yrotation")


@dataclass(frozen=True)
class Conventions:
    """How the file of a skeleton writes numbers down; the defaults are those of most BVH files.

    Attributes:
        metres_per_unit: length of the file's unit.
        up: the file's upward axis, y or z.
        channels: the BVH channels of each joint in the file's order; empty for Z, X, Y rotations and a moving root.
    """

    metres_per_unit: float = 0.01
    up: str = "y"
    channels: tuple[tuple[str, ...], ...] = ()

    @property
    def axes(self) -> Tensor:
        """Return C (3, 3) float64: a vector v of the file is C v in the package's axes; it only permutes and signs."""
        if self.up == "z":
            return torch.eye(3, dtype=torch.float64)
        return torch.tensor([[1, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Skeleton:
    """Joints in a tree; joint 0 is the root and every parent comes before its children.

    Attributes:
        names: J different names.
        parents: J indices, -1 for the root.
        offsets: (J, 3) float64 m from the parent, in the parent's axes; the root's is 0.
        end_joints: joints that have an end site, where the last bone of a limb ends.
        end_offsets: (E, 3) float64 m from them.
        roles: the joint of each role (`motion.roles`).
        rest: (J, 3, 3) float64, local rotations in which the body stands upright with its arms in an A, T or I; None
            where no such pose is known. The zero pose (all rotations identity) is often no pose of a body at all.
        conventions: how to write it down again.
    """

    names: tuple[str, ...]
    parents: tuple[int, ...]
    offsets: Tensor
    end_joints: tuple[int, ...] = ()
    end_offsets: Tensor = field(default_factory=lambda: torch.zeros(0, 3, dtype=torch.float64))
    roles: Mapping[str, int] = field(default_factory=dict)
    rest: Tensor | None = None
    conventions: Conventions = field(default_factory=Conventions)

    def __post_init__(self) -> None:
        count = len(self.names)
        ordered = all(parent < index for index, parent in enumerate(self.parents))
        single = [parent for parent in self.parents if parent < 0] == [-1] and self.parents[0] == -1
        if not count or len(self.parents) != count or not ordered or not single or len(set(self.names)) != count:
            raise InputError(
                "skeleton", found=f"{count} names ({len(set(self.names))} different) and parents {self.parents}",
                expected="different names, one root in front, parents before their children",
                fix="Sort the joints from the root outwards and give each its own name.",
            )  # fmt: skip
        if self.offsets.shape != (count, 3) or self.end_offsets.shape != (len(self.end_joints), 3):
            raise InputError(
                "skeleton", found=f"offsets {tuple(self.offsets.shape)} and end sites {tuple(self.end_offsets.shape)}",
                expected=f"({count}, 3) and ({len(self.end_joints)}, 3)", fix="Give one offset a joint and end site.",
            )  # fmt: skip

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def levels(self) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Return the joints by depth, each level with its parents' places in the level above, and the inverse order."""
        depth = [0] * len(self)
        for index, parent in enumerate(self.parents[1:], 1):
            depth[index] = depth[parent] + 1
        rows = [[joint for joint in range(len(self)) if depth[joint] == level] for level in range(max(depth) + 1)]
        order = [(torch.tensor(rows[0]), torch.tensor([0]))]
        for above, row in pairwise(rows):
            order.append((torch.tensor(row), torch.tensor([above.index(self.parents[joint]) for joint in row])))
        return order, torch.argsort(torch.tensor([joint for row in rows for joint in row]))

    def joints(self, *roles: str) -> list[int]:
        """Return the joints of roles.

        Raises:
            InputError: a role has no joint.
        """
        missing = [role for role in roles if role not in self.roles]
        if missing:
            raise InputError(
                "skeleton", found=f"no joint for {', '.join(missing)} among {', '.join(self.names)}",
                expected="a body whose joints are known by name", fix=f"Say which it is: --role {missing[0]}=NAME.",
            )  # fmt: skip
        return [self.roles[role] for role in roles]

    def with_roles(self, given: Mapping[str, str]) -> Skeleton:
        """Return the skeleton with some roles given to joints by name.

        Raises:
            InputError: there is no such role or joint.
        """
        for role, name in given.items():
            if role not in ROLES:
                raise InputError(
                    f"role {role}", found=repr(name), expected=f"a role: {', '.join(ROLES)}", fix="Correct the role."
                )
            if name not in self.names:
                raise InputError(
                    f"role {role}", found=f"{name!r}", expected=f"a joint: {', '.join(self.names)}",
                    fix="Correct the name.",
                )  # fmt: skip
        roles = dict(self.roles) | {role: self.names.index(name) for role, name in given.items()}
        return replace(self, roles=roles)

    @property
    def feet(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the joints of the left and the right foot that touch the floor: ankle, then toe, as far as known."""
        left, right = (
            tuple(self.roles[f"{side}_{role}"] for role in ("ankle", "toe") if f"{side}_{role}" in self.roles)
            for side in SIDES
        )
        return left, right

    @property
    def toes(self) -> tuple[int, int]:
        """Return the foremost joint of the left and of the right foot: the toe, or the ankle of a foot without one."""
        if not all(self.feet):
            self.joints("left_ankle", "right_ankle")
        return self.feet[0][-1], self.feet[1][-1]

    @property
    def seat(self) -> tuple[int, ...]:
        """Return the joints that rest on a seat: hips and thighs."""
        return tuple(self.joints("hips", "left_hip", "right_hip"))

    @property
    def hands(self) -> tuple[int, ...]:
        """Return the joints of the hands, left first; empty where the arms end at the elbow."""
        return tuple(self.roles[f"{side}_hand"] for side in SIDES if f"{side}_hand" in self.roles)

    @property
    def sided(self) -> bool:
        """Whether names tell left from right."""
        return any(side_of(name, self.names) for name in self.names)

    @cached_property
    def mirror(self) -> tuple[int, ...]:
        """Return the joint of the other side of each joint; a joint in the middle is its own.

        Raises:
            InputError: no joint has a side.
        """
        if not self.sided:
            raise InputError(
                "skeleton", found=f"no sides in {', '.join(self.names)}",
                expected="names such as LeftFoot and RightFoot, l_foot and r_foot, foot.L and foot.R",
                fix="Rename the joints.",
            )  # fmt: skip
        sides = [side_of(name, self.names) for name in self.names]
        return tuple(index if side is None else self.names.index(side[2]) for index, side in enumerate(sides))

    def length(self, above: str, below: str) -> float:
        """Return the length, m, of the bones from the joint of one role down to that of another."""
        top, bottom = self.joints(above, below)
        line = between(top, bottom, self.parents)
        return float(self.offsets[line].norm(dim=-1).sum())

    @property
    def leg(self) -> float:
        """Return the mean length, m, of both legs from hip to ankle."""
        return sum(self.length(f"{side}_hip", f"{side}_ankle") for side in SIDES) / 2

r"""A branch that steers a frozen motion transformer to hints: places of points of the body in some frames.

    h^0 = tokens of the base,   c^0_k = h^0_k + MLP(p_k, n_k, m_k)
    c^j = block_j(c^(j-1)),     h after the base's block (j + 1) L / l - 1:  h <- h + Z_j c^j,   j = 0 ... l - 1

with blocks that start as copies of the base's first l of L and linear maps Z_j that start at zero: at first, and for
windows without hints always, the result is the base's. Each coordinate of a hint has a flag that says whether it is
told, so that 0 is a place like any other and a waypoint on the floor tells no height.

Of each coordinate of each point the MLP sees the flag m_k, the place p_k, in units of its spread over the training's
windows and on a straight line between two hints, and how near in time the nearest hint is, n_k (`filled`). So all
frames know of hints around them from the start, where OmniControl's frames without hints wait for attention.

References:
    Zhang et al., Adding Conditional Control to Text-to-Image Diffusion Models, 2023 (copy and zero maps).
    Xie et al., OmniControl, 2024 (the branch on joints of motions; flags are zeros there).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import AfterValidator, Field, PositiveInt
from torch import Tensor, nn

from motion.config import MotionConfig, Settings
from motion.goals import Hint
from motion.model import MotionModel
from motion.network import Block, MotionTransformer
from motion.roles import SIDES
from motion.skeleton import Skeleton
from shared.errors import InputError

# Points of the body that may be hinted: roles of the joints whose mean they are.
POINTS: dict[str, tuple[str, ...]] = {
    "pelvis": ("left_hip", "right_hip"),
    **{role: (role,) for role in ("hips", "chest", "head")},
    **{f"{side}_{limb}": (f"{side}_{limb}",) for limb in ("hand", "elbow", "knee", "ankle", "toe") for side in SIDES},
}


NEAR = 0.5  # s


def _known_points(names: tuple[str, ...]) -> tuple[str, ...]:
    if unknown := [name for name in names if name not in POINTS]:
        raise ValueError(f"{', '.join(unknown)}: no point of the body; there are {', '.join(POINTS)}")
    if len(set(names)) < len(names):
        raise ValueError("a point is named twice")
    return names


class ControlConfig(Settings):
    """A branch.

    Attributes:
        kind: name of the architecture, in the files.
        depth: blocks, no more than the base has.
        points: names of `POINTS` that may be hinted.
    """

    kind: Literal["motion_control"] = "motion_control"
    depth: PositiveInt = 3
    points: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_known_points)] = tuple(POINTS)


@dataclass(frozen=True, eq=False)
class Told:
    """Hints of windows as a branch reads them.

    Attributes:
        places: (N, F, P, 3) m, in the axes of the window's first frame; what they are where not told is of no account.
        flags: (N, F, P, 3) bool, which coordinates are told.
    """

    places: Tensor
    flags: Tensor

    def to(self, device: torch.device | str) -> Told:
        """Return the hints on a device."""
        return Told(self.places.to(device), self.flags.to(device))


class Points:
    """The points of a skeleton that a branch knows.

    Args:
        names: of `POINTS`.
        skeleton: of the body.

    Raises:
        InputError: the skeleton has no joint for a point.
    """

    def __init__(self, names: Sequence[str], skeleton: Skeleton) -> None:
        self.names, self.skeleton = tuple(names), skeleton
        self.joints = tuple(tuple(skeleton.joints(*POINTS[name])) for name in names)
        self.places = {frozenset(joints): place for place, joints in enumerate(self.joints)}

    def knows(self, hint: Hint) -> bool:
        """Return whether a hint is of one of the points."""
        return frozenset(hint.joints) in self.places

    def of(self, positions: Tensor) -> Tensor:
        """Return the places (..., P, 3) of the points, of those (..., J, 3) of the joints."""
        return torch.stack([positions[..., list(joints), :].mean(-2) for joints in self.joints], -2)

    def index(self, name: str) -> int:
        """Return the place of a point among them.

        Raises:
            InputError: there is none of that name.
        """
        if name not in self.names:
            raise InputError("hint", found=name, expected=f"one of {', '.join(self.names)}", fix="Correct the name.")
        return self.names.index(name)

    def told(self, hints: Sequence[Hint], frames: int) -> Told:
        """Return the hints of one window of F frames, N = 1; of two for the same place the later counts.

        Args:
            hints: in the axes of the window's first frame; a target (x, y) tells no height.
            frames: F.

        Raises:
            InputError: a hint of another point, or of a frame outside the window.
        """
        places = torch.zeros(1, frames, len(self.names), 3)
        flags = torch.zeros_like(places, dtype=torch.bool)
        for hint in hints:
            point = self.places.get(frozenset(hint.joints))
            if point is None:
                raise InputError(
                    f"hint {hint.name}".strip(),
                    found="the point of " + ", ".join(self.skeleton.names[joint] for joint in hint.joints),
                    expected=f"one of {', '.join(self.names)}", fix="Hint another point, or leave this to guidance.",
                )  # fmt: skip
            if len(hint.frames) and not 0 <= int(hint.frames.min()) <= int(hint.frames.max()) < frames:
                raise InputError(
                    f"hint {hint.name}".strip(), found=f"frames {int(hint.frames.min())} to {int(hint.frames.max())}",
                    expected=f"frames of the window, 0 to {frames - 1}", fix="Cut the hint to the window.",
                )  # fmt: skip
            size = hint.targets.shape[-1]
            places[0, hint.frames, point, :size] = hint.targets.to(places)
            flags[0, hint.frames, point, :size] = True
        return Told(places, flags)


class ControlBranch(nn.Module):
    """What learns: the hints' MLP, copies of blocks, and the maps back.

    Args:
        config: of the branch.
        base: of the network that it steers.
        mean: of the points' places over windows, (P, 3) m.
        spread: their standard deviation.

    Raises:
        InputError: more blocks than the base has.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, config: ControlConfig, base: MotionConfig, mean: Tensor, spread: Tensor) -> None:
        super().__init__()
        if config.depth > base.depth:
            raise InputError(
                "branch", found=f"{config.depth} blocks", expected=f"up to the {base.depth} of the base",
                fix="Correct the configuration.",
            )  # fmt: skip
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.fps = base.fps
        first, last = nn.Linear(9 * len(config.points), base.width), nn.Linear(base.width, base.width)
        # One hinted point among many that are not must speak as loud as the base's tokens, or it is learned slowly.
        nn.init.normal_(first.weight, std=0.5)
        nn.init.normal_(last.weight, std=2 / base.width**0.5)
        self.enter = nn.Sequential(first, nn.GELU(), last)
        self.blocks = nn.ModuleList(Block(base) for _ in range(config.depth))
        self.leave = nn.ModuleList(nn.Linear(base.width, base.width) for _ in range(config.depth))
        for back in self.leave.parameters():
            nn.init.zeros_(back)

    def copy_blocks(self, base: MotionTransformer) -> None:
        """Let the blocks be the base's first."""
        for own, theirs in zip(self.blocks, base.blocks, strict=False):
            own.load_state_dict(theirs.state_dict())

    def tokens(self, told: Told) -> Tensor:
        """Return what the hints add to the tokens, (N, F, width)."""
        places, nearness = filled(told, self.fps)
        seen = torch.where(nearness > 0, (places - self.mean) / self.spread, 0.0)
        tokens: Tensor = self.enter(torch.cat([seen, nearness, told.flags.to(seen)], -1).flatten(-2))
        return tokens


def filled(told: Told, fps: float) -> tuple[Tensor, Tensor]:
    """Return places (N, F, P, 3) with those between hints on straight lines, and how near in time a hint is.

    Before the first hint of a coordinate and after its last one it stays. Nearness is exp(-s / `NEAR`) of the seconds s
    to the next hint on either side, and 0 where the coordinate is never told.
    """
    frames = told.flags.shape[1]
    index = torch.arange(frames, device=told.flags.device)[:, None, None].expand(told.flags.shape)
    before = torch.where(told.flags, index, -1).cummax(1).values
    after = torch.where(told.flags, index, frames).flip(1).cummin(1).values.flip(1)
    ever = (before >= 0) | (after < frames)
    before, after = torch.where(before < 0, after, before), torch.where(after < frames, after, before)
    # Coordinates that are never told look at a frame that exists, and count for nothing.
    before, after = before.clamp(0, frames - 1), after.clamp(0, frames - 1)
    places = torch.where(told.flags, told.places, 0.0)
    share = ((index - before) / (after - before).clamp(min=1)).clamp(0, 1).to(places)
    line = torch.lerp(places.gather(1, before), places.gather(1, after), share)
    seconds = torch.minimum((index - before).abs(), (after - index).abs()) / fps
    return line, torch.exp(-seconds / NEAR).to(places) * ever


class ControlledTransformer(nn.Module):
    """A base and its branch as one network.

    Args:
        base: is not changed, and learns nothing.
        branch: of that base.
    """

    def __init__(self, base: MotionTransformer, branch: ControlBranch) -> None:
        super().__init__()
        self.base, self.branch = base.requires_grad_(False), branch
        stride = len(base.blocks) / len(branch.blocks)
        self.places = {round((step + 1) * stride) - 1: step for step in range(len(branch.blocks))}

    def forward(
        self, x: Tensor, time: Tensor, *, actions: Tensor, known: Tensor | None = None, visible: Tensor | None = None,
        told: Told,
    ) -> Tensor:  # fmt: skip
        """Return the estimate (N, F, D) of the clean features; arguments as the base's, and the hints."""
        h, level, turn, mask = self.base.begin(x, time, actions=actions, known=known, visible=visible)
        # A window without hints is the base's, whatever the branch has learned.
        steered = told.flags.flatten(1).any(1)[:, None, None]
        c = h + self.branch.tokens(told)
        for place, block in enumerate(self.base.blocks):
            h = block(h, level, turn, mask)
            step = self.places.get(place)
            if step is not None:
                c = self.branch.blocks[step](c, level, turn, mask)
                h = h + steered * self.branch.leave[step](c)
        return self.base.leave(self.base.norm(h))


class ControlledModel(MotionModel):
    """A motion model whose network is told of hints too.

    Args:
        base: whose network, body and statistics it has.
        config: of the branch.
        branch: in evaluation mode.

    Raises:
        InputError: the body has no joint for a point.
    """

    hears_hints = True

    def __init__(self, base: MotionModel, config: ControlConfig, branch: ControlBranch) -> None:
        vars(self).update(vars(base))  # all that the base is; nothing of it is computed anew
        self.points = Points(config.points, base.body.skeleton)
        self.controlled = ControlledTransformer(base.network, branch.to(base.device))

    def heard(self, hints: Sequence[Hint]) -> tuple[Hint, ...]:
        """Return those of the hints whose point the branch knows."""
        return tuple(hint for hint in hints if self.points.knows(hint))

    def network_for(self, hints: Sequence[Hint], frames: int) -> Callable[..., Tensor]:
        """Return the network that is told of the hints of a window; without any, the base's.

        Raises:
            InputError: a hint of a point that the branch does not know, or of a frame outside the window.
        """
        if not hints:
            return self.network
        told = self.points.told(hints, frames).to(self.device)
        return partial(self.controlled, told=told)

"""Motion from noise: a network with its body and statistics, and what of a motion is known beforehand.

Known features are put into what the network sees, without noise, and into every estimate, so the sample has them as
they are. The network was trained so (`motion.windows.KNOWN`) and goes on from them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from motion.actions import action_indices
from motion.anatomy import Anatomy, anatomy_of
from motion.clips import Motion
from motion.config import MotionConfig
from motion.features import GROUPS, PATH, Body
from motion.goals import Hint
from motion.network import MotionTransformer
from shared.denoiser import Denoiser, NetworkDenoiser
from shared.errors import InputError
from shared.grid import Grid, trailing_grid
from shared.process import Time
from shared.sampling import Solver, sample

CALLS = 20


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of a window of F frames, seen from where the body stands at its first frame.

    Attributes:
        body: whose features they are.
        features: (F, D), m and so on; those not known are of no account.
        groups: (F, G) bool, which of `motion.features.GROUPS` are known.
    """

    body: Body
    features: Tensor
    groups: Tensor

    @property
    def mask(self) -> Tensor:
        """Return which features are known, (F, D) bool."""
        return self.groups[:, self.body.groups]

    def __or__(self, other: Known) -> Known:
        """Return what both know; where both know, the other's.

        Raises:
            InputError: windows of other lengths.
        """
        if len(self.groups) != len(other.groups):
            raise InputError(
                "known", found=f"{len(self.groups)} and {len(other.groups)} frames", expected="one length",
                fix="Make both for the same window.",
            )  # fmt: skip
        features = torch.where(other.mask, other.features, self.features)
        return Known(self.body, features, self.groups | other.groups)


def known_poses(body: Body, motion: Motion, at: Sequence[int], frames: int) -> Known:
    """Return that the poses of `motion` stand at the frames `at` of a window.

    Args:
        body: of the motion.
        motion: one frame for each of `at`, in the window's place: canonical at its first frame (`Motion.canonical`).
        at: different frames, 0 to F - 1.
        frames: F.

    Raises:
        InputError: frames outside the window, or another number of them.
    """
    places = list(at)
    if len(places) != motion.frames or len(set(places)) < len(places) or not all(0 <= k < frames for k in places):
        raise InputError(
            "known frames", found=f"{motion.frames} poses at {places}",
            expected=f"one different frame of 0 to {frames - 1} for each", fix="Correct the frames.",
        )  # fmt: skip
    features = torch.zeros(frames, body.size)
    groups = torch.zeros(frames, len(GROUPS), dtype=torch.bool)
    features[places] = body.encode(motion).float()
    groups[places] = True
    return Known(body, features, groups)


def known_path(body: Body, path: Tensor) -> Known:
    """Return that the hips are over `path`, (F, 2) m, in the axes of the window's first frame."""
    features = torch.zeros(len(path), body.size)
    groups = torch.zeros(len(path), len(GROUPS), dtype=torch.bool)
    features[:, PATH] = path.float()
    groups[:, GROUPS.index("path")] = True
    return Known(body, features, groups)


class MotionModel:
    """A trained network with the body it moves.

    Args:
        config: of the network.
        body: whose features it makes.
        network: in evaluation mode.
        mean: of the features of windows, (D,).
        spread: their standard deviation, (D,).
        device: where to compute.
        foot_heights: (K,) m over the floor, of the joints of `Body.feet` when they rest; None for what the standing
            body tells.

    Attributes:
        hears_hints: whether hints change what the network makes (`motion.control.ControlledModel`).
    """

    hears_hints = False

    def __init__(
        self, config: MotionConfig, body: Body, network: MotionTransformer, mean: Tensor, spread: Tensor,
        device: torch.device | str = "cpu", *, foot_heights: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.config, self.body, self.device = config, body, torch.device(device)
        self.foot_heights = foot_heights
        self.network = network.to(self.device)
        self.mean, self.spread = mean.to(self.device), spread.to(self.device)
        self.process = config.process()

    @cached_property
    def anatomy(self) -> Anatomy:
        """Return the anatomy of the body; only what guides or judges in a scene asks for it.

        Raises:
            InputError: joints whose names say no part of a body.
        """
        return anatomy_of(self.body.skeleton, foot_heights=self.foot_heights)

    def normalised(self, features: Tensor) -> Tensor:
        """Return features (..., D) as the network sees them."""
        return (features.to(self.mean) - self.mean) / self.spread

    def features(self, x: Tensor) -> Tensor:
        """Return the features, m and so on, of what the network makes (..., D); differentiable."""
        return x * self.spread + self.mean

    def motion(self, x: Tensor) -> Motion:
        """Return the motion of one sample (F, D)."""
        return self.body.decode(self.features(x).detach().cpu(), self.config.fps)

    def action_table(self, actions: str | Sequence[str], frames: int) -> Tensor:
        """Return the network's indices of actions, (F,): one for all frames, or one a frame.

        Raises:
            InputError: an unknown action, or not one a frame.
        """
        return action_indices(actions, frames, self.config.actions)

    def heard(self, hints: Sequence[Hint]) -> tuple[Hint, ...]:
        """Return those of the hints that the network can be told; this one hears none."""
        return ()

    def network_for(self, hints: Sequence[Hint], frames: int) -> Callable[..., Tensor]:
        """Return the network for a window with hints; this one hears none of them."""
        return self.network

    def denoiser(self, actions: Tensor, known: Known | None = None, hints: Sequence[Hint] = ()) -> Denoiser:
        """Return the estimate of clean normalised features (N, F, D), with the known ones as they are.

        Args:
            actions: indices (F,) or (N, F).
            known: of the window; None for nothing.
            hints: of the window, in its own axes; a model that does not hear them leaves them to guidance.

        Raises:
            InputError: a known window of another length, a hint of a point that the model does not know, or of a frame
                outside the window.
        """
        if known is not None and len(known.groups) != (frames := actions.shape[-1]):
            raise InputError(
                "known", found=f"{len(known.groups)} frames", expected=f"{frames}, those to draw",
                fix="Make it for them.",
            )  # fmt: skip
        actions = actions.to(self.device)
        asked = self.network_for(hints, actions.shape[-1])
        groups = None if known is None else known.groups.to(self.device)

        def network(x: Tensor, time: Tensor) -> Tensor:
            given = None if groups is None else groups.expand(len(x), -1, -1)
            estimate: Tensor = asked(x, time, actions=actions.expand(x.shape[:2]), known=given)
            return estimate

        denoiser = NetworkDenoiser(network, self.process, "sample")
        return denoiser if known is None else self._keeping(denoiser, known)

    def _keeping(self, denoiser: Denoiser, known: Known) -> Denoiser:
        given = self.normalised(known.features)
        mask = known.mask.to(self.device)

        def denoise(x: Tensor, t: Time, /) -> Tensor:
            return torch.where(mask, given, denoiser(torch.where(mask, given, x), t))

        return denoise


def draw(
    model: MotionModel,
    actions: str | Sequence[str],
    frames: int,
    *,
    count: int = 1,
    known: Known | None = None,
    hints: Sequence[Hint] = (),
    calls: int = CALLS,
    grid: Grid | None = None,
    solver: Solver | None = None,
    generator: torch.Generator | None = None,
) -> list[Motion]:
    """Draw motions, each seen from its first frame: hips over the origin, facing y.

    Args:
        model: of `motion.files.load_model`.
        actions: of all frames, or one a frame.
        frames: F; windows of the training had `model.config.frames`.
        count: how many motions.
        known: what the motions must have.
        hints: where points of the body should be, seen from the first frame; only a controlled model hears them.
        calls: of the network.
        grid: levels; None for `calls` trailing ones.
        solver: None for the exponential multistep one of order 2.
        generator: source of the noise; same seed, same motions.

    Raises:
        InputError: unknown actions, a known window of another length, or hints that the model does not know.
    """
    from shared.solvers.multistep import Multistep

    table = model.action_table(actions, frames)
    if hints and not model.hears_hints:
        raise InputError(
            "hints", found="a model that hears none", expected="one with a control branch",
            fix="Give the branch's file as the model.",
        )  # fmt: skip
    x = model.process.noise((count, frames, model.body.size), generator, device=model.device)
    levels = trailing_grid(model.process, calls) if grid is None else grid
    drawn = sample(model.denoiser(table, known, hints), x, levels, solver or Multistep(order=2), generator=generator)
    return [model.motion(one) for one in drawn]

"""Push-T: a round pusher turns and moves a T onto its goal. The task of Diffusion Policy, in gym-pusht's physics.

Initial states are those of Diffusion Policy's seeds (`numpy.random.RandomState(seed)`, set in the order that its
evaluation and its recordings use), so seed 100000 is the same world here and there. The world is 512 x 512 pixels, the
action is where the pusher should go (pixels), ten actions a second, and the reward is min(1, coverage / 0.95).

A policy that looks at an image, of any name, gets gym-pusht's picture of the world in the size that it asks for.

References:
    Chi et al., Diffusion Policy, RSS 2023; Florence et al., Implicit Behavioral Cloning, 2021.
    gym-pusht 0.1.8 (Apache-2.0), whose state assignment and physics are those of the original.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from robotics.packages import require
from robotics.policy.config import ImageField
from robotics.policy.environments import Environment
from shared.errors import InputError

KEYPOINTS = np.array(
    [
        [9.2695, 90.0411], [-60.9833, -1.1870], [60.9129, -1.3930], [-0.2705, 25.5437], [-14.0653, 122.8158],
        [39.0027, 32.8576], [-39.9664, 32.7295], [-16.8245, 62.8632], [23.5416, -1.7001],
    ]
)  # fmt: skip
"""The nine points of the recordings in the frame of the T (pixels): means over all 25 650 frames, spread below 0.03."""


class PushT:
    """One world of Push-T; see `robotics.policy.environments.World`.

    Args:
        images: pictures that belong to an observation, of three channels.

    Raises:
        MissingExtra: gym-pusht is absent.
        InputError: an image that is not in colours.
    """

    rate_hz = 10.0
    steps = 300
    first_seed = 100_000
    limits = (np.zeros(2), np.full(2, 512.0))
    rest: tuple[float | None, ...] = (None, None)
    over = False

    def __init__(self, images: Sequence[ImageField] = ()) -> None:
        for field in images:
            if field.shape[0] != 3:
                raise InputError(
                    f"observation {field.name}", found=f"{field.shape[0]} channels", expected="3: Push-T is in colours",
                    fix="Correct shape in the configuration.",
                )  # fmt: skip
        self._images = tuple(images)
        require("gym_pusht", "for the Push-T task")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
        from gym_pusht.envs.pusht import PushTEnv

        self._env: Any = PushTEnv(obs_type="state", render_mode="rgb_array")

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Return the first observation of the world of a seed (0 to 2^32 - 1)."""
        state, _ = self._env.reset(seed=seed, options={"reset_to_state": initial_state(seed)})
        return self._seen(state)

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool]:
        """Return the observation after 0.1 s of an action (2,), the reward in [0, 1], and whether it is solved."""
        state, reward, solved, _, _ = self._env.step(np.clip(action, 0, 512))
        return self._seen(state), float(reward), bool(solved)

    def _seen(self, state: np.ndarray) -> dict[str, np.ndarray]:
        return {
            **observation(state), **{field.name: self.picture(*field.shape[1:]) for field in self._images},
        }  # fmt: skip

    def picture(self, height: int = 680, width: int = 680) -> np.ndarray:
        """Return the world from above, (height, width, 3) uint8; the command is not drawn."""
        frame: np.ndarray = self._env._get_img(self._env._draw(), width, height)
        return frame

    def place(self, state: np.ndarray) -> None:
        """Put pusher and T where a recorded state (5,) has them, at rest; `reset` of gym-pusht puts the T elsewhere."""
        env = self._env
        env.agent.position, env.agent.velocity = tuple(map(float, state[:2])), (0, 0)
        env.block.angle = float(state[4])  # before the position, because it turns about the body's origin
        env.block.position, env.block.velocity, env.block.angular_velocity = tuple(map(float, state[2:4])), (0, 0), 0
        for body in (env.agent, env.block):
            env.space.reindex_shapes_for_body(body)  # or it is drawn where it was

    def hold(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the action that stays: go to where the pusher is."""
        return np.asarray(seen["state"][:2], dtype=np.float64)

    def disturb(self, source: np.random.Generator, size: float) -> None:
        """Push the T by `size` pixels in a tenth of a second in which the pusher stands still.

        The direction is random; where the T would leave [100, 400], the range of its first positions, it is pushed
        towards the middle instead.
        """
        env, substeps = self._env, 10
        position, turn = np.array(env.block.position), 2 * np.pi * source.random()
        push = size * np.array([np.cos(turn), np.sin(turn)])
        if np.any(np.abs(position + push - 250) > 150):
            inward = 256 - position
            push = size * inward / max(float(np.linalg.norm(inward)), 1e-9)
        env.agent.velocity = (0, 0)
        for _ in range(substeps):
            env.block.velocity = tuple(push / (substeps * env.dt))  # damping stops the T after every substep
            env.space.step(env.dt)

    def close(self) -> None:
        """Release the world."""
        self._env.close()


def environment(variant: str, images: Sequence[ImageField]) -> Environment:
    """Return the environment `pusht`, whose observations have these pictures.

    Raises:
        InputError: a variant, of which there are none.
    """
    if variant:
        raise InputError(f"pusht/{variant}", found=repr(variant), expected="nothing after pusht", fix="Leave it out.")
    return Environment("pusht", partial(PushT, images), PushT.first_seed)


def initial_state(seed: int) -> np.ndarray:
    """Return pusher x, y, T x, y (pixels) and angle (radians) of a seed."""
    source = np.random.RandomState(seed)  # the published seeds are of this generator
    positions = [source.randint(50, 450), source.randint(50, 450), source.randint(100, 400), source.randint(100, 400)]
    return np.array([*positions, source.randn() * 2 * np.pi - np.pi])


def observation(state: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of the recordings, `state` (5,) and `keypoint` (9, 2), of a state."""
    return {"state": np.asarray(state, dtype=np.float32), "keypoint": keypoints(state).astype(np.float32)}


def mirrored(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return recorded frames in the mirror: `state` (..., 5) or (..., 2), `keypoint`, which needs it, and `action`.

    The T is symmetric about its stem, and on its goal the stem lies on the diagonal x + y = 512 of the square world.
    The reflection there, (x, y) -> (512 - y, 512 - x) and angle -> pi/2 - angle, therefore maps walls, T and goal to
    themselves: the mirror image of a demonstration is one. (The walls of gym-pusht end one pixel off.)

    Raises:
        InputError: an array of another name, which has no known mirror image, or keypoints without the whole state.
    """
    reflected: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        if name not in ("state", "keypoint", "action"):
            raise InputError(
                f"array {name}", found="no mirror image of it", expected="state, keypoint or action",
                fix="Leave mirror out of the configuration.",
            )  # fmt: skip
        if name == "keypoint":
            continue
        flipped = np.array(values)
        for x in range(0, min(values.shape[-1], 4), 2):
            flipped[..., x], flipped[..., x + 1] = 512 - values[..., x + 1], 512 - values[..., x]
        flipped[..., 4:] = (np.pi / 2 - values[..., 4:]) % (2 * np.pi)
        reflected[name] = flipped
    if "keypoint" in arrays:
        state = reflected.get("state")
        if state is None or state.shape[-1] != 5:
            raise InputError(
                "keypoint", found="no state of five numbers beside it", expected="place and angle of the T",
                fix="Leave mirror out of the configuration.",
            )  # fmt: skip
        reflected["keypoint"] = keypoints(state).astype(arrays["keypoint"].dtype).reshape(arrays["keypoint"].shape)
    return reflected


def keypoints(state: np.ndarray) -> np.ndarray:
    """Return the nine points on the T (..., 9, 2) in pixels of states (..., 5): R(angle) p + position."""
    state = np.asarray(state, dtype=np.float64)
    c, s = np.cos(state[..., 4, None]), np.sin(state[..., 4, None])
    x = c * KEYPOINTS[:, 0] - s * KEYPOINTS[:, 1] + state[..., 2, None]
    y = s * KEYPOINTS[:, 0] + c * KEYPOINTS[:, 1] + state[..., 3, None]
    return np.stack([x, y], axis=-1)

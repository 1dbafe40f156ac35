"""Meta-World's tasks: a Sawyer arm with a gripper moves objects, in MuJoCo at 80 Hz, with a scripted expert for each.

Actions are three motions of the hand in [-1, 1] (0.8 m/s at most) and the force of the gripper, positive closes.
Observed are, in metres,

| array | numbers |
| --- | --- |
| `hand` (4,) | position of the hand, opening of the gripper (1 is 0.1 m) |
| `object` (14,) | position and quaternion of the object, then of a second one; 0 where there is none |
| `goal` (3,) | where the object should be |

Object and goal are drawn by `numpy.random.default_rng(seed)` from the task's ranges. The reward is 1 where the task is
solved, else a tenth of Meta-World's reward.

Reference: Yu et al., Meta-World, CoRL 2019; metaworld 3.1.1 (MIT).
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from ctypes.util import find_library
from functools import partial
from typing import Any

import numpy as np

from robotics.packages import require
from robotics.policy.config import ImageField
from robotics.policy.environments import Environment, refuse_images
from shared.errors import InputError

SUFFIX = "-v3"
SIDE = 240  # pixels of a picture
CAMERA, CAMERA_AT = "corner2", (0.75, 0.075, 0.7)  # nearer to the table than where the task puts it
HAND, OBJECT, GOAL = slice(0, 4), slice(4, 18), slice(36, 39)  # of Meta-World's observation; 18 to 36 is the last one


class MetaWorld:
    """One world of a task; see `robotics.policy.environments.World`.

    Args:
        task: name without "-v3", such as "pick-place".

    Raises:
        InputError: no such task, or a policy that looks at pictures.
        MissingExtra: metaworld is absent.
    """

    rate_hz = 80.0
    steps = 200
    limits = (-np.ones(4), np.ones(4))
    rest: tuple[float | None, ...] = (0.0, 0.0, 0.0, None)
    over = False

    def __init__(self, task: str) -> None:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP

        env: Any = ALL_V3_ENVIRONMENTS[task + SUFFIX](
            render_mode="rgb_array", camera_name=CAMERA, width=SIDE, height=SIDE
        )
        # What its own "goal observable" classes set, and a random state that belongs to this world alone.
        del env.sawyer_observation_space  # it was made, and kept, for a hidden goal
        env._partially_observable = env._freeze_rand_vec = False
        env.seeded_rand_vec = env._set_task_called = True
        env.model.camera(CAMERA).pos[:] = CAMERA_AT
        self._env, self._expert, self._seen = env, ENV_POLICY_MAP[task + SUFFIX](), np.zeros(39)

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Return the first observation of the world of a seed."""
        self._env.np_random = np.random.default_rng(seed)
        self._seen, _ = self._env.reset()
        return self._observation()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool]:
        """Return the observation after 1/80 s of an action (4,), the reward in [0, 1], and whether it is solved."""
        bounded = np.clip(action, *self.limits).astype(np.float32)
        self._seen, reward, _, _, facts = self._env.step(bounded)
        solved = bool(facts["success"])
        return self._observation(), 1.0 if solved else float(reward) / 10, solved

    def hold(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the action that stays: no motion, no force."""
        return np.zeros(4)

    def disturb(self, source: np.random.Generator, size: float) -> None:
        """Pull the hand by `size` metres in a random direction; it gets there within the next ticks."""
        way = source.standard_normal(3)
        target = self._env.data.mocap_pos + size * way / np.linalg.norm(way)
        self._env.data.mocap_pos = np.clip(target, self._env.mocap_low, self._env.mocap_high)

    def expert(self) -> np.ndarray:
        """Return what the scripted expert does now, (4,)."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that its answer exceeds 1, which is limited here
            return np.clip(self._expert.get_action(self._seen), *self.limits)

    def picture(self) -> np.ndarray:
        """Return the view of a camera; the one of the task hangs upside down.

        Raises:
            InputError: there is no OpenGL.
        """
        if os.environ.get("MUJOCO_GL") == "disabled":
            raise InputError(
                "MUJOCO_GL", found="disabled, or no EGL on this computer", expected="OpenGL for pictures",
                fix="Install libEGL and libGL (Mesa will do), or leave the video out.",
            )  # fmt: skip
        return np.ascontiguousarray(self._env.render()[::-1, ::-1])

    def close(self) -> None:
        """Release the world."""
        self._env.close()

    def _observation(self) -> dict[str, np.ndarray]:
        seen = self._seen.astype(np.float32)
        return {"hand": seen[HAND], "object": seen[OBJECT], "goal": seen[GOAL]}


def environment(task: str, images: Sequence[ImageField]) -> Environment:
    """Return the environment of a task.

    Raises:
        InputError: no such task, or a policy that looks at pictures.
        MissingExtra: metaworld is absent.
    """
    refuse_images(f"metaworld/{task}", images)
    require("metaworld", "for the tasks of Meta-World", extra="metaworld")
    if sys.platform == "linux" and "DISPLAY" not in os.environ:
        # MuJoCo reads it when it is imported, and cannot be imported where what it names is absent.
        present = find_library("EGL") and (find_library("OpenGL") or find_library("GL"))
        os.environ.setdefault("MUJOCO_GL", "egl" if present else "disabled")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    known = [name.removesuffix(SUFFIX) for name in ALL_V3_ENVIRONMENTS]
    if task not in known:
        raise InputError(
            f"metaworld/{task}", found=f"the task {task!r}", expected=f"one of {', '.join(known)}", fix="Correct it."
        )
    return Environment(f"metaworld/{task}", partial(MetaWorld, task))

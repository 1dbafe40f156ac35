"""Any gymnasium environment of numbers as a world: its spaces are the names and limits.

| space | becomes |
| --- | --- |
| observation `Dict` of `Box` | one array a key |
| observation `Box` | the array `observation` |
| action `Box` | the action, flattened in C order; where it has no bounds, the policy's demonstrations set them |

Nothing is known of a gymnasium environment but its spaces: its rate is its `render_fps`, the action that stays is taken
to be 0, it cannot be pushed, and its reward is passed on as it is. `is_success` or `success` of its info say that it is
solved; where it ends otherwise, the world stands still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from robotics.packages import require
from robotics.policy.config import ImageField
from robotics.policy.environments import FAMILIES, Environment, refuse_images
from shared.errors import InputError

STEPS = 1000  # of an environment without a time limit
RATE_HZ = 10.0  # of one that does not tell


class GymWorld:
    """One world; see `robotics.policy.environments.World`.

    Args:
        identifier: "gym_pusht/PushT-v0", or with the module that registers it, "my_robot:Reach-v0".

    Raises:
        InputError: no such environment, or spaces of another kind.
    """

    def __init__(self, identifier: str) -> None:
        import gymnasium
        from gymnasium import spaces

        spec = _spec(identifier)
        entry: Any = spec.entry_point if callable(spec.entry_point) else gymnasium.envs.registration.load_env_creator(
            str(spec.entry_point)
        )  # fmt: skip
        modes = getattr(entry, "metadata", {}).get("render_modes", ())
        options = {"render_mode": "rgb_array"} if "rgb_array" in modes else {}
        env: Any = gymnasium.make(spec, **options)
        seen, action = env.observation_space, env.action_space
        parts = seen.spaces if isinstance(seen, spaces.Dict) else {"observation": seen}
        for name, space in {**parts, "action": action}.items():
            if not isinstance(space, spaces.Box):
                env.close()
                raise InputError(
                    identifier, found=f"{name} in {space}", expected="a Box of numbers", fix="Wrap the environment."
                )
        self._env, self._identifier, self._alone = env, identifier, not isinstance(seen, spaces.Dict)
        self._space, self._last = action, dict[str, np.ndarray]()
        self.over = False
        self.rate_hz = float(env.metadata.get("render_fps") or RATE_HZ)
        self.steps = spec.max_episode_steps or STEPS
        low, high = (np.asarray(bound, dtype=np.float64).reshape(-1) for bound in (action.low, action.high))
        self.limits = (low, high)
        self.rest: tuple[float | None, ...] = (None,) * len(low)

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Return the first observation of the world of a seed."""
        seen, _ = self._env.reset(seed=seed)
        self.over = False
        self._last = self._named(seen)
        return self._last

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool]:
        """Return the observation after an action (A,), the reward, and whether the info says that it is solved."""
        if self.over:
            return self._last, 0.0, False
        bounded = np.clip(action, *self.limits).astype(self._space.dtype).reshape(self._space.shape)
        seen, reward, ended, truncated, facts = self._env.step(bounded)
        solved = bool(facts.get("is_success", facts.get("success", False)))
        self.over = bool(ended or truncated) and not solved
        self._last = self._named(seen)
        return self._last, float(reward), solved

    def hold(self, seen: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return 0, or the nearest action to it."""
        return np.clip(np.zeros(len(self.limits[0])), *self.limits)

    def disturb(self, source: np.random.Generator, size: float) -> None:
        """Refuse, because nothing is known that could be pushed.

        Raises:
            InputError: always.
        """
        raise InputError(
            self._identifier, found="a disturbance", expected="none: a gymnasium environment has no way to be pushed",
            fix="Leave it out.",
        )  # fmt: skip

    def picture(self) -> np.ndarray:
        """Return what the environment renders.

        Raises:
            InputError: it renders no pictures.
        """
        picture = None if self._env.render_mode is None else self._env.render()
        if picture is None:
            raise InputError(
                self._identifier, found="no pictures", expected="the render mode rgb_array", fix="Leave the video out."
            )
        return np.asarray(picture, dtype=np.uint8)

    def close(self) -> None:
        """Release the world."""
        self._env.close()

    def _named(self, seen: Any) -> dict[str, np.ndarray]:
        parts = {"observation": seen} if self._alone else seen
        return {name: np.asarray(value, dtype=np.float32) for name, value in parts.items()}


def environment(identifier: str, images: Sequence[ImageField]) -> Environment:
    """Return the environment of a gymnasium id.

    Raises:
        InputError: gymnasium knows none of that name, or a policy that looks at pictures.
        MissingExtra: gymnasium is absent.
    """
    refuse_images(identifier, images)
    require("gymnasium", "for gymnasium environments")
    _spec(identifier)
    return Environment(identifier, partial(GymWorld, identifier))


def _spec(identifier: str) -> Any:
    import gymnasium

    try:
        # "module:id" imports the module, which registers the id.
        module, _, name = identifier.rpartition(":")
        if module:
            __import__(module)
        return gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError) as error:
        raise InputError(
            "--env", found=f"{identifier!r} ({str(error).partition(chr(10))[0].rstrip('.')})",
            expected=f"{', '.join(FAMILIES)}/TASK, or a gymnasium id, with its module as module:id where it needs one",
            fix="Correct it.",
        ) from error  # fmt: skip

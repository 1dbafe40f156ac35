"""The policy's part of `fewstep demo`: Push-T from noise and from warm starts at equal calls."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from robotics.packages import require
from shared.pictures import label, montage
from shared.report import Code, Picture, Section, Table

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image as Bitmap

WEIGHTS = "robotics/pusht_small"
WORLDS = 6
CALLS = 4
LEVELS = (20, 10, 4, 0)
EXECUTE = 2  # ticks between two chunks
TICKS = 200
SIDE, DRAWN = 200, 2  # pixels of a tile, and how many times larger it is drawn
WORLD = 512.0  # pixels of Push-T
GOAL = np.array([256.0, 256.0, np.pi / 4])
BAR = np.array([[-60, 0], [60, 0], [60, 30], [-60, 30]], dtype=np.float64)  # the two parts of the T in its frame
STEM = np.array([[-15, 30], [15, 30], [15, 120], [-15, 120]], dtype=np.float64)
GROUND, GREEN, FIRST, LAST = (24, 26, 30), (40, 92, 62), (74, 80, 92), (176, 190, 214)
EARLY, LATE = np.array([70, 130, 255]), np.array([255, 150, 60])


def demo(folder: Path, *, seed: int, device: torch.device) -> list[Section]:
    """Run the worlds in both ways; `folder` is not used, everything is on the page."""
    require("gym_pusht", "for the Push-T task")
    from robotics.policy.evaluation import evaluate
    from robotics.policy.files import load_policy
    from robotics.policy.pusht import PushT
    from robotics.policy.rolling import RollingPolicy
    from robotics.policy.warmstart import WarmStart

    class Traced(PushT):
        """A world that keeps its states."""

        def __init__(self) -> None:
            super().__init__()
            self.states: list[np.ndarray] = []
            worlds.append(self)

        def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool]:
            seen, reward, solved = super().step(action)
            self.states.append(seen["state"])
            return seen, reward, solved

    policy = load_policy(WEIGHTS, device)
    ways = {
        f"from noise: DDIM, {CALLS} calls": WarmStart(mode="cold"),
        f"warm start with noise, levels {', '.join(map(str, LEVELS))}": WarmStart(levels=LEVELS),
    }
    seeds = range(PushT.first_seed, PushT.first_seed + WORLDS)
    rows, pictures = [], []
    for name, warm in ways.items():
        worlds: list[Traced] = []
        rolling = RollingPolicy(policy, warm=warm, cold_grid=policy.grid(CALLS), environments=WORLDS)
        begin = time.perf_counter()
        with one_thread():
            found = evaluate(rolling, Traced, seeds, execute=EXECUTE, steps=TICKS, seed=seed)
        seconds = time.perf_counter() - begin
        numbers = found.numbers()
        rows.append(
            (
                name, numbers["calls_per_chunk"], numbers["mean_max_score"], numbers["mean_max_score_standard_error"],
                numbers["jerk"], seconds,
            )
        )  # fmt: skip
        tiles = [
            draw_episode(np.array(world.states), f"{episode.score:.2f}")
            for world, episode in zip(worlds, found.episodes, strict=True)
        ]
        pictures.append(Picture(montage(tiles, columns=WORLDS), name, alt=f"paths of pusher and T, {name}"))
    return [
        Section(
            "Policy: Push-T in few calls",
            (
                "Simulated. A small diffusion policy (0.88 million parameters, trained on human demonstrations) pushes "
                f"the T onto the green goal in {WORLDS} worlds, with a new chunk of actions every {EXECUTE} ticks and "
                f"{CALLS} network calls for each. Above every chunk starts from noise, below from the last chunk with "
                "noise of a low level. The thin line is the pusher, from blue to orange in time, the dark T is the "
                "beginning, the light one the end; the number is the score, 1 is solved.",
                *pictures,
                Table(
                    ("chunks start", "calls a chunk", "score", "standard error", "jerk in px", "seconds"),
                    rows,
                    f"Mean of the largest reward in {TICKS} ticks over {WORLDS} worlds; docs/policy.md has 50 worlds.",
                ),
                Code(
                    f"fewstep policy evaluate {WEIGHTS} --episodes {WORLDS} --parallel {WORLDS} --calls {CALLS} "
                    f"--execute {EXECUTE} --steps {TICKS} --levels {','.join(map(str, LEVELS))} --video pusht.gif"
                ),
            ),
        )
    ]


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread: so small a network only waits for more, long where the machine is busy."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def draw_episode(states: np.ndarray, text: str) -> Bitmap:
    """Return a picture of an episode from above.

    Args:
        states: of Push-T, (ticks, 5).
        text: written into a corner.
    """
    from PIL import Image, ImageDraw

    scale = SIDE * DRAWN / WORLD
    picture = Image.new("RGB", (SIDE * DRAWN, SIDE * DRAWN), GROUND)
    draw = ImageDraw.Draw(picture)
    for pose, colour in ((GOAL, GREEN), (states[0, 2:], FIRST), (states[-1, 2:], LAST)):
        for part in (BAR, STEM):
            draw.polygon([tuple(point) for point in scale * placed(part, pose)], fill=colour)
    path = scale * states[:, :2]
    for place, (here, there) in enumerate(pairwise(path)):
        share = place / len(path)
        red, green, blue = ((1 - share) * EARLY + share * LATE).astype(int).tolist()
        draw.line([tuple(here), tuple(there)], fill=(red, green, blue), width=2 * DRAWN - 1)
    picture = picture.resize((SIDE, SIDE), Image.Resampling.BOX)
    label(picture, text)
    return picture


def placed(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Return points (N, 2) of the T's frame in the world, for a pose x, y, angle: R(angle) p + (x, y)."""
    c, s = np.cos(pose[2]), np.sin(pose[2])
    return points @ np.array([[c, s], [-s, c]]) + pose[:2]

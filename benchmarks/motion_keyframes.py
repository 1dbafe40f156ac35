"""Keyframes of one point of the body: a motion model alone against the same one with its control branch.

    python -m benchmarks.motion_keyframes BRANCH.safetensors --data clips.safetensors --windows 24 --json keyframes.json

Windows of held-out clips; of each, one point (they take turns) is hinted at five frames where the clip had it, and one
motion is drawn with the clip's actions, from the same noise by both. "history" rows know the first ten frames too.
GMD's errors (`motion.metrics.keyframe_errors`); jerk beside that of the clips; seconds of CPU time a call, one window.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from motion.actions import ACTIONS
from motion.collection import load_collection
from motion.control import ControlledModel
from motion.control_files import read_branch
from motion.goals import Hint
from motion.metrics import jerk, keyframe_errors
from motion.model import Known, draw
from motion.windows import WindowSource

POINTS = ("pelvis", "head", "left_hand", "right_hand", "left_ankle", "right_toe")
KEYFRAMES, HISTORY, CALLS = 5, 10, 20


def measure(model: ControlledModel, windows, source: np.random.Generator) -> dict[str, dict[str, float]]:
    """Return the numbers of each row."""
    body, fps = model.body, model.config.fps
    made: dict[str, list[torch.Tensor]] = {}
    jerks: dict[str, list[float]] = {}
    wanted, real = [], []
    for place in range(len(windows.features)):
        features = windows.features[place][windows.valid[place]]
        frames = len(features)
        positions = body.positions(features.double())
        real.append(float(jerk(positions, fps).mean()))
        joints = model.points.joints[model.points.index(POINTS[place % len(POINTS)])]
        at = torch.from_numpy(np.sort(source.choice(np.arange(HISTORY, frames), KEYFRAMES, replace=False)))
        targets = positions[at][:, list(joints)].mean(1)
        wanted.append(targets)
        actions = [ACTIONS[action] for action in windows.actions[place, :frames]]
        groups = torch.zeros(frames, int(body.groups.max()) + 1, dtype=torch.bool)
        groups[:HISTORY] = True
        for about, known in (("", None), (", history", Known(body, features, groups))):
            for name, hints in (("base", ()), ("branch", (Hint(joints, at, targets),))):
                generator = torch.Generator().manual_seed(place)
                motion = draw(model, actions, frames, known=known, hints=hints, calls=CALLS, generator=generator)[0]
                drawn = motion.positions()
                made.setdefault(name + about, []).append(drawn[at][:, list(joints)].mean(1))
                jerks.setdefault(name + about, []).append(float(jerk(drawn, fps).mean()))
    rows = {
        name: {**keyframe_errors(torch.stack(found), torch.stack(wanted)), "jerk_mean": float(np.mean(jerks[name]))}
        for name, found in made.items()
    }
    for index, point in enumerate(POINTS):
        for name, found in made.items():
            error = keyframe_errors(torch.stack(found[index :: len(POINTS)]), torch.stack(wanted[index :: len(POINTS)]))
            rows[name][point] = error["keyframe_error"]
    return rows | {"clips": {"jerk_mean": float(np.mean(real))}}


def seconds_a_call(model: ControlledModel, hints: tuple[Hint, ...], frames: int, repeats: int = 20) -> float:
    """Return the least CPU time of a call of one window."""
    denoiser = model.denoiser(model.action_table("walk", frames), None, hints)
    x, times = torch.randn(1, frames, model.body.size), []
    for _ in range(repeats):
        begin = time.process_time()
        denoiser(x, 0.5)
        times.append(time.process_time() - begin)
    return min(times)


@torch.no_grad()
def main() -> None:
    """Print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("branch", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="what `fewstep motion collect` wrote")
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    file = read_branch(options.branch)
    model = file.model()
    held_out = WindowSource(load_collection(options.data), file.training["held_out"], only_held_out=True)
    frames, source = model.config.frames[1], np.random.default_rng(0)
    rows = measure(model, held_out.draw(options.windows, frames, source), source)
    hint = Hint(model.points.joints[0], torch.tensor([frames // 2]), torch.zeros(1, 3))
    rows["base"]["seconds_a_call"] = seconds_a_call(model, (), frames)
    rows["branch"]["seconds_a_call"] = seconds_a_call(model, (hint,), frames)
    rows["branch"]["steps"], rows["branch"]["windows"] = file.training["steps"], options.windows
    for name, row in rows.items():
        print(name, " ".join(f"{key} {value:.4g}" for key, value in row.items()))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

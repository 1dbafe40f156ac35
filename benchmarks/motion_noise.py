"""Motions found by their noise: energies, errors and jerk by calls of the network, through a base model or its student.

    python benchmarks/motion_noise.py MODEL --data clips.safetensors [--student FILE] [--budgets 50 200] [--windows 4]

Windows of 90 frames of clips that the model has not seen, with their actions told. Two tasks: `keyframes`, hips and
both hands at their places in five frames; `path`, the pelvis along its recorded way, on time (windows of 1 m and more).
The energy is `motion.energies.Objective` with its usual weights. A budget is calls of the network with their gradient,
of one motion: a sampler of k calls makes budget / k steps. E at 0: of motions as they are drawn. error: mean distance,
cm, of keyframes, or of the pelvis to where it should be on the path. strange: how badly the base denoises the motion
from t = 0.3, E |D - x_0|^2, in units of that of the recorded windows. radius and R: of the noise, in units of what
noise has. decoded: error when the base's DDIM of 10 calls starts from the noise found. s: of the processor, a motion.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from motion.anatomy import Anatomy, anatomy_of
from motion.collection import load_collection
from motion.energies import Objective, skating_energy
from motion.files import read_model
from motion.goals import Follow, Goals, Hint
from motion.kinematics import forward_kinematics
from motion.metrics import jerk
from motion.model import MotionModel
from motion.windows import WindowSource
from shared.files import atomic_path
from shared.grid import trailing_grid
from shared.search.noise import NoiseSearch, correlation, sampler_of, search_noise
from shared.solvers.ddim import DDIM

FRAMES, KEYFRAMES, FPS, FAR = 90, (10, 27, 44, 61, 78), 30.0, 1.0
WAYS = {
    "sphere .03": {"rate": 0.03},
    "sphere .1": {"rate": 0.1},
    "sphere .3": {"rate": 0.3},
    "sphere .3 decorrelated": {"rate": 0.3, "decorrelation": 1000.0},
    "free .1": {"rate": 0.1, "sphere": False},
    "decorrelated .05": {"rate": 0.05, "sphere": False, "decorrelation": 1000.0},
    "decorrelated .1": {"rate": 0.1, "sphere": False, "decorrelation": 1000.0},
}


@dataclass(frozen=True)
class Task:
    """A recorded window and what is asked of motions for it."""

    name: str
    features: Tensor
    actions: Tensor
    objective: Objective
    wanted: Tensor  # (K, joints, 2 or 3) m, at frames
    frames: Tensor
    joints: tuple[int, ...]

    def error(self, positions: Tensor) -> Tensor:
        """Return the mean distance, (N,) m."""
        at = positions[:, self.frames]
        if self.name == "path":
            at = at[:, :, list(self.joints), :2].mean(2, keepdim=True)
        else:
            at = at[:, :, list(self.joints)]
        return (at - self.wanted).norm(dim=-1).mean((1, 2))


def tasks(model: MotionModel, source: WindowSource, anatomy: Anatomy, count: int, seed: int) -> list[Task]:
    """Return both tasks of `count` windows."""
    drawn = source.draw(20 * count, FRAMES, np.random.default_rng(seed))
    positions = model.body.positions(drawn.features.double()).float()
    pelvis = positions[:, :, list(anatomy.pelvis), :2].mean(2)
    travelled = pelvis.diff(dim=1).norm(dim=-1)
    chosen = (drawn.valid.all(1) & (travelled.sum(1) > FAR)).nonzero()[:count, 0].tolist()
    joints = model.body.skeleton.joints("hips", "left_hand", "right_hand")
    found, at = [], torch.tensor(KEYFRAMES)
    for one in chosen:
        hints = tuple(Hint((joint,), at, positions[one, at, joint], name="keyframe") for joint in joints)
        goals = Goals(FRAMES, FPS, hints=hints)
        places = positions[one, at][:, list(joints)]
        found.append(
            Task("keyframes", drawn.features[one], drawn.actions[one], Objective(goals, anatomy), places, at, joints)
        )
        along = torch.cat([torch.zeros(1), travelled[one].cumsum(0)])
        goals = Goals(FRAMES, FPS, follows=(Follow(anatomy.pelvis, 0, pelvis[one], along),))
        places, every = pelvis[one][:, None], torch.arange(FRAMES)
        found.append(
            Task(
                "path",
                drawn.features[one],
                drawn.actions[one],
                Objective(goals, anatomy),
                places,
                every,
                anatomy.pelvis,
            )
        )
    return found


def strange(base: MotionModel, actions: Tensor, features: Tensor) -> float:
    """Return E |D(x_t, t) - x_0|^2 of normalised features (N, F, D) at t = 0.3, the noise always the same."""
    x0 = base.normalised(features)
    noise = torch.randn(8, *x0.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        errors = [base.denoiser(actions)(base.process.add_noise(x0, one, 0.3), 0.3) - x0 for one in noise]
    return float(torch.stack(errors).square().mean())


def run(model: MotionModel, base: MotionModel, task: Task, calls: int, settings: NoiseSearch, seed: int) -> dict:
    """Return the numbers of one search."""
    body, size = model.body, (2, FRAMES, model.body.size)
    noise = model.process.noise(size, torch.Generator().manual_seed(seed))
    sampler = sampler_of(model.denoiser(task.actions), trailing_grid(model.process, calls), DDIM())

    def energy(x: Tensor) -> Tensor:
        return task.objective(*forward_kinematics(body.skeleton, *body.pose(model.features(x))))

    begin = time.process_time()
    found = search_noise(sampler, energy, noise, settings)
    seconds = (time.process_time() - begin) / len(noise)
    decode = sampler_of(base.denoiser(task.actions), trailing_grid(base.process, 10), DDIM())
    with torch.no_grad():
        drawn, made = model.features(sampler(noise)), model.features(found.sample)
        at_0, at_end, decoded = (body.positions(one) for one in (drawn, made, base.features(decode(found.noise))))
    usual = strange(base, task.actions, task.features[None])
    return {
        "E at 0": float(found.history[0].mean()),
        "E": float(found.loss.mean()),
        "error at 0": 100 * float(task.error(at_0).mean()),
        "error": 100 * float(task.error(at_end).mean()),
        "decoded": 100 * float(task.error(decoded).mean()),
        "jerk at 0": float(torch.stack([jerk(one, FPS).mean() for one in at_0]).mean()),
        "jerk": float(torch.stack([jerk(one, FPS).mean() for one in at_end]).mean()),
        "strange at 0": strange(base, task.actions, drawn) / usual,
        "strange": strange(base, task.actions, made) / usual,
        "skating": float(skating_energy(at_end, task.objective.anatomy, FPS).mean()),
        "radius": float(found.noise.flatten(1).norm(dim=1).mean() / noise[0].numel() ** 0.5),
        "R": float(correlation(found.noise).mean() / correlation(noise).mean()),
        "s": seconds,
    }


def main() -> None:
    """Print a table and write all numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--student")
    parser.add_argument("--budgets", type=int, nargs="+", default=[50])
    parser.add_argument("--calls", type=int, nargs="+", default=[1, 2, 4], help="of the base")
    parser.add_argument("--ways", nargs="+", default=["sphere .1"], choices=list(WAYS))
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    file = read_model(options.model)
    base, collection = file.model(), load_collection(options.data)
    samplers = [("base", base, calls) for calls in options.calls]
    if options.student:
        samplers.append(("student", read_model(options.student).model(), 1))
    source = WindowSource(collection, file.training["held_out"], only_held_out=True)
    clips = [base.body.decode(clip.features, collection.fps) for clip in source.clips[:4]]
    asked = tasks(base, source, anatomy_of(base.body.skeleton, clips), options.windows, options.seed)
    rows: list[dict] = []
    for name, model, calls in samplers:
        for budget in options.budgets:
            for way in options.ways:
                settings = NoiseSearch(steps=max(1, budget // calls), **WAYS[way])
                for kind in ("keyframes", "path"):
                    some = [
                        run(model, base, task, calls, settings, options.seed) for task in asked if task.name == kind
                    ]
                    row = {"sampler": f"{name} {calls}", "calls": budget, "way": way, "task": kind}
                    row |= {key: float(np.mean([one[key] for one in some])) for key in some[0]}
                    if not rows:
                        print("| " + " | ".join(row) + " |\n|" + " --- |" * len(row))
                    rows.append(row)
                    shown = [f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()]
                    print("| " + " | ".join(shown) + " |", flush=True)
    if options.json is not None:
        with atomic_path(options.json, overwrite=True) as scratch:
            scratch.write_text(json.dumps({"steps": file.training["steps"], "windows": len(asked) // 2, "rows": rows}))


if __name__ == "__main__":
    main()

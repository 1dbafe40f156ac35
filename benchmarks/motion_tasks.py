"""Tasks in scenes: our policy beside no policy, DIP's published settings on the same network, and recordings.

    python -m benchmarks.motion_tasks --clips clips.safetensors [--data FOLDER] [--model NAME] [--cases ID ...]
        [--methods NAME ...] [--seeds N] [--json FILE]

`clips.safetensors` is what `fewstep motion collect` made of the shelf's open recordings. All methods get the same
schedule (speeds from the seed) and the same network; each row is judged by `motion.result` and `motion.metrics` on the
same body in the same distance field. With --json, rows that are in the file are not computed again, so that the hours
of the published settings can be cut into pieces; windows that are done of the row in work lie beside it.

| case | what |
| --- | --- |
| W1 | an S of about 6 m on an empty floor |
| W2 | through the apartment to its desk |
| S1 | twelve seats: walk there, sit for 2 s, stand up |
| L1 | three places to lie: walk there, lie for 2 s |
| K1 | joints at five keyframes of a recording that the network has not seen |
| C1 | nothing is made: two recorded climbs on their boxes show what these measures say of real motion |
| T1 | six tasks one after the other in the apartment, about 40 s |

| method | what |
| --- | --- |
| none | the network with actions and known ways |
| fast | `motion.policy.FAST` |
| locked | the same, then feet held where they touch (`synthesize --lock-feet`) |
| published | DIP's loop and step: 10 900 calls a window |
| recordings | `benchmarks.motion_retrieval` |
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.motion_retrieval import retrieved
from motion.actions import ACTIONS
from motion.clips import Motion
from motion.collection import Collection, load_collection
from motion.energies import Weights
from motion.files import read_model
from motion.finish import feet_locked
from motion.goals import Goals, Hint
from motion.long_motion import draw_schedule, seam_jerk
from motion.metrics import evaluate, jerk
from motion.model import MotionModel
from motion.policy import FAST, PUBLISHED
from motion.result import judge
from motion.scene.body import scene_scores
from motion.scene.field import DistanceField, build_field
from motion.scene.goals import find_seats
from motion.scene.loading import Placed, Scene, read_scene
from motion.scene.lying import find_lying
from motion.scene.walkable import walkable_map
from motion.schedule import Schedule, SubTask, resolve
from motion.tasks import parse_tasks
from shared.jsontext import json_text

SEATS = (
    "armchair", "armchair2", "bench", "chair2", "couch", "oakChair", "plasticChair", "sofa2",
    "winchesterSofa",
)  # fmt: skip
BEDS = ("bed1", "winchesterSofa")
VOXEL = 0.05
KEYFRAMES, KEYED = 5, ("hips", "head", "left_hand", "right_hand", "left_ankle", "right_ankle")
# DIP's weights of terms that it sums over hints, by which they weigh 3520 / n times as much, n = 100 hinted frames.
DIP = Weights(
    hint=1.0, path=1.0, facing=0.0, penetration=3.5, contact=0.0, skating=0.035, floor=3.5, smoothness=0.035, limits=0.0
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """A schedule in a scene."""

    name: str
    schedule: Schedule
    field: DistanceField | None = None
    floor: float = 0.0


def cases(wanted: list[str], data: Path, model: MotionModel, clips: Collection, seed: int) -> Iterator[Case]:
    """Yield the cases of the module's table; the seed draws speeds."""
    anatomy, scenes = model.anatomy, data / "motion" / "scenes"

    def planned(scene: Scene, tasks: Any, name: str) -> Case:
        field = build_field(scene, voxel=VOXEL)
        generator = torch.Generator().manual_seed(seed)
        plan = resolve(parse_tasks(tasks), scene, field, walkable_map(scene, field), anatomy, generator=generator)
        return Case(name, plan, field, scene.floor)

    def before(scene: Scene, finder: Any, name: str, metres: float) -> list[float]:
        """Return a place some metres before where one stands at a thing."""
        field = build_field(scene, voxel=VOXEL)
        thing = finder(scene, field, walkable_map(scene, field), name=name)[0]
        away = thing.facing if hasattr(thing, "facing") else thing.stand - thing.centre[:2]
        place: list[float] = (thing.stand + metres * away / np.linalg.norm(away)).tolist()
        return place

    for case in wanted:
        if case == "W1":
            post = scenes / "furniture" / "stool.ply"  # two of them, far from the way: there is no scene without things
            tasks = {"start": [0, 0], "facing": 0, "tasks": [{"walk_to": [5.6, 0], "via": [[1.4, 0.7], [4.2, -0.7]]}]}
            yield planned(read_scene([Placed(post, (-1.0, 3.0)), Placed(post, (6.6, -3.0))]), tasks, "W1")
        elif case == "S1":
            for seat in SEATS:
                scene = read_scene(scenes / "furniture" / f"{seat}.ply")
                tasks = [{"sit_on": seat, "seconds": 2}, "stand_up"]
                yield planned(scene, {"start": before(scene, find_seats, seat, 1.2), "tasks": tasks}, f"S1 {seat}")
            room = read_scene(scenes / "apartment.glb")
            for seat in ("IKEA_sofa_EKTORP", "IKEA_chair_STEFAN.001", "IKEA_armchair_EKTORP.001"):
                yield planned(room, [{"sit_on": seat, "seconds": 2}, "stand_up"], f"S1 {seat}")
        elif case == "L1":
            for bed in BEDS:
                scene = read_scene(scenes / "furniture" / f"{bed}.ply")
                tasks = [{"lie_on": bed, "seconds": 2}]
                yield planned(scene, {"start": before(scene, find_lying, bed, 1.2), "tasks": tasks}, f"L1 {bed}")
            yield planned(read_scene(scenes / "apartment.glb"), [{"lie_on": "bed", "seconds": 2}], "L1 IKEA_bed")
        elif case == "K1":
            yield keyed(clips, model, seed)
        else:
            room = read_scene(scenes / "apartment.glb")
            tasks = [{"walk_to": "office_desk.002"}]
            if case == "W2":
                yield planned(room, {"start": before(room, find_lying, "bed", 0.0), "tasks": tasks}, "W2")
                continue
            more = [{"wait": 2}, {"lie_on": "bed", "seconds": 3}, {"walk_to": [0.81, 0.79]}]
            yield planned(room, [{"walk_to": "sofa"}, {"sit_on": "sofa", "seconds": 3}, *tasks, *more], "T1")


def keyed(clips: Collection, model: MotionModel, seed: int) -> Case:
    """Return five keyframes of the held-out walk 02_02, six joints each, in a window of 90 frames."""
    clip = next(clip for clip in clips.clips if clip.name == "02_02")
    start = (17 * seed) % max(1, len(clip.features) - 90)
    motion = clips.body.decode(clip.features[start : start + 90], clips.fps).canonical()[0]
    positions, skeleton = motion.positions(), motion.skeleton
    frames = torch.linspace(10, motion.frames - 1, KEYFRAMES).round().long()
    hints = [
        Hint((joint,), frame[None], positions[frame, joint][None], 0.02, f"{role} at {int(frame)}")
        for frame in frames for role, joint in zip(KEYED, skeleton.joints(*KEYED), strict=True)
    ]  # fmt: skip
    names = [ACTIONS[int(action)] for action in clip.actions[start : start + motion.frames]]
    pelvis = positions[:, list(model.anatomy.pelvis)].mean(1).numpy()
    edges = [0, *(k for k in range(1, len(names)) if names[k] != names[k - 1]), len(names)]
    facing = np.tile([0.0, 1.0], (len(names), 1))
    tasks = [
        SubTask(1, "1 keyframes", names[a], a, pelvis[a:b], facing[a:b], 1.0)
        for a, b in pairwise(edges)
    ]  # fmt: skip
    return Case("K1", Schedule(tuple(tasks), Goals(motion.frames, clips.fps, hints=tuple(hints)), ()))


def row(
    method: str, case: Case, model: MotionModel, clips: Collection, seed: int, work: Path | None = None
) -> dict[str, Any]:
    """Return what a method makes of a case; `work` keeps the windows of the published settings that are done."""
    begin, calls, windows = time.process_time(), 0, ()
    if method == "recordings":
        motion = retrieved(clips, case.schedule, model.anatomy, case.floor)
    else:
        policy = {"none": replace(FAST, corrections=0), "fast": FAST, "locked": FAST, "published": PUBLISHED}[method]
        weights = {"weights": DIP} if method == "published" else {}
        drawn = draw_schedule(
            model, case.schedule, model.anatomy, case.field, floor=case.floor, policy=policy, seed=seed,
            work=work if method == "published" else None, progress=f"{method} {case.name}", **weights,
        )  # fmt: skip
        motion, calls, windows = drawn.motion, drawn.network_calls, drawn.windows
        if method == "locked":
            motion = feet_locked(motion, anatomy=model.anatomy, floor=case.floor)
    seconds = drawn.seconds if method != "recordings" else time.process_time() - begin
    found = judge(motion, case.schedule.goals, case.field, floor=case.floor, anatomy=model.anatomy)
    real = evaluate(motion, case.floor)
    errors = [item["error_m"] for item in found["goals"] if item.get("error_m") is not None]
    return {
        "method": method, "case": case.name, "seed": seed, "met": found["goals_met"], "goals": found["goals_total"],
        "error_m": fmean(errors) if errors else None,
        **{name: found[name] for name in ("penetration_max_m", "penetration_mean_m", "seconds")},
        **{name: real[name] for name in ("skating_gmd", "skating_kimodo", "contact_score", "jerk_mean", "jerk_p95")},
        "seams": [seam_jerk(motion, start) for start, _ in windows[1:]], "calls": calls, "cpu_s": seconds,
        "why": [item["why"] for item in found["goals"] if not item["met"]],
    }  # fmt: skip


def climbs(data: Path) -> list[dict[str, Any]]:
    """Return C1: scores of the joints of recorded climbs in the distance field of their own boxes."""
    rows = []
    for place in (0, 1):
        stem = data / "motion" / "mocap" / "holosoma_climb_scene" / f"mocap_climb_seq_{place}"
        with np.load(f"{stem}.npz", allow_pickle=False) as archive:
            joints = torch.from_numpy(archive["joint_positions"][::4]).double()  # 30 a second
        scores = scene_scores(joints, build_field(read_scene(f"{stem}_boxes.obj"), voxel=VOXEL), slack=VOXEL)
        rows.append({"case": f"C1 {place}", **asdict(scores), "jerk_mean": float(jerk(joints, 30.0).mean())})
    return rows


def real_rows(clips: Collection, held_out: list[str]) -> dict[str, float]:
    """Return the same numbers of recordings that the network has not seen, in the mean by their length."""
    motions: list[Motion] = [
        clips.body.decode(clip.features, clips.fps) for clip in clips.clips if clip.name in held_out
    ]
    names = ("skating_gmd", "skating_kimodo", "contact_score", "jerk_mean", "jerk_p95")
    found = [evaluate(motion, 0.0) for motion in motions]
    total = sum(motion.seconds for motion in motions)
    return {
        name: sum(item[name] * motion.seconds for item, motion in zip(found, motions, strict=True)) / total
        for name in names
    }


def table(rows: list[dict[str, Any]], real: dict[str, float]) -> Table:
    """Return means over seeds by case and method."""
    made = Table(title="means over seeds and scenes; skating and jerk of real recordings in the last line")
    columns = ("case", "method", "goals met", "error m", "deepest m", "mean m", "skating GMD", "Kimodo", "contact",
               "jerk", "seams, most", "calls", "CPU s")  # fmt: skip
    for column in columns:
        made.add_column(column, justify="right")
    keys = dict.fromkeys((item["case"].split()[0], item["method"]) for item in rows)
    for case, method in sorted(keys):
        some = [item for item in rows if item["case"].split()[0] == case and item["method"] == method]

        def mean(name: str, digits: int = 3, some: list[dict[str, Any]] = some) -> str:
            values = [item[name] for item in some if item[name] is not None]
            return f"{fmean(values):.{digits}f}" if values else "-"

        seams = [ratio for item in some for ratio in item["seams"]]
        met, goals = (sum(item[name] for item in some) for name in ("met", "goals"))
        made.add_row(
            case, method, f"{met} / {goals}", mean("error_m"), mean("penetration_max_m"), mean("penetration_mean_m", 4),
            mean("skating_gmd"), mean("skating_kimodo"), mean("contact_score"), mean("jerk_mean", 0),
            f"{fmean(seams):.2f}, {max(seams):.2f}" if seams else "-", mean("calls", 0), mean("cpu_s", 1),
        )  # fmt: skip
    made.add_row("real", "held out", "", "", "", "", *(f"{real[name]:.3f}" for name in list(real)[:3]),
                 f"{real['jerk_mean']:.0f}", "", "", "")  # fmt: skip
    return made


def main() -> None:
    """Run, keep and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--model", default="motion/base_small")
    parser.add_argument("--cases", nargs="+", default=["W1", "W2", "S1", "L1", "K1", "T1"])
    parser.add_argument("--only", nargs="*", default=[], help="names of single scenes, such as 'S1 stool'")
    parser.add_argument("--methods", nargs="+", default=["none", "fast", "recordings"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    file, clips = read_model(given.model), load_collection(given.clips)
    model = file.model()
    rows = json.loads(given.json.read_text())["rows"] if given.json and given.json.is_file() else []
    done = {(item["method"], item["case"], item["seed"]) for item in rows}
    real = real_rows(clips, file.training["held_out"])
    for seed in range(given.seeds):
        for case in cases(given.cases, given.data, model, clips, seed):
            for method in given.methods:
                if (method, case.name, seed) in done or (given.only and case.name not in given.only):
                    continue
                if method == "recordings" and case.name == "K1":
                    continue  # the recording itself is not offered
                work = given.json and given.json.with_suffix(".work.safetensors")
                rows.append(row(method, case, model, clips, seed, work))
                if given.json:
                    work.unlink(missing_ok=True)
                    given.json.write_text(json_text({"model": file.sha256, "rows": rows, "real": real}))
    Console(width=160).print(table(rows, real))
    for climb in climbs(given.data):
        print(climb)


if __name__ == "__main__":
    main()

"""Clips for training in one file: on one body, at one rate, as features with an action a frame, mirrored as well.

The ways to a seat and to the ground are turned round in time too: recordings of sitting down are few, of lying down
there are none. A `manifest.csv` with the columns `file` and `licence`, in the folder of the clips or the one above,
says under which terms they are.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import warnings
from collections.abc import Collection as Names
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from motion.actions import ACTION, ACTIONS, label, runs
from motion.clips import Motion
from motion.features import Body
from motion.formats import READ, read_clip
from motion.formats.files import kind_of
from motion.mirror import mirrored
from motion.retarget import retargeted
from motion.skeleton import Skeleton
from motion.skeleton_data import skeleton_from_data, skeleton_to_data
from motion.stance import standing
from shared.errors import InputError
from shared.files import atomic_path

KIND = "fewstep motion clips 1"
WAYS = (("sit", "stand_up"), ("lie", "get_up"))
AROUND = 0.5  # s before and after a way that is turned round
SAME = 1e-3  # m between offsets of one skeleton in two files


@dataclass(frozen=True, eq=False)
class Clip:
    """A part of a collection.

    Attributes:
        name: of the file without suffix; of variants with ` mirrored` or ` reversed` after it.
        source: folder and file.
        licence: what the manifest says, or "unknown".
        features: (F, D) float32, where the clip is in the world.
        actions: (F,) int64, indices of `ACTIONS`.
    """

    name: str
    source: str
    licence: str
    features: Tensor
    actions: Tensor

    @property
    def stem(self) -> str:
        """Return the name of the file that this and its variants are from."""
        return self.name.partition(" ")[0]

    @property
    def backwards(self) -> bool:
        """Return whether its time runs against that of the recording."""
        return "reversed" in self.name.split(" ")[1:]


@dataclass(frozen=True, eq=False)
class Collection:
    """Clips of one body.

    Attributes:
        body: whose features they are.
        fps: frames a second.
        clips: at least one.
        left_out: clips that could not be used, each with the reason.
    """

    body: Body
    fps: float
    clips: tuple[Clip, ...]
    left_out: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Return a hash of all frames and labels."""
        digest = hashlib.sha256(f"{self.fps} {self.body.skeleton.names}".encode())
        for clip in self.clips:
            digest.update(clip.name.encode() + clip.features.numpy().tobytes() + clip.actions.numpy().tobytes())
        return digest.hexdigest()

    def seconds(self) -> dict[str, float]:
        """Return the recorded time of each action, s: without mirrored and reversed clips."""
        counts = torch.zeros(len(ACTIONS))
        for clip in self.clips:
            if clip.name == clip.stem:
                counts += torch.bincount(clip.actions, minlength=len(ACTIONS))
        return {name: round(float(count) / self.fps, 1) for name, count in zip(ACTIONS, counts, strict=True) if count}


def collect(
    folders: Sequence[str | os.PathLike[str]], skeleton: Skeleton, *, fps: float = 30.0, progress: str | None = None
) -> Collection:
    """Read all clips of folders and their subfolders; those that cannot be read or retargeted are left out and told.

    Args:
        folders: of .bvh, .amc and .json clips, with or without .gz.
        skeleton: of the body; its zero pose becomes a standing one.
        fps: frames a second.
        progress: label of a progress bar; None is silent.

    Raises:
        InputError: no clip at all, or a skeleton that cannot be a body.
    """
    from shared.progress import tracked

    body = body_of(skeleton)
    paths = [path for folder in map(Path, folders) for path in sorted(folder.rglob("*")) if kind_of(path) in READ]
    licences: dict[Path, str] = {}
    for folder in map(Path, folders):
        licences |= _licences(folder)
    clips: list[Clip] = []
    left_out: list[str] = []
    for path in tracked(paths, progress):
        source = f"{path.parent.name}/{path.name}"
        try:
            motion = read_for(path, body, skeleton, fps)
            name, licence = path.name.partition(".")[0], licences.get(path.resolve(), "unknown")
            clips += [Clip(*variant[:1], source, licence, *variant[1:]) for variant in variants(motion, body, name)]
        except InputError as error:
            left_out.append(f"{source}: {error}")
    if not clips:
        raise InputError(
            ", ".join(map(str, folders)), found=f"{len(paths)} clips, of which none can be used",
            expected=f"{', '.join(READ)} clips of bodies", fix=left_out[0] if left_out else "Give another folder.",
        )  # fmt: skip
    return Collection(body, fps, tuple(clips), tuple(left_out))


def body_of(skeleton: Skeleton) -> Body:
    """Return the body of a skeleton, made to stand in its zero pose, so that its joints do not turn at rest."""
    count = len(skeleton)
    zero = torch.eye(3, dtype=torch.float64).expand(1, count, 3, 3)
    return Body(standing(Motion(skeleton, torch.zeros(1, 3, dtype=torch.float64), zero, 30.0)).skeleton)


def read_for(path: Path, body: Body, skeleton: Skeleton, fps: float) -> Motion:
    """Return a clip on the body at a rate; fixed joints at rest, so that features hold all of it.

    Args:
        path: of the clip.
        body: made from `skeleton`.
        skeleton: whose rest pose holds for a clip of the same one that never stands.
        fps: frames a second.

    Raises:
        InputError: the clip cannot be read or retargeted.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what was guessed; `fewstep motion info` tells it
        motion = read_clip(path)
    found = motion.skeleton
    if found.rest is None and same_body(found, skeleton):
        motion = replace(motion, skeleton=replace(found, rest=skeleton.rest))
    motion = retargeted(motion.resampled(fps), body.skeleton)
    return body.decode(body.encode(motion), fps)


def variants(motion: Motion, body: Body, name: str) -> list[tuple[str, Tensor, Tensor]]:
    """Return name, features and actions of a clip, of its ways to seat and ground reversed, of these mirrored."""
    actions = label(motion, name)
    found = [(name, motion, actions)]
    for start, stop in _ways(actions, round(AROUND * motion.fps), motion.frames):
        part = motion.cut(start, stop)
        part = replace(part, root=part.root.flip(0), rotations=part.rotations.flip(0))
        found.append((f"{name} reversed", part, label(part)))
    if motion.skeleton.sided:
        found += [(f"{title} mirrored", mirrored(part), labels) for title, part, labels in found]
    return [(title, body.encode(part).float(), labels) for title, part, labels in found]


def real_clips(
    collection: Collection, frames: int, held_out: Names[str] = (), *, only_held_out: bool = False
) -> list[Clip]:
    """Return the recordings of at least `frames` frames and their mirror images.

    Args:
        collection: the clips.
        frames: fewest.
        held_out: names of files, without suffix, that are left out, or that alone are taken.
        only_held_out: the latter.

    Raises:
        InputError: a file is not there, or nothing is left to take.
    """
    if unknown := set(held_out) - {clip.stem for clip in collection.clips}:
        raise InputError(
            "held-out clips", found=", ".join(sorted(unknown)), expected="names of clips of the collection",
            fix="Correct the names, or collect those clips too.",
        )  # fmt: skip
    clips = [
        clip
        for clip in collection.clips
        if not clip.backwards and (clip.stem in held_out) == only_held_out and len(clip.features) >= frames
    ]
    if not clips and not only_held_out:
        raise InputError(
            "clips", found=f"none of {frames} frames or more", expected="at least one", fix="Collect more clips."
        )
    return clips


def recorded(clips: Sequence[Clip], fps: float) -> dict[str, dict[str, float]]:
    """Return number and length, s, of the recordings among clips, by "folder: licence"; variants do not count."""
    found: dict[str, dict[str, float]] = {}
    for clip in clips:
        if clip.name == clip.stem:
            entry = found.setdefault(f"{clip.source.partition('/')[0]}: {clip.licence}", {"clips": 0, "s": 0.0})
            entry["clips"] += 1
            entry["s"] = round(entry["s"] + len(clip.features) / fps, 1)
    return found


def save_collection(path: str | os.PathLike[str], collection: Collection, *, overwrite: bool = False) -> None:
    """Write a collection as one safetensors file.

    Raises:
        InputError: the file exists.
    """
    from safetensors.torch import save_file

    tensors = {
        "features": torch.cat([clip.features for clip in collection.clips]),
        "actions": torch.cat([clip.actions for clip in collection.clips]).to(torch.uint8),
    }
    clips = [[clip.name, clip.source, clip.licence, len(clip.features)] for clip in collection.clips]
    header = {
        "kind": KIND,
        "fps": repr(collection.fps),
        "actions": json.dumps(ACTIONS),
        "skeleton": json.dumps(skeleton_to_data(collection.body.skeleton)),
        "clips": json.dumps(clips),
        "left_out": json.dumps(collection.left_out),
    }
    with atomic_path(path, overwrite=overwrite) as scratch:
        save_file(tensors, scratch, metadata=header)


def load_collection(path: str | os.PathLike[str]) -> Collection:
    """Read what `save_collection` wrote.

    Raises:
        InputError: another or a damaged file.
    """
    from shared.weights import load

    stored = load(path)
    header = stored.metadata
    if header.get("kind") != KIND or json.loads(header.get("actions", "[]")) != list(ACTIONS):
        raise InputError(
            path, found=f"kind {header.get('kind')!r}", expected=f"{KIND!r} with the actions {', '.join(ACTIONS)}",
            fix="Write it with fewstep motion collect.",
        )  # fmt: skip
    clips = json.loads(header["clips"])
    lengths = [frames for *_, frames in clips]
    features, actions = stored.tensors["features"].split(lengths), stored.tensors["actions"].long().split(lengths)
    return Collection(
        Body(skeleton_from_data(json.loads(header["skeleton"]))),
        float(header["fps"]),
        tuple(Clip(*facts[:3], *parts) for facts, *parts in zip(clips, features, actions, strict=True)),
        tuple(json.loads(header["left_out"])),
    )


def _ways(actions: Tensor, around: int, frames: int) -> list[tuple[int, int]]:
    found = []
    for names in WAYS:
        way = torch.isin(actions, torch.tensor([ACTION[name] for name in names])).numpy()
        found += [(max(start - around, 0), min(stop + around, frames)) for value, start, stop in runs(way) if value]
    return found


def same_body(first: Skeleton, second: Skeleton) -> bool:
    """Return whether two skeletons have the same joints, and offsets within a millimetre."""
    return first.names == second.names and float((first.offsets - second.offsets).norm(dim=-1).max()) < SAME


def _licences(folder: Path) -> dict[Path, str]:
    """Return the licence of each file that a manifest names."""
    for place in (folder, folder.parent):
        manifest = place / "manifest.csv"
        if manifest.is_file():
            with manifest.open(newline="", encoding="utf-8") as file:
                return {
                    (place / row["file"]).resolve(): row.get("licence") or "unknown"
                    for row in csv.DictReader(file)
                    if row.get("file")
                }
    return {}

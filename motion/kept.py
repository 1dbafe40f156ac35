"""Windows of a motion that are done, in one file, so that hours of `motion.policy.PUBLISHED` may stop and go on.

The file belongs to what decides the motion: network, body, schedule, scene, policy, weights and seed. For anything else
it is refused. The state of the noise is in it, so a motion that was stopped is the one that was not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from motion.clips import Motion
from motion.skeleton import Skeleton
from shared.errors import InputError
from shared.files import atomic_path

PARTS = ("root", "rotations")


@dataclass(frozen=True, eq=False)
class SoFar:
    """A motion of some windows.

    Attributes:
        motion: before the floor is put under it; None before the first window.
        energies: of each window.
        wrong: how far the last window is from right, in units of what is let pass (`motion.long_motion`).
    """

    motion: Motion | None = None
    energies: tuple[dict[str, float], ...] = ()
    wrong: float = 0.0


@dataclass(frozen=True, eq=False)
class Kept:
    """What is done of a motion.

    Attributes:
        before: without its last window, which may be drawn again; None before the first.
        last: so far.
        draws: of all windows, those drawn again among them.
        seconds: of the processor that they took.
    """

    before: SoFar | None = None
    last: SoFar = SoFar()
    draws: int = 0
    seconds: float = 0.0


def fingerprint(*things: Any) -> str:
    """Return the SHA-256 of data classes, tensors, arrays, mappings, sequences and plain values, in depth.

    Raises:
        TypeError: something else, which has no bytes of its own.
    """
    digest = hashlib.sha256()

    def add(thing: Any) -> None:
        digest.update(f"{type(thing).__name__} ".encode())
        if is_dataclass(thing) and not isinstance(thing, type):
            for field in fields(thing):
                digest.update(field.name.encode())
                add(getattr(thing, field.name))
        elif isinstance(thing, Tensor | np.ndarray):
            array = np.ascontiguousarray(thing.detach().cpu().numpy() if isinstance(thing, Tensor) else thing)
            digest.update(f"{array.dtype} {array.shape} ".encode() + array.tobytes())
        elif isinstance(thing, Mapping):
            add(sorted(thing.items()))
        elif isinstance(thing, Sequence) and not isinstance(thing, str):
            digest.update(f"{len(thing)} ".encode())
            for item in thing:
                add(item)
        elif thing is None or isinstance(thing, str | int | float | np.number):
            digest.update(f"{thing!r} ".encode())
        else:
            raise TypeError(f"{type(thing).__name__} has no fingerprint")

    add(things)
    return digest.hexdigest()


def keep(path: Path, of: str, kept: Kept, generator: torch.Generator) -> None:
    """Write what is done; an earlier file is replaced as a whole.

    Args:
        path: ending in .safetensors.
        of: fingerprint of the motion.
        kept: so far.
        generator: of the noise to come.
    """
    from safetensors.torch import save_file

    tensors, facts = {"generator": generator.get_state()}, {"of": of, "draws": kept.draws, "seconds": kept.seconds}
    for name, so_far in (("before", kept.before), ("last", kept.last)):
        if so_far is not None:
            facts[name] = {"energies": so_far.energies, "wrong": so_far.wrong}
            if so_far.motion is not None:
                tensors |= {f"{name}.{part}": getattr(so_far.motion, part).contiguous().clone() for part in PARTS}
                facts["fps"] = so_far.motion.fps
    with atomic_path(path, overwrite=True) as scratch:
        save_file(tensors, scratch, {"kept": json.dumps(facts)})


def kept_of(path: Path, of: str, skeleton: Skeleton, generator: torch.Generator) -> Kept:
    """Return what is done, and put the generator where it was; there may be no file yet.

    Args:
        path: of `keep`.
        of: fingerprint of the motion.
        skeleton: of its body.
        generator: whose state is set.

    Raises:
        InputError: the file is damaged, or of another motion.
    """
    from shared.weights import load

    if not path.exists():
        return Kept()
    stored = load(path)
    facts = json.loads(stored.metadata.get("kept", "{}"))
    if facts.get("of") != of:
        raise InputError(
            path, found="windows of another motion",
            expected="those of this model, schedule, scene, policy and seed", fix="Give another file, or delete it.",
        )  # fmt: skip
    generator.set_state(stored.tensors["generator"])

    def so_far(name: str) -> SoFar:
        motion = None
        if f"{name}.root" in stored.tensors:
            root, rotations = (stored.tensors[f"{name}.{part}"] for part in PARTS)
            motion = Motion(skeleton, root, rotations, facts["fps"])
        return SoFar(motion, tuple(facts[name]["energies"]), facts[name]["wrong"])

    return Kept(so_far("before"), so_far("last"), facts["draws"], facts["seconds"])

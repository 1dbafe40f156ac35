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


@dataclass(frozen=True, eq=False)
class Kept:
    """What is done of a motion.

    Attributes:
        motion: of the windows so far; before the floor is put under it.
        energies: of each window.
        draws: of all windows, those drawn again among them.
        seconds: of the processor that they took.
    """

    motion: Motion
    energies: tuple[dict[str, float], ...]
    draws: int
    seconds: float


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

    motion = kept.motion
    tensors = {"root": motion.root, "rotations": motion.rotations, "generator": generator.get_state()}
    facts = {"of": of, "fps": motion.fps, "energies": kept.energies, "draws": kept.draws, "seconds": kept.seconds}
    with atomic_path(path, overwrite=True) as scratch:
        save_file({name: value.contiguous() for name, value in tensors.items()}, scratch, {"kept": json.dumps(facts)})


def kept_of(path: Path, of: str, skeleton: Skeleton, generator: torch.Generator) -> Kept | None:
    """Return what is done, and put the generator where it was; None where nothing is.

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
        return None
    stored = load(path)
    facts = json.loads(stored.metadata.get("kept", "{}"))
    if facts.get("of") != of:
        raise InputError(
            path, found="windows of another motion",
            expected="those of this model, schedule, scene, policy and seed", fix="Give another file, or delete it.",
        )  # fmt: skip
    generator.set_state(stored.tensors["generator"])
    motion = Motion(skeleton, stored.tensors["root"], stored.tensors["rotations"], facts["fps"])
    return Kept(motion, tuple(facts["energies"]), facts["draws"], facts["seconds"])

"""Skeletons as data: JSON types, exact, for the headers of models and collections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from motion.skeleton import Conventions, Skeleton
from shared.errors import InputError


def skeleton_to_data(skeleton: Skeleton) -> dict[str, Any]:
    """Return a skeleton as JSON types; the inverse of `skeleton_from_data`."""
    conventions = skeleton.conventions
    return {
        "names": list(skeleton.names),
        "parents": list(skeleton.parents),
        "offsets": skeleton.offsets.tolist(),
        "end_joints": list(skeleton.end_joints),
        "end_offsets": skeleton.end_offsets.tolist(),
        "roles": dict(skeleton.roles),
        "rest": None if skeleton.rest is None else skeleton.rest.tolist(),
        "metres_per_unit": conventions.metres_per_unit,
        "up": conventions.up,
        "channels": [list(channels) for channels in conventions.channels],
    }


def skeleton_from_data(data: Mapping[str, Any]) -> Skeleton:
    """Return the skeleton of JSON types.

    Raises:
        InputError: an entry is absent or no skeleton.
    """
    try:
        rest = data["rest"]
        return Skeleton(
            names=tuple(data["names"]),
            parents=tuple(data["parents"]),
            offsets=torch.tensor(data["offsets"], dtype=torch.float64).reshape(-1, 3),
            end_joints=tuple(data["end_joints"]),
            end_offsets=torch.tensor(data["end_offsets"], dtype=torch.float64).reshape(-1, 3),
            roles=dict(data["roles"]),
            rest=None if rest is None else torch.tensor(rest, dtype=torch.float64),
            conventions=Conventions(data["metres_per_unit"], data["up"], tuple(map(tuple, data["channels"]))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            "skeleton", found=f"damaged data ({error})", expected="names, parents, offsets ...",
            fix="Write the file again.",
        ) from error  # fmt: skip

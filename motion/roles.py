"""What each joint is for, found by its name and by where it hangs.

| role | a joint whose rotation moves | names (without their side) |
| --- | --- | --- |
| hips | all: where both legs meet | from the hierarchy |
| chest | both arms and the head: where the arms meet | from the hierarchy |
| head | the head | head, face; the neck where nothing is above it |
| clavicle, shoulder, elbow, hand | shoulder girdle, upper arm, forearm, hand | collar, upperarm, humerus, wrist ... |
| hip, knee, ankle, toe | thigh, shin, foot, toes | thigh, upleg, femur, shin, calf, leg, foot, toebase ... |

Those of the last two rows are `left_...` and `right_...`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SIDES = ("left", "right")

# Earlier names win; a joint takes one role, in this order: "shoulder" is the upper arm only where no other joint is.
SIDED_NAMES: dict[str, tuple[str, ...]] = {
    "shoulder": ("upperarm", "uparm", "humerus", "shldr", "arm", "shoulder"),
    "clavicle": ("clavicle", "collarbone", "collar", "shoulder"),
    "elbow": ("forearm", "lowerarm", "loarm", "radius", "elbow"),
    "hand": ("hand", "wrist"),
    "hip": ("upperleg", "upleg", "thigh", "femur", "hip"),
    "knee": ("lowerleg", "loleg", "shin", "calf", "tibia", "knee", "leg"),
    "ankle": ("ankle", "foot"),
    "toe": ("toebase", "toes", "toe", "ball", "foot"),
}
HEAD_NAMES = ("head", "face", "neck")
ROLES = ("hips", "chest", "head", *(f"{side}_{role}" for side in SIDES for role in SIDED_NAMES))

_WORD = re.compile("left|right", re.IGNORECASE)
_LETTER = re.compile(r"(?:(?<=^)|(?<=[_\-. :]))[lrLR](?=$|[_\-. A-Z])")
_PREFIX = re.compile("^[lr]")
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l"}


def find_roles(names: Sequence[str], parents: Sequence[int]) -> dict[str, int]:
    """Return the joint of each role that is found; those not found are left out."""
    sided = {name: side_of(name, names) for name in names}
    roles: dict[str, int] = {}
    for role, words in SIDED_NAMES.items():
        for side in SIDES:
            stems = {
                found[1]: index
                for index, found in reversed(list(enumerate(sided.values())))
                if found is not None and found[0] == side and index not in roles.values()
            }
            match = next((stems[word] for word in words if word in stems), None)
            if match is not None:
                roles[f"{side}_{role}"] = match
    plain = {_letters(name): index for index, name in reversed(list(enumerate(names))) if sided[name] is None}
    match = next((plain[word] for word in HEAD_NAMES if word in plain), None)
    if match is not None:
        roles["head"] = match
    for role, limb in (("hips", "hip"), ("chest", "shoulder")):
        pair = [roles.get(f"{side}_{limb}") for side in SIDES]
        if pair[0] is not None and pair[1] is not None:
            meeting = [joint for joint in chain(pair[0], parents) if joint in chain(pair[1], parents)]
            if meeting:
                roles[role] = meeting[0]
    return roles


def side_of(name: str, names: Sequence[str]) -> tuple[str, str, str] | None:
    """Return the side of a joint, its name without it as lower-case letters, and the joint of the other side.

    None where no joint of the other side exists: `lowerback` is no left joint, because there is no `rowerback`.
    """
    for pattern in (_WORD, _LETTER, _PREFIX):
        found = pattern.search(name)
        if found is None:
            continue
        mark = found.group()
        other = _like(mark, _OTHER[mark.lower()])
        partner = name[: found.start()] + other + name[found.end() :]
        if partner in names:
            side = "left" if mark.lower()[0] == "l" else "right"
            return side, _letters(name[: found.start()] + " " + name[found.end() :]), partner
    return None


def chain(joint: int, parents: Sequence[int]) -> list[int]:
    """Return the joint and its ancestors, up to the root."""
    found = [joint]
    while parents[found[-1]] >= 0:
        found.append(parents[found[-1]])
    return found


def between(above: int, below: int, parents: Sequence[int]) -> list[int]:
    """Return the joints under `above` down to and with `below`, from the top; empty where it does not hang there."""
    line = chain(below, parents)
    return line[: line.index(above)][::-1] if above in line else []


def _like(mark: str, word: str) -> str:
    return word.upper() if mark.isupper() else word.capitalize() if mark[0].isupper() else word


def _letters(name: str) -> str:
    """Return a name without name space, biped number, separators and digits: mixamorig:Left_Up Leg1 -> leftupleg."""
    text = re.sub(r"^bip\d*", "", name.rpartition(":")[2].lower())
    return re.sub("[^a-z]", "", text)

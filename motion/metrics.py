"""How real a motion looks, from its joints alone. Real recordings do not score 0: judge beside them.

| number | definition |
| --- | --- |
| skating_gmd | share of frames in which either toe skates (`gmd_skating`), at 20 fps |
| skating_kimodo, contact_speed | share of toe contacts that skate, speed of low toes (`kimodo_skating`), at 30 fps |
| contact_score | 1 if some foot rests on the floor in every frame (`contact_score`), at 40 fps |
| jerk_mean | mean jerk over joints and frames, m/s^3, at 30 fps |
| jerk_p95, jerk_peak | 95 % quantile and maximum over frames of the largest joint's jerk |

Clips slower than these rates are interpolated linearly, which raises their jerk: compare clips of one frame rate.
Heights count from the floor, of which `floor_of` makes a guess: toes hang differently in every skeleton.
"""

from __future__ import annotations

import torch
from torch import Tensor

from motion.clips import Motion
from shared.errors import InputError

TOUCHING = 0.05  # m
SHORTEST = 8  # frames at 20 a second that the numbers need


def evaluate(motion: Motion, floor: float | None = None) -> dict[str, float]:
    """Return the module's numbers of a motion, and its frames, seconds, floor and mean speed of the hips over it.

    Args:
        motion: with known feet.
        floor: height, m; None for `floor_of`.

    Raises:
        InputError: the motion is shorter than 0.4 s, or its feet are unknown.
    """
    skeleton = motion.skeleton
    if (motion.frames - 1) * 20 / motion.fps + 1 < SHORTEST:
        raise InputError(
            "motion", found=f"{motion.seconds:.2f} s", expected=f"at least {SHORTEST / 20:g} s",
            fix="Give a longer clip.",
        )  # fmt: skip
    floor = floor_of(motion) if floor is None else floor
    level = torch.tensor([0.0, 0.0, floor]).to(motion.root)
    at = {fps: motion.resampled(fps).positions() - level for fps in (20.0, 30.0, 40.0)}
    toes, feet = list(skeleton.toes), [joint for foot in skeleton.feet for joint in foot]
    ratio, speed = kimodo_skating(at[30.0][:, toes], 30.0)
    steps = jerk(at[30.0], 30.0)
    largest = steps.amax(1)
    hips = motion.positions()[:, skeleton.joints("hips")[0], :2]
    return {
        "frames": motion.frames,
        "seconds": motion.seconds,
        "fps": motion.fps,
        "floor": floor,
        "speed": float(hips.diff(dim=0).norm(dim=-1).mean() * motion.fps),
        "skating_gmd": gmd_skating(at[20.0][:, toes], 20.0),
        "skating_kimodo": ratio,
        "contact_speed": speed,
        "contact_score": contact_score(at[40.0][:, feet], 40.0),
        "jerk_mean": float(steps.mean()),
        "jerk_p95": float(largest.quantile(0.95)),
        "jerk_peak": float(largest.max()),
    }


def floor_of(motion: Motion) -> float:
    """Return the height, m, under which a toe is in 2 % of the frames."""
    return float(motion.positions()[:, list(motion.skeleton.toes), 2].quantile(0.02))


def gmd_skating(toes: Tensor, fps: float) -> float:
    """Return GMD's foot skating ratio: the share of frames in which either toe skates.

    It is lower than 5 cm in this frame and the next, and faster over the floor than 0.5 m/s, now and in the mean of
    five frames.

    Args:
        toes: (F, 2, 3) m above the floor.
        fps: frames a second; 20 in GMD, whose mean of 5 frames is not a time.
    """
    speed = toes[..., :2].diff(dim=0).norm(dim=-1) * fps
    # Zeros beyond the ends, as there.
    mean = torch.nn.functional.avg_pool1d(speed.T[:, None], 5, stride=1, padding=2)[:, 0].T
    return float((_touching(toes) & (speed > 0.5) & (mean > 0.5)).any(1).double().mean())


def kimodo_skating(toes: Tensor, fps: float) -> tuple[float, float]:
    """Return Kimodo's foot skate ratio and its mean speed of toes near the floor, m/s; 0 where no toe ever is.

    A contact is a toe lower than 5 cm in this frame and the next; it skates if it is faster than 0.2 m/s. The speed is
    the mean over toes lower than 5 cm in this frame.

    Args:
        toes: (F, 2, 3) m above the floor.
        fps: frames a second.
    """
    speed = toes.diff(dim=0).norm(dim=-1) * fps
    both, first = _touching(toes), toes[:-1, :, 2] < TOUCHING
    ratio = (both & (speed > 0.2)).sum() / both.sum().clamp(min=1)
    return float(ratio), float((speed * first).sum() / first.sum().clamp(min=1))


def contact_score(feet: Tensor, fps: float) -> float:
    """Return DIMOS's contact score in (0, 1]: the mean of exp(-relu(v - 0.075)) exp(-relu(h - 0.05)).

    v is the speed, m/s, of the slowest foot joint, h the distance, m, of the lowest one to the floor. DIP uses it too.

    Args:
        feet: (F, K, 3) m above the floor, K joints of both feet; speeds are central differences.
        fps: frames a second.
    """
    speed = ((feet[2:] - feet[:-2]) * (fps / 2)).norm(dim=-1).amin(1)
    height = feet[1:-1, :, 2].amin(1).abs()
    return float((torch.exp(-(speed - 0.075).clamp(min=0)) * torch.exp(-(height - 0.05).clamp(min=0))).mean())


def jerk(positions: Tensor, fps: float) -> Tensor:
    """Return |third difference| fps^3, (F - 3, J) m/s^3, of positions (F, J, 3)."""
    return positions.diff(n=3, dim=0).norm(dim=-1) * fps**3


def area_under_jerk(positions: Tensor, fps: float, usual: float) -> tuple[float, float]:
    """Return FlowMDM's two numbers of transitions: peak jerk, m/s^3, and area under jerk (AUJ), m/s^2.

    With j_k the largest joint's jerk of frame k in the mean over transitions:

        peak = max j_k,  AUJ = sum |j_k - usual| / fps.

    FlowMDM takes sums of absolute coordinates where this takes lengths, and differences a frame, so its numbers depend
    on the frame rate; these do not.

    Args:
        positions: (F, J, 3) or (B, F, J, 3) m of B transitions alone, no frames around them.
        fps: frames a second.
        usual: mean of the largest joint's jerk over real motions, m/s^3.
    """
    many = positions if positions.ndim == 4 else positions[None]
    curve = torch.stack([jerk(one, fps).amax(1) for one in many]).mean(0)
    return float(curve.max()), float((curve - usual).abs().sum() / fps)


def keyframe_errors(positions: Tensor, targets: Tensor) -> dict[str, float]:
    """Return GMD's errors of keyframes: mean distance, m, and shares of those beyond 20 and 50 cm.

    | name | what |
    | --- | --- |
    | keyframe_error | mean distance, m |
    | keyframe_fail_20, keyframe_fail_50 | share of keyframes farther off than 20 and 50 cm |
    | trajectory_fail_20, trajectory_fail_50 | share of motions with any such keyframe |

    Args:
        positions: (B, K, D) m, where B motions are at their K keyframes; D is 3, or 2 on the floor.
        targets: likewise, where they should be.

    Raises:
        InputError: the two differ in shape.
    """
    if positions.shape != targets.shape or positions.ndim != 3:
        raise InputError(
            "keyframes", found=f"{tuple(positions.shape)} and targets {tuple(targets.shape)}",
            expected="two arrays (motions, keyframes, 2 or 3)", fix="Give the positions at the keyframes only.",
        )  # fmt: skip
    distance = (positions - targets).norm(dim=-1)
    numbers = {"keyframe_error": float(distance.mean())}
    for centimetres in (20, 50):
        missed = distance > centimetres / 100
        numbers[f"keyframe_fail_{centimetres}"] = float(missed.double().mean())
        numbers[f"trajectory_fail_{centimetres}"] = float(missed.any(1).double().mean())
    return numbers


def _touching(toes: Tensor) -> Tensor:
    low = toes[..., 2] < TOUCHING
    return low[:-1] & low[1:]

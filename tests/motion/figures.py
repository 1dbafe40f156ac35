"""Skeletons and motions that tests know in full, and the clips of the shelf."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from motion.clips import Motion
from motion.formats import read_clip
from motion.formats.files import read_text
from motion.roles import find_roles
from motion.skeleton import Skeleton

# One clip of each flavour; the last column of the note's table: hips over the floor in the mean, m.
FLAVOURS = {
    "cmu_asf": "motion/mocap/cmu_asfamc_bvh60/02_01.bvh.gz",
    "cgspeed": "motion/mocap/gazebo_cmu_bvh120/cmu-13_26.bvh.gz",
    "gazebo": "motion/mocap/gazebo_cmu_bvh120/walk.bvh.gz",
    "sit_down": "motion/mocap/gazebo_cmu_bvh120/sit_down.bvh.gz",
    "cmu91": "motion/mocap/cmu91_bvh30/91_48.bvh.gz",
    "jl": "motion/mocap/jl_locomotion_bvh60/locomotion_30s.bvh.gz",
    "bandai": "motion/noncommercial_bandai_bvh30/dataset-1_walk_normal_002.bvh.gz",
}

# A body facing -y with its arms out, as a y-up file that faces +z: name, parent, offset in m.
BODY = (
    ("Hips", -1, (0.0, 0.0, 0.0)),
    ("Spine", 0, (0.0, 0.0, 0.2)),
    ("Chest", 1, (0.0, 0.02, 0.2)),
    ("Head", 2, (0.0, 0.0, 0.25)),
    ("LeftShoulder", 2, (0.05, 0.0, 0.15)),
    ("LeftArm", 4, (0.12, 0.0, 0.0)),
    ("LeftForeArm", 5, (0.28, 0.0, 0.0)),
    ("LeftHand", 6, (0.25, 0.0, 0.0)),
    ("RightShoulder", 2, (-0.05, 0.0, 0.15)),
    ("RightArm", 8, (-0.12, 0.0, 0.0)),
    ("RightForeArm", 9, (-0.28, 0.0, 0.0)),
    ("RightHand", 10, (-0.25, 0.0, 0.0)),
    ("LeftUpLeg", 0, (0.09, 0.0, 0.0)),
    ("LeftLeg", 12, (0.0, 0.0, -0.42)),
    ("LeftFoot", 13, (0.0, 0.0, -0.41)),
    ("LeftToe", 14, (0.0, -0.14, -0.07)),
    ("RightUpLeg", 0, (-0.09, 0.0, 0.0)),
    ("RightLeg", 16, (0.0, 0.0, -0.42)),
    ("RightFoot", 17, (0.0, 0.0, -0.41)),
    ("RightToe", 18, (0.0, -0.14, -0.07)),
)
TALL = 0.9  # m, hips of the body over its soles


def body(scale: float = 1.0) -> Skeleton:
    names, parents, offsets = zip(*BODY, strict=True)
    ends = torch.tensor([[0, 0, 0.15], [0.1, 0, 0], [-0.1, 0, 0]], dtype=torch.float64)
    zero = torch.eye(3, dtype=torch.float64).expand(len(names), 3, 3)
    offsets = torch.tensor(offsets, dtype=torch.float64)
    return Skeleton(names, parents, scale * offsets, (3, 7, 11), scale * ends, find_roles(names, parents), zero)


def turns(axis: tuple[float, float, float], angles: torch.Tensor) -> torch.Tensor:
    vectors = np.array(axis) * angles.numpy()[:, None]
    return torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix())


def walk(frames: int = 60, fps: float = 30.0, skeleton: Skeleton | None = None) -> Motion:
    """Return the body striding along -y: legs and arms swing, knees bend back, elbows forward, soles stay level."""
    skeleton = skeleton or body()
    time = torch.arange(frames, dtype=torch.float64) / fps
    swing = 0.5 * torch.sin(2 * torch.pi * time)
    rotations = torch.eye(3, dtype=torch.float64).repeat(frames, len(skeleton), 1, 1)
    right = (-1.0, 0.0, 0.0)  # of a body that faces -y; turning about it moves what hangs down forward for - angles
    index = skeleton.names.index
    for side, sign in (("Left", 1), ("Right", -1)):
        rotations[:, index(f"{side}UpLeg")] = turns(right, sign * swing)
        rotations[:, index(f"{side}Leg")] = turns(right, -0.6 - sign * 0.5 * swing)
        bends = rotations[:, index(f"{side}UpLeg")] @ rotations[:, index(f"{side}Leg")]
        rotations[:, index(f"{side}Foot")] = bends.transpose(-1, -2)
        down = turns((0.0, sign * 1.0, 0.0), torch.full((frames,), 1.2, dtype=torch.float64))
        rotations[:, index(f"{side}Arm")] = turns(right, -sign * swing) @ down
        rotations[:, index(f"{side}ForeArm")] = turns((0.0, 0.0, -sign * 1.0), 0.5 + 0.4 * sign * swing)
    rotations[:, 1] = turns((0.0, 0.0, 1.0), 0.4 * swing)
    rotations[:, 2] = turns((1.0, 0.0, 0.0), 0.2 * swing)
    root = torch.stack([0.02 * swing, -1.2 * time, TALL + 0.02 * torch.cos(4 * torch.pi * time)], -1)
    motion = Motion(skeleton, root, rotations, fps)
    toes = motion.positions()[:, [index("LeftToe"), index("RightToe")], 2].amin(1)
    root[:, 2] -= toes.quantile(0.02)  # it walks on the floor
    return motion


def rotations_of(generator: torch.Generator, *shape: int) -> torch.Tensor:
    q = torch.linalg.qr(torch.randn(*shape, 3, 3, generator=generator, dtype=torch.float64))[0]
    return q * torch.linalg.det(q)[..., None, None]


def reframed(motion: Motion, frames: torch.Tensor) -> Motion:
    """Return the same motion on joints whose axes are turned by `frames` (J, 3, 3): G_j -> G_j K_j."""
    skeleton = motion.skeleton
    above = torch.cat([torch.eye(3, dtype=torch.float64)[None], frames[list(skeleton.parents[1:])]])
    inverse = above.transpose(-1, -2)
    ends = (frames[list(skeleton.end_joints)].transpose(-1, -2) @ skeleton.end_offsets[..., None])[..., 0]
    other = Skeleton(
        skeleton.names, skeleton.parents, (inverse @ skeleton.offsets[..., None])[..., 0], skeleton.end_joints, ends,
        skeleton.roles, None, skeleton.conventions,
    )  # fmt: skip
    return Motion(other, motion.root, inverse @ motion.rotations @ frames, motion.fps)


def quietly(path, **options) -> Motion:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_clip(path, **options)


def shortened(path, folder, frames: int):
    """Write the first frames of a BVH file into a folder and return the file."""
    lines = read_text(path).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("MOTION"))
    lines[start + 1] = f"Frames: {frames}"
    short = folder / "short.bvh"
    short.write_text("\n".join(lines[: start + 3 + frames]) + "\n")
    return short

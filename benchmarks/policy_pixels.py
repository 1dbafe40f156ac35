"""The demonstrations of Push-T with pictures: the recorded states, drawn by gym-pusht.

    python -m benchmarks.policy_pixels pusht_cchi_v7_lowdim.npz pusht_pixels.zarr.zip

The recordings on the shelf have no images; these are drawn by the world in which a policy is evaluated, so training and
evaluation see the same colours. Writes a replay buffer of `img` (96 x 96 x 3, uint8), `state` and `action`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from robotics.policy.episodes import read_episodes
from robotics.policy.pusht import PushT
from shared.files import atomic_path, refuse_existing
from shared.progress import tracked

CHUNK = 161  # frames, as in the published buffer


def main(
    source: Annotated[Path, typer.Argument(help="Recordings with state and action.")],
    output: Annotated[Path, typer.Argument(help="A .zarr.zip to write.")],
    size: Annotated[int, typer.Option(min=8, help="Height and width of the pictures.")] = 96,
) -> None:
    """Draw every recorded state."""
    import zarr

    refuse_existing(output, overwrite=False)
    episodes = read_episodes(source, ["state", "action"])
    world = PushT()
    world.reset(world.first_seed)
    frames = np.empty((episodes.frames, size, size, 3), dtype=np.uint8)
    for place, state in enumerate(tracked(list(episodes.arrays["state"]), "draws")):
        world.place(state)
        frames[place] = world.picture(size, size)
    world.close()
    module: Any = zarr.storage
    with atomic_path(output, overwrite=False) as scratch:
        store = module.ZipStore(str(scratch), mode="w")
        root: Any = zarr.create_group(store, zarr_format=2)
        for name, values in {"img": frames, **episodes.arrays}.items():
            root.create_array(f"data/{name}", data=values, chunks=(CHUNK, *values.shape[1:]))
        root.create_array("meta/episode_ends", data=episodes.ends)
        store.close()
    typer.echo(str(output))


if __name__ == "__main__":
    typer.run(main)

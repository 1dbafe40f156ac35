"""What a world looks like, as a film: an animated GIF at the world's own speed, written with Pillow.

    film = Film()
    film.look(world, tick)       # after the reset and after every tick
    film.write("episode.gif")

One film shows one episode.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from robotics.policy.environments import World
from shared.errors import InputError
from shared.files import atomic_path

if TYPE_CHECKING:
    from PIL.Image import Image as Bitmap

FASTEST_HZ = 20.0  # pictures a second
WIDEST = 320  # pixels
COLOURS = 64
LAST_MS = 1000  # the last picture stays


class Film:
    """Pictures of one episode."""

    def __init__(self) -> None:
        self.pictures: list[Bitmap] = []
        self.milliseconds = 0  # of a picture

    def look(self, world: World, tick: int) -> None:
        """Take a picture, if it is time for one."""
        from PIL import Image

        every = max(1, round(world.rate_hz / FASTEST_HZ))
        if tick % every:
            return
        self.milliseconds = 10 * max(2, round(100 * every / world.rate_hz))  # GIF counts hundredths, viewers from 2 on
        picture = Image.fromarray(world.picture())
        if picture.width > WIDEST:
            picture = picture.resize((WIDEST, round(WIDEST * picture.height / picture.width)), Image.Resampling.BOX)
        self.pictures.append(picture.quantize(COLOURS))

    def write(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the film.

        Raises:
            InputError: another suffix than .gif, or an existing file that may not be replaced.
        """
        require_gif(path)
        times = [self.milliseconds] * (len(self.pictures) - 1) + [LAST_MS]
        with atomic_path(path, overwrite=overwrite) as scratch:
            self.pictures[0].save(scratch, save_all=True, append_images=self.pictures[1:], duration=times, loop=0)


def require_gif(path: str | os.PathLike[str]) -> None:
    """Raise `InputError` unless a film may have this name; call it before long work."""
    suffix = Path(path).suffix
    if suffix.lower() != ".gif":
        raise InputError(path, found=f"the suffix {suffix!r}", expected=".gif", fix="Rename it.")

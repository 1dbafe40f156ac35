r"""Image to image: a volume is noised to a level and sampled from there (SDEdit).

    x_t = alpha(t) x_0 + sigma(t) eps,   t = strength;   then the sampling from t down

Near 0 the volume returns, near 1 it is forgotten; between, coarse structures stay and fine ones are drawn anew, the
coarser the higher the level. Strength is the time t of the process: the share of the entries of the noise table.

Reference: Meng et al., SDEdit, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from shared.errors import InputError
from shared.grid import Grid


@dataclass(frozen=True, eq=False)
class Start:
    """A volume to start from.

    Attributes:
        volume: (X, Y, Z), -1 to 1.
        strength: t, between 0 and 1.
        name: of its file.
        sha256: of its file.

    Raises:
        InputError: a strength out of range.
    """

    volume: Tensor
    strength: float = 0.6
    name: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.strength < 1:
            raise InputError(
                "--strength", found=f"{self.strength:g}", expected="a number between 0 and 1", fix="Such as 0.6."
            )

    def noised(self, grid: Grid, noise: Tensor) -> tuple[Grid, Tensor]:
        """Return the grid from the strength on, and the volume with noise (1, 1, X, Y, Z) at that level.

        Raises:
            InputError: a noise of another size.
        """
        if noise.shape[2:] != self.volume.shape:
            raise InputError(
                self.name or "start", found=f"a volume of {'x'.join(map(str, self.volume.shape))}",
                expected="x".join(map(str, noise.shape[2:])), fix="Prepare it on the grid of the model.",
            )  # fmt: skip
        volume = self.volume[None, None].to(noise)
        return grid.from_time(self.strength), grid.process.add_noise(volume, noise, self.strength)

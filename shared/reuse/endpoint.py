r"""How far a mask moves the end of a sampling: the error that searches and trainings of masks minimise.

    e(S) = sqrt( mean over samples and numbers of (x_0(S) - x_0(all ones))^2 )

on a few noises, by the same grid and solver. It needs no data and no exact ODE: the reference is the sampling that
reuses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.errors import InputError
from shared.grid import Grid
from shared.reuse.executor import Predictor, ReusingNetwork
from shared.reuse.interception import Block, check_blocks
from shared.sampling import Solver, sample


class Endpoint:
    """The end of the full sampling of some noises, and the distance of a masked one from it.

    Args:
        denoiser: of the plain network, a torch module.
        blocks: columns of the masks.
        x: noises at the first level of the grid, (n, ...).
        grid: levels.
        solver: asks once a level.
        predictor: gives the blocks that are not computed; reuse by default.

    Attributes:
        asked: level of each network call, one a row of the masks.
        full: x_0 of the sampling that reuses nothing.

    Raises:
        InputError: a network that is no module, or blocks that it does not have.
    """

    def __init__(
        self,
        denoiser: NetworkDenoiser | PreconditionedDenoiser,
        blocks: Sequence[Block],
        x: Tensor,
        grid: Grid,
        solver: Solver,
        *,
        predictor: Predictor | None = None,
    ) -> None:
        if not isinstance(denoiser.network, nn.Module):
            raise InputError(
                "reuse", found=f"a network of type {type(denoiser.network).__name__}",
                expected="a torch module with named blocks", fix="Give the denoiser of the plain network.",
            )  # fmt: skip
        check_blocks(denoiser.network, blocks)
        self._network, self._denoiser, self._blocks = denoiser.network, denoiser, tuple(blocks)
        self._x, self._grid, self._solver, self._predictor = x, grid, solver, predictor
        self.asked = solver.plan(grid).asked
        self._told = [float(denoiser.time_input(t)) for t in self.asked]
        self.full = sample(denoiser, x, grid, solver)

    def rmse(self, mask: Tensor) -> float:
        """Return e(mask); `inf` where the masked sampling overflows."""
        cached = ReusingNetwork(
            self._network, self._blocks, mask, self._told,
            predictor=self._predictor, time_argument=self._denoiser.time_argument,
        )  # fmt: skip
        end = sample(self._denoiser.with_network(cached), self._x, self._grid, self._solver)
        error = float((end.double() - self.full.double()).square().mean().sqrt())
        return error if math.isfinite(error) else math.inf

r"""Scalars that rectify reused features, by least squares, one step after the other on the student's own trajectory.

At step i the reused block b gives a_b f_b + o_b (`predictors.Rectified`); a_b = 1, o_b = 0 is plain reuse. With
theta = (a_b, o_b / rms f_b) over the blocks reused at this step, x_{i+1}(theta) the student's next state and x*_{i+1}
that of the sampling without reuse from the same noise,

    theta - theta_0 = argmin_d |J d - (x*_{i+1} - x_{i+1}(theta_0))|^2 + lambda |d|^2
                    = (J^T J + lambda)^{-1} J^T r,       lambda = RIDGE times the mean of the diagonal of J^T J,

J by differences: one network call a number. The step is halved, at most 3 times, until it lowers the error, else
dropped; then the student moves on with it, so the errors that later steps see are the ones that occur.

ERTACache (Peng et al. 2025) regresses the error of the network's output on that output, scalar by scalar. Regressing
each block's features alone lowers the error of the features and often raises that of the sample; the next state is
what counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.grid import Grid
from shared.progress import tracked
from shared.reuse.interception import Block, Call, Output, intercepted, map_tensors
from shared.reuse.profile import flat, network_of
from shared.sampling import Plan, Solver, State

RIDGE = 0.1
DIFFERENCE = 0.05  # of theta; the features are near linear in it
HALVINGS = 3
Table = list[list[float]]


def rectification(
    denoiser: NetworkDenoiser | PreconditionedDenoiser,
    grid: Grid,
    solver: Solver,
    blocks: Sequence[Block],
    mask: Tensor,
    targets: Sequence[Tensor],
    *,
    progress: str | None = None,
) -> tuple[Table, Table]:
    """Return the gains and offsets, [steps][blocks], that bring a masked sampling back to the plain one.

    Args:
        denoiser: of the plain network.
        grid: levels.
        solver: deterministic, asks once a level.
        blocks: columns of the mask.
        mask: [steps, blocks].
        targets: states of the plain sampling, the noises first and the end last (`Profile.states`).
        progress: label of a progress bar.
    """
    plan = solver.plan(grid)
    student = _Student(denoiser, blocks, plan, plan.start(targets[0]))
    gains, offsets = (torch.full(mask.shape, value, dtype=torch.float64) for value in (1.0, 0.0))
    with torch.no_grad():
        for i in tracked(range(plan.calls), progress):
            student.computed = mask[i].tolist()
            theta = student.fitted(targets[i + 1])
            gains[i], offsets[i] = student.scalars(theta)
            student.move(theta)
    return gains.tolist(), offsets.tolist()


class _Student:
    """A masked sampling between two steps, that can try the next one with different scalars."""

    def __init__(
        self, denoiser: NetworkDenoiser | PreconditionedDenoiser, blocks: Sequence[Block], plan: Plan, state: State
    ) -> None:
        self.denoiser, self.blocks, self.plan, self.state = denoiser, blocks, plan, state
        self.network = network_of(denoiser)
        self.computed: list[bool] = []
        self.store: dict[str, Output] = {}

    def scalars(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return gain and offset of every block for theta, two numbers a reused block."""
        gain, offset = torch.ones(len(self.blocks), dtype=torch.float64), torch.zeros(len(self.blocks)).double()
        reused = [b for b, done in enumerate(self.computed) if not done]
        for (a, o), b in zip(theta.reshape(-1, 2).tolist(), reused, strict=True):
            size = float(flat(self.store[self.blocks[b].modules[-1]]).double().square().mean().sqrt())
            gain[b], offset[b] = a, o * size
        return gain, offset

    def tried(self, theta: Tensor, store: dict[str, Output] | None = None) -> State:
        """Return the next state with these scalars; what is computed goes to `store`."""
        gain, offset = (values.tolist() for values in self.scalars(theta))

        def rule(call: Call) -> Output:
            if self.computed[call.column]:
                output = call.compute()
                if store is not None:
                    store[call.module] = call.stored(output)
                return output
            a, o = gain[call.column], offset[call.column]
            return call.restored(map_tensors(lambda value: a * value + o, self.store[call.module]))

        with intercepted(self.network, self.blocks, rule):
            answer = self.denoiser(self.state.x, self.state.t)
        return self.plan.advance(self.state, answer)

    def move(self, theta: Tensor) -> None:
        """Take the step."""
        new: dict[str, Output] = {}
        self.state = self.tried(theta, new)
        self.store.update(new)

    def fitted(self, target: Tensor) -> Tensor:
        """Return theta for this step (module docstring)."""
        plain = torch.tensor([1.0, 0.0] * self.computed.count(False), dtype=torch.float64)
        if not len(plain):
            return plain

        def next_x(theta: Tensor) -> Tensor:
            return self.tried(theta).x.double().flatten()

        start, goal = next_x(plain), target.double().flatten()
        moves = DIFFERENCE * torch.eye(len(plain), dtype=torch.float64)
        jacobian = torch.stack([(next_x(plain + move) - start) / DIFFERENCE for move in moves], 1)
        normal = jacobian.T @ jacobian
        if not float(normal.trace()) > 0:
            return plain
        ridge = RIDGE * normal.diag().mean() * torch.eye(len(plain), dtype=torch.float64, device=normal.device)
        change = torch.linalg.solve(normal + ridge, jacobian.T @ (goal - start)).cpu()
        for halving in range(HALVINGS + 1):
            theta = plain + change / 2**halving
            if float((next_x(theta) - goal).square().sum()) < float((start - goal).square().sum()):
                return theta
        return plain

r"""The router of HarmoniCa: scores between reuse and computation, and their training along the student's own sampling.

    s = sigmoid(R),  R [steps, blocks];   nested levels: s_l = prod_{j <= l} sigmoid(R_j)
    f = s f_fresh + (1 - s) f_stored                        f_fresh is stored where s > tau, without gradient

Step-wise denoising training. From noise, the student goes through all steps; at step i the frozen network is asked at
the same x_t without any reuse, row i of R is updated by one step of AdamW on

    L_i = lambda_i mean (F_student - F_full)^2 + beta sum_l s_il cost_l,

and the sampling goes on with the student's answer, so that later steps see the errors of earlier ones. F is what the
network itself predicts. No data is needed.

Image error proxy. lambda_i = mean (x_0[i] - x_0[i-1])^2, where x_0[i] is the end of the sampling that follows the
scores up to step i and computes everything after it: what the reuse of step i changes in the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_unflatten
from torch.utils._pytree import tree_structure as structure

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.progress import tracked
from shared.reuse.interception import Block, Call, Output, intercepted, map_tensors
from shared.sampling import Plan, State

NetworkBacked = NetworkDenoiser | PreconditionedDenoiser
LARGEST_LOGIT = 5.0
THRESHOLD = 0.1


def mixed(
    network: nn.Module,
    blocks: Sequence[Block],
    scores: Tensor,
    store: MutableMapping[str, Output],
    *,
    threshold: float = THRESHOLD,
) -> Callable[..., Any]:
    """Return the network with every block between its stored and its fresh output, for one step.

    A block that is not in the store is computed and stored. Scores of 1 give the plain network, of 0 pure reuse, both
    bit for bit.

    Args:
        network: called as before.
        blocks: columns.
        scores: s of this step (blocks,), in [0, 1]; the result is differentiable in them.
        store: the outputs of the steps before, by module; changed by the call. Empty before the first step.
        threshold: tau; a block with a larger score is stored anew.
    """

    def rule(call: Call) -> Output:
        fresh = call.compute()
        s = scores[call.column]
        stored = store.get(call.module)
        if stored is None or float(s.detach()) > threshold:
            store[call.module] = map_tensors(torch.Tensor.detach, call.stored(fresh))
        return fresh if stored is None else _between(s, fresh, call.restored(stored))

    def forward(*args: Any, **kwargs: Any) -> Any:
        with intercepted(network, blocks, rule):
            return network(*args, **kwargs)

    return forward


def _between(s: Tensor, fresh: Output, stored: Output) -> Output:
    pairs = zip(tree_leaves(fresh), tree_leaves(stored), strict=True)
    return tree_unflatten(
        [s * new + (1 - s) * old if isinstance(new, Tensor) else new for new, old in pairs], structure(fresh)
    )


def activated(logits: Tensor, *, nested: bool) -> Tensor:
    """Return the scores of logits [..., blocks]; nested ones fall along the levels."""
    scores = torch.sigmoid(logits)
    return scores.cumprod(-1) if nested else scores


def walk(
    denoiser: NetworkBacked,
    blocks: Sequence[Block],
    scores: Callable[[int], Tensor],
    x: Tensor,
    plan: Plan,
    *,
    threshold: float = THRESHOLD,
) -> Iterator[tuple[int, State, Tensor]]:
    """Yield (step, state, answer) of a mixed sampling; it goes on with the answer, detached.

    Args:
        denoiser: of the plain network.
        blocks: columns.
        scores: the scores (blocks,) of a step, asked when the step is made.
        x: noises.
        plan: of a solver without noise.
        threshold: tau.
    """
    store: dict[str, Output] = {}
    network = denoiser.network
    assert isinstance(network, nn.Module)
    state = plan.start(x)
    for step in range(plan.calls):
        student = denoiser.with_network(mixed(network, blocks, scores(step), store, threshold=threshold))
        answer = student(state.x, state.t)
        yield step, state, answer
        state = plan.advance(state, answer.detach())


@torch.no_grad()
def image_error_weights(
    denoiser: NetworkBacked,
    blocks: Sequence[Block],
    scores: Tensor,
    x: Tensor,
    plan: Plan,
    *,
    threshold: float = THRESHOLD,
) -> Tensor:
    """Return lambda (steps,) of the scores [steps, blocks]; that of the first step, which reuses nothing, is 0.

    The samplings share the student's steps, so that N (N + 1) / 2 network calls are made instead of N^2.
    """
    weights = torch.zeros(plan.calls, dtype=torch.float64)
    before = None
    for step, state, answer in walk(denoiser, blocks, lambda step: scores[step], x, plan, threshold=threshold):
        state = plan.advance(state, answer)
        for _ in range(step + 1, plan.calls):
            state = plan.advance(state, denoiser(state.x, state.t))
        if before is not None:
            weights[step] = (state.x - before).double().square().mean().cpu()
        before = state.x
    return weights


@dataclass(frozen=True)
class Training:
    """How a router is trained.

    Attributes:
        epochs: samplings of the student; every row is updated once in each.
        learning_rate: of AdamW, without decay of the logits.
        batch: noises an epoch.
        refresh: epochs between two computations of lambda.
        threshold: tau.
        seed: of the noises and of the first logits, N(0, 1).
    """

    epochs: int = 500
    learning_rate: float = 0.01
    batch: int = 64
    refresh: int = 50
    threshold: float = THRESHOLD
    seed: int = 0


@dataclass(frozen=True)
class Setting:
    """What is routed: a denoiser, its blocks with their costs, and a plan.

    Attributes:
        denoiser: of the plain network.
        blocks: columns.
        costs: share of each block in a network call.
        plan: of a solver without noise.
        shape: of one sample.
        nested: the blocks are levels of a UNet.
    """

    denoiser: NetworkBacked
    blocks: tuple[Block, ...]
    costs: tuple[float, ...]
    plan: Plan
    shape: tuple[int, ...]
    nested: bool

    def noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Return noises on the device of the network."""
        network = self.denoiser.network
        assert isinstance(network, nn.Module)
        device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
        return self.denoiser.process.noise((count, *self.shape), generator, device=device)


def initial_logits(setting: Setting, training: Training) -> Tensor:
    """Return R before the training: N(0, 1), and the largest logit in the first row, which stays."""
    generator = torch.Generator().manual_seed(training.seed)
    logits = torch.randn(setting.plan.calls, len(setting.blocks), generator=generator)
    logits[0] = LARGEST_LOGIT
    return logits


def first_beta(setting: Setting, training: Training) -> float:
    """Return the beta at which both terms of the loss are equal in the mean over the steps before the training."""
    generator = torch.Generator().manual_seed(training.seed)
    x = setting.noise(training.batch, generator)
    scores = activated(initial_logits(setting, training), nested=setting.nested).to(x.device)
    weights = _weights(setting, training, scores, x)
    data, cost = 0.0, 0.0
    with torch.no_grad():
        for step, error, spent in losses(setting, training, lambda step: scores[step], x):
            data += float(weights[step]) * float(error)
            cost += float(spent)
    return data / cost


def train_router(setting: Setting, training: Training, beta: float, *, progress: str | None = None) -> Tensor:
    """Return the trained logits R [steps, blocks].

    Args:
        setting: what is routed.
        training: how.
        beta: price of a computed network call in the loss.
        progress: label of a progress bar.
    """
    generator = torch.Generator().manual_seed(training.seed)
    x = setting.noise(training.batch, generator)
    rows = [nn.Parameter(row.to(x.device)) for row in initial_logits(setting, training)]
    optimizer = torch.optim.AdamW(rows[1:], lr=training.learning_rate, weight_decay=0)

    def scores(step: int) -> Tensor:
        return activated(rows[step], nested=setting.nested)

    weights = torch.zeros(setting.plan.calls)
    with torch.enable_grad():
        for epoch in tracked(range(training.epochs), progress):
            if epoch % training.refresh == 0:
                current = activated(torch.stack([row.detach() for row in rows]), nested=setting.nested)
                weights = _weights(setting, training, current, x)
            for step, error, spent in losses(setting, training, scores, x):
                loss = float(weights[step]) * error + beta * spent
                rows[step].grad = torch.autograd.grad(loss, rows[step])[0]
                optimizer.step()
                rows[step].grad = None
                rows[step].data.clamp_(-LARGEST_LOGIT, LARGEST_LOGIT)
            x = setting.noise(training.batch, generator)
    return torch.stack([row.detach() for row in rows]).cpu()


def _weights(setting: Setting, training: Training, scores: Tensor, x: Tensor) -> Tensor:
    return image_error_weights(
        setting.denoiser, setting.blocks, scores, x, setting.plan, threshold=training.threshold
    )  # fmt: skip


def losses(
    setting: Setting, training: Training, scores: Callable[[int], Tensor], x: Tensor
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield (step, mean (F_student - F_full)^2, cost in network calls) of every step after the first.

    F = D / B up to what both share, where D = A x + B F.
    """
    costs = torch.tensor(setting.costs, device=x.device)
    for step, state, answer in walk(
        setting.denoiser, setting.blocks, scores, x, setting.plan, threshold=training.threshold
    ):
        if step:
            with torch.no_grad():
                full = setting.denoiser(state.x, state.t)
            worth = setting.denoiser.reading(state.t).out
            yield step, (answer - full).square().mean() / worth**2, (scores(step) * costs).sum()

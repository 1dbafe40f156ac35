r"""Sequential Monte Carlo over any stochastic sampling: exact as the particles grow in number.

Guidance alone draws from a wrong distribution wherever its Gaussian approximation fails: it chooses wrong weights of
modes. Here guidance only *proposes*, and weights repair it. With a twist psi_t(x), about p(y | x_t = x), a step of a
stochastic solver with mean m(D) = gain x + w D and noise c, and K particles an ensemble:

    x'     ~ N(m(D'), c^2)                                                           proposal, D' guided
    weight *= psi_t'(x') / psi_t(x) * N(x'; m(D), c^2) / N(x'; m(D'), c^2)           target over proposal

and an ensemble is resampled when its effective size falls below a threshold. The last step has no noise; there psi is
the likelihood itself up to the noise of the last level asked, so no weight is lost.

| sampler                    | D'                | psi_t(x)                             |
| -------------------------- | ----------------- | ------------------------------------ |
| twisted (`twisted_sample`) | PiGDM             | N(y; A D, r^2 A A^T + sigma_y^2)     |
| Feynman-Kac (`rewarded`)   | D: no guidance    | exp(r(D)), any function r of a volume |
| targets of scalars         | `shared.guidance.targets` | N(c; v(D), S)                |

Feynman-Kac steering needs no gradient; its target is p(x_0) exp(r(x_0)), since the last D is the sample itself. It is
blind between its weights: it needs an r that says on blurred estimates what it will say on samples.

The particles of one ensemble descend from a few ancestors and agree too much (their spread is *not* the posterior's).
So ensembles are independent: take one particle of each (`ParticleResult.draw`) for uncertainty.

References:
    Wu et al., Practical and Asymptotically Exact Conditional Sampling in Diffusion Models, 2023, algorithm 1.
    Singhal et al., A General Framework for Inference-time Scaling and Steering of Diffusion Models, 2025 (Feynman-Kac,
    potential "difference", with weights kept over steps without resampling).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.grid import Grid
from shared.guidance.likelihood import GaussianLikelihood, inner
from shared.guidance.pigdm import GuidedEstimate, guided_estimate
from shared.guidance.steered import answer_weights
from shared.sampling import Solver
from shared.search.resampling import effective_size, systematic
from shared.solvers.ancestral import Ancestral
from shared.solvers.linear import LinearPlan

Guide = Callable[[Tensor, float], GuidedEstimate]
"""(x, t) -> plain and guided estimate and log psi, one call of the network."""


@dataclass(frozen=True)
class ParticleResult:
    """Weighted samples in independent ensembles.

    Attributes:
        x0: (E, K, ...).
        log_weights: (E, K), float64, not normalised.
        effective_size: smallest effective size of each ensemble before any resampling (E,).
        ancestors: number of distinct first particles that the particles of each ensemble descend from (E,).
    """

    x0: Tensor
    log_weights: Tensor
    effective_size: Tensor
    ancestors: Tensor

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """Return one particle of each ensemble (E, ...), drawn by weight: independent samples."""
        source = self.log_weights.device if generator is None else generator.device
        chances = torch.softmax(self.log_weights, dim=1).to(source)
        chosen = torch.multinomial(chances, 1, generator=generator)[:, 0].to(self.x0.device)
        return self.x0[torch.arange(len(self.x0), device=self.x0.device), chosen]


def twisted_sample(
    denoiser: Denoiser,
    likelihood: GaussianLikelihood,
    x: Tensor,
    grid: Grid,
    *,
    ensembles: int,
    solver: Solver | None = None,
    data_std: float = 1.0,
    threshold: float = 0.5,
    generator: torch.Generator | None = None,
) -> ParticleResult:
    """Sample the posterior of a linear measurement: one network call and backward pass a step.

    Args:
        denoiser: of the prior, differentiable.
        likelihood: the measurement, one for all particles.
        x: see `particle_sample`; so are the arguments that are not named here.
        grid: levels.
        ensembles: E.
        solver: stochastic.
        data_std: standard deviation of a component of the data.
        threshold: of resampling.
        generator: source of all randomness.
    """

    def guide(x: Tensor, t: float) -> GuidedEstimate:
        return guided_estimate(denoiser, likelihood, grid.process, x, t, data_std=data_std)

    return particle_sample(
        guide, x, grid, ensembles=ensembles, solver=solver, threshold=threshold, generator=generator
    )  # fmt: skip


def rewarded(denoiser: Denoiser, reward: Callable[[Tensor], Tensor], *, below: float = 1.0) -> Guide:
    """Return the guide of Feynman-Kac steering towards p(x_0) exp(r(x_0)).

    Args:
        denoiser: of the prior; no gradient is taken.
        reward: r, from samples (N, ...) to (N,), in nats; need not be differentiable.
        below: highest level t at which it is asked: blurred estimates at high noise may mislead it.
    """

    def guide(x: Tensor, t: float) -> GuidedEstimate:
        x0 = denoiser(x, t)
        worth = reward(x0) if t <= below else x0.new_zeros(len(x0))
        return GuidedEstimate(x0, x0, worth.double())

    return guide


def particle_sample(
    guide: Guide,
    x: Tensor,
    grid: Grid,
    *,
    ensembles: int,
    solver: Solver | None = None,
    threshold: float = 0.5,
    generator: torch.Generator | None = None,
) -> ParticleResult:
    """Sample by the method of the module docstring.

    Args:
        guide: proposals and twists.
        x: noise at the first level (E K, ...); consecutive K particles are an ensemble.
        grid: levels.
        ensembles: E.
        solver: stochastic, one answer a step; None is `Ancestral`.
        threshold: resample below this share of K; 0 never resamples (importance sampling).
        generator: source of all randomness.

    Raises:
        InputError: particles that do not divide into ensembles, or a solver without noise in a step before the last.
    """
    if ensembles < 1 or len(x) % ensembles:
        raise InputError(
            "ensembles", found=f"{ensembles} for {len(x)} particles", expected="a divisor", fix="Change one of the two."
        )
    plan = _noisy_plan(Ancestral() if solver is None else solver, grid)
    particles = len(x) // ensembles
    state = plan.start(x)
    first = torch.arange(particles, device=x.device).expand(ensembles, particles)
    log_weights = torch.zeros(ensembles, particles, dtype=torch.float64, device=x.device)
    smallest = torch.full((ensembles,), float(particles), dtype=torch.float64, device=x.device)
    carried = torch.zeros(len(x), dtype=torch.float64, device=x.device)  # left over from the last move
    with torch.no_grad():
        for update in plan.updates:
            found = guide(state.x, state.t)
            plain, guided, twist = found.plain, found.guided, found.log_twist
            log_weights = log_weights + (twist + carried).reshape(ensembles, particles)
            size = effective_size(log_weights)
            smallest = torch.minimum(smallest, size)
            poor = size < threshold * particles
            if bool(poor.any()):
                kept = torch.arange(particles, device=x.device).expand(ensembles, particles)
                parents = torch.where(poor[:, None], systematic(log_weights, generator), kept)
                log_weights = log_weights.masked_fill(poor[:, None], 0.0)
                first = first.gather(1, parents)
                indices = (parents + particles * torch.arange(ensembles, device=x.device)[:, None]).flatten()
                state = state.select(indices)
                plain, guided, twist = (part.index_select(0, indices) for part in (plain, guided, twist))
            moved = plan.advance(state, guided, generator)
            carried = -twist
            if update.noise:
                shift = update.weights[0] * (guided - plain)
                drawn = moved.x - (update.gain * state.x + update.weights[0] * guided)
                # ln N(x'; m(D), c^2) - ln N(x'; m(D'), c^2), with x' = m(D') + drawn and m(D') = m(D) + shift
                carried = carried - (2 * inner(drawn, shift) + inner(shift, shift)) / (2 * update.noise**2)
            state = moved
    counts = torch.tensor([len(row.unique()) for row in first], device=x.device)
    return ParticleResult(state.x.unflatten(0, (ensembles, particles)), log_weights, smallest, counts)


def _noisy_plan(solver: Solver, grid: Grid) -> LinearPlan:
    plan = solver.plan(grid)
    answer_weights(plan)
    assert isinstance(plan, LinearPlan)
    if any(not update.noise for update in plan.updates[:-1]):
        raise InputError(
            "solver", found="a step without noise", expected="noise in every step but the last",
            fix="Use Ancestral, or DDIM or Renoising with new noise.",
        )  # fmt: skip
    return plan

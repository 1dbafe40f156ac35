r"""EVODiff: a predictor and a corrector whose weights are measured on the sample, one call a step.

With <a, b> the inner product over the places of one channel of one sample, proj(a, b) = clip(<a,b> / <b,b>, -2, 2),
s the sigmoid, m_0 and m_1 the two newest answers, and for the step from node k-1 to node k

    h = 1 / kappa_k - 1 / kappa_{k-1}             sigma_k h = alpha_k (1 - exp(-step in log_snr))
    r = sigma_k / sigma_{k-1},  q = sigma_{k-1} / sigma_{k-2},  b = sqrt(r / q),
    rho = (ln kappa_{k-2} - ln kappa_{k-1}) / (ln kappa_{k-1} - ln kappa_k),
    w = (1 - ((t_k + t_end) / (t_start + t_end))^2) / 2,

    predictor   beta_1 = (1 - w) b + w proj(m_0, m_1)          D_1 = m_0 - beta_1 m_1
                rho_i  = clip(s(|beta_1| / 4) rho, rho / 4, 3 rho / 2)
                x_E    = r x + sigma_k h m_0                    x_P = x_E + sigma_k h D_1 / (2 rho_i)
    call        m_+    = D(x_P, t_k)                            also the m_0 of the next step
    corrector   beta_2 = (1 - w) b + w proj(m_+, m_0)          D_2 = m_+ - beta_2 m_0
                eta    = s(|proj(rho D_2/h + D_1/(rho h), rho D_2/h - D_1/(rho h))| / 2) / 2
                B      = -(eta / rho) D_1 + rho (1 - eta) D_2
                zeta*  = proj(x_P - x_E - sigma_k h B / (2 rho_i), D_1) / (sigma_k h)
                zeta   = s(|zeta*| - 1/2)                                                     up to 20 steps
                       = s(-(|zeta*| - 1/2) s(proj(m_0, (m_0 - m_1) / h) (2 - r^2)))          above
                x_k    = x_E + sigma_k h B / (2 zeta)
    last step   g = 1 - sqrt(r) / 2 if r < 1/2, else 1 - sqrt(r - 1/2) / 2
                x_N = (1 - sqrt(sigma_N sigma_{N-1})) x_E + sigma_N h (m_0 - g m_1) / 2       (the final rule)

The first step is DDIM. On a grid that ends at data, x = D(x_N, t_N) follows. This is what the authors' code computes;
it differs from their paper, where eta is not halved and zeta multiplies. Without the final rule the last step is x_P.

Order. The paper claims two. Measured on a mixture with a known end: about ONE without the final rule, because the
differences are scaled by factors that do not tend to one with the step (1 / s(1/4) = 1.78 in the predictor); with the
final rule the error does NOT CONVERGE as steps are added, because that rule shrinks x by sqrt(sigma_N sigma_{N-1}) and
scales a difference by a factor that does not tend to one. Numbers: `docs/methods/evodiff.md`; prefer `Multistep`.

Nodes must be uniform in log_snr: elsewhere b is not 1, D_1 does not vanish with the step, and the iteration explodes.

Channels: axis 1 of (N, C, ...) with one or more axes after it; (N, D) is one channel of D places. Fields without a
channel axis, such as (N, H, W), want `per_channel=False`: one inner product a sample.

Reference: Li et al., EVODiff: Entropy-aware Variance Optimized Diffusion Inference, 2025, and its released code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from shared.errors import InputError
from shared.grid import LOG_SNR_FLOOR, Grid
from shared.sampling import State

FEW_STEPS = 20
UNEVEN = 1e-3  # largest difference of two gaps of log_snr, in units of their mean


@dataclass(frozen=True)
class EVODiff:
    """Sample-adaptive predictor-corrector on nodes uniform in log_snr; one call a step, of first order at best.

    Attributes:
        final_rule: end with the authors' last step, which does not converge; otherwise with the predictor.
        per_channel: one inner product a channel (axis 1, where axes follow it) instead of one a sample.
    """

    final_rule: bool = True
    per_channel: bool = True

    def plan(self, grid: Grid) -> EVODiffPlan:
        """Return the plan.

        Raises:
            InputError: nodes that are not uniform in log_snr (the step to data set aside).
        """
        nodes = grid.times[:-1] if grid.sigma[-1] == 0 else grid.times
        levels = list(grid.log_snr[: len(nodes)])
        if nodes[0] == 1.0:
            levels[0] = max(levels[0], LOG_SNR_FLOOR)  # as the spacing of `log_snr_grid`
        gaps = [after - before for before, after in pairwise(levels)]
        mean = sum(gaps) / max(1, len(gaps))
        for k, gap in enumerate(gaps):
            if not abs(gap - mean) <= UNEVEN * mean:
                raise InputError(
                    "grid",
                    found=f"log_snr steps of {gap:.4g} at node {k} and {mean:.4g} in the mean",
                    expected="nodes uniform in log_snr: EVODiff diverges on others",
                    fix="Use log_snr_grid, or Multistep for other grids.",
                )
        end = nodes[-1]
        intervals = []
        for k in range(1, len(nodes)):
            r = grid.sigma[k] / grid.sigma[k - 1]
            q = grid.sigma[k - 1] / grid.sigma[k - 2] if k > 1 else r
            h = math.exp(grid.log_snr[k]) - math.exp(grid.log_snr[k - 1])
            intervals.append(
                Interval(
                    r=r,
                    h=h,
                    scale=grid.sigma[k] * h,
                    b=math.sqrt(r / q),
                    rho=gaps[k - 2] / gaps[k - 1] if k > 1 else 1.0,
                    w=0.5 * (1 - ((nodes[k] + end) / (nodes[0] + end)) ** 2),
                    shrink=math.sqrt(grid.sigma[k] * grid.sigma[k - 1]),
                )
            )
        return EVODiffPlan(grid.times, tuple(intervals), self.final_rule, self.per_channel)


@dataclass(frozen=True)
class Interval:
    """The numbers of one step; the symbols are those of the module docstring.

    Attributes:
        r: ratio of sigma over the step.
        h: difference of 1/kappa.
        scale: sigma_k h.
        b: square root of the ratio of this and the last ratio of sigma.
        rho: ratio of the last step in log_snr to this one.
        w: weight of the measured projections against b.
        shrink: sqrt(sigma_k sigma_{k-1}), used by the final rule.
    """

    r: float
    h: float
    scale: float
    b: float
    rho: float
    w: float
    shrink: float


@dataclass(frozen=True)
class EVODiffPlan:
    """EVODiff on a grid. The state holds the last two answers and, as anchor, x at the start of the current step.

    Attributes:
        times: nodes of the grid.
        intervals: the steps between nodes above data.
        final_rule: see `EVODiff`.
        per_channel: see `EVODiff`.
    """

    times: tuple[float, ...]
    intervals: tuple[Interval, ...]
    final_rule: bool
    per_channel: bool

    @property
    def calls(self) -> int:
        """Return the number of network calls."""
        return len(self.times) - 1

    @property
    def asked(self) -> tuple[float, ...]:
        """Return the level of each call."""
        return self.times[:-1]

    def start(self, x: Tensor) -> State:
        """Return the state before the first call."""
        return State(x=x, t=self.times[0])

    def advance(self, state: State, x0: Tensor, generator: torch.Generator | None = None) -> State:
        """Return the state after the answer x0 = D(state.x, state.t); the generator is not used.

        Raises:
            InputError: the sampling is already complete.
        """
        k = state.index
        if k >= self.calls:
            raise InputError(
                "state",
                found=f"{k} calls made",
                expected=f"fewer than the {self.calls} of the plan",
                fix="Start a new sampling.",
            )
        history = (x0, *state.history)[:2]
        anchor = None
        if k == len(self.intervals):
            x = x0
        else:
            precision = torch.promote_types(x0.dtype, torch.float32)
            point = state.x.to(precision)
            newest, *older = (answer.to(precision) for answer in (x0, *state.history))
            if state.anchor is not None:
                point = self._corrected(self.intervals[k - 1], state.anchor.to(precision), point, newest, *older)
            step = self.intervals[k]
            last = k + 1 == len(self.intervals)
            if not older:
                x = _first_order(step, point, newest)
            elif last and self.final_rule:
                x = _final(step, point, newest, older[0])
            else:
                x, _, _ = self._predicted(step, point, newest, older[0])
                anchor = None if last else point.to(state.x.dtype)
            x = x.to(state.x.dtype)
        return State(x=x, t=self.times[k + 1], index=k + 1, history=history, anchor=anchor)

    def _predicted(self, step: Interval, x: Tensor, m0: Tensor, m1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_P, D_1 and rho_i."""
        beta = (1 - step.w) * step.b + step.w * self._projection(m0, m1)
        difference = m0 - beta * m1
        rho_i = (torch.sigmoid(0.25 * beta.abs()) * step.rho).clamp(0.25 * step.rho, 1.5 * step.rho)
        return _first_order(step, x, m0) + 0.5 * step.scale / rho_i * difference, difference, rho_i

    def _corrected(self, step: Interval, x: Tensor, x_p: Tensor, m_plus: Tensor, m0: Tensor, m1: Tensor) -> Tensor:
        """Return x_k from x at the start of the step, the point asked and its answer."""
        _, d1, rho_i = self._predicted(step, x, m0, m1)
        d2 = m_plus - ((1 - step.w) * step.b + step.w * self._projection(m_plus, m0)) * m0
        ahead, behind = step.rho / step.h * d2, d1 / (step.rho * step.h)
        eta = 0.5 * torch.sigmoid(0.5 * self._projection(ahead + behind, ahead - behind).abs())
        update = -(eta / step.rho) * d1 + step.rho * (1 - eta) * d2
        x_e = _first_order(step, x, m0)
        left = x_p - x_e - 0.5 * step.scale / rho_i * update
        excess = (self._projection(left, d1) / step.scale).abs() - 0.5
        if len(self.intervals) > FEW_STEPS:
            excess = -excess * torch.sigmoid(self._projection(m0, (m0 - m1) / step.h) * (2 - step.r**2))
        return x_e + 0.5 * step.scale / torch.sigmoid(excess) * update

    def _projection(self, a: Tensor, b: Tensor) -> Tensor:
        """Return clip(<a,b> / <b,b>, -2, 2), shaped to multiply a; 0 where b = 0."""
        places = tuple(range(2 if self.per_channel and a.ndim > 2 else 1, a.ndim))
        if not places:  # (N,): each sample is one number
            a, b, places = a[:, None], b[:, None], (1,)
            return self._ratio(a, b, places)[:, 0]
        return self._ratio(a, b, places)

    @staticmethod
    def _ratio(a: Tensor, b: Tensor, places: tuple[int, ...]) -> Tensor:
        norm = (b * b.conj()).real.sum(places, keepdim=True)
        product = (a * b.conj()).real.sum(places, keepdim=True)
        return torch.where(norm > 0, product / norm.where(norm > 0, 1.0), 0.0).clamp(-2, 2)


def _first_order(step: Interval, x: Tensor, m0: Tensor) -> Tensor:
    """Return x_E, the step of DDIM."""
    return step.r * x + step.scale * m0


def _final(step: Interval, x: Tensor, m0: Tensor, m1: Tensor) -> Tensor:
    """Return x_N of the final rule."""
    g = 1 - 0.5 * math.sqrt(step.r if step.r < 0.5 else step.r - 0.5)
    return (1 - step.shrink) * _first_order(step, x, m0) + 0.5 * step.scale * (m0 - g * m1)

r"""How noise enters the data: x_t = alpha(t) x_0 + sigma(t) eps, with t in [0, 1] and eps ~ N(0, 1).

t = 0 is data (alpha = 1, sigma = 0, for every process) and t = 1 is noise. Two more names are used throughout:

    log_snr(t) = ln(alpha(t) / sigma(t))     lambda of DPM-Solver: half of the logarithm of the power ratio
    kappa(t)   = sigma(t) / alpha(t)         the sigma of Karras et al.: noise in units of the data

| process            | alpha(t)                                   | sigma(t)            |
| ------------------ | ------------------------------------------ | ------------------- |
| VariancePreserving | exp(log_alpha(t))                          | sqrt(1 - alpha^2)   |
| VarianceExploding  | 1                                          | sigma_max t         |
| FlowMatching       | 1 - t                                      | t                   |

All of this is computed in float64, whatever the dtype of x.

References:
    Song et al., Score-Based Generative Modeling through SDEs, 2021, eq. 11 and 33.
    Nichol and Dhariwal, Improved DDPM, 2021, eq. 17.
    Karras et al., Elucidating the Design Space, 2022, table 1.
    Lipman et al., Flow Matching, 2023, eq. 20.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from shared.errors import InputError

Time = float | Tensor
"""A level in [0, 1]: one number for the batch, or a tensor with one number a sample."""


def as_float64(t: Time) -> Tensor:
    """Return t as a float64 tensor on the device where it lies."""
    return torch.as_tensor(t, dtype=torch.float64)


def along_batch(coefficient: Tensor, x: Tensor) -> Tensor:
    """Shape a coefficient (scalar or one number a sample) so that it multiplies the batch x, in x's precision."""
    if coefficient.ndim:
        coefficient = coefficient.reshape(-1, *[1] * (x.ndim - 1))
    return coefficient.to(device=x.device, dtype=x.real.dtype)


def standard_normal(
    shape: Sequence[int], generator: torch.Generator | None, *, dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    """Draw N(0, 1) on the generator's own device, then move: one seed means one sample on every device."""
    source = device if generator is None else generator.device
    return torch.randn(tuple(shape), generator=generator, dtype=dtype, device=source).to(device)


class NoiseProcess(ABC):
    """The family x_t = alpha(t) x_0 + sigma(t) eps."""

    @property
    @abstractmethod
    def t_min(self) -> float:
        """Return the lowest level, above 0, at which networks are asked: the last call of most grids."""

    @abstractmethod
    def alpha(self, t: Time) -> Tensor:
        """Return the weight of the data, float64, of the shape of t."""

    @abstractmethod
    def sigma(self, t: Time) -> Tensor:
        """Return the standard deviation of the noise, float64, of the shape of t."""

    @abstractmethod
    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        """Return t such that ln(alpha(t) / sigma(t)) = log_snr, float64: the inverse of `log_snr`."""

    @abstractmethod
    def network_time(self, t: Time) -> Tensor:
        """Return the number by which a network of this process is told the level t."""

    def log_snr(self, t: Time) -> Tensor:
        """Return ln(alpha(t) / sigma(t)): +inf at t = 0, -inf where alpha = 0."""
        return torch.log(self.alpha(t)) - torch.log(self.sigma(t))

    def start_std(self) -> float:
        """Return the standard deviation of x at t = 1."""
        return float(self.sigma(1.0))

    def noise(
        self,
        shape: Sequence[int],
        generator: torch.Generator | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw x at t = 1: start_std * N(0, 1). `shape` is batch first; complex dtypes have total variance one."""
        return self.start_std() * standard_normal(shape, generator, dtype=dtype, device=device)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Time) -> Tensor:
        """Return alpha(t) x0 + sigma(t) noise."""
        return along_batch(self.alpha(t), x0) * x0 + along_batch(self.sigma(t), x0) * noise


class VariancePreserving(NoiseProcess):
    """alpha^2 + sigma^2 = 1: data of unit variance keep it. Made by `linear`, `cosine`, `from_betas`."""

    @abstractmethod
    def log_alpha(self, t: Time) -> Tensor:
        """Return ln alpha(t), from which the rest follows without cancellation near t = 0."""

    @abstractmethod
    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        """Return the inverse of `log_alpha`."""

    def alpha(self, t: Time) -> Tensor:
        """Return exp(log_alpha(t))."""
        return torch.exp(self.log_alpha(t))

    def sigma(self, t: Time) -> Tensor:
        """Return sqrt(1 - alpha(t)^2)."""
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))

    def log_snr(self, t: Time) -> Tensor:
        """Return ln alpha - ln sigma."""
        return self.log_alpha(t) - torch.log(self.sigma(t))

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        """Invert alpha^2 = 1 / (1 + exp(-2 log_snr))."""
        value = as_float64(log_snr)
        return self.time_of_log_alpha(-0.5 * torch.logaddexp(torch.zeros_like(value), -2 * value))

    def start_std(self) -> float:
        """Return 1: the stationary standard deviation of a variance-preserving process."""
        return 1.0

    @staticmethod
    def linear(beta_min: float = 0.1, beta_max: float = 20.0, *, time_scale: float = 1000.0) -> LinearVP:
        """Return the process of dx = -beta(t)/2 x dt + sqrt(beta(t)) dw, beta linear in t."""
        return LinearVP(beta_min, beta_max, time_scale)

    @staticmethod
    def cosine(offset: float = 0.008, *, log_snr_min: float = -8.0, time_scale: float = 1000.0) -> CosineVP:
        """Return the continuous cosine process, cut where log_snr = log_snr_min."""
        return CosineVP(offset, log_snr_min, time_scale)

    @staticmethod
    def from_betas(betas: Sequence[float] | Tensor) -> TableVP:
        """Return the process of a table of DDPM: alpha^2 after step i is the product of 1 - beta_j, j <= i.

        Raises:
            InputError: a beta outside (0, 1].
        """
        table = torch.as_tensor(betas, dtype=torch.float64).cpu()
        wrong = torch.nonzero((table <= 0) | (table > 1) | table.isnan()).flatten().tolist()
        if wrong or table.ndim != 1 or not len(table):
            raise InputError(
                "betas",
                found=f"shape {tuple(table.shape)}, wrong at {wrong[:5]}",
                expected="a list of 0 < beta <= 1",
                fix="Correct the noise table.",
            )
        return VariancePreserving.from_alphas_cumprod(torch.cumsum(torch.log1p(-table), 0).exp())

    @staticmethod
    def from_alphas_cumprod(alphas_cumprod: Sequence[float] | Tensor) -> TableVP:
        """Return the process of a table of alpha^2, one entry a step, decreasing.

        A last entry of 0 (a table of zero terminal SNR) becomes 2^-24, as in diffusers: ln alpha, and with it every
        interpolation between the last two entries, would be infinite.

        Raises:
            InputError: the table does not decrease inside (0, 1).
        """
        table = torch.as_tensor(alphas_cumprod, dtype=torch.float64).cpu()
        if len(table) and abs(float(table[-1])) < 1e-15:
            table = torch.cat([table[:-1], table.new_tensor([ZERO_TERMINAL_SNR])])
        padded = torch.cat([torch.ones(1, dtype=torch.float64), table])
        wrong = torch.nonzero(~(padded[1:] < padded[:-1])).flatten().tolist()
        if wrong or not len(table):
            raise InputError(
                "alphas_cumprod",
                found=f"no decrease at entries {wrong[:5]} of {len(table)}",
                expected="numbers that decrease from below 1 towards 0",
                fix="Correct the noise table.",
            )
        return TableVP(tuple((0.5 * torch.log(padded)).tolist()))


ZERO_TERMINAL_SNR = 2.0**-24


@dataclass(frozen=True)
class LinearVP(VariancePreserving):
    """ln alpha(t) = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2 (Song et al., eq. 33).

    Attributes:
        beta_min: noise rate at t = 0.
        beta_max: noise rate at t = 1.
        time_scale: a network is told time_scale * t.
        t_min: lowest level at which networks are asked.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    time_scale: float = 1000.0
    t_min: float = 1e-3

    def log_alpha(self, t: Time) -> Tensor:
        """Return ln alpha(t)."""
        time = as_float64(t)
        return -0.25 * (self.beta_max - self.beta_min) * time**2 - 0.5 * self.beta_min * time

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        """Return the root of the quadratic, in the form without cancellation."""
        rise = self.beta_max - self.beta_min
        return -2 * log_alpha / (0.5 * self.beta_min + torch.sqrt(0.25 * self.beta_min**2 - rise * log_alpha))

    def network_time(self, t: Time) -> Tensor:
        """Return time_scale * t."""
        return self.time_scale * as_float64(t)


@dataclass(frozen=True)
class CosineVP(VariancePreserving):
    """alpha(t) = cos(theta(t)) / cos(theta(0)), theta(t) = (t t_cut + s) / (1 + s) * pi / 2.

    With t_cut = 1 this is the cosine schedule, whose alpha(1) = 0 leaves an epsilon network nothing to say about x_0.
    t_cut < 1 makes log_snr(1) = log_snr_min instead, as the clipped beta table does for the discrete schedule.

    Attributes:
        offset: s, keeps the noise finite in slope near t = 0.
        log_snr_min: log_snr at t = 1.
        time_scale: a network is told time_scale * t.
        t_min: lowest level at which networks are asked.
    """

    offset: float = 0.008
    log_snr_min: float = -8.0
    time_scale: float = 1000.0
    t_min: float = 1e-3

    @cached_property
    def _t_cut(self) -> float:
        return self._angle_time(math.exp(-0.5 * math.log1p(math.exp(-2 * self.log_snr_min))))

    def _angle_time(self, alpha: float) -> float:
        start = 0.5 * math.pi * self.offset / (1 + self.offset)
        return math.acos(alpha * math.cos(start)) * 2 / math.pi * (1 + self.offset) - self.offset

    def _theta(self, t: Time) -> Tensor:
        return (as_float64(t) * self._t_cut + self.offset) / (1 + self.offset) * (0.5 * math.pi)

    def log_alpha(self, t: Time) -> Tensor:
        """Return ln cos(theta(t)) - ln cos(theta(0))."""
        return torch.log(torch.cos(self._theta(t))) - torch.log(torch.cos(self._theta(0.0)))

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        """Return the time at which the cosine has the value."""
        theta = torch.acos(torch.exp(log_alpha) * torch.cos(self._theta(0.0)))
        return ((theta * 2 / math.pi) * (1 + self.offset) - self.offset) / self._t_cut

    def network_time(self, t: Time) -> Tensor:
        """Return time_scale * t."""
        return self.time_scale * as_float64(t)


@dataclass(frozen=True)
class TableVP(VariancePreserving):
    """A table of T steps as a continuous process: table entry i (0-based) lies at t = (i + 1) / T, data at t = 0.

    Between entries ln alpha is linear in t. This is the process of the SDE whose noise rate is constant over each step
    of the table: equal to the table at its nodes, monotone, and well behaved in the first step, where log_snr starts
    at infinity. A network trained on the table is told its entry, T t - 1 (a float between entries; not below 0).

    Attributes:
        log_alphas: ln alpha at t = 0, 1/T, ..., 1: T + 1 numbers, the first of them 0.
    """

    log_alphas: tuple[float, ...]

    @property
    def steps(self) -> int:
        """Return T, the number of steps of the table."""
        return len(self.log_alphas) - 1

    @property
    def t_min(self) -> float:
        """Return the time of the table's first entry."""
        return 1.0 / self.steps

    @cached_property
    def _table(self) -> Tensor:
        return torch.tensor(self.log_alphas, dtype=torch.float64)

    def log_alpha(self, t: Time) -> Tensor:
        """Return ln alpha(t), linear between entries."""
        place = as_float64(t) * self.steps
        entry = torch.round(place)
        place = torch.where((place - entry).abs() < 1e-9, entry, place)  # k / T * T is k only up to rounding
        below = place.floor().clamp(0, self.steps - 1)
        weight = place - below
        table = self._table.to(place.device)
        index = below.long()
        return (1 - weight) * table[index] + weight * table[index + 1]

    def time_of_log_alpha(self, log_alpha: Tensor) -> Tensor:
        """Return the inverse of the piecewise linear function."""
        table = self._table.to(log_alpha.device)
        above = torch.searchsorted(-table, -log_alpha.contiguous()).clamp(1, self.steps)
        low, high = table[above - 1], table[above]
        return (above - 1 + (log_alpha - low) / (high - low)) / self.steps

    def network_time(self, t: Time) -> Tensor:
        """Return T t - 1: the 0-based entry of the table."""
        return (self.steps * as_float64(t) - 1).clamp_min(0)


@dataclass(frozen=True)
class VarianceExploding(NoiseProcess):
    """x_t = x_0 + sigma eps with sigma = sigma_max t: the process of EDM, whose time is sigma itself.

    Attributes:
        sigma_min: noise at the last network call (t_min = sigma_min / sigma_max).
        sigma_max: noise at t = 1.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    @property
    def t_min(self) -> float:
        """Return sigma_min / sigma_max."""
        return self.sigma_min / self.sigma_max

    def alpha(self, t: Time) -> Tensor:
        """Return 1."""
        return torch.ones_like(as_float64(t))

    def sigma(self, t: Time) -> Tensor:
        """Return sigma_max t."""
        return self.sigma_max * as_float64(t)

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        """Return exp(-log_snr) / sigma_max."""
        return torch.exp(-as_float64(log_snr)) / self.sigma_max

    def network_time(self, t: Time) -> Tensor:
        """Return ln(sigma) / 4, the noise label of EDM."""
        return 0.25 * torch.log(self.sigma(t))


@dataclass(frozen=True)
class FlowMatching(NoiseProcess):
    """The straight path x_t = (1 - t) x_0 + t eps.

    Attributes:
        time_scale: a network is told time_scale * t (1000 for the models of diffusers).
        t_min: lowest level at which networks are asked.
    """

    time_scale: float = 1.0
    t_min: float = 1e-3

    def alpha(self, t: Time) -> Tensor:
        """Return 1 - t."""
        return 1 - as_float64(t)

    def sigma(self, t: Time) -> Tensor:
        """Return t."""
        return as_float64(t)

    def time_of_log_snr(self, log_snr: Time) -> Tensor:
        """Return 1 / (1 + exp(log_snr))."""
        return torch.sigmoid(-as_float64(log_snr))

    def network_time(self, t: Time) -> Tensor:
        """Return time_scale * t."""
        return self.time_scale * as_float64(t)


def squared_cosine_betas(steps: int, *, offset: float = 0.008, beta_max: float = 0.999) -> Tensor:
    """Return the table `squaredcos_cap_v2`: beta_i = min(1 - f((i + 1)/T) / f(i/T), beta_max), f = cos^2."""
    times = torch.arange(steps + 1, dtype=torch.float64) / steps
    f = torch.cos((times + offset) / (1 + offset) * math.pi / 2) ** 2
    return torch.clamp(1 - f[1:] / f[:-1], max=beta_max)

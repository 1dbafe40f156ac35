r"""The estimate of clean data from noisy data: D(x, t) ~ E[x_0 | x_t = x].

Everything after the network speaks data prediction. A `Denoiser` is any function (x, t) -> x_0 estimate; guidance,
data consistency and steering are functions from Denoiser to Denoiser. Networks that predict something else are
converted here, once, and nowhere else:

    D(x, t) = A(t) x + B(t) network(x, network_time(t)),      (A, B) from `shared.predictions`

or, with the preconditioning of EDM (Karras et al. 2022, eq. 7), written for any process through kappa = sigma / alpha:

    D(x, t) = c_skip x/alpha + c_out F(c_in x/alpha, ln(kappa)/4),
    c_skip = s^2 / (kappa^2 + s^2),  c_out = kappa s / sqrt(kappa^2 + s^2),  c_in = 1 / sqrt(kappa^2 + s^2),

where s is the standard deviation of the data (sigma_data). Both are a `Reading` of the network's answer: at one level

    D(x, t) = skip x + out network(scale x, time).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from shared.errors import InputError
from shared.ledger import record_call
from shared.predictions import Prediction, check_prediction, conversion, convert
from shared.process import NoiseProcess, Time, along_batch

Network = Callable[..., Any]
NOTHING: Mapping[str, Any] = MappingProxyType({})
MOST_READINGS = 4096  # remembered by a denoiser: far more than the levels of any sampling


class Denoiser(Protocol):
    """A function from a noisy batch and its level to the estimate of the clean batch."""

    def __call__(self, x: Tensor, t: Time, /) -> Tensor:
        """Return the estimate of x_0.

        Args:
            x: noisy batch, batch first.
            t: the level in [0, 1]; a number for the whole batch or a tensor with one number a sample.
        """
        ...


@dataclass(frozen=True)
class Reading:
    """How a network is asked at one level, and how its answer is read: D(x, t) = skip x + out network(scale x, time).

    Attributes:
        time: what the network is told.
        skip: weight of x.
        out: weight of the answer.
        scale: weight of x in the network's input.
    """

    time: float
    skip: float
    out: float
    scale: float = 1.0

    def asked(self, x: Tensor) -> Tensor:
        """Return the network's input."""
        return x if self.scale == 1 else self.scale * x

    def estimate(self, x: Tensor, answer: Tensor) -> Tensor:
        """Return D, in the dtype of x."""
        value = answer if self.out == 1 else self.out * answer
        return (value if self.skip == 0 else torch.add(value, x, alpha=self.skip)).to(x.dtype)


class NetworkDenoiser:
    """A network with what it predicts and by which process it was trained.

    Args:
        network: called as network(x, time, **conditioning). It may return a tensor, a tuple whose first entry is the
            prediction, or an object with the field `sample` (the models of diffusers).
        process: the noise process of its training.
        prediction: "sample", "epsilon", "v", "flow", "reverse_flow" or "score"; see `shared.predictions`.
        conditioning: keyword arguments given to the network at every call.
        time_argument: name of the network's time argument when it cannot be the second positional one.

    Raises:
        InputError: an unknown prediction; at a call, an output of another shape than x, or a level at which the
            prediction does not determine x_0.
    """

    def __init__(
        self,
        network: Network,
        process: NoiseProcess,
        prediction: Prediction,
        *,
        conditioning: Mapping[str, Any] = NOTHING,
        time_argument: str | None = None,
    ) -> None:
        self.network = network
        self.process = process
        self.prediction = check_prediction(prediction)
        self.conditioning = dict(conditioning)
        self.time_argument = time_argument
        self._readings: dict[float, Reading] = {}

    def given(self, **conditioning: Any) -> NetworkDenoiser:
        """Return the same denoiser with these keyword arguments of the network added or replaced."""
        merged = {**self.conditioning, **conditioning}
        return NetworkDenoiser(
            self.network, self.process, self.prediction, conditioning=merged, time_argument=self.time_argument
        )

    def with_network(self, network: Network) -> NetworkDenoiser:
        """Return the same denoiser around another network: a cached, pruned or compiled one."""
        return NetworkDenoiser(
            network, self.process, self.prediction, conditioning=self.conditioning, time_argument=self.time_argument
        )

    def time_input(self, t: Time) -> Tensor:
        """Return what the network is told as the time at level t."""
        return self.process.network_time(t)

    def reading(self, t: float) -> Reading:
        """Return how the network is asked and read at level t; remembered, so that a loop computes it once.

        Raises:
            InputError: a level at which the prediction does not determine x_0.
        """

        def read() -> Reading:
            skip, out = conversion(self.process, t, self.prediction, "sample")
            return Reading(float(self.time_input(t)), float(skip), float(out))

        return _remembered(self._readings, t, read)

    def __call__(self, x: Tensor, t: Time, /) -> Tensor:
        """Return the estimate of x_0."""
        if not isinstance(t, Tensor):
            reading = self.reading(t)
            answer = call_network(self.network, x, reading.time, self.conditioning, self.time_argument)
            return reading.estimate(x, answer)
        time = self.time_input(t)
        value = call_network(self.network, x, time, self.conditioning, self.time_argument)
        return convert(value, x, t, self.process, source=self.prediction, target="sample").to(x.dtype)


class PreconditionedDenoiser:
    """A raw network F inside the skip connection and scalings of EDM (module docstring).

    Args:
        network: called as network(c_in x / alpha, ln(kappa) / 4, **conditioning).
        process: the noise process in which x is given; it need not be that of the training.
        sigma_data: standard deviation s of the data in training.
        conditioning: keyword arguments given to the network at every call.
        time_argument: name of the network's time argument when it cannot be the second positional one.

    Raises:
        InputError: at a call where alpha = 0, because kappa is infinite there.
    """

    def __init__(
        self,
        network: Network,
        process: NoiseProcess,
        *,
        sigma_data: float = 0.5,
        conditioning: Mapping[str, Any] = NOTHING,
        time_argument: str | None = None,
    ) -> None:
        self.network = network
        self.process = process
        self.sigma_data = sigma_data
        self.conditioning = dict(conditioning)
        self.time_argument = time_argument
        self._readings: dict[float, Reading] = {}

    def with_network(self, network: Network) -> PreconditionedDenoiser:
        """Return the same denoiser around another network: a cached, pruned or compiled one."""
        return PreconditionedDenoiser(
            network, self.process, sigma_data=self.sigma_data, conditioning=self.conditioning,
            time_argument=self.time_argument,
        )  # fmt: skip

    def time_input(self, t: Time) -> Tensor:
        """Return what the network is told as the time at level t."""
        return 0.25 * torch.log(self.process.sigma(t) / self.process.alpha(t))

    def reading(self, t: float) -> Reading:
        """Return how the network is asked and read at level t; remembered, so that a loop computes it once.

        Raises:
            InputError: alpha = 0 at this level.
        """

        def read() -> Reading:
            scale, skip, out = (float(number) for number in self._scalings(t))
            return Reading(float(self.time_input(t)), skip, out, scale)

        return _remembered(self._readings, t, read)

    def _scalings(self, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """Return c_in / alpha, c_skip / alpha and c_out, float64 of the shape of t."""
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        if bool((alpha == 0).any()):
            raise InputError(
                f"t = {t}",
                found="alpha = 0",
                expected="a level with some data in it",
                fix="Start the grid below t = 1, for example with grid.from_time(0.999).",
            )
        kappa, s = sigma / alpha, self.sigma_data
        spread = torch.sqrt(kappa**2 + s**2)
        return 1 / (alpha * spread), (s / spread) ** 2 / alpha, kappa * s / spread

    def __call__(self, x: Tensor, t: Time, /) -> Tensor:
        """Return the estimate of x_0."""
        if not isinstance(t, Tensor):
            reading = self.reading(t)
            answer = call_network(self.network, reading.asked(x), reading.time, self.conditioning, self.time_argument)
            return reading.estimate(x, answer)
        scale, skip, out = (along_batch(number, x) for number in self._scalings(t))
        answer = call_network(self.network, scale * x, self.time_input(t), self.conditioning, self.time_argument)
        return (skip * x + out * answer).to(x.dtype)


def _remembered(readings: dict[float, Reading], t: float, read: Callable[[], Reading]) -> Reading:
    reading = readings.get(t)
    if reading is None:
        if len(readings) >= MOST_READINGS:
            readings.clear()
        reading = readings[t] = read()
    return reading


def call_network(
    network: Network, x: Tensor, time: Time, conditioning: Mapping[str, Any], time_argument: str | None
) -> Tensor:
    """Ask the network once and record it in the open ledgers (`shared.ledger`).

    Args:
        network: see `NetworkDenoiser`.
        x: network input (N, ...).
        time: network time, a number or (N,); the network gets (N,), float32 (float64 for float64 x).
        conditioning: keyword arguments.
        time_argument: keyword for the time, or None for the second positional argument.

    Raises:
        InputError: the output has another shape than x.
    """
    dtype = torch.float64 if x.real.dtype == torch.float64 else torch.float32
    if isinstance(time, Tensor):
        times = time.to(device=x.device, dtype=dtype).expand(x.shape[0])
    else:
        times = torch.full((x.shape[0],), time, device=x.device, dtype=dtype)
    record_call(x.shape[0])
    if time_argument is None:
        output = network(x, times, **conditioning)
    else:
        output = network(x, **{time_argument: times}, **conditioning)
    value = answer_of(output)
    if not isinstance(value, Tensor) or value.shape != x.shape:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            "network output",
            found=found,
            expected=f"a tensor of shape {tuple(x.shape)}",
            fix="Wrap the network so that it returns the prediction alone (without a learned variance).",
        )
    return value


def answer_of(output: Any) -> Any:
    """Return the prediction in what a network returned: the field `sample`, the first entry of a tuple, or itself."""
    value = getattr(output, "sample", output)
    return value[0] if isinstance(value, tuple) else value


def clipped(denoiser: Denoiser, low: float = -1.0, high: float = 1.0) -> Denoiser:
    """Return the denoiser with its estimate limited to [low, high] (real data only).

    Clipping makes D non-smooth: high-order solvers lose their order where it acts.
    """

    def denoise(x: Tensor, t: Time, /) -> Tensor:
        return denoiser(x, t).clamp(low, high)

    return denoise


def counted(denoiser: Denoiser) -> Denoiser:
    """Return a denoiser whose calls are recorded in the open ledgers.

    For denoisers that are not networks, such as analytic ones; `NetworkDenoiser` records its own calls.
    """

    def denoise(x: Tensor, t: Time, /) -> Tensor:
        record_call(x.shape[0])
        return denoiser(x, t)

    return denoise

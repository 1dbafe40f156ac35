r"""What networks predict, and how to get from one prediction to another.

Every prediction is a fixed mixture of data and noise, p = c_0 x_0 + c_1 eps:

| name         | p                        | c_0    | c_1      |
| ------------ | ------------------------ | ------ | -------- |
| sample       | x_0                      | 1      | 0        |
| epsilon      | eps                      | 0      | 1        |
| v            | alpha eps - sigma x_0    | -sigma | alpha    |
| flow         | eps - x_0                | -1     | 1        |
| reverse_flow | x_0 - eps                | 1      | -1       |
| score        | -eps / sigma             | 0      | -1/sigma |

reverse_flow is the flow of those whose time runs from noise to data, and of MONAI's RFlowScheduler.

With x = alpha x_0 + sigma eps this is a 2 x 2 system of determinant d = alpha c_1 - sigma c_0, so that any prediction
q = e_0 x_0 + e_1 eps follows from p as

    q = (e_0 c_1 - e_1 c_0) / d * x + (e_1 alpha - e_0 sigma) / d * p.

d = 0 says that p knows nothing about q: epsilon and score at alpha = 0 (pure noise) do not determine x_0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from shared.errors import InputError
from shared.process import NoiseProcess, Time, along_batch

Prediction = Literal["sample", "epsilon", "v", "flow", "reverse_flow", "score"]

MIXTURES: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "sample": lambda alpha, sigma: (torch.ones_like(alpha), torch.zeros_like(alpha)),
    "epsilon": lambda alpha, sigma: (torch.zeros_like(alpha), torch.ones_like(alpha)),
    "v": lambda alpha, sigma: (-sigma, alpha),
    "flow": lambda alpha, sigma: (-torch.ones_like(alpha), torch.ones_like(alpha)),
    "reverse_flow": lambda alpha, sigma: (torch.ones_like(alpha), -torch.ones_like(alpha)),
    "score": lambda alpha, sigma: (torch.zeros_like(alpha), -1 / sigma),
}


def check_prediction(name: str) -> Prediction:
    """Return the name if it is one of the table; else raise `InputError`."""
    if name not in MIXTURES:
        raise InputError(
            "prediction",
            found=repr(name),
            expected=f"one of {', '.join(get_args(Prediction))}",
            fix="Name what the network was trained to predict.",
        )
    return name  # type: ignore[return-value]


def conversion(process: NoiseProcess, t: Time, source: Prediction, target: Prediction) -> tuple[Tensor, Tensor]:
    """Return (A, B), float64 of the shape of t, such that target = A x + B source.

    Raises:
        InputError: the source does not determine the target at this level.
    """
    alpha, sigma = process.alpha(t), process.sigma(t)
    if source == target:
        return torch.zeros_like(alpha), torch.ones_like(alpha)
    c0, c1 = MIXTURES[source](alpha, sigma)
    e0, e1 = MIXTURES[target](alpha, sigma)
    determinant = alpha * c1 - sigma * c0
    if bool((determinant == 0).any()):
        raise InputError(
            f"t = {t}",
            found=f"alpha = {alpha.min():.3g}, sigma = {sigma.min():.3g}",
            expected=f"a level at which {source} determines {target}",
            fix="Use a grid that starts below t = 1, or a network that predicts sample, v or flow.",
        )
    return (e0 * c1 - e1 * c0) / determinant, (e1 * alpha - e0 * sigma) / determinant


def convert(
    value: Tensor, x: Tensor, t: Time, process: NoiseProcess, *, source: Prediction, target: Prediction
) -> Tensor:
    """Return the prediction `value` at x_t = x, made of kind `source`, as kind `target`.

    Args:
        value: the prediction, of the shape of x.
        x: noisy batch.
        t: its level, one for the batch or one a sample.
        process: gives alpha and sigma.
        source: what `value` is.
        target: what is wanted.

    Raises:
        InputError: the source does not determine the target at this level.
    """
    if source == target:
        return value
    of_x, of_value = conversion(process, t, source, target)
    return along_batch(of_x, x) * x + along_batch(of_value, x) * value

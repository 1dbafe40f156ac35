"""The step of the optimiser that trainings share."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from shared.training import AveragedWeights
from shared.training_run import take_step


def trainer(step: int) -> SimpleNamespace:
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 2.0)
    return SimpleNamespace(
        network=network,
        optimiser=torch.optim.SGD(network.parameters(), lr=99.0),
        average=AveragedWeights(network, 0.5),
        settings=SimpleNamespace(steps=14, learning_rate=0.4, warmup=4, clip_gradient=3.0),
        facts={"step": step},
    )


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (3, 0.4), (4, 0.4), (9, 0.2), (14, 0.0)])
def test_the_rate_is_that_of_this_step_and_the_gradient_is_no_longer_than_allowed(step, rate):
    made = trainer(step)
    for gradient, moved in ((1.0, 1.0), (50.0, 3.0)):
        torch.nn.init.constant_(made.network.weight, 2.0)
        made.facts["step"] = step
        take_step(made, gradient * made.network.weight.sum())
        assert float(made.network.weight) == pytest.approx(2.0 - rate * moved, abs=1e-5)
        assert made.facts["step"] == step + 1


def test_gradients_do_not_add_up_and_the_average_follows():
    made = trainer(3)
    for _ in range(2):
        made.facts["step"] = 3
        take_step(made, made.network.weight.sum())
    assert float(made.network.weight) == pytest.approx(2.0 - 0.4 - 0.4)
    assert made.average.updates == 2
    assert 1.2 < float(made.average.average["weight"]) < 2.0

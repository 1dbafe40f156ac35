"""The run that trainings share: its step, its log, and where it stops."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from shared.errors import InputError
from shared.training_run import CHECKPOINT, Recipe, TrainingRun, training_folder

RECIPE = Recipe(
    name="shared/line", steps=14, learning_rate=0.4, warmup=4, weight_decay=0, clip_gradient=3, average=0.5, log_every=4
)  # fmt: skip


class Line(TrainingRun):
    """w, pulled down by its own value times `pull`; the first loss of a line of the log is that of its steps' mean."""

    shown = "value"

    def __init__(self, folder: Path, recipe: Recipe = RECIPE, pull: float = 1.0) -> None:
        self.settings, self.folder, self.pull = recipe, folder, pull
        self.network = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(self.network.weight, 2.0)
        self.begin(b"line")

    def train_step(self) -> dict[str, float]:
        value = self.pull * self.network.weight.sum()
        self.take_step(value)
        return {"value": float(value)}

    def measured(self) -> dict[str, float]:
        return {"weight": float(self.network.weight)}


def trainer(step: int, folder: Path) -> Line:
    """A run at a step, with plain gradient descent."""
    made = Line(folder)
    made.optimiser = torch.optim.SGD(made.network.parameters(), lr=99.0)
    made.facts["step"] = step
    return made


@pytest.mark.parametrize(("step", "rate"), [(0, 0.1), (3, 0.4), (4, 0.4), (9, 0.2), (14, 0.0)])
def test_the_rate_is_that_of_this_step_and_the_gradient_is_no_longer_than_allowed(tmp_path, step, rate):
    made = trainer(step, tmp_path)
    for gradient, moved in ((1.0, 1.0), (50.0, 3.0)):
        torch.nn.init.constant_(made.network.weight, 2.0)
        made.facts["step"] = step
        made.take_step(gradient * made.network.weight.sum())
        assert float(made.network.weight) == pytest.approx(2.0 - rate * moved, abs=1e-5)
        assert made.facts["step"] == step + 1


def test_gradients_do_not_add_up_and_the_average_follows(tmp_path):
    made = trainer(3, tmp_path)
    for _ in range(2):
        made.facts["step"] = 3
        made.take_step(made.network.weight.sum())
    assert float(made.network.weight) == pytest.approx(2.0 - 0.4 - 0.4)
    assert made.average.updates == 2
    assert 1.2 < float(made.average.average["weight"]) < 2.0


def test_a_run_logs_means_stops_goes_on_and_refuses_another(tmp_path):
    straight = Line(tmp_path / "straight")
    heard = []
    straight.run(tell=lambda step, value: heard.append((step, value)))
    rows = [json.loads(line) for line in (tmp_path / "straight" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 12, 14]
    assert heard == [(row["step"], row["value"]) for row in rows]
    assert rows[-1]["weight"] == float(straight.network.weight)
    assert straight.recipe_facts()["losses"] == {"value": rows[-1]["value"], "weight": rows[-1]["weight"]}
    assert straight.recipe_facts()["of_steps"] == straight.recipe_facts()["steps"] == 14
    Line(tmp_path / "part").run(stop_at=3)
    resumed = Line(tmp_path / "part")
    assert resumed.step == 3
    resumed.run()
    assert torch.equal(resumed.network.weight, straight.network.weight)
    assert torch.equal(resumed.average.average["weight"], straight.average.average["weight"])
    # The name, the log and the rhythm of checkpoints may change, nothing else.
    Line(tmp_path / "part", RECIPE.model_copy(update={"log_every": 7, "name": "shared/other"}))
    with pytest.raises(InputError, match="another configuration"):
        Line(tmp_path / "part", RECIPE.model_copy(update={"batch": 5}))


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(InputError, match=r"step 1; expected finite"):
        Line(tmp_path, pull=math.nan).run()


def test_the_folder_is_beside_the_model_and_an_export_needs_a_checkpoint(tmp_path):
    assert training_folder(tmp_path / "m.safetensors", None, export=False) == tmp_path / "m"
    with pytest.raises(InputError, match="no checkpoint"):
        training_folder(tmp_path / "m.safetensors", tmp_path, export=True)
    Line(tmp_path).run(stop_at=1)
    assert (tmp_path / CHECKPOINT).is_file()
    assert training_folder(tmp_path / "m.safetensors", tmp_path, export=True) == tmp_path

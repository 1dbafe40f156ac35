"""The artefact of reuse: what is saved is what was made, and a schedule for something else is refused."""

from __future__ import annotations

import json

import pytest
import torch

from shared import (
    GRIDS,
    FlowMatching,
    Heun,
    InputError,
    Multistep,
    NetworkDenoiser,
    VariancePreserving,
    sample,
    trailing_grid,
)
from shared.reuse import load_schedule, make_schedule, uniform
from tests.shared.reuse.networks import mlp, perturbed

N = 4
SOLVER = Multistep.dpm_solver_pp_2m()
TABLE = [[1.0] * 3, [0.9, 0.8, 0.7], [1.0] * 3, [0.6, 0.5, 0.4]]


def made(predictor="latest", **kwargs):
    denoiser, blocks, shape = mlp()
    grid = trailing_grid(denoiser.process, N)
    schedule = make_schedule(
        denoiser, blocks, uniform(N, 3, 2), grid, SOLVER.plan(grid).asked, shape=shape, costs=[0.25, 0.25, 0.25],
        producer="uniform 2", predictor=predictor, measured={"rmse": 0.125}, **kwargs,
    )  # fmt: skip
    return denoiser, schedule, denoiser.process.noise((3, *shape), torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("predictor", "tables"), [("latest", {}), ("taylor", {}), ("rectified", {"gain": TABLE, "offset": TABLE})]
)
def test_a_saved_schedule_is_the_same_and_draws_the_same(tmp_path, predictor, tables):
    denoiser, schedule, x = made(predictor, **tables)
    schedule.save(tmp_path / "s.json")
    again = load_schedule(tmp_path / "s.json")
    assert again == schedule
    assert again.price == pytest.approx(4 * 0.25 + 2 * 0.75)
    drawn = [sample(one.bind(denoiser), x, one.grid, SOLVER) for one in (schedule, again)]
    assert torch.equal(*drawn)


def test_the_three_predictors_draw_differently():
    draws = []
    for predictor, tables in (("latest", {}), ("taylor", {}), ("rectified", {"gain": TABLE, "offset": TABLE})):
        denoiser, schedule, x = made(predictor, **tables)
        draws.append(sample(schedule.bind(denoiser), x, schedule.grid, SOLVER))
    assert not torch.allclose(draws[0], draws[1])
    assert not torch.allclose(draws[0], draws[2])


def test_an_existing_file_is_not_replaced_unasked(tmp_path):
    _, schedule, _ = made()
    schedule.save(tmp_path / "s.json")
    with pytest.raises(InputError):
        schedule.save(tmp_path / "s.json")
    schedule.save(tmp_path / "s.json", overwrite=True)


def test_a_schedule_for_other_weights_is_refused():
    denoiser, schedule, _ = made()
    other = denoiser.with_network(perturbed(mlp()[0].network, seed=1))
    with pytest.raises(InputError, match="an artefact of"):
        schedule.bind(other)


def test_a_schedule_for_another_process_is_refused():
    denoiser, schedule, _ = made()
    for process in (VariancePreserving.cosine(), FlowMatching()):
        with pytest.raises(InputError, match="another noise process"):
            schedule.bind(NetworkDenoiser(denoiser.network, process, "v"))


def test_a_schedule_on_another_grid_or_solver_is_refused():
    denoiser, schedule, x = made()
    with pytest.raises(InputError, match="one of the 4 times of the mask"):
        sample(schedule.bind(denoiser), x, GRIDS["log_snr"](denoiser.process, N), SOLVER)
    with pytest.raises(InputError, match="one of the 4 times"):
        sample(schedule.bind(denoiser), x, trailing_grid(denoiser.process, 5), SOLVER)
    with pytest.raises(InputError, match="just made"):
        sample(schedule.bind(denoiser), x, schedule.grid, Heun())  # asks twice at one level


def test_only_a_module_can_be_bound():
    denoiser, schedule, _ = made()
    with pytest.raises(InputError):
        schedule.bind(schedule.bind(denoiser))


def test_a_mask_for_another_number_of_calls_or_blocks_is_refused():
    denoiser, schedule, _ = made()
    for mask in (uniform(N + 1, 3, 2), uniform(N, 2, 2)):
        with pytest.raises(InputError, match="shape"):
            make_schedule(
                denoiser, schedule.blocks, mask, schedule.grid, schedule.asked, shape=(6,), costs=[0.2] * 3,
                producer="test",
            )  # fmt: skip


@pytest.mark.parametrize(
    "damage", ["cut", "no mask", "not json", "format", "blocks", "list", "ragged", "short", "text"]
)
def test_a_damaged_file_is_one_clear_error(tmp_path, damage):
    _, schedule, _ = made()
    path = tmp_path / "s.json"
    schedule.save(path)
    text = path.read_text()
    facts = json.loads(text)
    if damage == "cut":
        text = text[: len(text) // 2]
    elif damage == "not json":
        text = "PK\x03\x04"
    elif damage == "list":
        text = "[1, 2]"
    else:
        if damage == "no mask":
            del facts["mask"]
        elif damage == "format":
            facts["format"] = "fewstep reuse schedule 0"
        elif damage == "blocks":
            facts["blocks"] = [{"name": "a"}]
        elif damage == "ragged":
            facts["mask"][1] = [True]
        elif damage == "short":
            facts["mask"] = facts["mask"][:-1]
        elif damage == "text":
            facts["times"] = "soon"
        text = json.dumps(facts)
    path.write_text(text)
    with pytest.raises(InputError, match="no reuse schedule"):
        load_schedule(path)


def test_rectification_tables_of_another_shape_are_refused(tmp_path):
    _, schedule, _ = made("rectified", gain=TABLE, offset=TABLE)
    schedule.save(tmp_path / "s.json")
    facts = json.loads((tmp_path / "s.json").read_text())
    facts["gain"] = facts["gain"][:2]
    (tmp_path / "s.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"a table \(2, 3\)"):
        load_schedule(tmp_path / "s.json")


def test_a_missing_file_and_an_unknown_predictor_are_clear_errors(tmp_path):
    with pytest.raises(InputError, match="no reuse schedule"):
        load_schedule(tmp_path / "none.json")
    denoiser, schedule, _ = made("guess")
    with pytest.raises(InputError, match="predictor 'guess'"):
        schedule.bind(denoiser)
    denoiser, schedule, _ = made("rectified")
    with pytest.raises(InputError, match="rectified with its gains"):
        schedule.bind(denoiser)

"""Masked distillation against numbers worked out by hand, and against what it is without its terms."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.errors import InputError
from shared.predictions import convert
from shared.process import FlowMatching, VarianceExploding, VariancePreserving
from shared.pruning import Task, even_levels, log_normal_levels, masked_feature_loss, prune, recover, without_outliers
from shared.pruning.loop import optimise
from shared.reuse import stack
from shared.training import AveragedWeights, denoising_loss
from tests.shared.pruning.conftest import mlp, perturbed

DATA = torch.randn(64, 16, generator=torch.Generator().manual_seed(7)) * torch.linspace(0.1, 1, 16)


def draw(count, generator):
    return DATA[torch.randint(len(DATA), (count,), generator=generator)], {}


def task_of(network, batch=32):
    process = VariancePreserving.linear(time_scale=1.0)
    return Task(NetworkDenoiser(network, process, "v"), draw, even_levels(process), batch)


def test_outliers_of_each_sample_become_zero_by_hand():
    # first row: mean 1, squares 9 * 1 + 81 over 10 -> std 3: only 10 is 9 >= 6 away. Second: mean 1, std 1, no outlier
    features = torch.tensor([[0.0] * 9 + [10.0], [0.0, 2.0] * 5])
    assert without_outliers(features).tolist() == [[0.0] * 10, [0.0, 2.0] * 5]


def test_an_entry_exactly_two_deviations_away_is_an_outlier():
    # four zeros and a five: mean 1, std 2, so 5 is exactly 2 std away
    assert without_outliers(torch.tensor([[0.0, 0, 0, 0, 5], [3, 3, 3, 3, 8]])).tolist() == [[0.0] * 5, [3, 3, 3, 3, 0]]


def test_feature_loss_masks_student_and_teacher_separately_by_hand():
    # the student's outlier 10 becomes 0 where the teacher has 1; the teacher has no outlier: sum of squares 1 + 10 * 1
    student = torch.tensor([[0.0] * 9 + [10.0]])
    teacher = torch.tensor([[1.0, -1.0] * 5])
    assert float(masked_feature_loss(student, teacher)) == pytest.approx(10 / 10)
    assert float((student - teacher).square().mean()) == pytest.approx((9 + 121) / 10)


def test_feature_loss_reaches_the_entries_that_stay_and_no_outlier():
    student = torch.tensor([[0.0] * 9 + [10.0]], requires_grad=True)
    masked_feature_loss(student, torch.tensor([[1.0, -1.0] * 5])).backward()
    assert student.grad[0].tolist() == pytest.approx([-0.2, 0.2] * 4 + [-0.2, 0.0])


@pytest.mark.parametrize("process", [VariancePreserving.linear(), FlowMatching()])
@pytest.mark.parametrize("prediction", ["v", "flow", "epsilon", "sample"])
def test_error_is_the_square_error_of_the_raw_output(process, prediction):
    generator = torch.Generator().manual_seed(0)
    raw, wanted, x = (torch.randn(9, 5, generator=generator, dtype=torch.float64) for _ in range(3))
    t = torch.linspace(0.05, 0.95, 9, dtype=torch.float64)
    task = Task(NetworkDenoiser(lambda x, t: raw, process, prediction), draw, even_levels(process))
    answer, target = (convert(p, x, t, process, source=prediction, target="sample") for p in (raw, wanted))
    assert float(task.error(answer, target, t)) == pytest.approx(float((raw - wanted).square().mean()), rel=1e-9)


def test_error_of_a_preconditioned_denoiser_is_the_loss_of_edm():
    process = VarianceExploding()
    denoiser = PreconditionedDenoiser(perturbed(mlp()), process, sigma_data=0.4)
    sigma = torch.linspace(0.05, 20, 64, dtype=torch.float64)
    expected = denoising_loss(denoiser, DATA, sigma, torch.Generator().manual_seed(3)).mean()
    task = Task(denoiser, draw, log_normal_levels(process))
    noise = torch.randn(DATA.shape, generator=torch.Generator().manual_seed(3))
    t = sigma / process.sigma_max
    answer = denoiser(process.add_noise(DATA, noise, t), t)
    torch.testing.assert_close(task.error(answer, DATA, t), expected, rtol=1e-4, atol=0)


def test_levels_have_the_distributions_of_their_names():
    generator = torch.Generator().manual_seed(0)
    process = VarianceExploding(0.002, 80.0)
    log_sigma = process.sigma(log_normal_levels(process, -0.8, 1.1)(20000, generator)).log()
    assert float(log_sigma.mean()) == pytest.approx(-0.8, abs=0.03)
    assert float(log_sigma.std()) == pytest.approx(1.1, abs=0.03)
    even = even_levels(VariancePreserving.linear())(20000, generator)
    assert float(even.min()) >= 1e-3
    assert float(even.mean()) == pytest.approx(0.5005, abs=0.01)
    assert float(even.std()) == pytest.approx(0.999 / 12**0.5, abs=0.01)


def test_recovery_brings_the_answer_towards_the_teacher_and_changes_neither_teacher_nor_pruned():
    network = perturbed(mlp())
    task = task_of(network)
    pruned = prune(network, stack(network, "blocks"), [True, False, True, True], torch.zeros(1, 16), torch.zeros(1))
    before = [copy.deepcopy(one.state_dict()) for one in (network, pruned.network)]
    recovered = recover(task, pruned, steps=60, rate=2e-3)
    for one, state in zip((network, pruned.network), before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in one.state_dict().items())
    problem = task.problem(torch.Generator().manual_seed(10_000))
    with torch.no_grad():
        taught = task.answer(network, problem)
        far, near = (task.error(task.answer(p.network, problem), taught, problem.t) for p in (pruned, recovered))
    assert float(near) < 0.5 * float(far)
    assert recovered.kept == pruned.kept


def test_one_step_of_recovery_follows_the_gradient_of_the_published_sum():
    # AdamW's first step is -rate sign(gradient), gradient clipping aside: compare signs with the sum worked out here
    network = perturbed(mlp(2))
    task = task_of(network, batch=8)
    pruned = prune(network, stack(network, "blocks"), [True, False], torch.zeros(1, 16), torch.zeros(1))
    student = copy.deepcopy(pruned.network).requires_grad_(True)
    problem = task.problem(torch.Generator().manual_seed(5))
    time = task.denoiser.time_input(problem.t).float()
    state = {}
    student.blocks[0].register_forward_hook(lambda module, given, output: state.update(student=output))
    network.blocks[1].register_forward_hook(lambda module, given, output: state.update(teacher=output))
    raw, taught = student(problem.x, time), network(problem.x, time)
    process = task.denoiser.process
    truth = convert(problem.x0, problem.x, problem.t, process, source="sample", target="v")
    loss = 0.9 * (raw - taught).square().mean() + 0.1 * (raw - truth).square().mean()
    (loss + 0.01 * masked_feature_loss(state["student"], state["teacher"])).backward()
    stepped = recover(replace(task), pruned, steps=1, seed=5, rate=1e-3)
    # the average of one update with decay 1/10 holds 0.9 of the step
    for name, parameter in student.named_parameters():
        moved = stepped.network.get_parameter(name) - pruned.network.get_parameter(name)
        certain = parameter.grad.abs() > 1e-5
        torch.testing.assert_close(moved[certain], -0.9e-3 * parameter.grad.sign()[certain], rtol=2e-2, atol=2e-6)


def test_recovery_without_a_teacher_is_the_denoising_loss_alone():
    network = perturbed(mlp(2))
    task = task_of(network, batch=8)
    pruned = prune(network, stack(network, "blocks"), [True, False], torch.zeros(1, 16), torch.zeros(1))
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.leave.weight.mul_(3)
    one, two = (
        recover(task_of(teacher, 8), pruned, steps=3, distil=False).network.state_dict() for teacher in (network, other)
    )
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    taught = recover(task, pruned, steps=3).network.state_dict()
    assert any(not torch.equal(value, taught[name]) for name, value in one.items())


def test_interrupted_training_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("shared.pruning.loop.CHECKPOINT_EVERY", 4)
    network = perturbed(mlp(2))
    task = task_of(network, batch=8)
    pruned = prune(network, stack(network, "blocks"), [False, True], torch.zeros(1, 16), torch.zeros(1))
    whole = recover(task, pruned, steps=10, seed=2).network.state_dict()
    calls = 0

    def failing(count, generator):
        nonlocal calls
        calls += 1
        if calls == 8:  # one batch looks for the features, so this is step 7 of 10
            raise KeyboardInterrupt
        return draw(count, generator)

    path = tmp_path / "recovery.resume"
    with pytest.raises(KeyboardInterrupt):
        recover(replace(task, draw=failing), pruned, steps=10, seed=2, checkpoint=path)
    resumed = recover(task, pruned, steps=10, seed=2, checkpoint=path).network.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert not path.exists()


def test_wrong_trainings_are_clear_errors(tmp_path):
    network = perturbed(mlp(2))
    task = task_of(network, batch=8)
    pruned = prune(network, stack(network, "blocks"), [False, True], torch.zeros(1, 16), torch.zeros(1))
    with pytest.raises(InputError, match="steps"):
        recover(task, pruned, steps=0)
    (tmp_path / "foreign").write_text("nothing")
    with pytest.raises(InputError, match="no checkpoint of this training"):
        recover(task, pruned, steps=2, checkpoint=tmp_path / "foreign")
    with pytest.raises(InputError, match="finite"):
        recover(replace(task, draw=lambda n, g: (torch.full((n, 16), torch.inf), {})), pruned, steps=2)
    with pytest.raises(InputError, match="torch module"):
        _ = replace(task, denoiser=task.denoiser.with_network(lambda x, t: x)).network


def test_average_of_weights_takes_counters_as_they_are():
    network = torch.nn.BatchNorm1d(2)
    averaged = AveragedWeights(network, 0.5)
    network(torch.randn(4, 2))
    averaged.update(network)
    assert int(averaged.average["num_batches_tracked"]) == 1


def test_optimiser_finds_the_minimum_of_a_parabola():
    module = torch.nn.Linear(1, 1, bias=False)
    groups = [{"params": list(module.parameters()), "lr": 0.05}]
    optimise(module, groups, lambda done, generator: (module.weight - 3).square().sum(), steps=400, seed=0)
    assert module.weight.item() == pytest.approx(3, abs=0.02)

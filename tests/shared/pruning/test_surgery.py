"""Pruned networks: physically smaller, and equal to the whole network with its gates at the decision."""

from __future__ import annotations

import copy
from itertools import product

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from shared.denoiser import NetworkDenoiser
from shared.errors import InputError
from shared.process import VariancePreserving
from shared.pruning import PassOn, gated, load_pruned, prunable, prune, save_pruned
from shared.pruning.recovery import counterparts
from shared.pruning.task import Task, even_levels
from shared.reuse import Block, stack
from tests.shared.pruning.conftest import dit, mlp, perturbed, unet_2d


def size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_one_hot_gates_equal_the_physically_pruned_network_for_decisions_of_every_kind(specimen):
    whole = copy.deepcopy(specimen.network.state_dict())
    decisions = list(product((True, False), repeat=len(specimen.blocks)))
    for kept in decisions[1 :: max(1, len(decisions) // 8)]:
        pruned = prune(specimen.network, specimen.blocks, kept, *specimen.example, **specimen.conditioning)
        with gated(specimen.network, specimen.blocks, torch.tensor(kept).float()):
            gates = specimen.answer(specimen.network)
        torch.testing.assert_close(specimen.answer(pruned.network), gates, rtol=1e-6, atol=1e-6)
        assert (size(pruned.network) < size(specimen.network)) == (not all(kept))
    assert all(torch.equal(value, whole[name]) for name, value in specimen.network.state_dict().items())


def test_leaving_out_a_block_changes_the_answer(specimen):
    plain = specimen.answer(specimen.network)
    for column in range(len(specimen.blocks)):
        kept = [other != column for other in range(len(specimen.blocks))]
        pruned = prune(specimen.network, specimen.blocks, kept, *specimen.example, **specimen.conditioning)
        assert float((specimen.answer(pruned.network) - plain).abs().max()) > 1e-3


def test_pruned_mlp_is_the_mlp_built_with_fewer_blocks():
    network = perturbed(mlp())
    x, time = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 5)
    pruned = prune(network, stack(network, "blocks"), [False, True, False, True], x, time)
    built = mlp(2)
    built.load_state_dict(pruned.network.state_dict())
    for new, old in ((0, 1), (1, 3)):
        state = network.blocks[old].state_dict()
        assert all(torch.equal(value, state[key]) for key, value in built.blocks[new].state_dict().items())
    assert torch.equal(built.eval()(x, time), pruned.network(x, time))
    assert (pruned.cut.dropped, pruned.cut.passed) == (("blocks.0", "blocks.2"), {})
    assert pruned.names["blocks.3.layers"] == "blocks.1.layers"


def test_pruned_transformer_is_the_transformer_built_with_fewer_blocks():
    network = perturbed(dit())
    x, time = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 500.0])
    labels = torch.tensor([4, 10])
    pruned = prune(
        network, stack(network, "transformer_blocks"), [True, False, True, False], x, time, class_labels=labels
    )
    built = dit(2).eval()
    built.load_state_dict(pruned.network.state_dict())
    assert len(pruned.network.transformer_blocks) == 2
    assert torch.equal(built(x, time, class_labels=labels).sample, pruned.network(x, time, class_labels=labels).sample)


def test_transformer_keeps_the_embedding_of_a_first_block_that_is_left_out():
    # its last layer is conditioned by transformer_blocks[0].norm1.emb; deleting the block would take the next one's
    network = perturbed(dit())
    x, time = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 500.0])
    labels = {"class_labels": torch.tensor([4, 10])}
    pruned = prune(network, stack(network, "transformer_blocks"), [False, True, True, True], x, time, **labels)
    assert pruned.cut.passed == {"transformer_blocks.0": ("norm1.emb",)}
    left = {name for name, _ in pruned.network.transformer_blocks[0].named_parameters()}
    assert left == {n for n, _ in network.transformer_blocks[0].named_parameters() if n.startswith("norm1.emb.")}
    naive = copy.deepcopy(network)
    del naive.transformer_blocks[0]
    ours, theirs = (one(x, time, **labels).sample for one in (pruned.network, naive))
    assert float((ours - theirs).abs().max()) > 1e-3


def test_blocks_of_a_unet_are_replaced_because_their_lists_carry_skip_connections():
    network = perturbed(unet_2d())
    x, time = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([3.0, 500.0])
    blocks = [Block(name, (name,)) for name in ("down_blocks.0.resnets.1", "mid_block.resnets.1")]
    pruned = prune(network, blocks, [False, False], x, time)
    assert pruned.cut.dropped == ()
    for name in ("down_blocks.0.resnets.1", "mid_block.resnets.1"):
        assert isinstance(pruned.network.get_submodule(name), PassOn)
        assert not list(pruned.network.get_submodule(name).parameters())


def test_new_names_lead_to_the_weights_of_the_old_ones(specimen):
    kept = [column % 2 == 1 for column in range(len(specimen.blocks))]
    for _ in range(5):
        pruned = prune(specimen.network, specimen.blocks, kept, *specimen.example, **specimen.conditioning)
        assert {block.name for block in specimen.blocks} & set(pruned.names) == {
            block.name for block, bit in zip(specimen.blocks, kept, strict=True) if bit
        }
        for old, new in pruned.names.items():
            was, now = specimen.network.get_submodule(old), pruned.network.get_submodule(new)
            assert type(was) is type(now)
            for name, value in was.named_parameters(recurse=False):
                assert torch.equal(value, now.get_parameter(name))


def test_prunable_resnets_are_those_with_equal_channels(specimen):
    if not hasattr(specimen.network, "down_blocks"):
        pytest.skip("not a UNet")
    names = {block.name for block in specimen.blocks}
    assert "mid_block.resnets.0" in names
    assert "down_blocks.0.resnets.1" in names
    assert "down_blocks.1.resnets.0" not in names
    for name in names:
        module = specimen.network.get_submodule(name)
        channels = [m for m in module.modules() if isinstance(m, nn.Conv1d | nn.Conv2d)]
        assert channels[0].in_channels == channels[-1].out_channels


def test_prunable_leaves_out_modules_that_change_the_shape():
    network = perturbed(mlp())
    found = prunable(network, ["leave", "blocks.1", "enter", "norm"], torch.zeros(1, 16), torch.zeros(1))
    assert [block.name for block in found] == ["blocks.1", "norm"]


def test_leaving_out_a_block_that_changes_the_shape_is_a_clear_error():
    network = perturbed(mlp())
    with pytest.raises(InputError, match=r"enter.*same shape"):
        prune(network, [Block("enter", ("enter",))], [False], torch.zeros(1, 16), torch.zeros(1))
    assert "forward" not in vars(network.enter)


def test_weights_used_from_outside_their_block_are_a_clear_error():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x + self.blocks[1](x + self.blocks[0](x))) @ self.blocks[0].weight

    network = Tied().requires_grad_(False)
    with pytest.raises(InputError, match="used from outside"):
        prune(network, stack(network, "blocks"), [False, True], torch.ones(1, 4))


@pytest.mark.parametrize("kept", [[True], [True] * 5])
def test_not_one_bit_for_each_block_is_a_clear_error(kept):
    network = perturbed(mlp())
    with pytest.raises(InputError, match="kept"):
        prune(network, stack(network, "blocks"), kept, torch.zeros(1, 16), torch.zeros(1))


def test_saved_networks_answer_the_same_after_loading(specimen, tmp_path):
    kept = [column % 2 == 1 for column in range(len(specimen.blocks))]
    pruned = prune(specimen.network, specimen.blocks, kept, *specimen.example, **specimen.conditioning)
    with torch.no_grad():
        for parameter in pruned.network.parameters():
            parameter.mul_(1.01)  # as after fine-tuning
    save_pruned(tmp_path / "small.safetensors", pruned, source=specimen.network, measured={"rmse": 0.5})
    loaded = load_pruned(tmp_path / "small.safetensors", specimen.network)
    assert torch.equal(specimen.answer(loaded.network), specimen.answer(pruned.network))
    assert (loaded.blocks, loaded.kept, loaded.cut) == (pruned.blocks, pruned.kept, pruned.cut)
    assert loaded.names == pruned.names
    with pytest.raises(InputError, match="existing"):
        save_pruned(tmp_path / "small.safetensors", pruned, source=specimen.network)


def test_loading_for_another_model_or_from_another_file_is_a_clear_error(tmp_path):
    network = perturbed(mlp())
    x, time = torch.zeros(1, 16), torch.zeros(1)
    path = tmp_path / "small.safetensors"
    save_pruned(path, prune(network, stack(network, "blocks"), [True, False, True, True], x, time), source=network)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.leave.bias.add_(1e-3)
    with pytest.raises(InputError, match="expected one of this model"):
        load_pruned(path, other)
    tensors = load_file(path)
    save_file(tensors, tmp_path / "plain.safetensors")
    with pytest.raises(InputError, match="no pruned network"):
        load_pruned(tmp_path / "plain.safetensors", network)
    with pytest.raises(InputError, match="no such weights"):
        load_pruned(tmp_path / "absent.safetensors", network)


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ([True, False, False, True], [("blocks.0", "blocks.2"), ("blocks.1", "blocks.3")]),
        ([False, True, True, False], [("blocks.0", "blocks.1"), ("blocks.1", "blocks.3")]),
    ],
)
def test_features_are_compared_where_the_next_kept_block_takes_over(kept, expected):
    network = perturbed(mlp())
    process = VariancePreserving.linear()
    task = Task(
        NetworkDenoiser(network, process, "v"), lambda n, g: (torch.randn(n, 16, generator=g), {}), even_levels(process)
    )
    pruned = prune(network, stack(network, "blocks"), kept, torch.zeros(1, 16), torch.zeros(1))
    assert counterparts(task, pruned, task.problem(torch.Generator().manual_seed(0))) == expected

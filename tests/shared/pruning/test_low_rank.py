"""Low-rank updates: nothing at first, the merged weights afterwards, and a k x k then 1 x 1 convolution in kernels."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from shared.errors import InputError
from shared.pruning import add_low_rank, merge_low_rank

LAYERS = {
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1, stride=2), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 5), padding=(1, 2), groups=2), (2, 4, 7, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 3, padding=1), (1, 2, 5, 4, 6)),
}


def trained(kind: str):
    make, shape = LAYERS[kind]
    torch.manual_seed(0)
    network = nn.Sequential(make()).double()
    plain = copy.deepcopy(network)
    parameters = add_low_rank(network, rank=2, alpha=6.0)
    return network, plain, parameters, torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("kind", LAYERS)
def test_untrained_update_changes_no_bit(kind):
    network, plain, _, x = trained(kind)
    assert torch.equal(network(x), plain(x))


@pytest.mark.parametrize("kind", LAYERS)
def test_only_the_update_is_trained_and_its_gradient_arrives(kind):
    network, _, parameters, x = trained(kind)
    assert {id(p) for p in network.parameters() if p.requires_grad} == {id(p) for p in parameters}
    network(x).square().sum().backward()
    assert float(parameters[1].grad.abs().max()) > 0  # B; A's is 0 while B is 0


@pytest.mark.parametrize("kind", LAYERS)
def test_merged_network_is_plain_and_answers_as_the_parametrised_one(kind):
    network, plain, parameters, x = trained(kind)
    with torch.no_grad():
        parameters[1].normal_(generator=torch.Generator().manual_seed(1))
    expected = network(x).detach()
    assert float((expected - plain(x).detach()).abs().max()) > 1e-2
    merge_low_rank(network)
    assert not any(parametrize.is_parametrized(module) for module in network.modules())
    assert set(network.state_dict()) == set(plain.state_dict())
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)


def test_update_of_a_linear_layer_is_alpha_over_r_times_b_a():
    network, plain, (down, up), x = trained("linear")
    with torch.no_grad():
        up.normal_(generator=torch.Generator().manual_seed(1))
    expected = plain(x) + 6.0 / 2 * (x @ down.T) @ up.T
    torch.testing.assert_close(network(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", ["conv1d", "conv3d"])
def test_update_of_a_convolution_is_a_convolution_to_r_channels_and_then_one_of_one_pixel(kind):
    network, plain, (down, up), x = trained(kind)
    with torch.no_grad():
        up.normal_(generator=torch.Generator().manual_seed(1))
    layer = plain[0]
    convolve = getattr(nn.functional, kind)
    inner = convolve(x, down, stride=layer.stride, padding=layer.padding)
    outer = convolve(inner, up[(...,) + (None,) * (x.ndim - 2)])
    torch.testing.assert_close(network(x), plain(x) + 6.0 / 2 * outer, rtol=1e-12, atol=1e-12)


def test_update_of_a_grouped_kernel_is_the_same_sum_for_every_output():
    network, plain, (down, up), _ = trained("conv2d")
    with torch.no_grad():
        up.normal_(generator=torch.Generator().manual_seed(1))
    update = sum(up[:, q, None, None, None] * down[q] for q in range(2))
    torch.testing.assert_close(network[0].weight, plain[0].weight + 6.0 / 2 * update, rtol=1e-12, atol=1e-12)


def test_wrong_ranks_parametrised_weights_and_networks_without_layers_are_clear_errors():
    with pytest.raises(InputError, match="rank"):
        add_low_rank(nn.Sequential(nn.Linear(2, 2)), rank=0)
    with pytest.raises(InputError, match="no linear layer"):
        add_low_rank(nn.Sequential(nn.ReLU()))
    network = nn.Sequential(nn.Linear(2, 2))
    add_low_rank(network)
    with pytest.raises(InputError, match="already parametrised"):
        add_low_rank(network)

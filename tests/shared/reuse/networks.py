"""Networks to test reuse on: the example architectures with random weights, and modules made by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from shared import NetworkDenoiser, VariancePreserving
from shared.examples import EXAMPLES, labelled
from shared.networks import ResidualMLP
from shared.reuse import Block, stack, unet_levels


def perturbed(network: nn.Module, seed: int = 0, amount: float = 0.02) -> nn.Module:
    """Return the network with every weight moved a little, so that nothing in it is zero."""
    generator = torch.Generator().manual_seed(seed)
    network.eval().requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(amount * torch.randn(parameter.shape, generator=generator))
    return network


def example(name: str) -> tuple[NetworkDenoiser, list[Block], tuple[int, ...]]:
    """Return an untrained example network as denoiser, with its blocks and the shape of a sample."""
    facts = EXAMPLES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = perturbed(facts.build())
    denoiser = NetworkDenoiser(network, VariancePreserving.from_betas(facts.betas), facts.prediction)
    if name == "shared/digits_dit":
        return labelled(denoiser, torch.tensor([3])), stack(network, "transformer_blocks"), facts.shape
    return denoiser, unet_levels(network), facts.shape


def mlp(depth: int = 3) -> tuple[NetworkDenoiser, list[Block], tuple[int, ...]]:
    """Return a residual MLP over 6 numbers as denoiser."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = perturbed(ResidualMLP(6, width=16, depth=depth, embedding=8), amount=0.2)
    return NetworkDenoiser(network, VariancePreserving.linear(), "v"), stack(network, "blocks"), (6,)


class Plain(nn.Module):
    """tanh(W_2 (outer + tanh(W_1 x + time))): an ordinary module, its part `inner` returned as a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()
        self.last = nn.Linear(6, 6)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h, extra = self.inner(x, time=time)
        return torch.tanh(self.last(x + h)) + extra["mean"]


class Inner(nn.Module):
    """A part whose output is a structure of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor, *, time: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        h = torch.tanh(self.linear(x) + time[:, None])
        return h, {"mean": h.mean(1, keepdim=True)}


def plain() -> tuple[NetworkDenoiser, list[Block], tuple[int, ...]]:
    """Return the hand-made module as denoiser."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Plain().eval().requires_grad_(False)
    blocks = [Block("inner", ("inner",)), Block("last", ("last",))]
    return NetworkDenoiser(network, VariancePreserving.linear(), "v"), blocks, (6,)


NETWORKS = {
    "action_unet": lambda: example("shared/action_unet"),
    "photo_unet": lambda: example("shared/photo_unet"),
    "digits_dit": lambda: example("shared/digits_dit"),
    "residual_mlp": mlp,
    "plain_module": plain,
}

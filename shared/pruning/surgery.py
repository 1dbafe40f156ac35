"""From a decision to a smaller network: blocks that are left out are gone, with their weights.

    pruned = prune(network, blocks, kept, x, time)
    pruned.network

A block is taken out of its list where the network then answers as if the block passed its input on, as in transformers
and residual MLPs. Elsewhere (the blocks of UNets have names and skip connections) a `PassOn` stands in its place. What
the network uses of a block from outside stays in the `PassOn`: the transformers of diffusers, for instance, take the
conditioning of their last layer from the embedding inside their first block.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shared.errors import InputError
from shared.pruning.gates import check_keeps_shape
from shared.reuse.interception import Block, Call, Output, check_blocks, intercepted


class PassOn(nn.Module):
    """A module that returns its first argument, whatever else it is given."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first argument."""
        return args[0] if args else next(iter(kwargs.values()))


@dataclass(frozen=True)
class Cut:
    """How blocks are left out of a network.

    Attributes:
        dropped: modules that are taken out of their list.
        passed: modules that a `PassOn` stands for, with the parts of each that stay.
    """

    dropped: tuple[str, ...]
    passed: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Pruned:
    """A smaller network and how it was made.

    Attributes:
        network: the smaller network; its weights are its own.
        blocks: that could have been left out.
        kept: bit of each.
        cut: how the others are left out.
        names: name of every module that is left, from its name in the source to its name here.
    """

    network: nn.Module
    blocks: tuple[Block, ...]
    kept: tuple[bool, ...]
    cut: Cut
    names: Mapping[str, str]


def prunable(network: nn.Module, names: Sequence[str], *args: Any, **kwargs: Any) -> list[Block]:
    """Return those of the named modules that keep the shape of their input, in the order of their calls.

    Args:
        network: is called once.
        names: of modules.
        *args: of the network.
        **kwargs: of the network.
    """
    found: list[Block] = []

    def rule(call: Call) -> Output:
        output = call.compute()
        if isinstance(output, Tensor) and output.shape == call.input.shape:
            found.append(Block(call.module, (call.module,), residual=True))
        return output

    with torch.no_grad(), intercepted(network, [Block(name, (name,)) for name in names], rule):
        network(*args, **kwargs)
    return list(dict.fromkeys(found))


def prunable_resnets(network: nn.Module, *args: Any, **kwargs: Any) -> list[Block]:
    """Return the residual blocks of a UNet of diffusers that can be left out, in the order of their calls.

    These are the entries of every list called `resnets` whose input and output have one shape: the first of a level
    changes the channels, and those of most up blocks take in a skip connection.

    Raises:
        InputError: there are none.
    """
    names = [name for name, _ in network.named_modules() if name.rpartition(".")[0].endswith(".resnets")]
    found = prunable(network, names, *args, **kwargs)
    if not found:
        raise InputError(
            type(network).__name__, found="no residual blocks that keep their shape", expected="a UNet of diffusers",
            fix="Make the blocks by hand: shared.reuse.Block.",
        )  # fmt: skip
    return found


def prune(
    network: nn.Module, blocks: Sequence[Block], kept: Sequence[bool] | Tensor, *args: Any, **kwargs: Any
) -> Pruned:
    """Return a smaller copy of the network, which answers as the network does with the blocks passed over.

    That it does so is checked on the given arguments.

    Args:
        network: unchanged.
        blocks: that could be left out.
        kept: bit of each; False leaves it out.
        *args: of the network, a small example.
        **kwargs: of the network.

    Raises:
        InputError: not one bit for each block, a block that changes the shape of its input, or a network that uses the
            weights of a block without calling its parts.
    """
    bits = tuple(bool(bit) for bit in kept)
    if len(bits) != len(blocks):
        raise InputError("kept", found=f"{len(bits)} bits", expected=f"{len(blocks)}", fix="One for each block.")
    check_blocks(network, blocks)
    out = [block for block, bit in zip(blocks, bits, strict=True) if not bit]
    with torch.no_grad():
        wanted, parts = _passed_over(network, out, *args, **kwargs)
        cut = Cut((), parts)
        for container in sorted({_parent(name) for name, own in parts.items() if not own}):
            members = tuple(name for name, own in cut.passed.items() if _parent(name) == container and not own)
            if isinstance(network.get_submodule(container), nn.ModuleList):
                rest = {name: own for name, own in cut.passed.items() if name not in members}
                trial = Cut((*cut.dropped, *members), rest)
                if _answers(network, trial, wanted, *args, **kwargs):
                    cut = trial
        if not _answers(network, cut, wanted, *args, **kwargs):
            raise InputError(
                type(network).__name__, found="weights of a block used from outside of it",
                expected="blocks that are only called", fix="Keep the block.",
            )  # fmt: skip
    smaller, names = apply_cut(network, cut)
    return Pruned(smaller, tuple(blocks), bits, cut, names)


def apply_cut(network: nn.Module, cut: Cut) -> tuple[nn.Module, dict[str, str]]:
    """Return a copy of the network after the cut, and the new name of every module that is left."""
    smaller = copy.deepcopy(network)
    before = {module: name for name, module in smaller.named_modules()}  # holds what is cut, so no identity is reused
    for name, parts in cut.passed.items():
        block = smaller.get_submodule(name)
        setattr(smaller.get_submodule(_parent(name)), name.rpartition(".")[2], _remnant(block, parts))
    for name in sorted(cut.dropped, key=lambda dropped: int(dropped.rpartition(".")[2]), reverse=True):
        container = smaller.get_submodule(_parent(name))
        assert isinstance(container, nn.ModuleList)
        del container[int(name.rpartition(".")[2])]  # the rest move up
    return smaller, {before[module]: name for name, module in smaller.named_modules() if module in before}


def _passed_over(
    network: nn.Module, out: Sequence[Block], *args: Any, **kwargs: Any
) -> tuple[Tensor, dict[str, tuple[str, ...]]]:
    """Return the answer with the blocks passed over, and which parts of each were called all the same."""
    called: dict[str, list[str]] = {name: [] for block in out for name in block.modules}
    handles = [
        module.register_forward_pre_hook(lambda *_, block=name, part=part: called[block].append(part))
        for name in called
        for part, module in network.get_submodule(name).named_modules()
        if part
    ]

    def compute(call: Call) -> Output:
        output = call.compute()
        check_keeps_shape(call, output)
        return output

    try:
        with intercepted(network, out, compute):
            network(*args, **kwargs)
        for parts in called.values():
            parts.clear()
        with intercepted(network, out, lambda call: call.input):
            answer = network_tensor(network(*args, **kwargs))
    finally:
        for handle in handles:
            handle.remove()
    outermost = {
        name: tuple(dict.fromkeys(p for p in parts if not any(p.startswith(f"{other}.") for other in parts)))
        for name, parts in called.items()
    }
    return answer, outermost


def _answers(network: nn.Module, cut: Cut, wanted: Tensor, *args: Any, **kwargs: Any) -> bool:
    """Whether the network after the cut still runs and answers as wanted."""
    try:
        found = network_tensor(apply_cut(network, cut)[0](*args, **kwargs))
    except (RuntimeError, IndexError, ValueError, TypeError, AttributeError):
        return False
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)


def _remnant(block: nn.Module, parts: Sequence[str]) -> PassOn:
    remnant = PassOn()
    for part in parts:
        place: nn.Module = remnant
        *path, last = part.split(".")
        for step in path:
            if not hasattr(place, step):
                place.add_module(step, PassOn())
            place = place.get_submodule(step)
        place.add_module(last, block.get_submodule(part))
    return remnant


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def network_tensor(output: Any) -> Tensor:
    """Return the prediction in what a network returns: itself, its field `sample`, or its first entry."""
    value = getattr(output, "sample", output)
    found: Tensor = value[0] if isinstance(value, tuple) else value
    return found

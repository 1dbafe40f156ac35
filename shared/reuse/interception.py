"""One way to stand between a network and its blocks, without changing the network.

    def rule(call):
        return call.compute()          # or anything of the same structure

    with intercepted(network, blocks, rule):
        network(x, time)

Reuse, recording, profiling, mixing with a router and gates of pruning are rules. The network is patched only inside the
`with`, so nothing is left behind after an error, and several rules can share one network in turn. Not for two threads
at once on one network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from shared.errors import InputError
from shared.ledger import flop_counter

Output = Any  # a tensor, or a tuple, list or dict of tensors, as the block returns it


@dataclass(frozen=True)
class Block:
    """Modules that are computed, or not, together: one column of a mask.

    Attributes:
        name: for people and artefacts.
        modules: dotted names, as in `network.named_modules()`; none inside another.
        residual: the block adds to its input, so what is stored and predicted is output - input. For modules whose
            first argument and output are tensors of one shape.
    """

    name: str
    modules: tuple[str, ...]
    residual: bool = False


@dataclass(frozen=True)
class Call:
    """A module of a block being called inside the network.

    Attributes:
        column: index of the block.
        block: the block.
        module: dotted name of the module.
        args: its positional arguments.
        kwargs: its keyword arguments.
        compute: runs the module and returns its output.
    """

    column: int
    block: Block
    module: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    compute: Callable[[], Output]

    @property
    def input(self) -> Tensor:
        """Return the first argument, the features that enter the module."""
        return self.args[0] if self.args else next(iter(self.kwargs.values()))

    def stored(self, output: Output) -> Output:
        """Return what represents the output in a store: itself, or its difference from the input."""
        return output - self.input if self.block.residual else output

    def restored(self, stored: Output) -> Output:
        """Return the output that a stored value stands for, at this call's input."""
        return self.input + stored if self.block.residual else stored


Rule = Callable[[Call], Output]


@contextmanager
def intercepted(network: nn.Module, blocks: Sequence[Block], rule: Rule) -> Iterator[None]:
    """Let `rule` answer for every module of the blocks while the context is open.

    Raises:
        InputError: a block without modules, a name that the network does not have, or a module in two blocks.
    """
    places = _places(network, blocks)
    before = [vars(module).get("forward") for _, _, module in places]
    try:
        for column, name, module in places:
            module.forward = partial(_answer, rule, column, blocks[column], name, module.forward)
        yield
    finally:
        for (_, _, module), forward in zip(places, before, strict=True):
            vars(module).pop("forward", None)
            if forward is not None:
                vars(module)["forward"] = forward


def check_blocks(network: nn.Module, blocks: Sequence[Block]) -> None:
    """Check that the blocks are modules of the network, each in one block and none inside another.

    Raises:
        InputError: they are not.
    """
    _places(network, blocks)


def map_tensors(change: Callable[[Tensor], Tensor], output: Output) -> Output:
    """Return the output with each tensor in it changed."""
    return tree_map_only(Tensor, change, output)


def block_costs(network: nn.Module, blocks: Sequence[Block], *args: Any, **kwargs: Any) -> tuple[list[float], float]:
    """Return the share of each block, and of everything else, in the operations of one network call.

    Operations are those that `shared.ledger.flop_counter` counts: products of matrices, convolutions and attention.

    Args:
        network: whose call is counted.
        blocks: columns of the mask.
        *args: of the network.
        **kwargs: of the network.

    Returns:
        One number a block, and the rest; together 1.
    """
    spent = [0.0] * len(blocks)
    counter = flop_counter()

    def rule(call: Call) -> Output:
        begin = counter.get_total_flops()
        output = call.compute()
        spent[call.column] += counter.get_total_flops() - begin
        return output

    with torch.no_grad(), intercepted(network, blocks, rule), counter:
        network(*args, **kwargs)
    total = float(counter.get_total_flops())
    return [flops / total for flops in spent], 1 - sum(spent) / total


def _answer(
    rule: Rule, column: int, block: Block, name: str, forward: Callable[..., Output], *args: Any, **kwargs: Any
) -> Output:
    return rule(Call(column, block, name, args, kwargs, partial(forward, *args, **kwargs)))


def _places(network: nn.Module, blocks: Sequence[Block]) -> list[tuple[int, str, nn.Module]]:
    known = dict(network.named_modules())
    places: list[tuple[int, str, nn.Module]] = []
    for column, block in enumerate(blocks):
        if not block.modules:
            raise InputError(f"block {block.name}", found="no modules", expected="one or more", fix="Name its modules.")
        for name in block.modules:
            if name not in known or not name:
                near = [other for other in known if other and other.count(".") == name.count(".")]
                raise InputError(
                    f"block {block.name}",
                    found=f"no module called {name!r}",
                    expected=f"a module of the network, such as {', '.join(near[:6])}",
                    fix="Check the name against network.named_modules().",
                )
            places.append((column, name, known[name]))
    names = [name for _, name, _ in places]
    for name in names:
        if names.count(name) > 1 or any(name.startswith(f"{other}.") for other in names):
            raise InputError(
                "blocks", found=f"{name} covered twice", expected="each module in one block", fix="Leave one out."
            )
    return places

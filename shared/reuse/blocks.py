"""Which parts of a network can be reused: the columns of a mask, for the usual architectures.

    unet_levels(network)                                  # UNets of diffusers: nested levels, outermost first
    stack(network, "transformer_blocks")                  # a residual stack: DiT, residual MLP
    stack(network, "transformer_blocks", ("attn1", "ff")) # its components one by one

Any other network: make the `Block`s by hand from `network.named_modules()`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from shared.errors import InputError
from shared.reuse.interception import Block, check_blocks


def unet_levels(network: nn.Module) -> list[Block]:
    """Return the resolution levels of a UNet with `down_blocks`, `mid_block` and `up_blocks`, outermost first.

    Level l is the l-th down block and the up block at the same resolution; the last one has the middle too. A level
    that is reused hides everything below it (the deep path of DeepCache, Ma et al. 2024), so only nested masks make
    sense: `shared.reuse.mask.nested`.

    Raises:
        InputError: the network has no such parts.
    """
    downs, ups = _children(network, "down_blocks"), _children(network, "up_blocks")
    levels = []
    for level, down in enumerate(downs):
        modules = [down]
        if level == len(downs) - 1 and getattr(network, "mid_block", None) is not None:
            modules.append("mid_block")
        if level < len(ups):
            modules.append(ups[len(ups) - 1 - level])
        levels.append(Block(f"level_{level}", tuple(modules)))
    check_blocks(network, levels)
    return levels


def stack(network: nn.Module, name: str, components: Sequence[str] = ()) -> list[Block]:
    """Return the entries of a residual stack (a ModuleList), or the components of each.

    Args:
        network: has the stack.
        name: dotted name of the ModuleList.
        components: names inside each entry whose outputs are stored as they are; none takes whole entries, of which
            output - input is stored.

    Raises:
        InputError: the network has no such stack or components.
    """
    entries = _children(network, name)
    blocks = [
        Block(f"{entry}.{component}", (f"{entry}.{component}",)) for entry in entries for component in components
    ] or [Block(entry, (entry,), residual=True) for entry in entries]
    check_blocks(network, blocks)
    return blocks


def _children(network: nn.Module, name: str) -> list[str]:
    try:
        return [f"{name}.{child}" for child, _ in network.get_submodule(name).named_children()]
    except AttributeError as error:
        raise InputError(
            type(network).__name__,
            found=f"no modules called {name}",
            expected="a network with them",
            fix="Make the blocks by hand: shared.reuse.Block.",
        ) from error

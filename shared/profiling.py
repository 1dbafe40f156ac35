r"""Where one network call spends its time and its operations: by kind of operator and by level.

    profile = profile_network(network, x, time)
    profile.total("flops", category="convolution") / profile.total("flops")

| category    | operators                                                                           |
| ----------- | ----------------------------------------------------------------------------------- |
| convolution | convolutions, transposed ones too                                                   |
| attention   | scaled_dot_product_attention; products of two batches of matrices; softmax          |
| linear      | linear layers, those around attention too, and products of two matrices             |
| norm        | group, layer, batch, instance and RMS norm                                          |
| activation  | silu, mish, gelu, relu and the like                                                 |
| other       | copies, sums, concatenation, resizing                                               |
| python      | what lies between operators: the price of launching them one by one (0 on CUDA)      |

An operator belongs to the outermost of these that called it: the matrix product inside a convolution is convolution,
and so are its copies. Times are the operators' own (torch.profiler): of the device on CUDA, else of the CPU. Operations
are those that have a count, 2 for a multiply-add (FlopCounterMode): the first three categories.

The split is that of Golden et al., Generative AI Beyond LLMs, 2024 (arXiv 2312.14385).
"""

from __future__ import annotations

import re
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from shared.errors import InputError
from shared.ledger import flop_counter
from shared.reuse.blocks import stack, unet_levels
from shared.reuse.interception import Block, Call, Output, check_blocks, intercepted

CATEGORIES = ("convolution", "attention", "linear", "norm", "activation", "other", "python")
REST = "rest"
RANGE = "fewstep.level."

OPERATORS = (  # patterns of the names of operators, without namespace, in the order in which they are tried
    ("convolution", r"_?conv(olution|_transpose|_depthwise)?\d?d?.*|(mkldnn|cudnn|miopen|thnn|_slow|slow).*conv.*"),
    ("attention", r"_?scaled_dot_product.*|.*attention.*|bmm|baddbmm|_?(log_)?softmax|_safe_softmax"),
    ("linear", r"linear|mm|addmm|addmv|mv|mkldnn_linear|_addmm_activation"),
    ("norm", r"(native_|cudnn_|_fused_|_)?(group|layer|batch|instance|rms)_norm.*"),
    ("activation", r"(silu|mish|gelu|relu|relu6|leaky_relu|elu|sigmoid|tanh|softplus|hard\w+|glu|prelu|selu|celu)_?"),
)
FUNCTIONS: dict[Any, str] = {
    torch.nn.functional.linear: "linear",
    torch.nn.functional.scaled_dot_product_attention: "attention",
}  # whose inner products FlopCounterMode would count as another kind of product

Quantity = Literal["flops", "seconds", "parameters"]


@dataclass(frozen=True)
class Profile:
    """One network call, taken apart.

    Attributes:
        levels: names of the levels, the last one `REST`: what is outside the others.
        flops: operations of each (level, category).
        seconds: time of each (level, category), under the profiler, median of the calls.
        parameters: numbers learned, of each level.
        call_seconds: shortest time of a call without the profiler, the least disturbed one.
    """

    levels: tuple[str, ...]
    flops: Mapping[tuple[str, str], float]
    seconds: Mapping[tuple[str, str], float]
    parameters: Mapping[str, float]
    call_seconds: float

    def total(self, quantity: Quantity, *, level: str | None = None, category: str | None = None) -> float:
        """Return the sum of a quantity over one level or all, and over one category or all (parameters have none)."""
        if quantity == "parameters":
            return sum(value for name, value in self.parameters.items() if level in (None, name))
        table = self.flops if quantity == "flops" else self.seconds
        return sum(value for key, value in table.items() if level in (None, key[0]) and category in (None, key[1]))

    def numbers(self) -> dict[str, float]:
        """Return flat numbers: total.flops, category.<name>.ms, level.<name>.flops, level.<name>.<category>.ms ..."""
        found = {
            "total.flops": self.total("flops"),
            "total.ms": 1e3 * self.total("seconds"),
            "total.parameters": self.total("parameters"),
            "call.ms": 1e3 * self.call_seconds,
        }
        for category in CATEGORIES:
            found[f"category.{category}.flops"] = self.total("flops", category=category)
            found[f"category.{category}.ms"] = 1e3 * self.total("seconds", category=category)
        for level in self.levels:
            found[f"level.{level}.flops"] = self.total("flops", level=level)
            found[f"level.{level}.ms"] = 1e3 * self.total("seconds", level=level)
            found[f"level.{level}.parameters"] = self.total("parameters", level=level)
            for category in CATEGORIES:
                found[f"level.{level}.{category}.flops"] = self.total("flops", level=level, category=category)
                found[f"level.{level}.{category}.ms"] = 1e3 * self.total("seconds", level=level, category=category)
        return found


def profile_network(
    network: nn.Module,
    *inputs: Any,
    levels: Sequence[Block] | None = None,
    conditioning: Mapping[str, Any] = MappingProxyType({}),
    repeat: int = 5,
) -> Profile:
    """Profile calls of network(*inputs, **conditioning), without gradients.

    Args:
        network: on its device, in its mode.
        *inputs: positional arguments.
        levels: parts of the network, none inside another; none takes `default_levels`.
        conditioning: keyword arguments.
        repeat: calls that are timed, after one that is not.

    Raises:
        InputError: levels that are not parts of the network, or repeat below 1.
    """
    if repeat < 1:
        raise InputError("repeat", found=f"{repeat}", expected="1 or more", fix="5 are enough.")
    blocks = list(default_levels(network) if levels is None else levels)
    check_blocks(network, blocks)
    names = (*(block.name for block in blocks), REST)

    def call() -> None:
        network(*inputs, **conditioning)

    with torch.no_grad():
        call()
        return Profile(
            levels=names,
            flops=_flops(network, blocks, call),
            seconds=_seconds(network, blocks, call, repeat),
            parameters=_parameters(network, blocks),
            call_seconds=_call_seconds(call, repeat),
        )


def default_levels(network: nn.Module) -> list[Block]:
    """Return the levels of a UNet, the blocks of a transformer, or else the children, entries of lists one by one."""
    if hasattr(network, "down_blocks") and hasattr(network, "up_blocks"):
        return unet_levels(network)
    if hasattr(network, "transformer_blocks"):
        return stack(network, "transformer_blocks")
    levels = []
    for name, child in network.named_children():
        listed = isinstance(child, nn.ModuleList | nn.ModuleDict)
        parts = [f"{name}.{entry}" for entry, _ in child.named_children()] if listed else [name]
        levels += [Block(part, (part,)) for part in parts]
    return levels


def category_of(operator: str) -> str | None:
    """Return the category of an operator such as aten::conv2d or aten.mm; None where it is its caller's."""
    name = re.split(r"::|\.", operator)[1] if re.match(r"aten(::|\.)", operator) else ""
    return next((category for category, pattern in OPERATORS if name and re.fullmatch(pattern, name)), None)


def _flops(network: nn.Module, blocks: Sequence[Block], call: Callable[[], None]) -> dict[tuple[str, str], float]:
    counter = flop_counter()
    found: dict[tuple[str, str], float] = defaultdict(float)
    seen: dict[Any, int] = {}
    level = REST

    def count(category: str | None) -> None:
        """Give what was counted since the last time to a category; None finds it from the operators."""
        nonlocal seen
        now = counter.get_flop_counts().get("Global", {})
        for operator, flops in now.items():
            new = flops - seen.get(operator, 0)
            if new:
                found[level, category or category_of(str(operator)) or "other"] += new
        seen = dict(now)

    class Functions(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            category = FUNCTIONS.get(func)
            if category is None:
                return func(*args, **(kwargs or {}))
            count(None)
            result = func(*args, **(kwargs or {}))
            count(category)
            return result

    def rule(block_call: Call) -> Output:
        nonlocal level
        count(None)
        level = block_call.block.name
        output = block_call.compute()
        count(None)
        level = REST
        return output

    with intercepted(network, blocks, rule), counter, Functions():
        call()
        count(None)
    return dict(found)


def _seconds(
    network: nn.Module, blocks: Sequence[Block], call: Callable[[], None], repeat: int
) -> dict[tuple[str, str], float]:
    from torch.profiler import ProfilerActivity, profile, record_function

    cuda = torch.cuda.is_available() and any(parameter.is_cuda for parameter in network.parameters())
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]

    def rule(block_call: Call) -> Output:
        with record_function(f"{RANGE}{block_call.column}"):
            return block_call.compute()

    with intercepted(network, blocks, rule), profile(activities=activities) as profiler:
        for _ in range(repeat):
            with record_function(f"{RANGE}call"):
                call()
        if cuda:
            torch.cuda.synchronize()
    calls: dict[int, dict[tuple[str, str], float]] = defaultdict(lambda: defaultdict(float))
    for event in profiler.events():
        chain = [event]
        while chain[-1].cpu_parent is not None:
            chain.append(chain[-1].cpu_parent)
        ranges = [entry for entry in chain if entry.name.startswith(RANGE)]
        if not ranges or ranges[-1].name != f"{RANGE}call":  # a kernel, whose time its operator has
            continue
        level = REST if len(ranges) == 1 else blocks[int(ranges[0].name[len(RANGE) :])].name
        categories = [category for entry in chain if (category := category_of(entry.name))]
        category = "python" if event is ranges[0] else categories[-1] if categories else "other"
        calls[ranges[-1].id][level, category] += event.self_device_time_total if cuda else event.self_cpu_time_total
    cells = {cell for call_cells in calls.values() for cell in call_cells}
    return {cell: 1e-6 * statistics.median(found.get(cell, 0.0) for found in calls.values()) for cell in cells}


def _parameters(network: nn.Module, blocks: Sequence[Block]) -> dict[str, float]:
    found = {
        block.name: float(sum(p.numel() for name in block.modules for p in network.get_submodule(name).parameters()))
        for block in blocks
    }
    found[REST] = sum(p.numel() for p in network.parameters()) - sum(found.values())
    return found


def _call_seconds(call: Callable[[], None], repeat: int) -> float:
    seconds = []
    for _ in range(repeat):
        _synchronise()
        begin = time.perf_counter()
        call()
        _synchronise()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def run(model: str, *, batch: int, repeat: int, device: str, json: Path | None, quiet: bool) -> None:
    """Profile a model by name, print tables and write the numbers: what `fewstep profile` does.

    Raises:
        InputError: an unknown model, one without a network of its own, or a bad option.
    """
    from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
    from shared.devices import resolve_device
    from shared.models import load_model
    from shared.numbers import write_numbers

    if batch < 1:
        raise InputError("--batch", found=f"{batch}", expected="1 or more", fix="Ask for at least one sample.")
    where = resolve_device(device)
    loaded = load_model(model, device=where)
    denoiser = loaded.denoiser
    if not isinstance(denoiser, NetworkDenoiser | PreconditionedDenoiser) or not isinstance(
        denoiser.network, nn.Module
    ):
        raise InputError(
            model, found=f"a {type(denoiser).__name__} without a module", expected="a network denoiser",
            fix="Profile its network with shared.profiling.profile_network.",
        )  # fmt: skip
    x = loaded.process.noise((batch, *loaded.shape), torch.Generator().manual_seed(0), device=where)
    times = torch.full((batch,), denoiser.reading(0.5).time, device=where)
    named = {} if denoiser.time_argument is None else {denoiser.time_argument: times}
    inputs = (x,) if named else (x, times)
    profile = profile_network(denoiser.network, *inputs, conditioning={**denoiser.conditioning, **named}, repeat=repeat)
    if not quiet:
        _show(profile, f"{model}, batch {batch}, {where}")
    if json is not None:
        write_numbers(json, profile.numbers())


def _show(profile: Profile, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    all_flops, all_seconds = profile.total("flops") or 1.0, profile.total("seconds") or 1.0
    console = Console(highlight=False)
    console.print(
        f"{title}: {profile.total('flops') / 1e6:.4g} MFLOP, {profile.total('parameters') / 1e6:.3g} M parameters, "
        f"{1e3 * profile.call_seconds:.3g} ms a call ({1e3 * all_seconds:.3g} ms under the profiler)"
    )

    def shares(level: str | None, category: str | None) -> tuple[str, str, str]:
        flops = profile.total("flops", level=level, category=category)
        seconds = profile.total("seconds", level=level, category=category)
        return f"{flops / 1e6:.4g}", f"{100 * flops / all_flops:.1f}", f"{100 * seconds / all_seconds:.1f}"

    table = Table("operators", "MFLOP", "% of FLOP", "% of time", box=None, pad_edge=False)
    for category in CATEGORIES:
        table.add_row(category, *shares(None, category))
    console.print(table, "")
    table = Table("level", "MFLOP", "% of FLOP", "% of time", "k parameters", box=None, pad_edge=False)
    for level in profile.levels:
        table.add_row(level, *shares(level, None), f"{profile.parameters[level] / 1e3:.4g}")
    console.print(table)

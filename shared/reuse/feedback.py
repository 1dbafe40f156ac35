r"""Inner Loop Feedback: the stored feature is corrected by a small trained network before it is read again.

At a step where a run of blocks is not computed, the feature with which the computed part goes on is

    u_i = r_i + gamma F(r_i, t_i),          r_i = what plain reuse would give there,

with the backbone frozen and gamma = 0 before training: then it is plain reuse, bit for bit. F is of a block's kind:

| the block              | F(r, t)                                                                                 |
| ---------------------- | --------------------------------------------------------------------------------------- |
| residual, r = h + f_c  | B(r, t) - r, B a trained copy of the block, given the time and conditioning of the call |
| convolutional features | P_2 silu((1 + a(t)) P_1 K norm(r) + b(t)), K a depthwise convolution, P pointwise ones  |

The first is for residual stacks (DiT, residual MLP): r has the input h of this step in it and the stored residuals of
all skipped blocks of the run. The second is for the deep path of UNets. F sits only at the last module of each run of
skipped modules, in the order in which the network calls them; what the others give is not read by computed modules,
except skip connections, which are reused.

Reference: Gwilliam et al., Accelerate High-Quality Diffusion Models with Inner Loop Feedback, 2025 (arXiv 2501.13107).
Its code is not public: kind and place of F follow the abstract, the rest is ours.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.errors import InputError
from shared.files import atomic_path
from shared.networks import TimeEmbedding
from shared.reuse.executor import Stored
from shared.reuse.interception import Block, Call, Output, intercepted
from shared.reuse.mask import check_mask
from shared.reuse.schedule import NetworkBacked, ReuseSchedule, schedule_from_json

FORMAT = "fewstep inner loop feedback 1"
EMBEDDING = 64
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Entry:
    """A place where a predicted feature enters the computed part again.

    Attributes:
        module: dotted name of the last skipped module of a run.
        kind: "copy" of a residual block, or "convolution".
        channels: of a convolutional feature, else 0.
        dimensions: spatial dimensions of a convolutional feature, else 0.
        steps: rows of the mask at which it is used.
    """

    module: str
    kind: str
    channels: int
    dimensions: int
    steps: tuple[int, ...]


class ConvolutionFeedback(nn.Module):
    """F of features (N, channels, ...) with 1 to 3 spatial dimensions: P_2 silu((1 + a(t)) P_1 K norm(r) + b(t)).

    Args:
        channels: of the feature.
        dimensions: spatial dimensions, 1 to 3.
    """

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dimensions - 1]
        self.norm = nn.GroupNorm(1, channels)
        self.depthwise = convolution(channels, channels, 3, padding=1, groups=channels)
        self.first = convolution(channels, channels, 1)
        self.last = convolution(channels, channels, 1)
        self.time = TimeEmbedding(EMBEDDING)
        self.modulation = nn.Linear(EMBEDDING, 2 * channels)

    def forward(self, feature: Tensor, t: Tensor) -> Tensor:
        """Return F(feature, t) for levels t (N,)."""
        scale, shift = self.modulation(self.time(t))[(..., *[None] * (feature.ndim - 2))].chunk(2, dim=1)
        hidden = self.first(self.depthwise(self.norm(feature)))
        return self.last(nn.functional.silu((1 + scale) * hidden + shift))


class Feedback(nn.Module):
    """The predictor r + gamma F(r, t) of all entries; `Latest` everywhere else.

    Args:
        network: the backbone, whose blocks are copied.
        entries: where predicted features enter again.
        asked: level of each row of the mask.
    """

    memory = 1

    def __init__(self, network: nn.Module, entries: Sequence[Entry], asked: Sequence[float]) -> None:
        super().__init__()
        self.entries = tuple(entries)
        self.asked = tuple(asked)
        self._steps = {entry.module: frozenset(entry.steps) for entry in entries}
        self.branches = nn.ModuleDict({_key(entry.module): _branch(network, entry) for entry in entries})
        self.gamma = nn.ParameterDict({_key(entry.module): nn.Parameter(torch.zeros(())) for entry in entries})

    def steps_of(self, module: str) -> frozenset[int]:
        """Return the rows of the mask at which a module's feature is corrected."""
        return self._steps.get(module, frozenset())

    def forward(self, call: Call, stored: Sequence[Stored], step: int) -> Output:
        """Return the predicted value of a block, in the form of `Stored.value`."""
        value = stored[0].value
        if step not in self.steps_of(call.module):
            return value
        key, reused = _key(call.module), call.restored(value)
        branch = self.branches[key]
        if isinstance(branch, ConvolutionFeedback):
            correction = branch(reused, torch.full((len(reused),), self.asked[step], device=reused.device))
        else:
            correction = _repeated(branch, call, reused) - reused
        return value + self.gamma[key] * correction


@dataclass(frozen=True)
class FeedbackSchedule:
    """A mask with its trained feedback.

    Attributes:
        schedule: mask, blocks, grid, process and model.
        entries: where F sits.
        tensors: state of `Feedback`.
    """

    schedule: ReuseSchedule
    entries: tuple[Entry, ...]
    tensors: Mapping[str, Tensor]

    def bind(self, denoiser: NetworkBacked) -> NetworkBacked:
        """Return the denoiser around a network that follows the mask with feedback.

        Raises:
            InputError: another model or process than that of the schedule, or tensors that are not of its feedback.
        """
        network = self.schedule.check(denoiser)
        feedback = Feedback(network, self.entries, self.schedule.asked)
        try:
            feedback.load_state_dict(dict(self.tensors))
        except RuntimeError as error:
            raise InputError(
                "feedback", found="tensors of another feedback", expected="those of its entries",
                fix="Load the artefact again; do not edit it.",
            ) from error  # fmt: skip
        device = next(network.parameters()).device
        return self.schedule.bind(denoiser, predictor=feedback.to(device).eval().requires_grad_(False))

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write tensors and schedule as one safetensors file.

        Raises:
            InputError: the file exists and may not be replaced, or a process that is none of ours.
        """
        from safetensors.torch import save_file

        facts = {
            "format": FORMAT,
            "schedule": self.schedule.to_json(),
            "entries": json.dumps([asdict(entry) for entry in self.entries]),
        }
        tensors = {name: value.contiguous() for name, value in self.tensors.items()}
        with atomic_path(path, overwrite=overwrite) as scratch:
            save_file(tensors, scratch, metadata=facts)


def load_feedback(path: str | os.PathLike[str]) -> FeedbackSchedule:
    """Read a trained feedback.

    Raises:
        InputError: no such file, or one that was not written by `FeedbackSchedule.save`.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(Path(path), framework="pt") as file:
            facts = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']!r}")
        schedule = schedule_from_json(facts["schedule"], path)
        entries = tuple(_entry(facts_of_one, schedule, tensors) for facts_of_one in json.loads(facts["entries"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            path, found=f"no trained feedback ({error})", expected="a file written by FeedbackSchedule.save",
            fix="Check the name and the file.",
        ) from error  # fmt: skip
    return FeedbackSchedule(schedule, entries, tensors)


def find_entries(
    denoiser: NetworkDenoiser | PreconditionedDenoiser, blocks: Sequence[Block], mask: Tensor, x: Tensor
) -> tuple[Entry, ...]:
    """Return where predicted features enter the computed part, by following one network call.

    Args:
        denoiser: with the backbone.
        blocks: columns of the mask.
        mask: [steps, blocks].
        x: a noisy batch that the denoiser accepts.

    Raises:
        InputError: nothing is reused, or a feature that is neither of a residual block nor convolutional.
    """
    rows = check_mask(mask, blocks=len(blocks)).tolist()
    network = denoiser.network
    assert isinstance(network, nn.Module)
    called: list[tuple[int, str, Output]] = []

    def follow(call: Call) -> Output:
        output = call.compute()
        called.append((call.column, call.module, output))
        return output

    with torch.no_grad(), intercepted(network, blocks, follow):
        denoiser(x, 0.5)
    steps: dict[int, list[int]] = {}
    for step, row in enumerate(rows):
        for place, (column, _, _) in enumerate(called):
            if not row[column] and (place + 1 == len(called) or row[called[place + 1][0]]):
                steps.setdefault(place, []).append(step)
    if not steps:
        raise InputError(
            "mask", found="no reuse", expected="a step that does not compute all blocks", fix="Feedback needs one."
        )
    return tuple(_kind(network, blocks, called[place], tuple(at)) for place, at in sorted(steps.items()))


def _kind(
    network: nn.Module, blocks: Sequence[Block], called: tuple[int, str, Output], steps: tuple[int, ...]
) -> Entry:
    column, name, output = called
    if blocks[column].residual:
        return Entry(name, "copy", 0, 0, steps)
    convolutional = any(isinstance(module, CONVOLUTIONS) for module in network.get_submodule(name).modules())
    if not (isinstance(output, Tensor) and convolutional and 3 <= output.ndim <= 5):
        raise InputError(
            f"block {blocks[column].name}", found=f"{name} is neither residual nor gives one convolutional feature",
            expected="a residual block, or a feature (N, channels, ...) of a module with convolutions",
            fix="Choose whole residual blocks, or the levels of a UNet.",
        )  # fmt: skip
    return Entry(name, "convolution", output.shape[1], output.ndim - 2, steps)


def _entry(facts: Mapping[str, Any], schedule: ReuseSchedule, tensors: Mapping[str, Tensor]) -> Entry:
    """Return a stored entry after holding it to the schedule and the tensors: a file may claim anything."""
    entry = Entry(facts["module"], facts["kind"], facts["channels"], facts["dimensions"], tuple(facts["steps"]))
    residual = {name: block.residual for block in schedule.blocks for name in block.modules}
    if residual.get(entry.module) is not (entry.kind == "copy"):
        raise ValueError(f"no entry of kind {entry.kind} at {entry.module}")
    if entry.kind == "convolution":
        kernel = tensors[f"branches.{_key(entry.module)}.depthwise.weight"]
        if (entry.channels, entry.dimensions) != (kernel.shape[0], kernel.ndim - 2) or not 1 <= entry.dimensions <= 3:
            raise ValueError(f"{entry.module} is not as its tensors")
    return entry


def _branch(network: nn.Module, entry: Entry) -> nn.Module:
    if entry.kind == "copy":
        return copy.deepcopy(network.get_submodule(entry.module)).eval().requires_grad_(True)
    return ConvolutionFeedback(entry.channels, entry.dimensions)


def _repeated(branch: nn.Module, call: Call, feature: Tensor) -> Tensor:
    """Return what a copy of the block gives for another input and the same time and conditioning."""
    if call.args:
        return branch(feature, *call.args[1:], **call.kwargs)
    first = next(iter(call.kwargs))
    return branch(**{**call.kwargs, first: feature})


def _key(module: str) -> str:
    return module.replace(".", "/")

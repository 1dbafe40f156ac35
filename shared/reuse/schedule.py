"""A reuse schedule as data: one JSON file with the mask, what it was made for and what it is worth.

    schedule = load_schedule("ecad.json")
    x0 = sample(schedule.bind(denoiser), x, schedule.grid, solver)

`bind` checks model and process and returns the denoiser around a `ReusingNetwork`. Bind twice for guidance, once for
the conditional and once for the unconditional denoiser: each has its own store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from shared.calibration.identity import Identity, identify
from shared.denoiser import NetworkDenoiser, PreconditionedDenoiser
from shared.errors import InputError
from shared.files import atomic_path
from shared.grid import Grid
from shared.jsontext import json_text
from shared.process import NoiseProcess
from shared.process_data import process_from_data, process_to_data, same_process
from shared.reuse.executor import Latest, Predictor, ReusingNetwork
from shared.reuse.interception import Block
from shared.reuse.mask import check_mask, price
from shared.reuse.predictors import Rectified, Taylor

FORMAT = "fewstep reuse schedule 1"
NetworkBacked = TypeVar(
    "NetworkBacked", NetworkDenoiser, PreconditionedDenoiser, NetworkDenoiser | PreconditionedDenoiser
)


@dataclass(frozen=True)
class ReuseSchedule:
    """A mask with its blocks and levels, what it belongs to, and what was measured.

    Attributes:
        producer: how the mask was made, such as "uniform 2" or "ertacache".
        blocks: its columns.
        mask: its rows, True computes.
        times: the grid: levels t_0 > ... > t_N.
        asked: the level of each network call of the solver, one a row.
        costs: share of each block in a network call.
        process: the noise process.
        model: what the model is recognised by.
        shape: of one sample, without the batch.
        predictor: "latest", "taylor" or "rectified".
        gain: of "rectified", [steps][blocks].
        offset: of "rectified", [steps][blocks].
        measured: numbers for the reader, by name.
    """

    producer: str
    blocks: tuple[Block, ...]
    mask: tuple[tuple[bool, ...], ...]
    times: tuple[float, ...]
    asked: tuple[float, ...]
    costs: tuple[float, ...]
    process: NoiseProcess
    model: Identity
    shape: tuple[int, ...]
    predictor: str = "latest"
    gain: tuple[tuple[float, ...], ...] | None = None
    offset: tuple[tuple[float, ...], ...] | None = None
    measured: Mapping[str, float] = field(default_factory=dict)

    @property
    def grid(self) -> Grid:
        """Return the grid that the mask is for."""
        return Grid(self.process, self.times)

    @property
    def price(self) -> float:
        """Return the cost of a sampling in whole network calls."""
        return price(self.mask_tensor, self.costs)

    @property
    def mask_tensor(self) -> Tensor:
        """Return the mask as a boolean tensor [steps, blocks]."""
        return check_mask(torch.tensor(self.mask, dtype=torch.bool), steps=len(self.asked), blocks=len(self.blocks))

    def bind(self, denoiser: NetworkBacked, *, predictor: Predictor | None = None) -> NetworkBacked:
        """Return the denoiser around a network that follows the mask, after checking that it is the right one.

        Args:
            denoiser: of the model that the schedule is for.
            predictor: instead of the one that the schedule names, for predictors that are more than numbers.

        Raises:
            InputError: another model or process than that of the schedule, or an unknown predictor.
        """
        network = self.check(denoiser)
        told = [float(denoiser.time_input(t)) for t in self.asked]
        cached = ReusingNetwork(
            network, self.blocks, self.mask_tensor, told,
            predictor=self._predictor() if predictor is None else predictor, time_argument=denoiser.time_argument,
        )  # fmt: skip
        return denoiser.with_network(cached)

    def check(self, denoiser: NetworkDenoiser | PreconditionedDenoiser) -> nn.Module:
        """Return the network of the denoiser if the schedule is for it.

        Raises:
            InputError: another model or process than that of the schedule.
        """
        if not same_process(denoiser.process, self.process, self.times):
            raise InputError(
                "reuse schedule", found="another noise process", expected="that of the denoiser",
                fix="Make the schedule for this process.",
            )  # fmt: skip
        self.model.check(denoiser, self.process, self.shape, "reuse schedule")
        if not isinstance(denoiser.network, nn.Module):
            raise InputError(
                "reuse schedule", found=f"a network of type {type(denoiser.network).__name__}",
                expected="a torch module with named blocks", fix="Bind to the denoiser of the plain network.",
            )  # fmt: skip
        return denoiser.network

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the schedule as JSON.

        Raises:
            InputError: the file exists and may not be replaced, or a process that is none of ours.
        """
        with atomic_path(path, overwrite=overwrite) as scratch:
            scratch.write_text(self.to_json(), encoding="utf-8")

    def to_json(self) -> str:
        """Return the text of the file.

        Raises:
            InputError: a process that is none of ours.
        """
        return json_text(
            {"format": FORMAT, "price": self.price, **asdict(self), "process": process_to_data(self.process)}
        )

    def _predictor(self) -> Predictor:
        if self.predictor == "rectified" and self.gain is not None and self.offset is not None:
            return Rectified(self.gain, self.offset)
        plain: dict[str, type[Latest] | type[Taylor]] = {"latest": Latest, "taylor": Taylor}
        if self.predictor not in plain:
            raise InputError(
                "reuse schedule", found=f"predictor {self.predictor!r}", expected="latest, taylor or rectified with "
                "its gains and offsets", fix="Load the artefact again; do not edit it.",
            )  # fmt: skip
        return plain[self.predictor]()


def make_schedule(
    denoiser: NetworkDenoiser | PreconditionedDenoiser,
    blocks: Sequence[Block],
    mask: Tensor,
    grid: Grid,
    asked: Sequence[float],
    *,
    shape: Sequence[int],
    costs: Sequence[float],
    producer: str,
    predictor: str = "latest",
    gain: Sequence[Sequence[float]] | None = None,
    offset: Sequence[Sequence[float]] | None = None,
    measured: Mapping[str, float] | None = None,
) -> ReuseSchedule:
    """Return the schedule of a mask for this denoiser; the arguments are the attributes of `ReuseSchedule`."""
    checked = check_mask(mask, steps=len(asked), blocks=len(blocks))
    return ReuseSchedule(
        producer=producer,
        blocks=tuple(blocks),
        mask=tuple(tuple(row) for row in checked.tolist()),
        times=grid.times,
        asked=tuple(asked),
        costs=tuple(costs),
        process=denoiser.process,
        model=identify(denoiser, denoiser.process, shape),
        shape=tuple(shape),
        predictor=predictor,
        gain=None if gain is None else tuple(tuple(row) for row in gain),
        offset=None if offset is None else tuple(tuple(row) for row in offset),
        measured=dict(measured or {}),
    )


def load_schedule(path: str | os.PathLike[str]) -> ReuseSchedule:
    """Read a schedule.

    Raises:
        InputError: no such file, or one that is not a reuse schedule.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _no_schedule(path, error) from error
    return schedule_from_json(text, path)


def schedule_from_json(text: str, source: str | os.PathLike[str]) -> ReuseSchedule:
    """Return the schedule of a text from `ReuseSchedule.to_json`; `source` names it in errors.

    Raises:
        InputError: it is not the text of a schedule.
    """
    try:
        facts = json.loads(text)
        if facts["format"] != FORMAT:
            raise ValueError(f"format {facts['format']!r}")
        mask = torch.tensor(facts["mask"])
        return ReuseSchedule(
            producer=facts["producer"],
            blocks=tuple(Block(one["name"], tuple(one["modules"]), one["residual"]) for one in facts["blocks"]),
            mask=tuple(map(tuple, check_mask(mask, steps=len(facts["asked"]), blocks=len(facts["blocks"])).tolist())),
            times=_numbers(facts["times"]),
            asked=_numbers(facts["asked"]),
            costs=_numbers(facts["costs"]),
            process=process_from_data(facts["process"]),
            model=Identity(facts["model"]["name"], facts["model"]["weights"], facts["model"]["probe"]),
            shape=tuple(facts["shape"]),
            predictor=facts["predictor"],
            gain=_fitted(facts["gain"], mask),
            offset=_fitted(facts["offset"], mask),
            measured=facts["measured"],
        )
    except (ValueError, KeyError, TypeError, InputError) as error:
        raise _no_schedule(source, error) from error


def _no_schedule(source: str | os.PathLike[str], error: Exception) -> InputError:
    return InputError(
        source, found=f"no reuse schedule ({error})", expected="a file written by ReuseSchedule.save",
        fix="Check the name and the file.",
    )  # fmt: skip


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _fitted(rows: Any, mask: Tensor) -> tuple[tuple[float, ...], ...] | None:
    """Return a table of the mask's shape, or None where there is none."""
    if rows is None:
        return None
    table = torch.tensor(rows, dtype=torch.float64)
    if table.shape != mask.shape:
        raise ValueError(f"a table {tuple(table.shape)} for a mask {tuple(mask.shape)}")
    return tuple(_numbers(row) for row in table.tolist())

r"""Training of brain models on simulated heads and prepared volumes, resumable bit for bit.

    loss = E_{x_0, eps, t} [ w(t) |network(x_t, t, c) - p|^2 ],        p the prediction of the strategy,

t even over the entries of the noise table (over 0 ... 0.999 for rflow), or the logistic function of a normal variable.
w is 1, or that of min-SNR (Hang et al., 2023): the error of x_0 weighs min(SNR, gamma), whatever is predicted. Some of
the conditions c are hidden at random, so that the network also knows what to do without.

Step n draws all that is random from the seed and n, and a checkpoint holds network, average and moments. The log has
the loss of the averaged weights on heads of subjects that are held out, and on as many of those trained on, at the same
levels and noise each time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from medical.brain.conditions import numbers_told, told
from medical.brain.config import BrainConfig
from medical.brain.files import save_brain
from medical.brain.heads import HeadSet, Source, found_files, load_heads
from medical.brain.model import PREDICTIONS, STEPS, BrainModel, brain_process
from medical.brain.network import ConditionedUNet, brain_network
from medical.simulation.contrast import Contrast
from shared.errors import InputError
from shared.predictions import conversion, convert
from shared.process import along_batch
from shared.training_run import Recipe, Share, TrainingRun

MEASURED = 16  # heads in each of the two losses of the log


class BrainTraining(Recipe):
    """Everything that decides a training; a sample is a volume.

    Attributes:
        kind: "brain".
        model: what is trained.
        data: files below the data folder, with their licences.
        held_out: subjects that are not trained on; the loss is measured on them.
        heads: simulated from the label maps trained on.
        contrasts: of simulated heads, in turn.
        mirror: exchange left and right of half the volumes.
        levels: "uniform", or "logit_normal" with `logit_mean` and `logit_std` of ln(t / (1 - t)).
        logit_mean: see `levels`.
        logit_std: see `levels`.
        min_snr: gamma of min-SNR; None weighs every level alike.
        unknown: share of volumes of which no condition is told; of the rest, each is hidden as often.
        precision: "bfloat16" computes convolutions in it (autocast).
    """

    kind: Literal["brain"] = "brain"
    model: BrainConfig
    data: Annotated[tuple[Source, ...], Field(min_length=1)]
    held_out: tuple[str, ...] = ()
    heads: PositiveInt = 1000
    contrasts: Annotated[tuple[Contrast, ...], Field(min_length=1)] = ("T1w",)
    mirror: bool = True
    levels: Literal["uniform", "logit_normal"] = "uniform"
    logit_mean: float = 0.0
    logit_std: PositiveFloat = 1.0
    min_snr: PositiveFloat | None = None
    unknown: Share = 0.2
    warmup: NonNegativeInt = 50
    weight_decay: NonNegativeFloat = 0.0
    average: Share = 0.995
    precision: Literal["float32", "bfloat16"] = "float32"
    log_every: PositiveInt = 25
    checkpoint_minutes: NonNegativeFloat = 2.0


class BrainTrainer(TrainingRun):
    """A training in progress; it goes on where the folder's checkpoint stopped.

    Args:
        settings: what to train.
        heads: to train on.
        held_out: of the subjects held out; None measures nothing.
        folder: for checkpoint and log.
        device: where to compute.
        origin: facts of the data, for the header of the file and the card.
        start: a model of the same configuration to begin with; None begins at random.

    Raises:
        InputError: heads of another size, a condition that no head has a value of, a start of another configuration, or
            a folder with another training.
    """

    shown = "loss"
    settings: BrainTraining

    def __init__(
        self,
        settings: BrainTraining,
        heads: HeadSet,
        held_out: HeadSet | None,
        folder: Path,
        *,
        device: torch.device | str = "cpu",
        origin: Mapping[str, Any] | None = None,
        start: BrainModel | None = None,
    ) -> None:
        self.settings, self.heads, self.held_out = settings, heads, held_out
        self.folder, self.device = Path(folder), torch.device(device)
        self.origin = dict(origin or {})
        if tuple(heads.x.shape[1:]) != settings.model.size:
            raise InputError(
                "heads", found="x".join(map(str, heads.x.shape[1:])),
                expected="x".join(map(str, settings.model.size)), fix="Correct the size in the configuration.",
            )  # fmt: skip
        self.conditions = condition_rows(settings.model, heads)
        for condition, column in zip(settings.model.conditions, self.conditions.T, strict=True):
            if bool(column.isnan().all()):
                raise InputError(
                    condition.name, found="no head with a value in its range",
                    expected="some; " + ", ".join([*heads.numbers, *heads.words]) + " are there",
                    fix="Correct model.conditions, or add a column to participants.tsv.",
                )  # fmt: skip
        self.process = brain_process(settings.model.strategy)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = brain_network(settings.model)
        if start is not None:
            self._begin_with(start)
        elif isinstance(self.network, ConditionedUNet) and self.network.heads is not None:
            numbers = numbers_told(settings.model.conditions, self.conditions) if settings.model.conditions else None
            self.network.heads.fit(heads.x, numbers, mirrored=settings.mirror)
        self.network.to(self.device)
        origin_of_heads = json.dumps([heads.subjects, heads.numbers, heads.words]).encode()
        begun_with = b"" if start is None else start.sha256.encode()
        self.begin(origin_of_heads, begun_with)

    def _begin_with(self, start: BrainModel) -> None:
        if start.config != self.settings.model or not isinstance(start.network, torch.nn.Module):
            raise InputError(
                start.name or "start", found="a model of another configuration", expected="that of the training",
                fix="Give a model that was trained with the same model: section.",
            )  # fmt: skip
        self.network.load_state_dict(start.network.state_dict())
        self.origin["begun_with"] = {"name": start.name, "sha256": start.sha256, **start.training}

    def train_step(self) -> dict[str, float]:
        """Make one step and return its loss."""
        settings = self.settings
        source = np.random.default_rng(np.random.SeedSequence([settings.seed, self.step]))
        chosen = torch.from_numpy(source.integers(len(self.heads), size=settings.batch))
        x0 = self.heads.x[chosen].float()[:, None]
        if settings.mirror:
            flip = torch.from_numpy(source.random(len(x0)) < 0.5)[:, None, None, None, None]
            x0 = torch.where(flip, x0.flip(2), x0)
        loss = self.losses(x0, self._levels(len(x0), source), self._hidden(chosen, source), source).mean()
        self.take_step(loss)
        return {"loss": float(loss.detach())}

    def losses(
        self,
        x0: Tensor,
        t: Tensor,
        conditions: Tensor | None,
        source: np.random.Generator,
        network: Callable[..., Any] | None = None,
    ) -> Tensor:
        """Return the loss of each volume, (N,), differentiable in the network.

        Args:
            x0: (N, 1, X, Y, Z).
            t: levels (N,), float64.
            conditions: (N, K), NaN where hidden; None without conditions.
            source: of the noise.
            network: None is that in training.
        """
        settings, process = self.settings, self.process
        prediction = PREDICTIONS[settings.model.strategy]
        x0, t = x0.to(self.device), t.to(self.device)
        noise = torch.from_numpy(source.standard_normal(x0.shape, np.float32)).to(self.device)
        x = process.add_noise(x0, noise, t)
        target = convert(noise, x, t, process, source="epsilon", target=prediction)
        more = {} if conditions is None else {"conditions": conditions.to(self.device)}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
            answer = (network or self.network)(x, process.network_time(t).float(), **more)
        error = (answer.float() - target).square().flatten(1).mean(1)
        if settings.min_snr is None:
            return error
        snr = torch.exp(2 * process.log_snr(t))
        of_x0 = conversion(process, t, prediction, "sample")[1] ** 2
        return error * along_batch(snr.clamp(max=settings.min_snr) * of_x0, error)

    def _levels(self, count: int, source: np.random.Generator) -> Tensor:
        settings = self.settings
        if settings.levels == "uniform":
            share = source.random(count)
        else:
            share = 1 / (1 + np.exp(-(settings.logit_mean + settings.logit_std * source.standard_normal(count))))
        entry = np.minimum(np.floor(share * STEPS), STEPS - 1)
        # Entry 0 of rflow is the data itself: the first level that a sampling asks at is entry 1.
        entry = np.maximum(entry, 1) if settings.model.strategy == "rflow" else entry + 1
        return torch.from_numpy(entry / STEPS)

    def _hidden(self, chosen: Tensor, source: np.random.Generator) -> Tensor | None:
        """Return the conditions of the chosen heads with some hidden."""
        if not self.settings.model.conditions:
            return None
        rows = self.conditions[chosen]
        everything, single = source.random((len(rows), 1)), source.random(rows.shape)
        hide = (everything < self.settings.unknown) | (single < self.settings.unknown)
        return torch.where(torch.from_numpy(hide), torch.nan, rows)

    @torch.no_grad()
    def measured(self) -> dict[str, float]:
        """Return the losses of the averaged weights: "held_out", and "seen" on heads trained on."""
        network = brain_network(self.settings.model).to(self.device)
        network.load_state_dict(self.average.average)
        network.eval()
        sets = {"seen": self.heads} | ({} if self.held_out is None else {"held_out": self.held_out})
        found = {}
        for name, heads in sets.items():
            count = min(MEASURED, len(heads))
            source = np.random.default_rng(np.random.SeedSequence([self.settings.seed, 2**32 - 2]))
            chosen = np.linspace(0, len(heads) - 1, count).round().astype(int)
            rows = condition_rows(self.settings.model, heads)[chosen] if self.settings.model.conditions else None
            entries = torch.from_numpy(((np.arange(count) + 0.5) / count * STEPS).round() / STEPS)
            losses = [
                self.losses(
                    heads.x[chosen[k], None, None].float(), entries[k, None],
                    None if rows is None else rows[k, None], source, network,
                )
                for k in range(count)
            ]  # fmt: skip
            found[name] = float(torch.cat(losses).mean())
        return found

    def export(self, path: Path, *, half: bool = False) -> dict[str, Any]:
        """Write the averaged weights as a model file and return the facts in its header.

        Args:
            path: ending in .safetensors.
            half: store in float16.
        """
        facts = self.training_facts()
        save_brain(path, self.settings.model, self.average.average, facts, half=half)
        return facts

    def training_facts(self) -> dict[str, Any]:
        """Return what was trained on what and how, JSON types."""
        settings = self.settings
        told_of = {condition.name for condition in settings.model.conditions}
        values = {name: [v for v in column if not math.isnan(v)] for name, column in self.heads.numbers.items()}
        return {
            **self.recipe_facts(),
            "recipe": settings.model_dump(mode="json", exclude={"name", "kind", "model", "data", "held_out"}),
            "heads": len(self.heads),
            "subjects": sorted(set(self.heads.subjects)),
            "held_out": list(settings.held_out),
            "held_out_heads": 0 if self.held_out is None else len(self.held_out),
            "conditions": {
                name: [round(float(np.quantile(column, q)), 1) for q in (0, 0.5, 1)]
                for name, column in values.items()
                if name in told_of and column
            },
            **self.origin,
        }


def condition_rows(config: BrainConfig, heads: HeadSet) -> Tensor:
    """Return what heads have as conditions, (N, K) float32, NaN where unknown."""
    nothing = (math.nan,) * len(heads)
    columns = [
        told(condition, (heads.numbers if condition.between else heads.words).get(condition.name, nothing))
        for condition in config.conditions
    ]  # fmt: skip
    return torch.stack(columns, dim=1).float() if columns else torch.empty(len(heads), 0)


def brain_trainer(
    settings: BrainTraining,
    data: Path,
    folder: Path,
    *,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    start: BrainModel | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> BrainTrainer:
    """Return the training of a configuration on the files of a folder.

    Args:
        settings: what to train.
        data: folder below which the files of `settings.data` lie.
        folder: for checkpoint and log.
        cache: folder of the heads; None is `folder`.
        device: where to compute.
        start: a model of the same configuration to begin with.
        progress: called with how many heads are made, of how many.

    Raises:
        InputError: absent files, held-out subjects that are not there, nothing left to train on; and as `BrainTrainer`.
    """
    files = found_files(data, settings.data)
    names = {subject for subject, _, _ in files}
    if absent := [name for name in settings.held_out if name not in names]:
        raise InputError(
            data, found=f"no file of held-out {', '.join(absent)}", expected="all held-out subjects",
            fix=f"Correct held_out: {', '.join(sorted(names)[:8])} ... are there.",
        )  # fmt: skip
    trained = [file for file in files if file[0] not in settings.held_out]
    kept = [file for file in files if file[0] in settings.held_out]
    if not trained:
        raise InputError(data, found="only held-out subjects", expected="some to train on", fix="Hold out fewer.")
    model, place = settings.model, cache or folder

    def heads(name: str, chosen: list[tuple[str, Path, Source]], count: int, seed: int) -> HeadSet:
        return load_heads(
            chosen, place / f"{name}.safetensors", count=count, size=model.size, spacing_mm=model.spacing_mm,
            contrasts=settings.contrasts, seed=seed, progress=progress,
        )  # fmt: skip

    origin = {
        "data": [
            {**source.model_dump(), "subjects": sorted({subject for subject, _, of in trained if of == source})}
            for source in settings.data
        ],
        "simulated": any(source.kind == "labels" for _, _, source in trained),
    }
    return BrainTrainer(
        settings, heads("heads", trained, settings.heads, settings.seed),
        heads("heads_held_out", kept, 3 * MEASURED, settings.seed + 1) if kept else None,
        folder, device=device, origin=origin, start=start,
    )  # fmt: skip

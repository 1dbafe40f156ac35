r"""Training of the segmenter on simulated heads, and its scores on label maps that it never saw.

    loss = - sum_k q_k log p_k (mean over voxels) + 1 - mean_k 2 <p_k, q_k> / (|p_k|^2 + |q_k|^2)
           + w mean_k |log (V_k + c) / (W_k + c)|

with q the true shares of a voxel, p the network's, W and V the sums of both over the voxels, and c = 2 voxels. All
terms are least at p = q, so volumes stay without bias where voxels hold shares of several structures. The last is there
for small ones: a share of a thousandth in every voxel of the air costs the others nothing and is a thalamus.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from medical.brain.anatomy import subject_of
from medical.brain.segmenter import (
    NOT_BRAIN,
    BrainSegmenter,
    SegmenterConfig,
    SegmenterNetwork,
    save_segmenter,
    standardised,
)
from medical.brain.segmenter_data import LabelledHead, labelled_heads, varied
from shared.training_run import Recipe, Share, TrainingRun

HEADS_OF_SCORES = 24
LEAST_VOXELS = 2.0  # c


class SegmenterTraining(Recipe):
    """Everything that decides a training; a sample is a head.

    Attributes:
        model: what is trained.
        held_out: names of label maps that are not trained on, without suffix; scores are of them.
        heads: simulated.
        volume_weight: w.
    """

    model: SegmenterConfig = SegmenterConfig()
    held_out: tuple[str, ...] = ()
    heads: PositiveInt
    batch: PositiveInt = 1
    learning_rate: PositiveFloat = 3e-3
    warmup: NonNegativeInt = 50
    average: Share = 0.995
    volume_weight: NonNegativeFloat = 0.5
    log_every: PositiveInt = 50
    checkpoint_minutes: NonNegativeFloat = 2.0


class SegmenterTrainer(TrainingRun):
    """A training in progress; it goes on where the folder's checkpoint stopped.

    Args:
        settings: what to train.
        maps: label maps of whole heads; those of `held_out` are left out.
        folder: for heads, checkpoint and log.
        progress: show a bar while heads are simulated.

    Raises:
        InputError: label maps that cannot be read, or a folder with another training.
    """

    shown = "entropy"
    settings: SegmenterTraining
    network: SegmenterNetwork

    def __init__(
        self, settings: SegmenterTraining, maps: Sequence[Path], folder: Path, *, progress: bool = False
    ) -> None:
        self.settings, self.folder = settings, Path(folder)
        self.maps, self.held_out = _split(maps, settings.held_out)
        self.heads = labelled_heads(
            self.maps, settings.heads, settings.seed, settings.model, self.folder / "heads",
            progress="simulated heads" if progress else None,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = SegmenterNetwork(settings.model)
        names = " ".join(path.name for path in self.maps)
        self.begin(names.encode())

    def train_step(self) -> dict[str, float]:
        """Make one step and return its losses."""
        source = np.random.default_rng(np.random.SeedSequence([self.settings.seed, 1, self.step]))
        chosen = source.integers(len(self.heads), size=self.settings.batch)
        heads = [varied(self.heads[number], self.settings.model, source) for number in chosen]
        x, shares = torch.stack([head.x for head in heads]), torch.stack([head.shares for head in heads])
        with torch.autocast("cpu", torch.bfloat16):
            logits = self.network(standardised(x[:, None]))
        losses = losses_of(logits.float(), shares)
        self.take_step(losses["entropy"] + losses["overlap"] + self.settings.volume_weight * losses["volumes"])
        return {name: float(value.detach()) for name, value in losses.items()}

    def segmenter(self) -> BrainSegmenter:
        """Return the segmenter of the averaged weights, with the typical features of the training's heads."""
        settings = self.settings
        network = SegmenterNetwork(settings.model)
        network.load_state_dict(self.average.average)
        made = BrainSegmenter(settings.model, network.eval().requires_grad_(False), name=settings.name)
        found = torch.cat([made.shares_and_raw_features(head.x.float())[1] for head in self.heads])
        made.typical = torch.stack([found.mean(0), found.std(0).clamp_min(1e-3)])
        made.facts = {
            **self.recipe_facts(),
            **settings.model_dump(include={"volume_weight", "heads"}),
            "anatomies": [subject_of(path) for path in self.maps],
            "held_out": [subject_of(path) for path in self.held_out],
        }
        return made

    def export(self, path: Path, *, half: bool = False) -> BrainSegmenter:
        """Write the segmenter with its scores on heads of the held-out label maps, and return it."""
        made = self.segmenter()
        if half:  # scores are of the weights that are written
            for value in made.network.parameters():
                value.data = value.data.half().float()
        if self.held_out:
            heads = labelled_heads(
                self.held_out, HEADS_OF_SCORES, self.settings.seed + 1, self.settings.model, self.folder / "held_out"
            )  # fmt: skip
            made.facts["scores"] = scores(made, heads)
        save_segmenter(path, made, made.network.state_dict(), half=half)
        return made


def losses_of(logits: Tensor, shares: Tensor) -> dict[str, Tensor]:
    """Return the three terms of the loss, of logits and true shares (N, K, X, Y, Z)."""
    p, axes = logits.softmax(1), (0, 2, 3, 4)
    overlap = 2 * (p * shares).sum(axes) / (p.square().sum(axes) + shares.square().sum(axes)).clamp_min(1e-3)
    sizes, true_sizes = (values.sum(axes[1:]) + LEAST_VOXELS for values in (p, shares))
    return {
        "entropy": -(shares * logits.log_softmax(1)).sum(1).mean(),
        "overlap": 1 - overlap.mean(),
        "volumes": (sizes / true_sizes).log().abs().mean(),
    }


@torch.no_grad()
def scores(segmenter: BrainSegmenter, heads: Sequence[LabelledHead]) -> dict[str, dict[str, float]]:
    """Return Dice and errors of volumes over heads with true shares.

    Dice counts voxels by their largest share. The volumes are soft; `bias` is the mean of estimate / truth - 1 and
    `error` the mean of its magnitude.

    Returns:
        structure -> {"dice", "bias", "error", "r"}; r is the correlation of estimate and truth; "brain" as well.
    """
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for head in heads:
        truth = head.shares.float()
        truth = truth / truth.sum(0)
        found = segmenter.shares(head.x.float())
        mine, theirs = found[0].argmax(0), truth.argmax(0)
        volumes = [segmenter.volumes_of(shares) for shares in (found, truth[None])]
        for name in volumes[0]:
            if name == "brain":
                in_mine, in_theirs = (_in_brain(labels, segmenter.config) for labels in (mine, theirs))
            else:
                k = segmenter.config.classes.index(name)
                in_mine, in_theirs = mine == k, theirs == k
            dice = 2 * float((in_mine & in_theirs).sum()) / max(float(in_mine.sum() + in_theirs.sum()), 1.0)
            rows.setdefault(name, []).append((dice, float(volumes[0][name]), float(volumes[1][name])))
    table = {}
    for name, values in rows.items():
        dice, mine_cm3, true_cm3 = np.array(values).T
        ratio = mine_cm3 / true_cm3 - 1
        table[name] = {
            "dice": float(dice.mean()),
            "bias": float(ratio.mean()),
            "error": float(np.abs(ratio).mean()),
            "r": float(np.corrcoef(mine_cm3, true_cm3)[0, 1]) if len(values) > 2 else float("nan"),
        }
    return table


def _in_brain(labels: Tensor, config: SegmenterConfig) -> Tensor:
    return ~torch.isin(labels, torch.tensor([config.classes.index(name) for name in NOT_BRAIN]))


def _split(maps: Sequence[Path], held_out: Sequence[str]) -> tuple[list[Path], list[Path]]:
    apart = [path for path in maps if path.name.partition(".")[0] in held_out]
    return [path for path in maps if path not in apart], apart


def write_segmenter_card(segmenter: BrainSegmenter, path: Path, *, overwrite: bool = False) -> None:
    """Write the card of a segmenter, what its header says, for people."""
    from shared.files import atomic_path

    facts, config = segmenter.facts, segmenter.config
    lines = [
        f"# {path.stem}",
        "",
        f"Shares of {len(config.classes)} structures in the voxels of a T1-weighted head at {config.spacing_mm:g} mm, "
        "for `fewstep brain qc` and for guidance towards volumes. Not for diagnosis.",
        "",
        f"- **Network**: MONAI's UNet and one layer on the full grid, {facts['parameters']} parameters, "
        f"`{config.model_dump_json()}`.",
        f"- **Data**: {facts['heads']} heads simulated from the label maps {', '.join(facts['anatomies'])} "
        "(SynthSeg's, Apache-2.0; `medical.brain.simulate`), three quarters of them T1-weighted, the rest of random "
        "contrast, varied anew at each use. No scan was seen.",
        f"- **Recipe**: cross-entropy, Dice and volumes (weight {facts['volume_weight']:g}) of the true shares of "
        f"voxels, {facts['steps']} of {facts['of_steps']} steps of AdamW in bfloat16, batch {facts['batch']}, rate "
        f"{facts['learning_rate']:g} falling along a half cosine, average of weights {facts['average']:g}, seed "
        f"{facts['seed']}, {facts['seconds']} s after the heads were made.",
        f"- **Command**: `fewstep brain train-segmenter {facts['name']} LABELMAPS "
        f"-o {path.with_suffix('.safetensors').name} --half`",
        "",
        "Weights: Apache-2.0.",
        "",
    ]  # fmt: skip
    if "scores" in facts:
        lines += [
            f"## Scores on simulated heads of {', '.join(facts['held_out'])}, whose label maps it never saw",
            "",
            "| structure | Dice | volume: mean error, mean of its magnitude | r with the true volume |",
            "| --- | --- | --- | --- |",
            *(
                f"| {name} | {row['dice']:.2f} | {100 * row['bias']:+.0f} %, {100 * row['error']:.0f} % "
                f"| {row['r']:.2f} |"
                for name, row in facts["scores"].items()
            ),
            "",
        ]
    lines += [
        "## Limits",
        "Adults' heads, T1-weighted, voxel order LPS; lesions count as white matter. Simulated heads look simpler than "
        "scans: docs/brain.md has its errors on scans with manual labels.",
        "",
    ]
    with atomic_path(path, overwrite=overwrite) as scratch:
        scratch.write_text("\n".join(lines), encoding="utf-8")

"""The light DDPM-CD against its rivals at equal labels, each scene scored by networks that never saw it.

    python -m benchmarks.change_ddpm --data ../shared/data/remote_sensing --work WORK [--json scores.json]

Data: LEVIR-CD, full scenes test_1, test_2, ... (1024 x 1024) and crops (256 x 256), as far as they are in the folder.
A fold leaves one scene out: networks are trained on the labels of the other scenes and of the crops from the official
training and validation sets, and scored on all pixels of the scene and on the crops from the official test set, which
no network ever sees. Crops that lie in one of the scenes are used nowhere. The diffusion network is pretrained once,
without labels, on images of which none is scored: the training crops, test_113 (which has no label), DSIFN crops, and
one scene of 0.6 m. Every boundary is fixed beforehand, a probability of 1/2 (IR-MAD: Otsu on its own scene, without
labels); the exported weights are those of the last step. So nothing is chosen by a scored pixel while it runs.

Rivals: the head without the order of the dates, as published ("symmetric"), or on features at step 10 of 2000, where
the network sees a tenth of the noise of step 100 ("step-10"); the same network from random weights
(same steps, labels, rate); a plain U-Net on both dates as channels (MONAI's BasicUNet; same steps, labels, rate);
IR-MAD; TinyCD with its published weights, which were trained on the whole official training set of LEVIR-CD. All are
scored through `remote_sensing.tiling`, in blended tiles of the size that each was trained on.
Trainings resume, scores are kept in WORK: a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.tinycd import load_tinycd
from remote_sensing import tiling
from remote_sensing.classical import fit_classical
from remote_sensing.ddpm_cd.change_training import ChangeTrainer, augmented_crops, change_loss
from remote_sensing.ddpm_cd.crops import CHANGED, UNKNOWN, PairScene
from remote_sensing.ddpm_cd.files import load_detector, load_diffusion
from remote_sensing.ddpm_cd.loop import LoopSettings, Trainer, seeded
from remote_sensing.ddpm_cd.pretraining import PretrainingTrainer
from remote_sensing.ddpm_cd.tiles import PatchDetector
from remote_sensing.evaluate import Confusion
from remote_sensing.rasters import Pair, Patch, open_pair
from remote_sensing.training.config import PretrainConfig, TrainConfig
from remote_sensing.training.data import PairFiles, pairs_in, rasters_in, read_pair, read_scene
from shared.config import load_config
from shared.numbers import write_numbers

PEER_TILE = 256  # on which TinyCD was trained
UNET_FEATURES = (16, 32, 64, 128, 256, 16)
VARIANTS: dict[str, dict[str, Any]] = {"ddpm-cd-symmetric": {"ordered": False}, "ddpm-cd-step-10": {"timesteps": [10]}}
METHODS = ("ddpm-cd", *VARIANTS, "ddpm-cd-frozen", "random-start", "u-net", "ir-mad", "tinycd")
Probability = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Data:
    """Files by their part.

    Attributes:
        scenes: left out in turn.
        train_crops: in every training.
        test_crops: in none.
    """

    scenes: list[PairFiles]
    train_crops: list[PairFiles]
    test_crops: list[PairFiles]


def files_of(root: Path) -> Data:
    """Return the parts of LEVIR-CD that a folder holds."""
    scenes = pairs_in(root / "research_only" / "levir_cd_1024")
    crops = [pair for pair in pairs_in(root / "research_only" / "levir_cd_256", labelled=False) if pair.label]
    inside = tuple(f"{scene.name}_" for scene in scenes)
    crops = [crop for crop in crops if not crop.name.startswith(inside)]
    test = [crop for crop in crops if crop.name.startswith("test_")]
    return Data(scenes, [crop for crop in crops if crop not in test], test)


def gather_unlabelled(root: Path, folder: Path, data: Data) -> Path:
    """Put links to the images of the pretraining into a folder, for `fewstep change pretrain --data`; return it."""
    kept = {crop.name for crop in data.train_crops} | {"test_113_0256"}
    sources = [("levir", path) for path in rasters_in(root / "research_only" / "levir_cd_256") if path.stem in kept]
    sources += [("dsifn", path) for path in rasters_in(root / "research_only" / "dsifn_cd_256")]
    sources = [(kind, path) for kind, path in sources if path.parent.name in {"A", "B"}]
    folder.mkdir(parents=True, exist_ok=True)
    links = {f"{kind}_{path.stem}_{path.parent.name}{path.suffix}": path for kind, path in sources}
    links["cogeo.tif"] = root / "open" / "geotiff_fixtures" / "cogeo.tif"
    for name, path in links.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(path.resolve())
    return folder


class EarlyFusion(nn.Module):
    """A plain U-Net on both dates, six channels in [-1, 1], to one logit a pixel."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        from monai.networks.nets import BasicUNet

        self.unet = BasicUNet(spatial_dims=2, in_channels=2 * bands, out_channels=1, features=UNET_FEATURES)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """Return logits (N, H, W) of dates in 0 ... 255."""
        return self.unet(torch.cat([before, after], 1) / 127.5 - 1)[:, 0]


class EarlyFusionTrainer(Trainer):
    """The plain U-Net under the loop, crops and loss of `ChangeTrainer`."""

    output = "u-net.pt"

    def __init__(self, config: TrainConfig, pairs: Sequence[PairScene], folder: Path, device: str = "cpu") -> None:
        settings = LoopSettings.model_validate(config.model_dump(include=set(LoopSettings.model_fields)))
        limits, self.overlap = [(0.0, 255.0)] * len(pairs[0].before), config.overlap
        self.augmenter, self.crops = augmented_crops(config.augment, pairs, limits, settings.crop, config.on_change)
        self.unet = seeded(lambda: EarlyFusion(len(pairs[0].before)), settings.seed)
        self.unet.to(device)
        shares = [(list(self.unet.parameters()), 1.0)]
        identity = {"pairs": len(pairs), "augment": config.augment.model_dump(), "overlap": config.overlap}
        super().__init__(settings, self.unet, folder, device=device, shares=shares, identity=identity)
        self.unet.train()

    @property
    def network(self) -> nn.Module:
        """Return the network."""
        return self.unet

    def loss(self, generator: torch.Generator) -> Tensor:
        """Return the loss of `ChangeTrainer` for one batch."""
        batch = self.augmenter(self.crops.draw(self.settings.batch, generator).to(self.device), generator)
        known = (batch.label != UNKNOWN) & (batch.before.isfinite() & batch.after.isfinite()).all(1)
        logit = self.unet(batch.before.nan_to_num(127.5), batch.after.nan_to_num(127.5)).float()
        return change_loss(logit, (batch.label == CHANGED).float(), known.float(), self.overlap)

    def facts(self) -> dict[str, Any]:
        """Return the number of steps."""
        return {"steps": self.step, "seconds": round(self.seconds)}

    def export_to(self, path: Path, described: Mapping[str, Any]) -> None:
        """Write the averaged weights."""
        torch.save(self.average.average, path)


@dataclass
class Tiles:
    """A function of two images as `remote_sensing.tiling` takes it."""

    probability: Probability
    size: int
    halo: int = 0
    told: dict[str, object] = field(default_factory=dict)

    @property
    def blend(self) -> int:
        """Return the pixels by which tiles overlap: a quarter, as for `PatchDetector`."""
        return self.size // 4

    def __call__(self, patch: Patch) -> NDArray[np.float32]:
        """Return the probability of change."""
        before, after = (torch.from_numpy(np.nan_to_num(date))[None] for date in (patch.before, patch.after))
        with torch.no_grad():
            return self.probability(before, after)[0].numpy()

    def facts(self) -> dict[str, object]:
        """Return nothing."""
        return self.told


def score(detector: tiling.Detector, pair: Pair, label: NDArray[np.uint8]) -> Confusion:
    """Return the counts of a detector on all labelled pixels of a pair, at a probability of 1/2."""
    size = getattr(detector, "size", tiling.TILE)
    tiles = tiling.plan(pair.grid.shape, size=size, halo=detector.halo, blend=detector.blend)
    with tempfile.TemporaryDirectory() as name:
        store = tiling.TileStore(Path(name) / "tiles", "")
        tiling.run(pair, detector, tiles, store)
        rows = [part for _, part in tiling.assemble(store, tiles, pair.grid.shape, detector.blend)]
    says, changed, known = np.concatenate(rows) >= 0.5, label == CHANGED, label != UNKNOWN
    counts = (
        int((part & known).sum()) for part in (says & changed, says & ~changed, ~says & changed, ~says & ~changed)
    )
    return Confusion(*counts)


@dataclass
class Benchmark:
    """All trainings and scores in one folder.

    Attributes:
        root: of the data.
        work: of trainings and scores.
        start: pretrained network; None pretrains it.
        steps: of every training on labels; None is the configuration's.
        seed: of every training on labels.
        folds: scenes that are left out in turn; None is all.
        device: of the trainings and of DDPM-CD's scores.
    """

    root: Path
    work: Path
    start: Path | None = None
    steps: int | None = None
    seed: int = 0
    folds: Sequence[str] | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        self.data = files_of(self.root)
        config = load_config("remote_sensing/light_detector", TrainConfig)
        self.config = config.model_copy(update={"steps": self.steps or config.steps, "seed": self.seed})

    def scene(self, files: PairFiles) -> PairScene:
        """Return a pair as arrays."""
        return read_pair(files, self.work / "data", bands=None, nodata="none", pixel_grid=True)

    def pretrained(self) -> Path:
        """Return the diffusion network, after pretraining it if need be."""
        if self.start is not None:
            return self.start
        config = load_config("remote_sensing/light_diffusion", PretrainConfig)
        folder = gather_unlabelled(self.root, self.work / "unlabelled", self.data)
        files = [read_scene(path, self.work / "data", bands=None, nodata="auto") for path in rasters_in(folder)]
        return PretrainingTrainer(config.settings(), files, self.work / "diffusion", device=self.device).run(tell)

    def detector(self, method: str, fold: str) -> tuple[tiling.Detector | None, dict[str, float]]:
        """Return what a method makes of a fold's labels, and what it cost; None where it is fitted to each pair."""
        if method == "ir-mad":
            return None, {}
        if method == "tinycd":
            network = load_tinycd(self.root / "research_only" / "tinycd_weights" / "levir_best.pth")
            return Tiles(network, PEER_TILE), {"parameters": _size(network)}
        kept = [scene for scene in self.data.scenes if scene.name != fold]
        pairs = [self.scene(files) for files in (*kept, *self.data.train_crops)]
        folder = self.work / f"{method}_{fold}"
        if method == "u-net":
            trainer: Trainer = EarlyFusionTrainer(self.config, pairs, folder, self.device)
            path = trainer.run(tell)
            unet = EarlyFusion(len(pairs[0].before))
            unet.load_state_dict(torch.load(path, weights_only=True))
            unet.eval()
            found: tiling.Detector = Tiles(lambda before, after: torch.sigmoid(unet(before, after)), self.config.crop)
        else:
            unet_, diffusion, _ = load_diffusion(self.pretrained())
            share = 0.0 if method == "ddpm-cd-frozen" else 1.0
            config = self.config.model_copy(update={"unet_share": share})
            if method in VARIANTS:
                head = {**config.detector["head"], **VARIANTS[method]}
                config = config.model_copy(update={"detector": {**config.detector, "head": head}})
            start = None if method == "random-start" else unet_
            trainer = ChangeTrainer(config.settings(diffusion), pairs, folder, unet=start, device=self.device)
            found = PatchDetector(*load_detector(trainer.run(tell), self.device))
        return found, {"parameters": _size(trainer.network), "seconds": round(trainer.seconds)}

    def row(self, method: str, fold: str) -> dict[str, Any]:
        """Return the counts of a method on a fold's scene and on the test crops; from a file if they are known."""
        kept = self.work / "scores" / f"{method}_{fold}.json"
        if kept.exists():
            return json.loads(kept.read_text(encoding="utf-8"))
        detector, cost = self.detector(method, fold)
        left_out = next(scene for scene in self.data.scenes if scene.name == fold)
        counts = {}
        for files in (left_out, *self.data.test_crops):
            pair = open_pair(files.before, files.after, nodata="none", pixel_grid=True)
            label = self.scene(files).label
            assert label is not None
            fitted = detector or fit_classical("ir-mad", pair, pair.sample())
            one = score(fitted, pair, np.asarray(label))
            counts[files.name] = [one.tp, one.fp, one.fn, one.tn]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"cost": cost, "counts": counts}), encoding="utf-8")
        return {"cost": cost, "counts": counts}

    def scores(self, method: str) -> dict[str, float]:
        """Return the numbers of a method over all folds."""
        folds = [scene.name for scene in self.data.scenes if self.folds is None or scene.name in self.folds]
        rows = {name: self.row(method, name) for name in folds}
        scenes = {name: Confusion(*row["counts"][name]) for name, row in rows.items()}
        crops = [
            sum((Confusion(*row["counts"][crop.name]) for crop in self.data.test_crops), Confusion())
            for row in rows.values()
        ]
        pooled = sum(scenes.values(), Confusion()).scores()
        found = {f"scenes_{name}": pooled[name] for name in ("f1", "iou", "precision", "recall")}
        found |= {f"{name}_f1": confusion.scores()["f1"] for name, confusion in scenes.items()}
        found["crops_f1"] = float(np.mean([crop.scores()["f1"] for crop in crops]))
        for name in ("parameters", "seconds"):
            if values := [row["cost"][name] for row in rows.values() if name in row["cost"]]:
                found[name] = float(np.mean(values))
        return found


def tell(line: Mapping[str, Any]) -> None:
    """Print a line of a training's log."""
    print("   ", dict(line), flush=True)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/remote_sensing"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="pretrained diffusion network; default: pretrain it")
    parser.add_argument("--steps", type=int, help="of every training on labels")
    parser.add_argument("--seed", type=int, default=0, help="of every training on labels")
    parser.add_argument("--method", action="append", choices=METHODS, help="may be repeated; default: all")
    parser.add_argument("--fold", action="append", help="scene that is left out; may be repeated; default: all")
    parser.add_argument("--device", default="cpu", help="of the trainings: cpu, cuda")
    parser.add_argument("--json", type=Path, help="also write the numbers as a flat JSON object")
    arguments = parser.parse_args()
    benchmark = Benchmark(
        arguments.data,
        arguments.work,
        arguments.start,
        arguments.steps,
        arguments.seed,
        arguments.fold,
        arguments.device,
    )
    numbers: dict[str, float] = {}
    lines = []
    for method in arguments.method or METHODS:
        print(method, flush=True)
        found = benchmark.scores(method)
        lines.append(f"| {method} | " + " | ".join(f"{name} {value:.4g}" for name, value in found.items()) + " |")
        numbers |= {f"{method}_{name}": value for name, value in found.items()}
    print("\n".join(lines))
    if arguments.json is not None:
        write_numbers(arguments.json, numbers)


if __name__ == "__main__":
    main()

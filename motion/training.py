r"""Training of a motion model on windows of recordings.

    loss =   E |x^ - x_0|^2                             normalised features that are not known
           + w_p E |(p^ - r^) - (p - r)|^2              joints p from the root r, m^2
           + w_v E |v^ - v|^2                           velocities of joints, (m/s)^2
           + w_r E |v^|^2 where a joint of a foot rests, (m/s)^2

with p from forward kinematics, means over frames of the clip. Levels are uniform in t. Statistics of the features are
those of windows seen from their first frame; no deviation is taken for less than `LEAST`.

Step n draws everything random from the seed and n, and a checkpoint holds network, average and moments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from motion.actions import ACTION, ACTIONS
from motion.anatomy import resting_heights
from motion.collection import Collection, recorded
from motion.config import MotionConfig
from motion.files import ModelFile, save_model
from motion.network import MotionTransformer
from motion.windows import Windows, WindowSource
from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.process import Time
from shared.training_run import Recipe, Share, TrainingRun

LEAST = 0.02
STATISTICS_WINDOWS, HELD_OUT_WINDOWS = 512, 64


class MotionTraining(Recipe):
    """Everything that decides a training; a sample is a window.

    Attributes:
        model: what is trained.
        held_out: names of clips that are not trained on; the loss is measured on them too.
        speeds: slowest and fastest that a window is played, in units of the recording.
        unlabelled: share of windows whose actions are not told.
        position_weight: w_p.
        velocity_weight: w_v.
        rest_weight: w_r.
    """

    model: MotionConfig = MotionConfig()
    held_out: tuple[str, ...] = ()
    speeds: tuple[PositiveFloat, PositiveFloat] = (0.8, 1.2)
    batch: PositiveInt = 32
    learning_rate: PositiveFloat = 4e-4
    warmup: NonNegativeInt = 200
    weight_decay: NonNegativeFloat = 1e-2
    unlabelled: Share = 0.1
    position_weight: NonNegativeFloat = 4.0
    velocity_weight: NonNegativeFloat = 0.05
    rest_weight: NonNegativeFloat = 0.1


@dataclass(frozen=True, eq=False)
class Guess:
    """What a network made of noisy windows, (N, F, ...).

    Attributes:
        estimate: of the clean features, normalised, the given ones as they are.
        x0: the clean ones.
        given: bool, features that are known.
        made: where the joints are, m, by the estimate.
        real: where they are.
    """

    estimate: Tensor
    x0: Tensor
    given: Tensor
    made: Tensor
    real: Tensor


class MotionTrainer(TrainingRun):
    """A training in progress; it goes on where the folder's checkpoint stopped.

    Args:
        settings: what to train.
        collection: clips to train on.
        folder: for checkpoint and log.
        start: whose weights and statistics it begins with; None for a training from scratch.
        device: where to compute.

    Raises:
        InputError: clips of another rate, held-out clips that are not there, or a folder with another training.
    """

    shown = "features"
    settings: MotionTraining

    def __init__(
        self,
        settings: MotionTraining,
        collection: Collection,
        folder: Path,
        *,
        start: ModelFile | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if collection.fps != settings.model.fps or settings.model.actions != ACTIONS:
            raise InputError(
                "clips", found=f"{collection.fps:g} frames a second, actions {', '.join(ACTIONS)}",
                expected=f"{settings.model.fps:g} a second, actions {', '.join(settings.model.actions)}",
                fix="Collect the clips at that rate, or correct the configuration.",
            )  # fmt: skip
        self.settings, self.collection, self.folder = settings, collection, Path(folder)
        self.device = torch.device(device)
        self.body = collection.body
        self.source = WindowSource(collection, settings.held_out, speeds=settings.speeds)
        self.held_out = WindowSource(collection, settings.held_out, only_held_out=True) if settings.held_out else None
        statistics = self._statistics() if start is None else start.statistics
        self.mean, self.spread = (part.to(self.device) for part in statistics)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = self.new_network()
        if start is not None:
            self.network.load_state_dict(start.network)
        self.process = settings.model.process()
        self.weights = {
            "features": 1.0, "positions": settings.position_weight, "velocities": settings.velocity_weight,
            "rests": settings.rest_weight,
        }  # fmt: skip
        begun_with = b"" if start is None else start.sha256.encode()
        self.begin(self.identity().encode(), begun_with)

    def new_network(self) -> torch.nn.Module:
        """Return what learns, at its start; numbers are drawn from torch's generator."""
        return MotionTransformer(self.settings.model, self.body.size).to(self.device)

    def identity(self) -> str:
        """Return what, beside the settings, decides the training: a checkpoint fits no other."""
        return self.collection.fingerprint

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of the features over windows of the longest length."""
        drawn = self.source.draw(STATISTICS_WINDOWS, self.settings.model.frames[1], self._for_statistics())
        frames = drawn.features[drawn.valid]
        return frames.mean(0), frames.std(0).clamp(min=LEAST)

    def _for_statistics(self) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence([self.settings.seed, 2**32 - 1]))

    def losses(self, windows: Windows, source: np.random.Generator, network: torch.nn.Module) -> dict[str, Tensor]:
        """Return the losses of windows, differentiable; everything random is drawn from `source`."""
        return self.compared(windows, self.guessed(windows, source, network))

    def guessed(self, windows: Windows, source: np.random.Generator, network: Callable[..., Tensor]) -> Guess:
        """Return what a network makes of windows; levels and noise are drawn from `source`."""
        truth, body = windows.features, self.body
        x0 = (truth - self.mean) / self.spread
        noise = torch.from_numpy(source.standard_normal(x0.shape, np.float32)).to(self.device)
        level = torch.from_numpy(source.uniform(self.process.t_min, 1, len(x0))).to(self.device)
        told = torch.from_numpy(source.random(len(x0)) >= self.settings.unlabelled).to(self.device)
        actions = torch.where(told[:, None], windows.actions, ACTION["any"])
        given = windows.known[..., body.groups.to(self.device)]
        estimate = self.denoiser(network, windows, x0, actions)(self.process.add_noise(x0, noise, level), level)
        with torch.no_grad():
            real = body.positions(truth)
        return Guess(estimate, x0, given, body.positions(estimate * self.spread + self.mean), real)

    def compared(self, windows: Windows, guess: Guess) -> dict[str, Tensor]:
        """Return the four losses of the module's formula."""
        made, real, fps = guess.made, guess.real, self.settings.model.fps
        free = (windows.valid[..., None] & ~guess.given).sum().clamp(min=1)
        error = ((guess.estimate - guess.x0) ** 2 * windows.valid[..., None]).sum() / free
        moved = (windows.valid[:, 1:] & windows.valid[:, :-1])[..., None]
        made_speed, real_speed = (positions.diff(dim=1) * fps for positions in (made, real))
        feet = list(self.body.feet)
        rests = windows.features[..., -len(feet) :]
        return {
            "features": error,
            "positions": mean_square((made - made[:, :, :1]) - (real - real[:, :, :1]), windows.valid[..., None]),
            "velocities": mean_square(made_speed - real_speed, moved),
            "rests": mean_square(made_speed[:, :, feet], rests[:, 1:] * rests[:, :-1] * moved),
        }

    def denoiser(self, network: Callable[..., Tensor], windows: Windows, x0: Tensor, actions: Tensor) -> Denoiser:
        """Return a network's estimate of windows' clean features x0, (N, F, D), with the known ones as they are."""
        given = windows.known[..., self.body.groups.to(self.device)]

        def denoise(x: Tensor, t: Time, /) -> Tensor:
            estimate = network(
                torch.where(given, x0, x), self.process.network_time(t), actions=actions, known=windows.known,
                visible=windows.valid[:, None],
            )  # fmt: skip
            return torch.where(given, x0, estimate)

        return denoise

    def total(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the losses with their weights: what is made small."""
        return torch.stack([self.weights[name] * value for name, value in losses.items()]).sum()

    def train_step(self) -> dict[str, float]:
        """Make one step and return its losses."""
        settings = self.settings
        source = np.random.default_rng(np.random.SeedSequence([settings.seed, self.step]))
        shortest, longest = settings.model.frames
        windows = self.source.draw(settings.batch, int(source.integers(shortest, longest + 1)), source)
        losses = self.losses(windows.to(self.device), source, self.network)
        self.take_step(self.total(losses))
        return {name: float(value.detach()) for name, value in losses.items()}

    @torch.no_grad()
    def held_out_loss(self) -> float:
        """Return the first loss of the averaged network on windows of the held-out clips, the same ones every time.

        Raises:
            InputError: no clip is held out.
        """
        if self.held_out is None:
            raise InputError("held_out", found="no clip", expected="at least one", fix="Name some.")
        source = np.random.default_rng(np.random.SeedSequence([self.settings.seed, 2**32 - 2]))
        windows = self.held_out.draw(HELD_OUT_WINDOWS, self.settings.model.frames[1], source)
        network = self.new_network()
        network.load_state_dict(self.average.average)
        return float(self.losses(windows.to(self.device), source, network)["features"])

    def measured(self) -> dict[str, float]:
        """Return the loss on held-out clips, if there are any."""
        return {} if self.held_out is None else {"held_out": self.held_out_loss()}

    def export(self, path: Path, *, half: bool = False, origin: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write the averaged weights as a model file and return the facts in its header.

        Args:
            path: ending in .safetensors.
            half: store the network in float16.
            origin: more facts, such as the name of the collection.
        """
        facts = self.training_facts() | dict(origin or {})
        statistics = (self.mean, self.spread)
        save_model(path, self.settings.model, self.body, self.average.average, statistics, facts, half=half)
        return facts

    def training_facts(self) -> dict[str, Any]:
        """Return what was trained on what and how, JSON types."""
        trained = {clip.source: clip for clip in self.source.clips}
        return {
            **self.recipe_facts(),
            "clips": len(trained),
            "held_out": list(self.settings.held_out),
            "data": recorded(self.source.clips, self.collection.fps),
            "action_seconds": self.collection.seconds(),
            "foot_heights_m": self._foot_heights(),
        }

    def _foot_heights(self) -> list[float]:
        """Return how high the joints of feet are when they rest, m, in the clips that were trained on."""
        clips = [
            self.body.decode(clip.features, self.collection.fps) for clip in self.source.clips if clip.name == clip.stem
        ]
        return [round(float(height), 4) for height in resting_heights(self.body.skeleton, clips)]


def mean_square(difference: Tensor, weight: Tensor) -> Tensor:
    """Return the weighted mean of |d|^2, of vectors (..., F, J, 3) and weights (..., F or 1, J or 1)."""
    squares = (difference**2).sum(-1)
    weight = weight.to(squares).expand_as(squares)
    return (squares * weight).sum() / weight.sum().clamp(min=1)

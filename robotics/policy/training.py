r"""Training of a policy on recorded demonstrations.

    loss = E_{A, O, k, eps} |network(alpha_k A + sigma_k eps, k, O) - target|^2 / (T A),    k uniform over the table

A is a window of normalised actions and O are its first T_o normalised observations; target is eps, A or v. Images stay
uint8 until a batch is made of them.

Step n draws everything random from the seed and n, and a checkpoint holds network, average and moments. So a run that
was killed ends with the same bits as one that was not, on the same CPU with the same threads. A GPU is not kept
waiting: batches are drawn there, a step is one CUDA graph, and losses are read every `READ_EVERY` steps.

Reference: Chi et al., Diffusion Policy, RSS 2023, eq. 5 and appendix A.4.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from robotics.policy.config import PolicyConfig, Settings, Share, TransformerConfig
from robotics.policy.environments import with_mirrored
from robotics.policy.episodes import Episodes
from robotics.policy.files import save_policy
from robotics.policy.networks import PolicyNetwork, build_network
from robotics.policy.normalise import Normaliser
from robotics.policy.policy import Policy
from robotics.policy.recorded import RecordedObservations
from robotics.policy.windows import split_episodes, window_frames
from shared.checkpoint import load_checkpoint, save_checkpoint
from shared.errors import InputError
from shared.process import standard_normal
from shared.replay import Replayed
from shared.training import AveragedWeights, rate_share
from shared.training_run import CHECKPOINT

VALIDATION_WINDOWS = 1024
VALIDATION_SEED = 1_000_003  # of no training
READ_EVERY = 50  # steps
MAY_DIFFER = {"name", "checkpoint_minutes", "validate_every"}  # between a run and its continuation


class PolicyTraining(Settings):
    """Everything that decides a training.

    Attributes:
        name: of the weights, "robotics/<stem>".
        policy: what is trained.
        steps: of the optimiser.
        batch: windows a step.
        learning_rate: largest, after the warm-up; it then falls to zero along a half cosine.
        betas: of AdamW.
        warmup: steps in which the rate rises from zero.
        weight_decay: of AdamW.
        clip_gradient: largest norm of the gradient; None does not limit it.
        average: largest decay of the average of weights that is exported.
        average_power: how the decay rises to it; see `shared.training.AveragedWeights`.
        validation: share of episodes held out.
        most_episodes: largest number of training episodes; None takes all.
        mirror: family of worlds by whose symmetry every training episode is also seen in the mirror; None does not.
        validate_every: steps between two validations.
        checkpoint_minutes: time between two checkpoints.
        seed: of weights, split and batches.
    """

    name: str = Field(pattern=r"^[a-z_]+/[a-z0-9_]+$")
    policy: PolicyConfig
    steps: PositiveInt
    batch: PositiveInt = 256
    learning_rate: PositiveFloat = 1e-4
    betas: tuple[Share, Share] = (0.95, 0.999)
    warmup: NonNegativeInt = 500
    weight_decay: NonNegativeFloat = 1e-6
    clip_gradient: PositiveFloat | None = None
    average: Share = 0.9999
    average_power: Annotated[float, Field(gt=0, le=1)] | None = None
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.02
    most_episodes: PositiveInt | None = None
    mirror: str | None = None
    validate_every: PositiveInt = 1000
    checkpoint_minutes: NonNegativeFloat = 2.0
    seed: NonNegativeInt = 0


class PolicyTrainer:
    """A training in progress; it goes on where the folder's checkpoint stopped.

    Args:
        settings: what to train.
        episodes: demonstrations with the arrays that the policy's configuration names.
        folder: for checkpoint and log.
        start: policy of the same network whose weights and normalisers the training begins with.
        device: where to compute.

    Raises:
        InputError: data that do not fit, or a folder with another training.
    """

    def __init__(
        self,
        settings: PolicyTraining,
        episodes: Episodes,
        folder: Path,
        *,
        start: Policy | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings, self.folder, self.device = settings, Path(folder), torch.device(device)
        config, recorded = settings.policy, episodes.count
        if settings.mirror is not None:
            episodes = with_mirrored(episodes, settings.mirror)
        observations = RecordedObservations(config, episodes)
        actions = torch.as_tensor(episodes.arrays[config.action.name]).float().flatten(1)
        if actions.shape[1] != config.action.size:
            raise InputError(
                episodes.path, found=f"{actions.shape[1]} numbers an action", expected=f"{config.action.size}",
                fix="Correct action.size in the configuration.",
            )  # fmt: skip
        rate = float(episodes.facts.get("rate_hz", config.action.rate_hz))
        if abs(rate - config.action.rate_hz) > 1e-6 * rate:
            raise InputError(
                episodes.path, found=f"{rate:g} frames a second",
                expected=f"{config.action.rate_hz:g}, the rate of the policy's actions",
                fix="Correct action.rate_hz in the configuration, or the rate of the bags' mapping.",
            )  # fmt: skip
        if start is None:
            fitted = observations.fit(), Normaliser.fit(actions, config.normalise)
        else:
            fitted = start.observation, start.action
        self.normalisers = fitted
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network: PolicyNetwork = build_network(config)
        if start is not None:
            self.network.load_state_dict(start.network.state_dict())
        self.policy = Policy(config, self.network, *self.normalisers, device=self.device)
        self._observations = observations.to(self.device)
        self._actions = self.policy.encode(actions.to(self.device))
        split = split_episodes(
            recorded, validation=settings.validation, most=settings.most_episodes, seed=settings.seed
        )
        copies = [] if settings.mirror is None else [episode + recorded for episode in split[0]]
        train, held = (
            self._windows(episodes.ends, chosen) if chosen else None for chosen in (split[0] + copies, split[1])
        )
        assert train is not None
        self._train, self._held = train, held
        self.data_facts = dict(episodes.facts)
        self.episodes_used = tuple(map(len, split))
        self.average = AveragedWeights(self.network, settings.average, power=settings.average_power)
        on_gpu = self.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=torch.tensor(settings.learning_rate, device=self.device) if on_gpu else settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=on_gpu or None,
            capturable=on_gpu,
        )
        levels = torch.arange(1, self.policy.process.steps + 1, dtype=torch.float64) / self.policy.process.steps
        self._alpha, self._sigma = (
            table(levels).to(self.device, torch.float32)[:, None, None]
            for table in (self.policy.process.alpha, self.policy.process.sigma)
        )
        self._generator = torch.Generator(self.device)
        # Dropout and random crops draw inside the network: not to be replayed.
        self._draws = isinstance(config.network, TransformerConfig) or bool(config.images)
        self._replayed = self._update if self._draws else Replayed(self._update)
        self._fingerprint = _fingerprint(settings, observations, actions, episodes.ends)
        self.facts: dict[str, Any] = {"step": 0, "seconds": 0.0, "scores": {}, "fingerprint": self._fingerprint}
        if (self.folder / CHECKPOINT).is_file():
            path = self.folder / CHECKPOINT
            self.facts |= load_checkpoint(path, self.network, self.average, self.optimiser, self._fingerprint)

    def _windows(self, ends: np.ndarray, chosen: Sequence[int]) -> Tensor:
        chunk = self.settings.policy.chunk
        frames = window_frames(ends, chunk.horizon, before=chunk.observe - 1, after=chunk.execute - 1, episodes=chosen)
        return torch.from_numpy(frames).to(self.device)

    @property
    def step(self) -> int:
        """Return the number of steps made."""
        return int(self.facts["step"])

    def rate(self) -> float:
        """Return the learning rate of the next step."""
        settings = self.settings
        return settings.learning_rate * rate_share(self.step, settings.steps, settings.warmup)

    def observed(self, frames: Tensor) -> Tensor:
        """Return the normalised observations (N, T_o, D_o) of the windows `frames` (N, T)."""
        return self.policy.observation.apply(self._observations[frames[:, : self.policy.config.chunk.observe]])

    def loss(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of the windows `frames` (N, T), with noise and levels from the generator."""
        return self._loss(frames, *self._draw(len(frames), generator))

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return entries of the noise table (N,) and noise (N, T, A)."""
        source = generator.device
        entry = torch.randint(self.policy.process.steps, (count,), generator=generator, device=source)
        noise = standard_normal((count, *self.policy.shape), generator, dtype=torch.float32, device=self.device)
        return entry.to(self.device), noise

    def _loss(self, frames: Tensor, entry: Tensor, noise: Tensor) -> Tensor:
        config, actions = self.policy.config, self._actions[frames]
        observed = self.observed(frames)
        alpha, sigma = self._alpha[entry], self._sigma[entry]
        x = alpha * actions + sigma * noise
        targets = {"epsilon": noise, "sample": actions, "v": alpha * noise - sigma * actions}
        found = self.network(x, entry.float(), **self.network.conditioning(observed))
        return (found - targets[config.prediction]).square().mean()

    def _update(self, drawn: Tensor, entry: Tensor, noise: Tensor) -> Tensor:
        """Change the network by the windows `drawn` (N,) and return their loss."""
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._loss(self._train[drawn], entry, noise)
        loss.backward()
        if self.settings.clip_gradient is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.clip_gradient)
        self.optimiser.step()
        return loss.detach()

    def train_step(self) -> Tensor:
        """Make one step and return its loss, a scalar on the device: reading it waits for the step."""
        settings, rate = self.settings, self.rate()
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        seed = int(np.random.SeedSequence([settings.seed, self.step]).generate_state(1, np.uint64)[0] >> 1)
        generator = self._generator.manual_seed(seed)
        drawn = torch.randint(len(self._train), (settings.batch,), generator=generator, device=self.device)
        inputs = drawn, *self._draw(settings.batch, generator)
        self.network.train()
        if self._draws:
            with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
                torch.manual_seed(seed)
                loss = self._replayed(*inputs)
        else:
            loss = self._replayed(*inputs)
        self.average.update(self.network)
        self.facts["step"] += 1
        return loss

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the loss of the averaged weights on the held-out episodes, with the same noise every time."""
        if self._held is None:
            return {}
        trained = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.average)
        self.network.eval()
        generator = torch.Generator().manual_seed(VALIDATION_SEED)
        chosen = torch.randperm(len(self._held), generator=generator)[:VALIDATION_WINDOWS].to(self.device)
        parts = self._held[chosen].split(self.settings.batch)
        total = sum(float(self.loss(part, generator)) * len(part) for part in parts)
        self.network.load_state_dict(trained)
        return {"validation_loss": total / len(chosen)}

    def run(self, *, stop_at: int | None = None, tell: Callable[[int, float], None] | None = None) -> None:
        """Train to the end, or to step `stop_at`, with checkpoints.

        Args:
            stop_at: step after which to stop, with a checkpoint.
            tell: called with step and mean loss every `READ_EVERY` steps and at the end.

        Raises:
            InputError: the loss is not finite.
        """
        last = self.settings.steps if stop_at is None else min(stop_at, self.settings.steps)
        self.folder.mkdir(parents=True, exist_ok=True)
        begin, saved = time.monotonic() - self.facts["seconds"], time.monotonic()
        losses: list[float] = []
        unread: list[Tensor] = []
        while self.step < last:
            unread.append(self.train_step())
            due = self.step % self.settings.validate_every == 0 or self.step == self.settings.steps
            save = time.monotonic() - saved >= 60 * self.settings.checkpoint_minutes or self.step == last
            if not (due or save or len(unread) == READ_EVERY):
                continue
            read = torch.stack(unread).tolist()
            losses += read
            unread = []
            if not all(map(math.isfinite, read)):
                raise InputError(
                    "loss", found=f"{read[-1]} at step {self.step}", expected="a finite number", fix="Lower the rate."
                )
            self.facts["seconds"] = time.monotonic() - begin
            if tell is not None:
                tell(self.step, sum(read) / len(read))
            if due:
                self.facts["scores"] = {"loss": sum(losses) / len(losses), **self.validate()}
                losses = []
                self._log({"step": self.step, "seconds": round(self.facts["seconds"]), **self.facts["scores"]})
            if save:
                save_checkpoint(self.folder / CHECKPOINT, self.network, self.average, self.optimiser, self.facts)
                saved = time.monotonic()

    def describe(self) -> dict[str, Any]:
        """Return what was trained and how: the facts in the header of the exported file."""
        settings = self.settings
        return {
            "name": settings.name,
            "steps": self.step,
            "batch": settings.batch,
            "learning_rate": settings.learning_rate,
            "average": settings.average,
            "average_power": settings.average_power,
            "seed": settings.seed,
            "seconds": round(self.facts["seconds"]),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type,
            "episodes": self.episodes_used[0],
            "held_out_episodes": self.episodes_used[1],
            "mirror": settings.mirror,
            "windows": len(self._train),
            "data": self.data_facts,
            "parameters": sum(value.numel() for value in self.network.parameters()),
            "scores": self.facts["scores"],
        }

    def export(self, path: Path, *, half: bool = False) -> dict[str, Any]:
        """Write the averaged weights as a policy file and return the facts in its header."""
        facts = self.describe()
        save_policy(path, self.settings.policy, self.average.average, *self.normalisers, facts, half=half)
        return facts

    def _log(self, row: dict[str, float]) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _fingerprint(
    settings: PolicyTraining, observations: RecordedObservations, actions: Tensor, ends: np.ndarray
) -> str:
    """Return a hash of everything that decides the weights: a checkpoint goes on only under the same one."""
    digest = hashlib.sha256(settings.model_dump_json(exclude=MAY_DIFFER).encode())
    for values in (*(part.numpy() for part in observations.parts), actions.numpy(), ends):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()

r"""Training of a policy on recorded demonstrations.

    loss = E_{A, O, k, eps} |network(alpha_k A + sigma_k eps, k, O) - target|^2 / (T A),    k uniform over the table

A is a window of normalised actions and O are its first T_o normalised observations; target is eps, A or v.

Step n draws everything random from the seed and n, and a checkpoint holds network, average and moments. So a run that
was killed ends with the same bits as one that was not, on the same machine with the same threads.

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

from robotics.policy.config import PolicyConfig, Settings, Share
from robotics.policy.episodes import Episodes
from robotics.policy.files import save_policy
from robotics.policy.networks import PolicyNetwork, build_network
from robotics.policy.normalise import Normaliser
from robotics.policy.policy import Policy, join_observations
from robotics.policy.windows import split_episodes, window_frames
from shared.checkpoint import load_checkpoint, save_checkpoint
from shared.errors import InputError
from shared.predictions import Prediction, convert
from shared.process import standard_normal
from shared.training import AveragedWeights, rate_share

CHECKPOINT = "checkpoint.safetensors"
VALIDATION_WINDOWS = 1024
VALIDATION_SEED = 1_000_003  # of no training
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
        average: decay of the average of weights that is exported.
        validation: share of episodes held out.
        most_episodes: largest number of training episodes; None takes all.
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
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.02
    most_episodes: PositiveInt | None = None
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
        config = settings.policy
        observations = join_observations(config, episodes.arrays, leading=1)
        actions = torch.as_tensor(episodes.arrays[config.action.name]).float().flatten(1)
        if actions.shape[1] != config.action.size:
            raise InputError(
                episodes.path, found=f"{actions.shape[1]} numbers an action", expected=f"{config.action.size}",
                fix="Correct action.size in the configuration.",
            )  # fmt: skip
        if start is None:
            fitted = Normaliser.fit(observations, config.normalise), Normaliser.fit(actions, config.normalise)
        else:
            fitted = start.observation, start.action
        self.normalisers = fitted
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network: PolicyNetwork = build_network(config)
        if start is not None:
            self.network.load_state_dict(start.network.state_dict())
        self.policy = Policy(config, self.network, *self.normalisers, device=self.device)
        self._observations = self.policy.observation.apply(observations.to(self.device))
        self._actions = self.policy.encode(actions.to(self.device))
        split = split_episodes(
            episodes.count, validation=settings.validation, most=settings.most_episodes, seed=settings.seed
        )
        train, held = (self._windows(episodes.ends, chosen) if chosen else None for chosen in split)
        assert train is not None
        self._train, self._held = train, held
        self.episodes_used = tuple(map(len, split))
        self.average = AveragedWeights(self.network, settings.average)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
        )
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

    def loss(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of the windows `frames` (N, T), with noise and levels from the generator (on the CPU)."""
        policy, process = self.policy, self.policy.process
        actions = self._actions[frames]
        observed = self._observations[frames[:, : policy.config.chunk.observe]]
        entry = torch.randint(process.steps, (len(frames),), generator=generator).to(self.device)
        noise = standard_normal(actions.shape, generator, dtype=actions.dtype, device=self.device)
        t = (entry + 1).double() / process.steps
        x = process.add_noise(actions, noise, t)
        prediction: Prediction = policy.config.prediction
        target = convert(noise, x, t, process, source="epsilon", target=prediction) if prediction == "v" else noise
        if prediction == "sample":
            target = actions
        found = self.network(x, entry.float(), **self.network.conditioning(observed))
        return (found - target).square().mean()

    def train_step(self) -> float:
        """Make one step and return its loss."""
        settings, step = self.settings, self.step
        for group in self.optimiser.param_groups:
            group["lr"] = settings.learning_rate * rate_share(step, settings.steps, settings.warmup)
        seed = int(np.random.SeedSequence([settings.seed, step]).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randint(len(self._train), (settings.batch,), generator=generator).to(self.device)
        self.network.train()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)  # dropout
            loss = self.loss(self._train[drawn], generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if settings.clip_gradient is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), settings.clip_gradient)
        self.optimiser.step()
        self.average.update(self.network)
        self.facts["step"] = step + 1
        return float(loss.detach())

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
            tell: called with step and loss after each step.

        Raises:
            InputError: the loss is not finite.
        """
        last = self.settings.steps if stop_at is None else min(stop_at, self.settings.steps)
        self.folder.mkdir(parents=True, exist_ok=True)
        begin, saved = time.monotonic() - self.facts["seconds"], time.monotonic()
        losses: list[float] = []
        while self.step < last:
            losses.append(self.train_step())
            if not math.isfinite(losses[-1]):
                raise InputError(
                    "loss", found=f"{losses[-1]} at step {self.step}", expected="a finite number", fix="Lower the rate."
                )
            self.facts["seconds"] = time.monotonic() - begin
            if tell is not None:
                tell(self.step, losses[-1])
            if self.step % self.settings.validate_every == 0 or self.step == self.settings.steps:
                self.facts["scores"] = {"loss": sum(losses) / len(losses), **self.validate()}
                losses = []
                self._log({"step": self.step, "seconds": round(self.facts["seconds"]), **self.facts["scores"]})
            if time.monotonic() - saved >= 60 * self.settings.checkpoint_minutes or self.step == last:
                save_checkpoint(self.folder / CHECKPOINT, self.network, self.average, self.optimiser, self.facts)
                saved = time.monotonic()

    def export(self, path: Path, *, half: bool = False) -> dict[str, Any]:
        """Write the averaged weights as a policy file and return the facts in its header."""
        settings = self.settings
        facts = {
            "name": settings.name,
            "steps": self.step,
            "batch": settings.batch,
            "learning_rate": settings.learning_rate,
            "average": settings.average,
            "seed": settings.seed,
            "seconds": round(self.facts["seconds"]),
            "episodes": self.episodes_used[0],
            "held_out_episodes": self.episodes_used[1],
            "windows": len(self._train),
            "parameters": sum(value.numel() for value in self.network.parameters()),
            "scores": self.facts["scores"],
        }
        save_policy(path, settings.policy, self.average.average, *self.normalisers, facts, half=half)
        return facts

    def _log(self, row: dict[str, float]) -> None:
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _fingerprint(settings: PolicyTraining, observations: Tensor, actions: Tensor, ends: np.ndarray) -> str:
    """Return a hash of everything that decides the weights: a checkpoint goes on only under the same one."""
    digest = hashlib.sha256(settings.model_dump_json(exclude=MAY_DIFFER).encode())
    for values in (observations.numpy(), actions.numpy(), ends):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()

r"""Training of the encoder of windows: what it keeps must tell the window again, and what is done in it.

    loss = E |D(z) - (u - mean) / spread|^2 + w E H(q, softmax(C z))

with the encoder's input u and features z (`motion.encoder`), a decoder D and a linear classifier C that are left behind
afterwards, q the shares of the actions in the window and H the cross-entropy. Only recordings and their mirror images
are seen, at the speed they were recorded at: a body that moves slower or backwards is not to look usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from motion.actions import ACTIONS
from motion.collection import Collection, real_clips, recorded
from motion.encoder import (
    BATCH,
    HALVINGS,
    EncoderConfig,
    EncoderNetwork,
    MotionEncoder,
    frame_inputs,
    inputs_of,
    save_encoder,
    seen_windows,
    windows_of,
)
from shared.errors import InputError
from shared.training_run import Recipe, Share, TrainingRun

LEAST = 0.02
STRIDE = 15  # frames between windows of statistics and of held-out losses


class EncoderTraining(Recipe):
    """Everything that decides a training; a sample is a window.

    Attributes:
        model: what is trained.
        held_out: names of clips that are not trained on; the losses are measured on them too.
        action_weight: w.
    """

    model: EncoderConfig = EncoderConfig()
    held_out: tuple[str, ...] = ()
    batch: PositiveInt = 32
    weight_decay: NonNegativeFloat = 1e-2
    average: Share = 0.99
    action_weight: NonNegativeFloat = 0.1


class _Learner(nn.Module):
    """Encoder, decoder and classifier."""

    def __init__(self, config: EncoderConfig, inputs: int) -> None:
        super().__init__()
        self.encoder = EncoderNetwork(config, inputs)
        width, self.short = config.width, config.frames // 2**HALVINGS
        self.enter = nn.Linear(config.size, width * self.short)
        layers: list[nn.Module] = []
        for _ in range(HALVINGS):
            layers += [nn.Upsample(scale_factor=2), nn.Conv1d(width, width, 3, padding=1), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Upsample(config.frames), nn.Conv1d(width, inputs, 1))
        self.classify = nn.Linear(config.size, len(ACTIONS))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the decoded normalised inputs (N, F, U) and the logits of the actions (N, A)."""
        found = self.encoder(inputs)
        decoded = self.layers(self.enter(found).unflatten(1, (-1, self.short))).transpose(1, 2)
        return decoded, self.classify(found)


class EncoderTrainer(TrainingRun):
    """A training in progress; it goes on where the folder's checkpoint stopped.

    Args:
        settings: what to train.
        collection: clips to train on.
        folder: for checkpoint and log.

    Raises:
        InputError: clips of another rate, held-out clips that are not there, or a folder with another training.
    """

    shown = "inputs"
    settings: EncoderTraining
    network: _Learner

    def __init__(self, settings: EncoderTraining, collection: Collection, folder: Path) -> None:
        if collection.fps != settings.model.fps:
            raise InputError(
                "clips", found=f"{collection.fps:g} frames a second", expected=f"{settings.model.fps:g}",
                fix="Collect the clips at that rate, or correct the configuration.",
            )  # fmt: skip
        self.settings, self.collection, self.folder, self.body = settings, collection, Path(folder), collection.body
        frames = settings.model.frames
        self.clips = real_clips(collection, frames, settings.held_out)
        self.held_out = real_clips(collection, frames, settings.held_out, only_held_out=True)
        self.inputs, self.held_out_inputs = (
            [frame_inputs(self.body, clip.features, collection.fps) for clip in clips]
            for clips in (self.clips, self.held_out)
        )
        self.stops = torch.tensor([len(clip.features) - frames + 1 for clip in self.clips]).cumsum(0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            self.network = _Learner(settings.model, inputs_of(self.body))
        statistics = self._windows(self.inputs).flatten(0, 1)
        self.network.encoder.mean.copy_(statistics.mean(0))
        self.network.encoder.spread.copy_(statistics.std(0).clamp(min=LEAST))
        self.begin(collection.fingerprint.encode())

    def _windows(self, inputs: list[Tensor]) -> Tensor:
        """Return every `STRIDE`-th window of clips' inputs, (N, F, U)."""
        frames = self.settings.model.frames
        return torch.cat([seen_windows(windows_of(one, frames, STRIDE), self.body.size) for one in inputs])

    def losses(self, inputs: Tensor, actions: Tensor, network: nn.Module) -> dict[str, Tensor]:
        """Return both losses, differentiable."""
        decoded, logits = network(inputs)
        shares = functional.one_hot(actions, len(ACTIONS)).float().mean(1)
        return {
            "inputs": functional.mse_loss(decoded, self.network.encoder.normalised(inputs)),
            "actions": functional.cross_entropy(logits, shares),
        }

    def train_step(self) -> dict[str, float]:
        """Make one step and return its losses."""
        settings, frames = self.settings, self.settings.model.frames
        source = np.random.default_rng(np.random.SeedSequence([settings.seed, self.step]))
        places = torch.from_numpy(source.integers(int(self.stops[-1]), size=settings.batch))
        which = torch.searchsorted(self.stops, places, right=True)
        starts = (places - torch.cat([self.stops.new_zeros(1), self.stops])[which]).tolist()
        parts = [(clip, slice(start, start + frames)) for clip, start in zip(which.tolist(), starts, strict=True)]
        inputs = seen_windows(torch.stack([self.inputs[clip][part] for clip, part in parts]), self.body.size)
        actions = torch.stack([self.clips[clip].actions[part] for clip, part in parts])
        losses = self.losses(inputs, actions, self.network)
        self.take_step(losses["inputs"] + settings.action_weight * losses["actions"])
        return {name: float(value.detach()) for name, value in losses.items()}

    @torch.no_grad()
    def measured(self) -> dict[str, float]:
        """Return the losses on held-out clips, if there are any."""
        if not self.held_out:
            return {}
        actions = torch.cat([clip.actions.unfold(0, self.settings.model.frames, STRIDE) for clip in self.held_out])
        losses = self.losses(self._windows(self.held_out_inputs), actions, self._averaged())
        return {f"held_out_{name}": float(value) for name, value in losses.items()}

    def _averaged(self) -> _Learner:
        network = _Learner(self.settings.model, inputs_of(self.body))
        network.load_state_dict(self.average.average)
        return network

    @torch.no_grad()
    def encoder(self) -> MotionEncoder:
        """Return the encoder of the averaged weights; its features have mean 0 and deviation 1 over the windows."""
        network = self._averaged().encoder
        found = torch.cat([network(part) for part in self._windows(self.inputs).split(BATCH)])
        network.leave.bias.copy_((network.leave.bias - found.mean(0)) / found.std(0))
        network.leave.weight.div_(found.std(0)[:, None])
        return MotionEncoder(self.settings.model, self.body, network, self._facts(network), self.settings.name)

    def _facts(self, network: EncoderNetwork) -> dict[str, Any]:
        return {
            **self.recipe_facts(),
            "action_weight": self.settings.action_weight,
            "parameters": sum(value.numel() for value in network.parameters()),
            "held_out": list(self.settings.held_out),
            "data": recorded(self.clips, self.collection.fps),
        }

    def export(self, path: Path, *, half: bool = False, origin: Mapping[str, Any] | None = None) -> None:
        """Write the encoder.

        Args:
            path: ending in .safetensors.
            half: store the weights in float16.
            origin: more facts, such as the name of the collection.
        """
        encoder = self.encoder()
        facts = encoder.facts | dict(origin or {})
        save_encoder(path, self.settings.model, self.body, encoder.network.state_dict(), facts, half=half)


def write_encoder_card(encoder: MotionEncoder, path: Path) -> None:
    """Write the card of an encoder, what its header says, for people."""
    from shared.files import atomic_path

    facts, config = encoder.facts, encoder.config
    lines = [
        f"# {path.stem}",
        "",
        f"{config.size} features of a window of {config.frames} frames of human motion, to compare sets of motions in "
        "(`fewstep motion evaluate --reference`).",
        "",
        f"- **Network**: convolutions over frames, {facts['parameters']} parameters, `{config.model_dump_json()}`.",
        f"- **Body**: {len(encoder.body.skeleton)} joints, {encoder.body.size} features and "
        f"{inputs_of(encoder.body) - encoder.body.size} speeds and accelerations a frame, {config.fps:g} frames a "
        "second. Mean 0 and deviation 1 over the windows of the training.",
        f"- **Data**: recordings and their mirror images; held out: {', '.join(facts['held_out']) or 'none'}.",
        f"- **Recipe**: autoencoder and classifier of actions (weight {facts['action_weight']:g}), {facts['steps']} of "
        f"{facts['of_steps']} steps of AdamW, batch {facts['batch']}, rate {facts['learning_rate']:g} falling along a "
        f"half cosine, average of weights {facts['average']:g}, seed {facts['seed']}, {facts['seconds']} s.",
        f"- **Command**: `fewstep motion train-encoder {facts['name']} --data {facts.get('collection', 'CLIPS')} "
        f"-o {path.with_suffix('.safetensors').name} --half`",
        "",
        "## Data",
        "",
        "| folder: licence | clips | s |",
        "| --- | --- | --- |",
        *(f"| {name} | {entry['clips']:g} | {entry['s']:g} |" for name, entry in facts["data"].items()),
        "",
        "The data from CMU were obtained from mocap.cs.cmu.edu. The database was created with funding from NSF "
        "EIA-0196217." if any("CMU" in name for name in facts["data"]) else "",
        "",
        "## Losses",
        "",
        "| measure | value |",
        "| --- | --- |",
        *(f"| {name} | {value:.4g} |" for name, value in facts["losses"].items()),
        "",
        "## Limits",
        "Distances in these features compare motions on this body at this rate with each other. They are no published "
        "FID and cannot be compared with one. What the few recordings do not show looks unusual to it, real or not.",
        "",
    ]  # fmt: skip
    with atomic_path(path, overwrite=True) as scratch:
        scratch.write_text("\n".join(lines), encoding="utf-8")

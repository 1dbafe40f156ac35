"""Which model a calibration belongs to: the hash of its weights, or what it answers to fixed questions.

A network is known by the SHA-256 of its state dict, on whatever device it lies. Any other denoiser is a function, and
is known by its answers (`probe`): mean, root mean square and one projection of D at three noise levels, for a fixed
input. Answers differ in rounding from machine to machine, so they are compared to one part in a thousand.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shared.denoiser import Denoiser
from shared.errors import InputError
from shared.process import NoiseProcess, standard_normal

PROBE_LOG_SNRS = (-2.0, 0.0, 2.0)
PROBE_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Identity:
    """What a model is recognised by.

    Attributes:
        name: for the reader.
        weights: SHA-256 of the state dict in hexadecimal, None for a denoiser without a network.
        probe: answers to fixed questions, None for a network.
    """

    name: str
    weights: str | None = None
    probe: tuple[float, ...] | None = None

    def check(self, denoiser: Denoiser, process: NoiseProcess, shape: Sequence[int], source: str) -> None:
        """Raise `InputError` naming `source` unless the denoiser is this model.

        A wrapped network (`clipped`, guidance) does not show its weights and is another denoiser: it is refused.
        """
        found = identify(denoiser, process, shape)
        if self.weights is not None:
            same = found.weights == self.weights
        else:
            same = self.probe is not None and found.probe is not None and _alike(self.probe, found.probe)
        if not same:
            raise InputError(
                source,
                found=f"an artefact of {_described(self)}",
                expected=f"one of this model, {_described(found)}",
                fix="Make it for this model (fewstep calibrate ...), or load the model that it was made for.",
            )


def identify(denoiser: Denoiser, process: NoiseProcess, shape: Sequence[int], *, name: str | None = None) -> Identity:
    """Return the identity of a denoiser.

    Args:
        denoiser: the model; its attribute `network` is hashed when it is a `torch.nn.Module`.
        process: at whose levels a denoiser without network is asked.
        shape: of one sample, without the batch.
        name: for the reader; by default the function's or the class's.
    """
    network = getattr(denoiser, "network", denoiser)
    name = name or str(getattr(network, "__qualname__", type(network).__name__))
    if isinstance(network, nn.Module) and network.state_dict():
        return Identity(name, weights=weights_hash(network))
    return Identity(name, probe=_answers(denoiser, process, shape))


def weights_hash(network: nn.Module) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of the state dict; the same on every device.

    A module compiled by `torch.compile` has the hash of the original.
    """
    digest = hashlib.sha256()
    entries = {key.replace("_orig_mod.", ""): value for key, value in network.state_dict().items()}
    for key, value in sorted(entries.items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _answers(denoiser: Denoiser, process: NoiseProcess, shape: Sequence[int]) -> tuple[float, ...]:
    generator = torch.Generator().manual_seed(0)

    def draw() -> Tensor:
        return standard_normal((2, *shape), generator, dtype=torch.float32, device="cpu")

    data, noise, direction = draw(), draw(), draw()
    numbers: list[float] = []
    with torch.no_grad():
        for log_snr in PROBE_LOG_SNRS:
            t = float(process.time_of_log_snr(log_snr))
            answer = denoiser(process.add_noise(data, noise, t), t).double().cpu()
            rms = float(answer.square().mean().sqrt())
            numbers += [float(answer.mean()), rms, float((answer * direction).mean())]
    return tuple(numbers)


def _alike(a: Sequence[float], b: Sequence[float]) -> bool:
    scale = max(1e-12, *(abs(value) for value in a))
    return len(a) == len(b) and all(
        math.isfinite(v) and abs(u - v) <= PROBE_TOLERANCE * scale for u, v in zip(a, b, strict=True)
    )


def _described(identity: Identity) -> str:
    if identity.weights is not None:
        return f"{identity.name} with weights {identity.weights[:12]}"
    return f"{identity.name} (no network; known by its answers)"

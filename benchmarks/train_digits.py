"""Train the digits denoiser and write its weights and the scores of its model card.

    python benchmarks/train_digits.py --output shared/weights/digits_denoiser.safetensors [--json scores.json]

Data: the 1797 images, 8 x 8, of scikit-learn's digits (UCI, CC BY 4.0), scaled from 0..16 to -1..1; 1500 train, 297
are held out. Two threads, a few minutes; the same seed on the same machine gives the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor

from shared import Heun, PreconditionedDenoiser, VarianceExploding, log_snr_grid, sample
from shared.files import atomic_path
from shared.networks import ResidualMLP
from shared.training import AveragedWeights, denoising_loss

TRAIN_IMAGES = 1500
PROCESS = VarianceExploding(sigma_min=0.002, sigma_max=80.0)
LEVELS = (0.05, 0.2, 0.5, 1.0, 2.0, 10.0)


def images() -> tuple[Tensor, Tensor]:
    """Return training and held-out images (N, 64) in [-1, 1], split by a fixed permutation."""
    data = torch.from_numpy(load_digits().data).float() / 8 - 1
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return data[order[:TRAIN_IMAGES]], data[order[TRAIN_IMAGES:]]


def train(data: Tensor, settings: argparse.Namespace, held_out: Tensor) -> tuple[dict[str, Tensor], float]:
    """Return the averaged weights and sigma_data."""
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    sigma_data = float(data.std())
    network = ResidualMLP(64, width=settings.width, depth=settings.depth)
    denoiser = PreconditionedDenoiser(network, PROCESS, sigma_data=sigma_data)
    optimiser = torch.optim.AdamW(network.parameters(), lr=settings.rate, weight_decay=settings.decay)
    averaged = AveragedWeights(network, 0.999)
    begin = time.monotonic()
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            warm_up = min(1.0, (step + 1) / 200)
            group["lr"] = settings.rate * warm_up * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        batch = data[torch.randint(len(data), (settings.batch,), generator=generator)]
        sigma = torch.exp(-0.8 + 1.4 * torch.randn(settings.batch, generator=generator)).clamp(0.002, 80)
        loss = denoising_loss(denoiser, batch, sigma, generator).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        averaged.update(network)
        if (step + 1) % 1000 == 0:
            held = held_out_losses(averaged.average, held_out, sigma_data, settings)
            print(
                f"step {step + 1}: loss {loss.item():.4f}, held out",
                {k: round(v, 4) for k, v in held.items()},
                f"{time.monotonic() - begin:.0f} s",
                flush=True,
            )
    return averaged.average, sigma_data


def denoiser_of(weights: dict[str, Tensor], sigma_data: float, settings: argparse.Namespace) -> PreconditionedDenoiser:
    """Return the denoiser of the given weights."""
    network = ResidualMLP(64, width=settings.width, depth=settings.depth).eval().requires_grad_(False)
    network.load_state_dict(weights)
    return PreconditionedDenoiser(network, PROCESS, sigma_data=sigma_data)


@torch.no_grad()
def held_out_losses(
    weights: dict[str, Tensor], data: Tensor, sigma_data: float, settings: argparse.Namespace
) -> dict[str, float]:
    """Return the weighted loss at fixed noise levels, on the same noise each time."""
    denoiser = denoiser_of(weights, sigma_data, settings)
    return {
        f"sigma_{level}": float(
            denoising_loss(denoiser, data, torch.full((len(data),), level), torch.Generator().manual_seed(1)).mean()
        )
        for level in LEVELS
    }


def frechet(a: Tensor, b: Tensor) -> float:
    """Return |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2) in pixel space."""
    a, b = a.double().numpy(), b.double().numpy()
    ca, cb = np.cov(a.T), np.cov(b.T)
    root = np.sqrt(np.maximum(np.linalg.eigvals(ca @ cb).real, 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * root)


def scores(weights: dict[str, Tensor], sigma_data: float, settings: argparse.Namespace) -> dict[str, float]:
    """Return losses on both splits, the Frechet distance of samples and how far they lie from the training images."""
    data, held_out = images()
    denoiser = denoiser_of(weights, sigma_data, settings)
    x = PROCESS.noise((2048, 64), torch.Generator().manual_seed(2))
    drawn = sample(denoiser, x, log_snr_grid(PROCESS, 60), Heun())
    nearest = torch.cdist(drawn, data).min(1).values.median()
    nearest_held_out = torch.cdist(held_out, data).min(1).values.median()
    return {
        **{f"train_loss_{k}": v for k, v in held_out_losses(weights, data, sigma_data, settings).items()},
        **{f"held_out_loss_{k}": v for k, v in held_out_losses(weights, held_out, sigma_data, settings).items()},
        "frechet_samples_to_all": frechet(drawn, torch.cat([data, held_out])),
        "frechet_held_out_to_train": frechet(held_out, data),
        "nearest_training_image_of_samples": float(nearest),
        "nearest_training_image_of_held_out": float(nearest_held_out),
    }


def main() -> None:
    """Train, score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write (replaced)")
    parser.add_argument("--json", type=Path, help="also write the scores as a flat JSON object")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--decay", type=float, default=0.01, help="weight decay of AdamW")
    settings = parser.parse_args()
    torch.set_num_threads(2)
    data, held_out = images()
    weights, sigma_data = train(data, settings, held_out)
    halves = {name: value.half() for name, value in weights.items()}
    facts = {
        "features": 64,
        "width": settings.width,
        "depth": settings.depth,
        "sigma_data": sigma_data,
        "sigma_min": PROCESS.sigma_min,
        "sigma_max": PROCESS.sigma_max,
        "seed": settings.seed,
        "steps": settings.steps,
    }
    with atomic_path(settings.output, overwrite=True) as scratch:
        save_file(halves, scratch, metadata={name: str(value) for name, value in facts.items()})
    result = scores({name: value.float() for name, value in halves.items()}, sigma_data, settings)
    result["parameters"] = sum(value.numel() for value in weights.values())
    print(json.dumps(result, indent=1))
    if settings.json is not None:
        with atomic_path(settings.json, overwrite=True) as scratch:
            scratch.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Train one of the example networks and write its weights and scores.

    python benchmarks/train_examples.py NAME --output shared/weights/NAME.safetensors --json NAME.json

NAME is action_unet, photo_unet or digits_dit (`shared.examples`). One thread; half an hour or less each. The run writes
a checkpoint every 500 steps and goes on from it when started again. The same seed on the same machine gives the same
weights.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shared.examples import EXAMPLES, NO_CLASS
from shared.examples.data import labelled_digits, patches, paths
from shared.files import atomic_path
from shared.numbers import write_numbers
from shared.predictions import convert
from shared.process import VariancePreserving, standard_normal
from shared.training import AveragedWeights

LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
RECIPES: dict[str, dict[str, Any]] = {
    "action_unet": {"steps": 5000, "batch": 128, "rate": 1e-3},
    "photo_unet": {"steps": 3500, "batch": 64, "rate": 1e-3},
    "digits_dit": {"steps": 4000, "batch": 96, "rate": 1e-3},
}
Draw = Callable[[int, torch.Generator], tuple[Tensor, dict[str, Tensor]]]


def training_draw(name: str) -> Draw:
    """Return the function that draws a training batch and its conditioning."""
    if name == "action_unet":
        return lambda count, generator: (paths(count, generator), {})
    if name == "photo_unet":
        return _patches_of_two_sizes
    data, labels = labelled_digits()

    def digits(count: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        chosen = torch.randint(len(data), (count,), generator=generator)
        dropped = torch.rand(count, generator=generator) < 0.2
        return data[chosen], {"class_labels": torch.where(dropped, NO_CLASS, labels[chosen])}

    return digits


def _patches_of_two_sizes(count: int, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
    """Return 16 x 16 patches, and in one batch of four 8 x 8 patches of the same field of view."""
    low = bool(torch.rand((), generator=generator) < 0.25)
    return (patches(2 * count, generator, side=8, shrink=4) if low else patches(count, generator)), {}


def held_out_data(name: str, count: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return data that training never draws."""
    generator = torch.Generator().manual_seed(10_001)
    if name == "action_unet":
        return paths(count, generator), {}
    if name == "photo_unet":
        return patches(count, generator, held_out=True), {}
    data, labels = labelled_digits(held_out=True)
    return data, {"class_labels": labels}


def losses(network: torch.nn.Module, name: str, x0: Tensor, conditioning: dict[str, Tensor]) -> dict[str, float]:
    """Return mean |D - x0|^2 over the variance of the data at fixed levels, on the same noise each time."""
    example = EXAMPLES[f"shared/{name}"]
    process = VariancePreserving.from_betas(example.betas)
    found = {}
    for t in LEVELS:
        noise = standard_normal(x0.shape, torch.Generator().manual_seed(1), dtype=x0.dtype, device=x0.device)
        x = process.add_noise(x0, noise, t)
        with torch.no_grad():
            value = network(x, process.network_time(t).float().expand(len(x0)), **conditioning).sample
        answer = convert(value, x, t, process, source=example.prediction, target="sample")
        found[f"t_{t}"] = float((answer - x0).square().mean() / x0.var())
    return found


def main() -> None:
    """Train, score and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RECIPES)
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write (replaced)")
    parser.add_argument("--json", type=Path, help="also write the scores as a flat JSON object")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="training steps, by default those of the recipe")
    settings = parser.parse_args()
    name, recipe = settings.name, RECIPES[settings.name]
    steps, batch, rate = settings.steps or recipe["steps"], recipe["batch"], recipe["rate"]
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    example = EXAMPLES[f"shared/{name}"]
    process = VariancePreserving.from_betas(example.betas)
    network = example.build().train()
    if name == "digits_dit":  # its own label dropout is off; the batch drops labels
        for module in network.modules():
            if hasattr(module, "dropout_prob"):
                module.dropout_prob = 0.0
    draw = training_draw(name)
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=1e-4)
    averaged = AveragedWeights(network, 0.999)
    checkpoint = settings.output.with_suffix(".resume")
    first = 0
    if checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(stored["network"])
        optimiser.load_state_dict(stored["optimiser"])
        averaged.average, averaged.updates, first = stored["average"], stored["step"], stored["step"]
        generator.set_state(stored["generator"])
    begin = time.monotonic()
    total = 0.0
    for step in range(first, steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))
        x0, conditioning = draw(batch, generator)
        t = process.t_min + (1 - process.t_min) * torch.rand(len(x0), generator=generator, dtype=torch.float64)
        noise = standard_normal(x0.shape, generator, dtype=x0.dtype, device=x0.device)
        x = process.add_noise(x0, noise, t)
        target = convert(x0, x, t, process, source="sample", target=example.prediction).float()
        loss = (network(x, process.network_time(t).float(), **conditioning).sample - target).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        averaged.update(network)
        total += loss.item()
        if (step + 1) % 500 == 0:
            print(f"step {step + 1}: loss {total / 500:.4f}, {time.monotonic() - begin:.0f} s", flush=True)
            total = 0.0
            with atomic_path(checkpoint, overwrite=True) as scratch:
                state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
                torch.save({**state, "average": averaged.average, "generator": generator.get_state()}, scratch)
    halves = {key: value.half() for key, value in averaged.average.items()}
    facts = {"seed": settings.seed, "steps": steps, "batch": batch, "rate": rate, "prediction": example.prediction}
    with atomic_path(settings.output, overwrite=True) as scratch:
        save_file(halves, scratch, metadata={key: str(value) for key, value in facts.items()})
    checkpoint.unlink(missing_ok=True)
    network.load_state_dict({key: value.float() for key, value in halves.items()})
    network.eval()
    data, conditioning = held_out_data(name, 512)
    drawn, labels = training_draw(name)(512, torch.Generator().manual_seed(10_002))
    scores = {f"held_out_{key}": value for key, value in losses(network, name, data, conditioning).items()}
    scores |= {f"train_{key}": value for key, value in losses(network, name, drawn, labels).items()}
    scores["parameters"] = float(sum(value.numel() for value in network.parameters()))
    for key, value in scores.items():
        print(f"{key}: {value:.4g}")
    if settings.json is not None:
        write_numbers(settings.json, scores)


if __name__ == "__main__":
    main()

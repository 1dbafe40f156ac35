"""What drawing a brain volume takes of memory, planned and measured, with the network in one piece and in slabs.

    python benchmarks/brain_memory.py [--case 96x112x96:0,8,16 --case 192x224x192:0,16] [--json FILE]

MedForj's network with random weights, which take as much as trained ones; one thread, float32, CPU, Linux. Every row is
a process of its own. It draws a volume with one call of the network (rflow, two steps) through `BrainModel.draw`.

| column | what |
| --- | --- |
| planned | `medical.brain.memory.measure`: network, weights and sampling |
| measured | growth of the resident memory, from before the network is made to its peak |
| CPU s | time of the processor for the drawing, other work of the machine not counted |
| difference | largest, of the drawn volume from that of the first row of this size, over its largest value |
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from shared.numbers import write_numbers

CASES = ("64x64x64:0,8", "96x112x96:0,4,8,16")


def resident(key: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


def child(size: tuple[int, int, int], slabs: int, drawn: Path) -> None:
    """Draw one volume, write it, and print the numbers as JSON."""
    import torch

    from medical.brain.config import BrainConfig
    from medical.brain.memory import Plan, measure
    from medical.brain.model import BrainModel, Sampling
    from medical.brain.network import brain_network

    torch.set_num_threads(1)
    config = BrainConfig(strategy="rflow")
    small = BrainConfig(strategy="rflow", channels=(8, 16), attention=(False, True), blocks=1)
    brain_network(small)(torch.zeros(1, 1, 8, 8, 8), torch.zeros(1))  # loads what torch and MONAI load at first
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins here
    before = resident("VmRSS")
    torch.manual_seed(0)
    network = brain_network(config).eval().requires_grad_(False)
    for parameter in network.out[2].parameters():  # MONAI starts it at zero
        torch.nn.init.normal_(parameter, std=0.1)
    model = Plan(size, slabs, 0, 0, 0).applied(BrainModel(config, network))
    begin = time.process_time()
    x = model.draw(size, Sampling(steps=2), generator=torch.Generator().manual_seed(0))
    seconds = time.process_time() - begin
    measured = resident("VmHWM") - before
    np.save(drawn, x.numpy())
    planned = measure(config, network, size, slabs).total
    json.dump({"planned": planned, "measured": measured, "seconds": seconds}, sys.stdout)


def main() -> None:
    """Run all cases and print the table."""
    parser = argparse.ArgumentParser(description="Memory of drawing a brain volume.")
    parser.add_argument("--case", action="append", metavar="XxYxZ:SLABS,...", help=f"default: {' '.join(CASES)}")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        x, y, z = map(int, options.child[0].split("x"))
        child((x, y, z), int(options.child[1]), Path(options.child[2]))
        return
    table = Table("size", "slabs", "planned MiB", "measured MiB", "planned / measured", "CPU s", "difference", box=None)
    numbers: dict[str, float] = {}
    for case in options.case or CASES:
        size, _, choices = case.partition(":")
        first: np.ndarray | None = None
        for slabs in choices.split(","):
            with tempfile.TemporaryDirectory() as folder:
                drawn = Path(folder) / "x.npy"
                words = [sys.executable, __file__, "--child", size, slabs, str(drawn)]
                found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
                volume = np.load(drawn)
            first = volume if first is None else first
            found["difference"] = float(np.abs(volume - first).max() / np.abs(first).max())
            numbers |= {f"{size}.{slabs}.{name}": value for name, value in found.items()}
            planned, measured = found["planned"], found["measured"]
            row = (size, slabs if int(slabs) else "none", f"{planned / 2**20:.0f}", f"{measured / 2**20:.0f}",
                   f"{planned / measured:.2f}", f"{found['seconds']:.0f}", f"{found['difference']:.1e}")  # fmt: skip
            table.add_row(*row)
            print(*row, file=sys.stderr, flush=True)
            if options.json is not None:
                write_numbers(options.json, numbers)
    Console().print(table)


if __name__ == "__main__":
    main()

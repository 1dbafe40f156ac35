"""The profiler counts what the formulas say, loses nothing between categories and levels, and leaves no trace."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from shared import InputError, Ledger
from shared.cli import main
from shared.models import load_model
from shared.profiling import CATEGORIES, REST, category_of, default_levels, profile_network
from shared.reuse import Block, block_costs

N, WIDTH, SIDE, HEADS = 2, 12, 6, 3


class Mixed(nn.Module):
    """One of each: convolutions, both forms of attention, linear layers, norms, an activation, a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, WIDTH, 3, padding=1)
        self.norm = nn.GroupNorm(3, WIDTH)
        self.parts = nn.ModuleList([nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH, bias=False)])
        self.leave = nn.ConvTranspose2d(WIDTH, 3, 2, stride=2)

    def forward(self, x: Tensor, *, by_hand: bool = False) -> Tensor:
        h = functional.silu(self.norm(self.enter(x)))
        tokens = h.flatten(2).transpose(1, 2)  # not contiguous: a frozen linear layer runs as a batched product
        q, k, v = (part.unflatten(2, (HEADS, -1)).transpose(1, 2) for part in self.parts[0](tokens).chunk(3, 2))
        if by_hand:
            mixed = torch.softmax(q @ k.transpose(2, 3), -1) @ v
        else:
            mixed = functional.scaled_dot_product_attention(q, k, v)
        tokens = tokens + self.parts[1](mixed.transpose(1, 2).flatten(2))
        return self.leave(tokens.transpose(1, 2).unflatten(2, (SIDE, SIDE)))


TOKENS = SIDE * SIDE
FLOPS = {  # 2 operations for a multiply-add
    "convolution": 2 * N * TOKENS * (WIDTH * 3 * 9 + WIDTH * 3 * 4),
    "linear": 2 * N * TOKENS * (WIDTH * 3 * WIDTH + WIDTH * WIDTH),
    "attention": 2 * N * TOKENS * TOKENS * WIDTH * 2,  # q k and the product with v, over all heads
}
X = torch.randn(N, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("by_hand", [False, True])
def test_operations_are_those_of_the_formulas_in_each_category_and_level(by_hand):
    profile = profile_network(Mixed().eval().requires_grad_(False), X, conditioning={"by_hand": by_hand}, repeat=1)
    for category in CATEGORIES:
        assert profile.total("flops", category=category) == FLOPS.get(category, 0), category
    assert profile.total("flops") == sum(FLOPS.values())
    assert profile.total("flops", level="enter") == 2 * N * TOKENS * WIDTH * 3 * 9
    assert profile.total("flops", level="parts.1") == 2 * N * TOKENS * WIDTH * WIDTH
    assert profile.total("flops", level=REST) == FLOPS["attention"], "attention lies between the modules"
    assert profile.total("flops", level="norm") == 0


def test_every_category_takes_time_where_it_runs_and_the_cells_sum_to_the_total():
    network = Mixed().eval().requires_grad_(False)
    profile = profile_network(network, X, repeat=3)
    for category in CATEGORIES:
        assert profile.total("seconds", category=category) > 0, category
    for level, own in (("enter", "convolution"), ("norm", "norm"), ("parts.0", "linear"), (REST, "attention")):
        assert profile.total("seconds", level=level, category=own) > 0
        for other in {"convolution", "norm", "linear", "attention"} - {own}:
            assert profile.total("seconds", level=level, category=other) == 0, (level, other)
    total = profile.total("seconds")
    assert sum(profile.total("seconds", category=category) for category in CATEGORIES) == pytest.approx(total)
    assert sum(profile.total("seconds", level=level) for level in profile.levels) == pytest.approx(total)
    assert profile.total("parameters") == sum(p.numel() for p in network.parameters())
    assert profile.parameters["norm"] == 2 * WIDTH


def test_ledgers_and_block_costs_count_attention_on_the_cpu():
    network = Mixed().eval().requires_grad_(False)
    with Ledger(flops=True) as ledger, torch.no_grad():
        network(X)
    assert ledger.flops == sum(FLOPS.values())
    (share,), rest = block_costs(network, [Block("enter", ("enter",))], X)
    assert share == pytest.approx(2 * N * TOKENS * WIDTH * 3 * 9 / sum(FLOPS.values()))
    assert share + rest == pytest.approx(1)


def test_the_network_is_left_as_it_was_and_gives_what_it_gave():
    network = Mixed().eval().requires_grad_(False)
    with torch.no_grad():
        before = network(X)
        profile_network(network, X, repeat=1)
        assert torch.equal(network(X), before)
    assert not [name for name, module in network.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize(
    ("operator", "category"),
    [
        ("aten::conv1d", "convolution"),
        ("aten::_slow_conv2d_forward", "convolution"),
        ("aten::mkldnn_convolution", "convolution"),
        ("aten.convolution", "convolution"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::_softmax", "attention"),
        ("aten.bmm", "attention"),
        ("aten::addmm", "linear"),
        ("aten::linear", "linear"),
        ("aten::native_group_norm", "norm"),
        ("aten::cudnn_batch_norm", "norm"),
        ("aten::rms_norm", "norm"),
        ("aten::mish", "activation"),
        ("aten::silu_", "activation"),
        ("aten::add", None),
        ("aten::contiguous", None),
        ("aten::clone", None),
        ("something of linear", None),
    ],
)
def test_operators_are_named_by_what_they_do(operator, category):
    assert category_of(operator) == category


def test_levels_are_found_for_lists_and_given_ones_are_checked():
    network = Mixed()
    assert [level.name for level in default_levels(network)] == ["enter", "norm", "parts.0", "parts.1", "leave"]
    with pytest.raises(InputError, match="no module called 'middle'"):
        profile_network(network, X, levels=[Block("middle", ("middle",))])
    with pytest.raises(InputError, match="repeat: found 0"):
        profile_network(network, X, repeat=0)


def test_the_digits_network_is_linear_layers_in_their_blocks():
    denoiser = load_model("shared/digits_denoiser").denoiser
    network = denoiser.network
    profile = profile_network(network, torch.zeros(4, 8, 8), torch.zeros(4), repeat=1)
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert profile.total("flops", category="linear") == sum(2 * 4 * m.in_features * m.out_features for m in layers)
    assert profile.total("flops", category="linear") == profile.total("flops")
    assert [name for name in profile.levels if name.startswith("blocks.")] == [f"blocks.{k}" for k in range(4)]


def test_the_command_prints_tables_and_writes_flat_numbers(tmp_path):
    path = tmp_path / "profile.json"
    words = ("--batch", "4", "--repeat", "1", "--device", "cpu", "--json", str(path))
    done = subprocess.run(
        [sys.executable, "-c", "from shared.cli import main; main()", "profile", "shared/digits_denoiser", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert all(category in done.stdout for category in CATEGORIES)
    numbers = json.loads(path.read_text())
    assert numbers["category.linear.flops"] == numbers["total.flops"] > 0
    assert numbers["call.ms"] > 0
    parts = [value for key, value in numbers.items() if key.startswith("level.") and key.count(".") >= 3]
    assert parts
    assert sum(numbers[f"level.blocks.{k}.linear.flops"] for k in range(4)) < numbers["total.flops"]


@pytest.mark.parametrize(
    ("words", "told"),
    [(("shared/no_such_model",), "shared/photo_unet"), (("shared/digits_denoiser", "--batch", "0"), "0")],
)
def test_bad_arguments_of_the_command_are_one_line_and_exit_code_2(words, told, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fewstep", "profile", *words, "--device", "cpu"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert told in capsys.readouterr().err

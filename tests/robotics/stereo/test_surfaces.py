"""The branch for glass and mirrors: what it is told, where its answer goes, its training beside a frozen network."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from robotics.stereo.cli import app
from robotics.stereo.config import StereoConfig
from robotics.stereo.crops import Crops
from robotics.stereo.estimation import EstimateSettings, estimate
from robotics.stereo.files import load_stereo, read_stereo, save_stereo
from robotics.stereo.looked import Looked
from robotics.stereo.model import StereoModel
from robotics.stereo.networks import StereoNetwork
from robotics.stereo.networks.surfaces import (
    LEAST,
    OFFSETS,
    PLACE,
    POINTER,
    POINTERS,
    PREFIX,
    SEEN,
    Surfaces,
    _Attention,
    _Pointers,
    told,
)
from robotics.stereo.onnx_export import SamplingGraph
from robotics.stereo.pair import Surface
from robotics.stereo.surfaces_training import SurfacesTrainer, SurfacesTraining
from robotics.stereo.training import StereoTraining
from shared.errors import InputError
from tests.robotics.stereo.test_cli import call
from tests.robotics.stereo.test_model import SHIFT, sample
from tests.robotics.stereo.test_networks import SMALL
from tests.robotics.stereo.volumes import say

WITH = SMALL.model_copy(update={"surfaces": (8, 32)})
SETTINGS = SurfacesTraining(
    name="robotics/test", channels=(8, 32), crop=(64, 128), crops=6, max_disparity=32, enlarged=0, steps=60, batch=2,
    warmup=5, learning_rate=1e-2, average=0.9, log_every=10,
)  # fmt: skip


def mirrored(seed: int):
    """A scene whose box is a mirror: it shows, in plain grey, the disparity of what is far behind the plane."""
    one = sample(seed)
    box = one.disparity_left == 2 * SHIFT
    left = one.pair.left.copy()
    left[box] = 200
    material = np.where(box, Surface.MIRROR, Surface.DIFFUSE).astype(np.uint8)
    raw = np.where(box, SHIFT, one.disparity_left).astype(np.float32)
    return replace(one, pair=replace(one.pair, left=left), material=material, raw=raw)


@pytest.fixture
def start(tmp_path):
    """A file of a network without a branch, at random."""
    torch.manual_seed(0)
    save_stereo(tmp_path / "start.safetensors", SMALL, StereoNetwork(SMALL).state_dict(), {"seed": 3})
    return read_stereo(tmp_path / "start.safetensors")


def test_scores_around_the_estimate_are_linear_between_entries_and_least_out_of_range():
    volume, fit = torch.randn(2, 1, 12, 2, 3)
    place = torch.full((1, 1, 2, 3), 5.25)
    maps = told(place, place + 2, torch.full_like(place, 0.5), volume, fit)
    assert maps.shape == (1, SEEN, 2, 3)
    torch.testing.assert_close(maps[0, :3, 0, 0], torch.tensor([5.25 / 16, 7.25 / 16, 0.5]))
    at = 5.25 + np.array(OFFSETS)
    for number, scores in enumerate((volume, fit)):
        found = maps[0, 3 + number * len(OFFSETS) :][: len(OFFSETS), 1, 2]
        logs = scores[0, :, 1, 2].log_softmax(0).numpy()
        expected = np.where(at <= 11.5, np.interp(at, np.arange(12), logs), LEAST)
        torch.testing.assert_close(found, torch.from_numpy(expected / 4 + 1).float())
    assert (told(place - 20, place, place, volume, fit)[0, 3:10] == LEAST / 4 + 1).all()
    assert told(place, place, place, volume[:, :1], fit[:, :1]).isfinite().all()  # a volume of one entry


def test_attention_is_the_softmax_of_scaled_products_and_sees_the_whole_map():
    torch.manual_seed(0)
    layer, x = _Attention(64), torch.randn(1, 64, 3, 5)
    with torch.no_grad():
        moved = x + layer.where(x)
        asked = layer.ask(moved).reshape(3, 2, 32, 15)
        weights = torch.einsum("hci,hcj->hij", asked[0], asked[1]).div(32**0.5).softmax(-1)
        answer = torch.einsum("hij,hcj->hci", weights, asked[2]).reshape(1, 64, 3, 5)
        moved = moved + layer.answer(answer)
        torch.testing.assert_close(layer(x), moved + layer.think(moved), rtol=1e-4, atol=1e-5)
        other = x.clone()
        other[..., 2, 4] += 1
        assert float((layer(x) - layer(other))[..., 0, 0].abs().max()) > 1e-4


def plain(network: StereoNetwork) -> StereoNetwork:
    """The same network without its branch."""
    other = StereoNetwork(SMALL).eval()
    other.load_state_dict({name: value for name, value in network.state_dict().items() if PREFIX not in name})
    return other


def test_a_share_that_cannot_be_and_a_model_without_a_branch_are_told():
    one = sample(0)
    model = StereoModel(SMALL, StereoNetwork(SMALL).eval())
    for glass, message in ((1.0, "share from 0 to below 1"), (-0.1, "share from 0"), (0.1, "without a branch")):
        with pytest.raises(InputError, match=message):
            model.look(one.pair.left, one.pair.right, None, 32, glass)
        with pytest.raises(InputError, match=message):
            SamplingGraph(model, (128, 64), 32, 1, glass)


def test_an_estimate_asks_the_branch_for_both_maps(monkeypatch):
    torch.manual_seed(0)
    network = StereoNetwork(WITH).eval().requires_grad_(False)
    say(network, (1, 2), monkeypatch)
    network.surfaces.leave[-1].bias[:2] = torch.tensor([30.0, float(np.arcsinh(1.5 / 4))])
    model, one = StereoModel(WITH, network), sample(0)
    found = [
        estimate(
            model, one.pair, EstimateSettings(samples=1, first="none", max_disparity=32, glass=glass),
            generator=torch.Generator().manual_seed(0),
        )
        for glass in (0.0, 0.3)
    ]  # fmt: skip
    for name in ("dense", "right"):
        apart = getattr(found[1], name) - getattr(found[0], name)
        assert float(np.median(apart)) == pytest.approx(6, abs=0.5)


def test_pointers_carry_the_estimate_of_the_place_whose_key_answers():
    """Features one-hot in the row, keys that answer to row 4: every row is told the estimate there."""
    layer = _Pointers(8)
    x = torch.zeros(1, 8, 8, 3)
    x[0, range(8), range(8)] = 1.0
    place = torch.rand(1, 1, 8, 3)
    with torch.no_grad():
        layer.towards.zero_()
        layer.ask.weight.zero_()
        layer.ask.bias.zero_()
        torch.testing.assert_close(layer(x, place), place[:, :, ::2].mean(2, keepdim=True).expand(1, POINTERS, 8, 3))
        layer.ask.bias[: POINTERS * POINTER] = 1.0  # queries
        layer.ask.weight[POINTERS * POINTER :, 4] = 30.0
        torch.testing.assert_close(layer(x, place), place[:, :, 4:5].expand(1, POINTERS, 8, 3))
        layer.ask.weight[POINTERS * POINTER :, 4] = 0.5
        scores = torch.tensor([0.0, 0.0, POINTER * 0.5 / POINTER**0.5, 0.0]).softmax(0)  # of rows 0, 2, 4, 6
        expected = (scores[:, None] * place[0, 0, ::2]).sum(0)
        torch.testing.assert_close(layer(x, place), expected.expand(1, POINTERS, 8, 3))
        layer.ask.bias.zero_()
        layer.towards[1] = -1e4  # the nearest alone: itself, of the even rows
        torch.testing.assert_close(layer(x, place)[:, :1, ::2], place[:, :, ::2])


def test_the_surface_lies_where_the_weights_say_at_the_estimate_or_along_its_column_or_its_row():
    torch.manual_seed(0)
    branch, maps = Surfaces((8, 32)), torch.randn(1, SEEN, 8, 12)
    place = PLACE * maps[:, :1]
    with torch.no_grad():
        for pointers in (branch.column, branch.row):
            pointers.towards.zero_()
            pointers.ask.weight.zero_()
            pointers.ask.bias.zero_()
        wanted = [place] + POINTERS * [place[:, :, ::2].mean(2, keepdim=True)]
        wanted += POINTERS * [place[..., ::2].mean(3, keepdim=True)]
        for number, expected in enumerate(wanted):
            branch.leave[-1].bias[2:] = torch.tensor([30.0 * (number == other) for other in range(len(wanted))])
            evidence, surface = branch(maps, torch.randn(1, 3, 32, 48))
            torch.testing.assert_close(surface, expected.expand_as(place), rtol=0, atol=1e-4)
            assert not evidence.any()
        branch.leave[-1].bias[1] = -1.0  # 4 sinh(1) nearer to the horizon
        _, moved = branch(maps, torch.randn(1, 3, 32, 48))
    torch.testing.assert_close(moved, surface - 4 * float(np.sinh(1)), rtol=0, atol=1e-4)


def test_an_untrained_branch_changes_nothing_and_a_sure_one_replaces_what_was_measured(monkeypatch):
    torch.manual_seed(0)
    network = StereoNetwork(WITH).eval()
    say(network, (2,), monkeypatch)
    left, right = torch.rand(2, 1, 3, 32, 48)
    first = torch.full((1, 1, 32, 48), 8.0)
    with torch.no_grad():
        network.upsample.leave.bias[1] = 30.0  # the given map passes wherever it was measured
        prepared = network.prepare(left, right, first, torch.ones_like(first), 8)
        x = torch.zeros(1, 1, 8, 12)
        torch.testing.assert_close(network.full(x, prepared, 0.3), first)
        # Everywhere a surface, 1.5 quarter pixels nearer: 4 sinh(0.367) = 1.5.
        network.surfaces.leave[-1].bias[:2] = torch.tensor([30.0, float(np.arcsinh(1.5 / 4))])
        torch.testing.assert_close(network.full(x, prepared, 0.3), first + 6, rtol=0, atol=1e-3)
        network.surfaces.leave[-1].bias[0] = 0.0  # no evidence: as likely as expected
        for share in (0.5, 0.1):
            # The estimate goes a share of the way, and the given map passes where there is no glass.
            found = network.full(x, prepared, share)
            torch.testing.assert_close(found, first + 6 * share**2, rtol=0, atol=1e-3)
        assert torch.equal(network.full(x, prepared), StereoNetwork.full(plain(network), x, prepared))


def test_sizes_that_cannot_be_are_refused():
    assert StereoConfig(surfaces=(8, 16, 24, 24, 32)).multiple == 64
    assert SMALL.multiple == 8
    for channels in ((8, 24), (12, 32)):
        with pytest.raises(ValidationError, match="multiples of 8"):
            StereoConfig(surfaces=channels)
        with pytest.raises(ValidationError, match="multiples of 8"):
            SurfacesTraining(name="robotics/test", channels=channels, crops=1, steps=1)
    with pytest.raises(ValidationError, match="train-surfaces"):
        StereoTraining(name="robotics/test", model=WITH, steps=1)


def test_training_finds_mirrors_by_their_look_leaves_the_rest_alone_and_goes_on_as_if_never_stopped(tmp_path, start):
    crops = Crops([mirrored(seed) for seed in range(3)])
    trainer = SurfacesTrainer(SETTINGS, start, crops, tmp_path / "whole")
    every = trainer.looked.batch(range(6))
    assert len(every.left.flatten(1).unique(dim=0)) == 6
    first = {name: float(value.detach()) for name, value in trainer.losses(every).items()}
    trainer.run()
    last = {name: float(value.detach()) for name, value in trainer.losses(every).items()}
    assert last["where"] < 0.5 * first["where"]
    assert last["alone"] < 0.7 * first["alone"]
    part = SurfacesTrainer(SETTINGS, start, crops, tmp_path / "part")
    part.run(stop_at=3)
    resumed = SurfacesTrainer(SETTINGS, start, crops, tmp_path / "part")
    assert resumed.step == 3
    resumed.run(stop_at=6)
    straight = SurfacesTrainer(SETTINGS, start, crops, tmp_path / "straight")
    straight.run(stop_at=6)
    for a, b in zip(resumed.network.parameters(), straight.network.parameters(), strict=True):
        assert torch.equal(a, b)
    trainer.export(tmp_path / "m.safetensors", origin={"data": [], "start": {"name": "start", "sha256": start.sha256}})
    made = read_stereo(tmp_path / "m.safetensors")
    assert made.config == WITH
    assert made.training["seed"] == 3
    assert made.training["surfaces"]["steps"] == 60
    assert all(torch.equal(made.tensors[name], value) for name, value in start.tensors.items())
    again = SurfacesTrainer(SETTINGS, made, crops, tmp_path / "again")
    assert (
        float(again.losses(every)["where"].detach()) < 0.5 * first["where"]
    )  # it begins with the branch that is there
    # What the frozen network says does not depend on the branch: a second stage need not look again.
    looks = sorted((tmp_path / "whole").glob("looked-*"))
    (tmp_path / "second").mkdir()
    for path in looks:
        (tmp_path / "second" / path.name).symlink_to(path)
    SurfacesTrainer(SETTINGS, made, crops, tmp_path / "second")
    assert all(path.is_symlink() for path in (tmp_path / "second").glob("looked-*"))
    with pytest.raises(InputError, match="another configuration"):
        SurfacesTrainer(SETTINGS.model_copy(update={"seed": 1}), start, crops, tmp_path / "part")


def test_what_it_learns_from_is_what_the_whole_model_draws(tmp_path, start):
    """The cached maps and estimate of a whole scene against `look` and `draw` of a model with the same branch."""
    one = sample(0)
    one = replace(one, material=np.full_like(one.material, Surface.DIFFUSE))
    one.material[:8] = Surface.MIRROR
    settings = SETTINGS.model_copy(update={"crops": 2, "raw": 0.0})
    trainer = SurfacesTrainer(settings, start, Crops([one]), tmp_path / "work")
    looked = trainer.looked.batch(range(2))
    model = StereoModel(WITH, StereoNetwork(WITH).eval())
    model.network.load_state_dict(start.tensors, strict=False)
    for left, place, maps in zip(looked.left, looked.place, looked.maps, strict=True):
        image = left.permute(1, 2, 0).numpy()
        gain = image.astype(float).sum() / one.pair.left.astype(float).sum()
        right = np.clip(gain * one.pair.right, 0, 255).round().astype(np.uint8)
        view = model.look(image, right, None, 32 - 4)  # two quarter pixels of margin make the same volume
        x = model.network.encode(place[None] - view.prepared.start)
        seen = model.network.seen(view.prepared.start + model.network.decode(x), view.prepared)
        apart = (seen[0] - maps.float()).abs()
        assert float((apart < 0.1).float().mean()) > 0.999  # but for the rounding of the images


def test_shares_of_a_place_weigh_the_losses(tmp_path, start):
    trainer = SurfacesTrainer(SETTINGS, start, Crops([mirrored(0)]), tmp_path / "work")
    place = torch.full((1, 1, 2, 4), 2.0)
    hard = torch.zeros_like(place)
    hard[..., 0] = 0.5
    truth = place + torch.tensor([1.0, 0.0, 0.0, 0.0])
    maps = torch.zeros(1, SEEN, 2, 4).half()
    maps[:, 0] = 2 / PLACE
    looked = Looked(maps, torch.zeros(1, 3, 8, 16).byte(), place, truth, hard)
    losses = {name: float(value.detach()) for name, value in trainer.losses(looked).items()}  # residual 0, no evidence
    assert losses["estimate"] == pytest.approx(2 * np.arcsinh(8) / 4, rel=1e-5)
    assert losses["alone"] == pytest.approx(np.arcsinh(8), rel=1e-5)
    q = trainer.share
    assert q == pytest.approx(trainer.looked.batch(range(6)).hard.double().mean())
    assert losses["where"] == pytest.approx(-(3.5 * np.log(1 - q) + 0.5 * np.log(q)) / 4, rel=1e-4)
    with pytest.raises(InputError, match="a share of 0 of glass"):
        SurfacesTrainer(SETTINGS, start, Crops([sample(0)]), tmp_path / "none")


def test_the_command_stops_goes_on_and_the_card_names_the_branch(tmp_path, make_scenes, start):
    scenes, output = make_scenes("a", 3, 0), tmp_path / "model.safetensors"
    config = tmp_path / "branch.yaml"
    config.write_text(yaml.safe_dump({**SETTINGS.model_dump(mode="json"), "steps": 4, "crops": 3, "log_every": 2}))
    save_stereo(
        start.path, SMALL, start.tensors,
        {"name": "robotics/boxes", "steps": 1, "of_steps": 1, "batch": 1, "crop": [32, 64], "learning_rate": 0.1,
         "average": 0.9, "seed": 3, "seconds": 1, "scenes": 1, "parameters": 5, "losses": {}},
    )  # fmt: skip
    given = ["train-surfaces", config, "--start", start.path, "--data", scenes, "-q", "-o", output]
    call(*given, "--steps", 2)
    assert "2 of 4 steps" in output.with_suffix(".md").read_text()
    assert call(*given, "--overwrite") == [str(output), str(output.with_suffix(".md"))]
    card = output.with_suffix(".md").read_text()
    assert "**Glass and mirrors**: a branch of" in card
    assert "% of them glass and mirrors, from 3 pairs: `a` (3 pairs of 128x64 pixels, seed 0); 4 of 4 steps" in card
    file = read_stereo(output)
    branch = [name for name in file.tensors if name.startswith(PREFIX)]
    assert len(branch) == len(Surfaces((8, 32)).state_dict())
    log = [json.loads(line)["step"] for line in (tmp_path / "model" / "log.jsonl").read_text().splitlines()]
    assert log == [2, 4]
    drawn = load_stereo(output)
    one = sample(5)
    view = drawn.look(one.pair.left, one.pair.right, one.raw, 32)
    assert drawn.draw(view, calls=1, generator=torch.Generator().manual_seed(0)).disparity.isfinite().all()
    judged = tmp_path / "judged.safetensors"
    settings = ["--samples", 1, "--max-disparity", 32, "--glass", 0.05]
    told = CliRunner().invoke(
        app, ["calibrate", str(output), "--data", str(scenes), "-o", str(judged), "-q", *map(str, settings)]
    )
    assert "trained on scenes of seed 0" in told.stderr  # those of the branch
    assert read_stereo(judged).fitted.settings["glass"] == 0.05
    assert read_stereo(judged).plain().fitted is None
    call("calibrate", start.path, "--data", scenes, "-o", tmp_path / "plain.safetensors", "-q", *settings[:4])
    for begin, kept in ((judged, False), (tmp_path / "plain.safetensors", True)):
        again = tmp_path / f"{begin.stem}_again.safetensors"
        call("train-surfaces", config, "--start", begin, "--data", scenes, "-q", "-o", again, "--steps", 1)
        assert (read_stereo(again).fitted is not None) == kept
    # Training of the whole network may begin with a model that has a branch; it is left behind.
    whole = tmp_path / "whole.yaml"
    values = {"name": "robotics/boxes", "model": SMALL.model_dump(mode="json"), "crop": [32, 64], "max_disparity": 32}
    whole.write_text(yaml.safe_dump({**values, "steps": 1, "batch": 1}))
    more = tmp_path / "more.safetensors"
    call("train", whole, "--start", output, "--data", scenes, "-q", "-o", more)
    assert read_stereo(more).config == SMALL
    # Other settings of the crops: what is in the folder is of no use.
    (tmp_path / "model" / "checkpoint.safetensors").unlink()
    config.write_text(config.read_text().replace("max_disparity: 32.0", "max_disparity: 24.0"))
    with pytest.raises(InputError, match="crops of other scenes or settings"):
        call(*given, "--overwrite")
    config.write_text(config.read_text().replace("- 128", "- 124"))
    with pytest.raises(InputError, match="multiples of 8"):
        call(*given, "--overwrite")

"""Training: the fold against its definition, losses of exact networks, resuming bit for bit, files, cards, commands."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

pytest.importorskip("monai")
pytest.importorskip("einops")
nibabel = pytest.importorskip("nibabel")

from medical.brain.cli import app  # noqa: E402
from medical.brain.conditions import ConditionEmbedding, encoded, guided, told  # noqa: E402
from medical.brain.config import BrainConfig, Condition  # noqa: E402
from medical.brain.files import load_brain  # noqa: E402
from medical.brain.heads import HeadSet  # noqa: E402
from medical.brain.model import PREDICTIONS, BrainModel, Sampling, brain_process  # noqa: E402
from medical.brain.network import brain_network, haar, unhaar  # noqa: E402
from medical.brain.training import BrainTrainer, BrainTraining  # noqa: E402
from shared.errors import InputError  # noqa: E402
from shared.predictions import MIXTURES, Prediction  # noqa: E402
from tests.medical.brain.small_head import head  # noqa: E402

SIZE = (8, 8, 8)
VENTRICLES, CONTRAST = (
    Condition(name="ventricles_cm3", between=(0, 40)),
    Condition(name="contrast", words=("T1w", "T2w")),
)


def tiny(strategy: str = "velocity", **more) -> BrainConfig:
    values = {
        "channels": (8, 8), "attention": (False, False), "blocks": 1, "size": SIZE, "spacing_mm": 4, "fold": "haar",
        "conditions": (VENTRICLES, CONTRAST), **more,
    }  # fmt: skip
    return BrainConfig(strategy=strategy, **values)


def heads(count: int = 12) -> HeadSet:
    """Volumes of one number each, +-0.5, told by ventricles and contrast."""
    signs = [1 if k % 2 else -1 for k in range(count)]
    x = 0.5 * torch.tensor(signs).half()[:, None, None, None].expand(-1, *SIZE)
    numbers = {"ventricles_cm3": tuple(20.0 + 15 * sign for sign in signs)}
    return HeadSet(x.clone(), ("sub-1",) * count, numbers, {"contrast": ("T1w",) * count})


def settings(**more) -> BrainTraining:
    source = {"files": "*_dseg.nii.gz", "kind": "labels", "licence": "CC0"}
    values = {"name": "medical/tiny", "model": tiny(), "data": [source], "steps": 6, "batch": 2, "log_every": 2, **more}
    return BrainTraining.model_validate(values)


def test_the_fold_is_the_orthonormal_haar_transform() -> None:
    x = torch.randn(2, 1, 4, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    folded = haar(x)
    assert folded.shape == (2, 8, 2, 3, 4)
    torch.testing.assert_close(unhaar(folded), x)
    torch.testing.assert_close(folded.square().sum(), x.square().sum())
    blocks = x.unfold(2, 2, 2).unfold(3, 2, 2).unfold(4, 2, 2)[:, 0]  # (N, x, y, z, 2, 2, 2)
    torch.testing.assert_close(folded[:, 0], blocks.sum((-3, -2, -1)) / 8**0.5)
    pywt = pytest.importorskip("pywt")
    bands = pywt.dwtn(x[0, 0].numpy(), "haar")
    found = {
        band: min(float(np.abs(np.abs(bands[band]) - folded[0, k].abs().numpy()).max()) for k in range(8))
        for band in bands
    }
    assert max(found.values()) < 1e-12


@pytest.mark.parametrize("strategy", list(PREDICTIONS))
def test_the_exact_network_has_no_loss_and_another_has_its_error(strategy: str, tmp_path: Path) -> None:
    """With x_0 = 0 everywhere eps is x / sigma: the network that says so has no loss, one off by d has d^2."""
    nothing = HeadSet(torch.zeros((4, *SIZE)).half(), ("a",) * 4, {}, {})
    trainer = BrainTrainer(settings(model=tiny(strategy, conditions=())), nothing, None, tmp_path)
    t = trainer._levels(4, np.random.default_rng(0))
    prediction: Prediction = PREDICTIONS[trainer.settings.model.strategy]
    alpha, sigma = trainer.process.alpha(t), trainer.process.sigma(t)
    of_noise = (MIXTURES[prediction](alpha, sigma)[1] / sigma).float()[:, None, None, None, None]
    off = 0.3

    def losses(offset: float) -> torch.Tensor:
        source = np.random.default_rng(1)
        return trainer.losses(torch.zeros(4, 1, *SIZE), t, None, source, lambda x, times: of_noise * x + offset)

    assert float(losses(0.0).max()) < 1e-9
    torch.testing.assert_close(losses(off).float(), torch.full((4,), off**2), rtol=1e-3, atol=1e-5)


def test_min_snr_weighs_the_error_of_x0_alike_for_every_prediction(tmp_path: Path) -> None:
    nothing = HeadSet(torch.zeros((4, *SIZE)).half(), ("a",) * 4, {}, {})
    t = torch.tensor([0.05, 0.2, 0.5, 0.9], dtype=torch.float64)
    process = brain_process("noise")
    alpha, sigma = (of(t)[:, None, None, None, None] for of in (process.alpha, process.sigma))
    for strategy in ("noise", "clean", "velocity", "flow"):
        trainer = BrainTrainer(settings(model=tiny(strategy, conditions=()), min_snr=5), nothing, None, tmp_path)
        c0, c1 = MIXTURES[PREDICTIONS[trainer.settings.model.strategy]](alpha, sigma)

        def network(x: torch.Tensor, times: torch.Tensor, c0=c0, c1=c1) -> torch.Tensor:
            """One that holds x_0 to be 0.1 instead of 0."""
            return c0 * 0.1 + c1 * (x - alpha * 0.1) / sigma

        losses = trainer.losses(torch.zeros(4, 1, *SIZE), t, None, np.random.default_rng(1), network)
        expected = ((alpha / sigma) ** 2).clamp(max=5).flatten() * 0.01
        torch.testing.assert_close(losses.double(), expected, rtol=1e-4, atol=1e-6)


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole = BrainTrainer(settings(), heads(), heads(4), tmp_path / "whole")
    whole.run()
    BrainTrainer(settings(), heads(), heads(4), tmp_path / "parts").run(stop_at=3)
    parts = BrainTrainer(settings(), heads(), heads(4), tmp_path / "parts")
    assert parts.step == 3
    parts.run()
    for name, value in whole.average.average.items():
        assert torch.equal(value, parts.average.average[name]), name
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert {"loss", "seen", "held_out"} <= lines[0].keys()
    others = replace(heads(), subjects=("sub-2",) * 12)
    for recipe, trained_on in ((settings(batch=3), heads()), (settings(), others)):
        with pytest.raises(InputError, match="another configuration"):
            BrainTrainer(recipe, trained_on, None, tmp_path / "parts")


def test_a_batch_is_heads_as_they_are_or_with_left_and_right_exchanged(tmp_path: Path, monkeypatch) -> None:
    x = torch.randn(1, *SIZE, generator=torch.Generator().manual_seed(0)).half()
    seen = []
    for mirror in (True, False):
        trainer = BrainTrainer(
            settings(batch=32, mirror=mirror, model=tiny(conditions=())), HeadSet(x, ("a",), {}, {}), None, tmp_path
        )  # fmt: skip
        original = trainer.losses
        monkeypatch.setattr(trainer, "losses", lambda x0, *rest, of=original: seen.append(x0) or of(x0, *rest))
        trainer.train_step()
    plain, turned = (seen[0] == x.float()).flatten(1).all(1), (seen[0] == x.float().flip(1)).flatten(1).all(1)
    assert bool((plain ^ turned).all())
    assert 4 < int(turned.sum()) < 28
    assert bool((seen[1] == x.float()).all())


@pytest.mark.parametrize(("strategy", "lowest", "highest"), [("velocity", 0.001, 1.0), ("rflow", 0.001, 0.999)])
def test_levels_are_the_entries_of_the_table_alike_often(strategy: str, lowest, highest, tmp_path: Path) -> None:
    trainer = BrainTrainer(settings(model=tiny(strategy)), heads(), None, tmp_path)
    t = trainer._levels(40000, np.random.default_rng(0))
    assert (float(t.min()), float(t.max())) == (lowest, highest)
    assert float(t.mean()) == pytest.approx(0.5, abs=0.01)
    recipe = settings(model=tiny(strategy), levels="logit_normal", logit_mean=-1.2, logit_std=0.5)
    t = (
        BrainTrainer(recipe, heads(), None, tmp_path / "other")
        ._levels(40000, np.random.default_rng(0))
        .clamp(max=0.9995)
    )
    logit = torch.log(t / (1 - t))
    assert float(logit.mean()) == pytest.approx(-1.2, abs=0.02)
    assert float(logit.std()) == pytest.approx(0.5, abs=0.02)


def test_all_conditions_are_hidden_of_one_share_of_heads_and_each_of_the_same_share_of_the_rest(tmp_path: Path) -> None:
    trainer = BrainTrainer(settings(unknown=0.3), heads(), None, tmp_path)
    hidden = trainer._hidden(torch.arange(20000) % 12, np.random.default_rng(0)).isnan()
    assert float(hidden.all(1).float().mean()) == pytest.approx(0.3 + 0.7 * 0.3**2, abs=0.02)
    assert float(hidden.float().mean()) == pytest.approx(0.3 + 0.7 * 0.3, abs=0.02)


def test_a_trained_network_draws_what_it_is_told(tmp_path: Path) -> None:
    """Two kinds of volumes, -0.5 with ventricles of 5 and 0.5 with 35: told or not."""
    recipe = settings(
        steps=150, batch=16, learning_rate=4e-3, warmup=10, average=0.95, log_every=150, checkpoint_minutes=10,
        model=tiny(conditions=(VENTRICLES,), channels=(16, 16), groups=2),  # a group of one channel has no mean
    )  # fmt: skip
    trainer = BrainTrainer(recipe, heads(), None, tmp_path)
    trainer.run()
    trainer.export(tmp_path / "tiny.safetensors", half=True)
    model = load_brain(tmp_path / "tiny.safetensors")

    def means(count: int, **told_of) -> list[float]:
        generators = (torch.Generator().manual_seed(seed) for seed in range(count))
        return [float(model.draw(sampling=Sampling(steps=16), generator=g, **told_of).mean()) for g in generators]

    assert min(means(3, conditions={"ventricles_cm3": 35})) > 0.3
    assert max(means(3, conditions={"ventricles_cm3": 5})) < -0.3
    free = means(8)
    assert min(free) < -0.3
    assert max(free) > 0.3


def test_conditions_are_encoded_over_their_range_and_may_be_unknown() -> None:
    config = tiny()
    torch.testing.assert_close(encoded(config, {"ventricles_cm3": 30}), torch.tensor([[0.5, math.nan]]), equal_nan=True)
    torch.testing.assert_close(encoded(config, {"contrast": "T2w"}), torch.tensor([[math.nan, 1.0]]), equal_nan=True)
    torch.testing.assert_close(
        told(VENTRICLES, [0, 90, math.nan]), torch.tensor([-1, math.nan, math.nan]), equal_nan=True
    )
    for given, match in (({"age": 3}, "age"), ({"contrast": "CT"}, "CT"), ({"ventricles_cm3": 60}, "0 to 40")):
        with pytest.raises(InputError, match=match):
            encoded(config, given)
    torch.manual_seed(0)
    embedding = ConditionEmbedding(config.conditions, 16)
    torch.nn.init.normal_(embedding.out.weight)
    rows = torch.tensor([[0.1, 0.0], [0.1, 1.0], [0.6, 0.0], [math.nan, 0.0], [math.nan, math.nan]])
    vectors = embedding(rows).detach()
    assert bool(vectors.isfinite().all())
    assert float(torch.pdist(vectors).min()) > 1e-3


def test_guidance_extrapolates_from_the_unconditional_estimate() -> None:
    base, aim = (lambda x, t: 0 * x + 1), (lambda x, t: 0 * x + 3)
    x = torch.zeros(2)
    for scale, value in ((0.0, 1), (1.0, 3), (2.5, 6)):
        assert torch.equal(guided(aim, base, scale)(x, 0.5), torch.full((2,), float(value)))


def test_untrained_conditions_change_nothing_and_medforjs_network_keeps_its_names() -> None:
    torch.manual_seed(0)
    network = brain_network(tiny()).eval()
    torch.nn.init.normal_(network.unet.out[2].conv.weight)
    x, times = torch.randn(1, 1, *SIZE), torch.tensor([500.0])
    torch.testing.assert_close(network(x, times), network(x, times, encoded(tiny(), {"ventricles_cm3": 3})))
    assert "conv_in.conv.weight" in brain_network(tiny(fold="none", conditions=())).state_dict()
    with pytest.raises(ValueError, match="multiples of 4"):
        tiny(size=(8, 10, 8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "data"
    place.mkdir()
    for number in (1, 2):
        image = nibabel.Nifti1Image(head((24, 28, 24), 4.0).astype(np.int16), np.diag([-4.0, -4.0, 4.0, 1.0]))
        image.to_filename(place / f"sub-{number}_dseg.nii.gz")
    volume = nibabel.Nifti1Image(np.full((8, 8, 8), 32768, np.uint16), np.diag([-16.0, -16.0, 16.0, 1.0]))
    volume.to_filename(place / "sub-3_T1w.nii.gz")
    (place / "participants.tsv").write_text("participant_id\tventricles_cm3\tsex\nsub-3\t12.5\tF\n")
    return place


CONFIG = """
name: medical/tiny
model: {strategy: flow, channels: [8, 8], attention: [false, false], blocks: 1, size: [8, 8, 8], spacing_mm: 16,
  fold: haar, conditions: [{name: ventricles_cm3, between: [0, 40]}]}
data:
  - {files: "*_dseg.nii.gz", kind: labels, licence: CC0-test}
  - {files: "*_T1w.nii.gz", kind: volumes, licence: PDDL-test}
held_out: [sub-2]
heads: 4
steps: 2
batch: 2
"""


def test_the_commands_train_a_model_and_draw_from_it(folder: Path, tmp_path: Path) -> None:
    config, model = tmp_path / "tiny.yaml", tmp_path / "model.safetensors"
    config.write_text(CONFIG)
    arguments = ["train", str(config), "--data", str(folder), "-o", str(model), "--half", "-q"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    card = model.with_suffix(".md").read_text()
    for fact in ("CC0-test", "PDDL-test", "sub-1", "held_out", "simulated", "Not for diagnosis"):
        assert fact in card, fact
    loaded = load_brain(model)
    assert isinstance(loaded, BrainModel)
    assert loaded.config.fold == "haar"
    told_of = ["--condition", "ventricles_cm3=10", "--guidance", "1.5"]
    draw = ["generate", "--model", str(model), "-o", str(tmp_path / "out"), "--steps", "3", "-q"]
    result = CliRunner().invoke(app, [*draw, *told_of])
    assert result.exit_code == 0, result.output
    sidecar = json.loads((tmp_path / "out/sub-syn001/anat/sub-syn001_T1w.json").read_text())
    assert (sidecar["conditions"], sidecar["guidance"]) == ({"ventricles_cm3": 10.0}, 1.5)
    again = CliRunner().invoke(app, draw)  # other settings, same folder
    assert isinstance(again.exception, InputError)
    assert "conditions" in str(again.exception)


def test_a_training_may_begin_with_a_model_of_the_same_configuration(folder: Path, tmp_path: Path) -> None:
    config, first, second = tmp_path / "tiny.yaml", tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    config.write_text(CONFIG)
    other = tmp_path / "low.yaml"
    other.write_text(
        CONFIG.replace("medical/tiny", "medical/low").replace("steps: 2", "steps: 1\nlearning_rate: 1.0e-12")
    )
    words = ["--data", str(folder), "-q"]
    assert CliRunner().invoke(app, ["train", str(config), "-o", str(first), *words]).exit_code == 0
    made = CliRunner().invoke(app, ["train", str(other), "-o", str(second), "--start", str(first), *words])
    assert made.exit_code == 0, made.output
    before, after = load_brain(first), load_brain(second)
    for name, value in before.network.state_dict().items():
        torch.testing.assert_close(after.network.state_dict()[name], value, rtol=0, atol=1e-6)
    assert after.training["begun_with"]["sha256"] == before.sha256
    card = second.with_suffix(".md").read_text()
    assert card.index("`medical/tiny`: 2 of 2 steps") < card.index("`medical/low`: 1 of 1 steps")
    other.write_text(other.read_text().replace("channels: [8, 8]", "channels: [8, 16]"))
    wrong = CliRunner().invoke(
        app, ["train", str(other), "-o", str(second), "--start", str(first), "--overwrite", *words]
    )
    assert "another configuration" in str(wrong.exception)


def test_prepared_volumes_and_their_table_are_read(folder: Path, tmp_path: Path) -> None:
    from medical.brain.heads import Source, found_files, load_heads

    files = found_files(folder, [Source(files="*_T1w.nii.gz", kind="volumes", licence="PDDL")])
    grid = {"count": 1, "spacing_mm": 16.0, "contrasts": ("T1w",), "seed": 0}
    made = load_heads(files, tmp_path / "cache.safetensors", size=(8, 8, 8), **grid)
    assert made.numbers["ventricles_cm3"] == (12.5,)
    assert made.words["sex"] == ("F",)
    assert float(made.x.float().abs().max()) < 1e-4
    again = load_heads(files, tmp_path / "cache.safetensors", size=(8, 8, 8), **grid)
    assert torch.equal(again.x, made.x)
    with pytest.raises(InputError, match="8x8x8 voxels of 16 mm"):
        load_heads(files, tmp_path / "other.safetensors", size=(16, 8, 8), **grid)


def test_refuses_configurations_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    from medical.brain.training import brain_trainer

    for change, match in (
        ({"held_out": ["sub-9"]}, "sub-9"),
        ({"held_out": ["sub-1", "sub-2"]}, "only held-out"),
        ({"data": [{"files": "no*.nii", "kind": "labels", "licence": "x"}]}, "no file no"),
        ({"heads": 1, "model": tiny(conditions=(Condition(name="age", between=(0, 99)),))}, "age"),
    ):
        recipe = settings(**{"data": [{"files": "*_dseg.nii.gz", "kind": "labels", "licence": "CC0"}], **change})
        with pytest.raises(InputError, match=match):
            brain_trainer(recipe, folder, tmp_path)

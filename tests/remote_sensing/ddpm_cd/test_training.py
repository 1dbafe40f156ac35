"""Pretraining, training of the head, and distillation."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from remote_sensing.ddpm_cd.change_training import ChangeTrainer, ChangeTraining, student_of
from remote_sensing.ddpm_cd.config import detector_from_data, from_data
from remote_sensing.ddpm_cd.crops import PairCrops, PairScene, draw_crops
from remote_sensing.ddpm_cd.files import load_detector, load_diffusion
from remote_sensing.ddpm_cd.pretraining import Pretraining, PretrainingTrainer
from shared.errors import InputError

UNET = {"channels": 8, "multipliers": [1, 2], "groups": 4, "fold": 2, "bands": 2, "dropout": 0.1}
LIGHT = {
    "preset": "light",
    "diffusion": {"unet": UNET, "high": [100]},
    "head": {"timesteps": [50, 200], "hidden": 8},
}
DETECTOR = detector_from_data(LIGHT)
AUGMENT = {"paste": 0.5, "both": 0.5, "same": 0.2, "warp": 0.5, "shift": 1.0, "light": 0.2, "blur": 0.8}
LOOP = {"crop": 16, "batch": 8, "steps": 4, "rate": 3e-3, "warm_up": 2, "average": 0.9, "weight_decay": 0.0}


def scene(seed: int) -> np.ndarray:
    """Two bands of smooth waves, 0 to 100."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:40, :48]
    wave = np.sin(0.3 * x + rng.uniform(0, 6)) + np.cos(0.2 * y + rng.uniform(0, 6))
    return (50 + 20 * np.stack([wave, -wave])).astype(np.uint8)


def pair(seed: int) -> PairScene:
    """A scene and the same with bright new squares."""
    rng = np.random.default_rng(100 + seed)
    before, label = scene(seed), np.zeros((40, 48), np.uint8)
    for row, column in rng.integers(0, 34, (3, 2)):
        label[row : row + 6, column : column + 6] = 1
    after = np.where(label, 95, before)
    label[:4] = 255
    return PairScene(before, after, label)


def pretraining(**changes) -> Pretraining:
    return from_data(Pretraining, {**LOOP, "diffusion": DETECTOR.diffusion, **changes})


def training(**changes) -> ChangeTraining:
    return from_data(ChangeTraining, {**LOOP, "detector": DETECTOR, **changes})


@pytest.fixture(scope="module")
def pairs() -> list[PairScene]:
    return [pair(seed) for seed in range(4)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("trained")
    settings = training(steps=45, rate=2e-2, change_weight=5.0, unet_share=0.3)
    trainer = ChangeTrainer(settings, pairs, folder, held_out=[pair(50), pair(51)])
    return trainer, trainer.validate(), trainer.run()


def test_pretraining_lowers_the_error_on_scenes_it_never_saw(tmp_path):
    trainer = PretrainingTrainer(
        pretraining(steps=45, rate=1e-2), [scene(k) for k in range(4)], tmp_path, held_out=[scene(9)]
    )
    before = trainer.validate()
    unet, config, facts = load_diffusion(trainer.run())
    after = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])
    assert after["held_out_400"] < 0.6 < 1 < before["held_out_400"]  # 1 says nothing
    assert (config, facts["steps"]) == (DETECTOR.diffusion, 45)
    x, level = torch.randn(1, 2, 16, 16), torch.tensor([0.8])
    torch.testing.assert_close(unet(x, level), trainer.averaged()(x, level), rtol=1e-2, atol=1e-2)


def test_a_trained_detector_finds_what_changed_elsewhere(trained):
    trainer, before, path = trained
    after = trainer.validate()
    assert after["f1"] > 0.8 > before["f1"]
    assert after["iou"] == pytest.approx(after["f1"] / (2 - after["f1"]))
    detector, facts = load_detector(path)
    assert facts["pairs"] == 4
    unseen = pair(60)
    found = detector.probability(*(torch.from_numpy(date)[None] for date in (unseen.before, unseen.after)))[0]
    assert float(found[unseen.label == 1].mean()) > 0.5 > 5 * float(found[unseen.label == 0].mean())


def test_the_pretrained_network_is_kept_unless_asked_and_then_learns_too(tmp_path, pairs):
    unet = PretrainingTrainer(pretraining(), [scene(0)], tmp_path / "p").unet
    frozen = ChangeTrainer(training(), pairs, tmp_path / "f", unet=unet)
    tuned = ChangeTrainer(training(unet_share=0.1), pairs, tmp_path / "t", unet=unet)
    for trainer in (frozen, tuned):
        trainer.train_step()
    expected = unet.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in frozen.detector.unet.state_dict().items())
    assert not torch.equal(tuned.detector.unet.state_dict()["init_conv.weight"], expected["init_conv.weight"])
    deeper = detector_from_data({**LIGHT, "diffusion": {**LIGHT["diffusion"], "unet": {**UNET, "blocks": 2}}})
    with pytest.raises(InputError, match="pretrained network"):
        ChangeTrainer(training(detector=deeper), pairs, tmp_path / "x", unet=unet)


@pytest.mark.parametrize("kind", ["pretraining", "head", "all"])
def test_a_resumed_training_is_the_uninterrupted_one(tmp_path, pairs, kind):
    def trainer(folder, **changes):
        if kind == "pretraining":
            return PretrainingTrainer(pretraining(**changes), [scene(0), scene(1)], tmp_path / folder)
        if kind == "all":
            changes |= {"unet_share": 1.0, "overlap": 0.5, "augment": AUGMENT}
        return ChangeTrainer(training(**changes), pairs, tmp_path / folder)

    whole = trainer("whole")
    whole.run()
    first = trainer("parts")
    (tmp_path / "parts").mkdir()
    for _ in range(2):
        first.train_step()
    first.save()
    torch.rand(7)  # whatever else uses the global generator
    second = trainer("parts")
    assert second.step == 2
    second.run()
    for name, value in whole.average.average.items():
        assert torch.equal(value, second.average.average[name]), name
    assert any(
        not torch.equal(value, trainer("other", seed=1).average.average[name])
        for name, value in whole.average.average.items()
    )
    with pytest.raises(InputError, match="another batch"):
        trainer("parts", batch=4)
    with pytest.raises(InputError, match="another seed"):
        trainer("parts", seed=5)


def test_a_student_with_one_timestep_learns_its_teachers_map_without_labels(trained, tmp_path, pairs):
    teacher, _ = load_detector(trained[2])
    unlabelled = [PairScene(p.before, p.after) for p in pairs]
    config = student_of(teacher.config, 50)
    settings = training(detector=config, steps=40, rate=2e-2, unet_share=0.3)
    student = ChangeTrainer(settings, unlabelled, tmp_path, unet=teacher.unet, teacher=teacher)
    detector, facts = load_detector(student.run())
    assert facts["distilled"]
    unseen = [torch.from_numpy(date)[None] for date in (pair(60).before, pair(60).after)]
    maps = torch.stack([network.probability(*unseen).flatten() for network in (teacher, detector)])
    assert float(torch.corrcoef(maps)[0, 1]) > 0.8
    assert len(student.detector.head.state_dict()) < len(teacher.head.state_dict())
    with pytest.raises(InputError, match="no changed pixel"):
        ChangeTrainer(settings, unlabelled, tmp_path / "x", unet=teacher.unet)


def test_crops_of_both_dates_and_the_label_are_turned_together_and_hold_change_when_asked():
    place = np.arange(40 * 48).reshape(1, 40, 48)
    label = (place[0] == 777).astype(np.uint8)
    batch = PairCrops([PairScene(place, place + 5000, label)], 16, 0.999).draw(32, torch.Generator().manual_seed(0))
    assert torch.equal(batch.after, batch.before + 5000)
    assert torch.equal(batch.label, (batch.before[:, 0] == 777).to(torch.uint8))
    assert batch.label.flatten(1).any(1).sum() >= 30
    assert len({tuple(origin) for origin in batch.origins.tolist()}) == 32
    crops = draw_crops([place], 64, 16, torch.Generator().manual_seed(0))[:, 0]
    steps = {(int(crop[0, 1] - crop[0, 0]), int(crop[1, 0] - crop[0, 0])) for crop in crops}
    assert steps == {(a, b) for a, b in ((1, 48), (48, 1)) for a, b in ((a, b), (-a, b), (a, -b), (-a, -b))}


def test_wrong_training_data_are_told_in_one_line(tmp_path, pairs):
    good = pairs[0]
    assert good.label is not None
    wrong = {
        "at least 16": PairScene(good.before[:, :9], good.after[:, :9], good.label[:9]),
        "2 bands": PairScene(good.before[:1], good.after[:1], good.label),
        "one grid": PairScene(good.before, good.after, good.label[:, 1:]),
        "grey values": PairScene(good.before, good.after, np.where(good.label == 1, 128, 0)),
        "divided by 255": PairScene(good.before, good.after, np.where(good.label == 1, 255, 0)),
    }
    for message, bad in wrong.items():
        with pytest.raises(InputError, match=message):
            ChangeTrainer(training(), [bad], tmp_path)
    with pytest.raises(InputError, match="at least one"):
        PretrainingTrainer(pretraining(), [], tmp_path)

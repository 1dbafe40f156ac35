"""The prior's network, its training, and its files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from medical.reconstruction.posterior.cli import train_prior as command
from medical.reconstruction.posterior.config import PriorTraining
from medical.reconstruction.posterior.network import SliceUNet, SliceUNetConfig
from medical.reconstruction.posterior.operator import to_channels
from medical.reconstruction.posterior.prior import load_prior
from medical.reconstruction.posterior.slices import SlicePool, draw_truth, magnitude_scale, varied
from medical.reconstruction.posterior.training import PriorTrainer
from medical.simulation.protocol import Ranges
from medical.simulation.volumes import AnatomyCache, subjects
from shared.config import load_config
from shared.errors import InputError

CONFIG = PriorTraining(
    ranges=Ranges(matrix=(16, 16)), widths=(16, 16), embedding=16, batch=8, steps=6, warm_up=2,
    precision="float32", average=0.9,
)  # fmt: skip


def bars(count: int, generator: torch.Generator) -> torch.Tensor:
    """Images of one bright line at a random row, with a random phase: easy to tell from white noise."""
    images = torch.zeros(count, 16, 16, dtype=torch.complex64)
    rows = torch.randint(16, (count,), generator=generator)
    images[torch.arange(count), rows] = torch.polar(torch.ones(count), 6.28 * torch.rand(count, generator=generator))[
        :, None
    ]
    return to_channels(images)


def test_an_untrained_network_is_zero_and_takes_any_multiple_of_its_step():
    config = SliceUNetConfig(widths=(16, 32, 16), blocks=2)
    network = SliceUNet(config)
    assert config.multiple == 8
    for shape in ((16, 24), (40, 8)):
        x = torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(0))
        assert torch.equal(network(x, torch.zeros(2)), torch.zeros_like(x))


def test_training_lowers_the_denoising_error_below_the_best_linear_one():
    config = CONFIG.model_copy(update={"steps": 120, "rate": 3e-3, "warm_up": 20, "sigma_data": 0.18})
    trainer = PriorTrainer(config, bars, folder=_nowhere(), seed=0)
    images = bars(32, torch.Generator().manual_seed(5))
    before = trainer.validate(images)
    for _ in range(config.steps):
        trainer.train_step()
    after = trainer.validate(images)
    assert after["0.3"] < 0.6 * before["0.3"]
    assert after["0.1"] < 0.9 * before["0.1"]


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path):
    whole = PriorTrainer(CONFIG, bars, tmp_path / "whole", seed=3)
    whole.run()
    first = PriorTrainer(CONFIG, bars, tmp_path / "parts", seed=3)
    for _ in range(4):
        first.train_step()
    (tmp_path / "parts").mkdir()
    first.save()
    second = PriorTrainer(CONFIG, bars, tmp_path / "parts", seed=99)
    assert second.step == 4
    second.run()
    for name, value in whole.average.average.items():
        assert torch.equal(value, second.average.average[name]), name
    with pytest.raises(InputError, match="another batch"):
        PriorTrainer(CONFIG.model_copy(update={"batch": 4}), bars, tmp_path / "parts")


def test_an_exported_prior_denoises_like_the_trainer_and_says_what_it_is(tmp_path):
    trainer = PriorTrainer(CONFIG, bars, tmp_path, facts={"subjects": ["someone (CC BY)"]})
    path = trainer.run(bars(4, torch.Generator().manual_seed(0)))
    prior = load_prior(path)
    assert prior.facts.training["subjects"] == ["someone (CC BY)"]
    assert prior.facts.training["steps"] == CONFIG.steps
    network = SliceUNet(CONFIG.network).eval()
    network.load_state_dict(trainer.average.average)
    x, t = torch.randn(2, 2, 16, 24, generator=torch.Generator().manual_seed(1)), 0.02
    with torch.no_grad():
        torch.testing.assert_close(
            prior.denoiser()(x, t), trainer.denoiser.with_network(network)(x, t), atol=2e-3, rtol=1e-2
        )
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == CONFIG.steps
    with pytest.raises(InputError, match="kind"):
        load_prior("shared/digits_denoiser")


def test_the_pool_is_renewed_and_variation_keeps_what_a_prior_must_not_care_about():
    made = []

    def make(generator):
        made.append(float(generator.uniform()))
        return torch.full((4, 4), made[-1], dtype=torch.complex64)

    pool = SlicePool(make, size=6, start=4, fresh=2, seed=0)
    generator = torch.Generator().manual_seed(0)
    assert pool(3, generator).shape == (3, 4, 4)
    for _ in range(3):
        pool(1, generator)
    assert len(pool.images) == 6
    assert len(made) == 4 + 2 * 3
    kept = sorted(float(image[0, 0].real) for image in pool.images)
    assert kept == pytest.approx(sorted(made[-6:]))
    image = torch.randn(8, 8, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    turned = varied(image, generator)
    ratio = turned.abs().flatten().sort().values / image.abs().flatten().sort().values
    torch.testing.assert_close(ratio, ratio.mean().expand(64))


@pytest.mark.data
def test_training_slices_are_band_limited_complex_and_of_unit_scale(data_file, tmp_path):
    data = data_file("brain/open/sub-colin27_T1w.nii.gz").parents[1]
    train = tuple(subject for subject in subjects("train", data) if subject.name == "colin27")
    image = draw_truth(
        AnatomyCache(train, data, tmp_path), Ranges(matrix=(32, 48), pixel_mm=(6.0, 7.0)), np.random.default_rng(0)
    )
    assert image.shape == (32, 48)
    assert image.dtype == torch.complex64
    assert float(magnitude_scale(image[None])) == pytest.approx(1.0, rel=1e-4)
    assert float(image.imag.abs().max()) > 0.3
    assert float(image[:2, :2].abs().max()) < 0.2  # air


def test_the_command_trains_and_tells_wrong_configurations(tmp_path):
    app = Typer()
    app.command()(command)
    packaged = load_config("medical/slice_prior", PriorTraining)
    assert packaged.network.multiple == 8
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("widths: [60]\n")
    result = CliRunner().invoke(app, [str(wrong), str(tmp_path / "out"), "--device", "cpu"])
    assert isinstance(result.exception, InputError)
    assert "multiples of 16" in str(result.exception)
    with pytest.raises(ValueError, match=r"ranges\.matrix"):
        PriorTraining(ranges=Ranges(matrix=(20, 21)))


def _nowhere():
    from pathlib import Path

    return Path("/nonexistent")

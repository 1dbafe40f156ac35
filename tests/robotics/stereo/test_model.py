"""The stereo model around its network: sizes, seeds, guidance, video, files, training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.stereo_depth import Case, every_way
from robotics.stereo.calibrating import signs_and_errors
from robotics.stereo.crops import Crops
from robotics.stereo.estimation import EstimateSettings, estimate
from robotics.stereo.files import load_stereo, save_stereo
from robotics.stereo.guidance import Guidance, GuidanceWeights, photometric, smoothness
from robotics.stereo.model import StereoModel
from robotics.stereo.networks import StereoNetwork
from robotics.stereo.pair import StereoPair, StereoSample
from robotics.stereo.training import StereoTrainer, StereoTraining
from robotics.stereo.video import VideoStereo
from shared.errors import InputError
from tests.robotics.stereo.test_networks import SMALL
from tests.robotics.stereo.volumes import say

SHIFT = 6


def pair(seed: int = 0, height: int = 64, width: int = 96, shift: int = SHIFT) -> StereoPair:
    """A random texture, seen `shift` columns farther left by the right camera."""
    texture = np.random.default_rng(seed).integers(0, 256, (height // 2, width // 2 + shift, 3), dtype=np.uint8)
    wide = texture.repeat(2, 0).repeat(2, 1)[:, : width + shift]
    return StereoPair(np.ascontiguousarray(wide[:, :width]), np.ascontiguousarray(wide[:, shift:]))


@pytest.fixture
def model(monkeypatch) -> StereoModel:
    """An untrained model that finds `SHIFT`, so that it begins at any first map near it."""
    torch.manual_seed(0)
    network = StereoNetwork(SMALL).eval().requires_grad_(False)
    say(network, (1, 2), monkeypatch)
    return StereoModel(SMALL, network)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_any_size_works_and_the_same_seed_gives_the_same_map(model):
    one = pair(height=62, width=90)
    first = np.full((62, 90), 7.0, np.float32)
    view = model.look(one.left, one.right, first, 32)
    drawn = [model.draw(view, calls=2, samples=3, generator=seeded(seed)).disparity for seed in (0, 0, 1)]
    assert drawn[0].shape == (3, 62, 90)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    alone = model.draw(view, calls=2, samples=1, generator=seeded()).disparity
    assert alone.shape == (1, 62, 90)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"right": np.zeros((64, 90, 3), np.uint8)}, "right image"),
        ({"first": np.zeros((10, 10), np.float32)}, "first map"),
        ({"max_disparity": 0.0}, "max_disparity"),
        ({"max_disparity": float("nan")}, "max_disparity"),
    ],
)
def test_what_does_not_fit_is_one_clear_error(model, change, message):
    one = pair()
    given = {"left": one.left, "right": one.right, "first": None, "max_disparity": 32.0} | change
    with pytest.raises(InputError, match=message):
        model.look(**given)


def test_guidance_of_weight_zero_is_off_bit_for_bit_and_a_photometric_one_finds_the_shift(model):
    one = pair()
    view = model.look(one.left, one.right, np.full((64, 96), 7.0, np.float32), 32)
    plain = model.draw(view, calls=2, generator=seeded()).disparity
    off = model.draw(view, calls=2, generator=seeded(), guidance=Guidance(GuidanceWeights())).disparity
    assert torch.equal(plain, off)
    weights = GuidanceWeights(photometric=1.0, cap_px=1.0, rounds=3)
    found = model.draw(view, calls=4, generator=seeded(), guidance=Guidance(weights)).disparity[0, :, 12:]
    assert float((found - SHIFT).abs().median()) < 0.3 < float((plain[0, :, 12:] - SHIFT).abs().median())


def test_the_left_right_cost_draws_a_map_to_the_right_one_and_the_raw_cost_to_the_sensors(model):
    one = pair(height=62, width=90)  # the network sees them padded
    view = model.look(one.left, one.right, np.full((62, 90), 6.7, np.float32), 32)
    target = torch.full((62, 90), float(SHIFT))
    for weights, given in (
        (GuidanceWeights(left_right=1.0, cap_px=1.0, rounds=3), {"right": target}),
        (GuidanceWeights(raw=1.0, cap_px=1.0, rounds=3), {"raw": target}),
    ):
        found = model.draw(view, calls=4, generator=seeded(), guidance=Guidance(weights, **given)).disparity
        assert float((found[0, :, 12:] - SHIFT).abs().median()) < 0.3


def test_photometric_cost_is_zero_for_equal_images_and_smoothness_spares_edges():
    image = torch.rand(1, 3, 8, 8)
    assert float(photometric(image, image).max()) < 1e-6
    assert float(photometric(image, 1 - image).mean()) > 0.2
    step = torch.zeros(1, 1, 8, 8)
    step[..., 4:] = 2.0
    flat, edge = torch.full((1, 3, 8, 8), 0.5), (step / 2).expand(-1, 3, -1, -1)
    assert float(smoothness(step, flat).sum()) == pytest.approx(8 * 2 / 4)
    assert float(smoothness(step, edge).sum()) < 1e-3


def test_a_video_starts_warm_from_the_last_frame_and_cold_after_a_cut_or_a_reset(model):
    one, other = pair(), pair(5)
    first = np.full((64, 96), float(SHIFT), np.float32)
    video = VideoStereo(model, calls=2)
    assert not video.draw(one.left, one.right, first, 32, generator=seeded()).warm
    assert video.draw(one.left, one.right, first, 32, generator=seeded()).warm
    moved = pair(5, shift=20)
    cut = video.draw(moved.left, moved.right, np.full((64, 96), 20.0, np.float32), 32, generator=seeded())
    assert not cut.warm
    video.reset()
    assert not video.draw(other.left, other.right, first, 32, generator=seeded()).warm


def test_an_estimate_has_all_its_maps_and_mirroring_the_pair_gives_the_right_one(model):
    one = pair()
    settings = EstimateSettings(calls=2, samples=2, max_disparity=32)
    found = estimate(model, one, settings, generator=seeded())
    assert found.disparity.shape == found.right.shape == (64, 96)
    assert np.isfinite(found.disparity).all()
    assert found.confidence is None
    mirrored = StereoPair(*(np.ascontiguousarray(image[:, ::-1]) for image in (one.right, one.left)))
    again = estimate(model, mirrored, EstimateSettings(calls=2, samples=1, max_disparity=32), generator=seeded(3))
    assert np.abs(found.right[:, ::-1] - again.dense).mean() < 0.5
    with pytest.raises(InputError, match="raw"):
        estimate(model, one, EstimateSettings(first="raw"))
    with pytest.raises(InputError, match="threshold"):
        estimate(model, one, EstimateSettings(threshold=0.5))


def test_a_file_brings_the_model_back_and_refuses_another_kind(tmp_path):
    path = tmp_path / "m.safetensors"
    model = StereoModel(SMALL, StereoNetwork(SMALL).eval().requires_grad_(False))
    save_stereo(path, model.config, model.network.state_dict(), {"steps": 3})
    again = load_stereo(path)
    one = pair()
    drawn = [m.draw(m.look(one.left, one.right, None, 32), calls=1, generator=seeded()) for m in (model, again)]
    assert torch.equal(drawn[0].disparity, drawn[1].disparity)
    with pytest.raises(InputError, match="kind"):
        load_stereo("robotics/pusht_small")
    save_stereo(path, model.config.model_copy(update={"half": 16}), model.network.state_dict(), {})
    with pytest.raises(InputError, match="tensors of its configuration"):
        load_stereo(path)


def sample(seed: int) -> StereoSample:
    """A plane at `SHIFT` with a box in front of it at twice that, raw map with a hole."""
    source = np.random.default_rng(seed)
    height, width, near = 64, 128, 2 * SHIFT
    back, front = (source.integers(0, 256, (height // 2, width, 3)).repeat(2, 0).repeat(2, 1) for _ in range(2))
    left, right = back[:, near : near + width].copy(), back[:, near + SHIFT : near + SHIFT + width].copy()
    truth = np.full((height, width), float(SHIFT), np.float32)
    top, begin = 16, int(source.integers(40, 70))
    left[top : top + 32, begin : begin + 40] = front[:32, :40]
    right[top : top + 32, begin - near : begin - near + 40] = front[:32, :40]
    truth[top : top + 32, begin : begin + 40] = near
    raw = truth.copy()
    raw[top : top + 32, begin : begin + 40] = np.nan
    hidden = np.zeros((height, width), bool)
    images = left.astype(np.uint8), right.astype(np.uint8)
    return StereoSample(StereoPair(*images), truth, truth, hidden, np.zeros((height, width), np.uint8), raw)


def test_training_fills_what_the_raw_map_lacks_and_a_resumed_one_is_the_uninterrupted_one(tmp_path):
    settings = StereoTraining(
        name="robotics/test", model=SMALL, crop=(32, 64), max_disparity=32, steps=70, batch=4, warmup=5,
        learning_rate=5e-3, average=0.9, log_every=10,
    )  # fmt: skip
    crops = Crops([sample(seed) for seed in range(3)])
    trainer = StereoTrainer(settings, crops, tmp_path / "whole")
    first = {name: float(value.detach()) for name, value in trainer.losses(np.random.default_rng(0)).items()}
    trainer.run()
    last = {name: float(value.detach()) for name, value in trainer.losses(np.random.default_rng(0)).items()}
    assert last["full"] < 0.6 * first["full"]
    assert last["volume"] < 0.8 * first["volume"]
    part = StereoTrainer(settings, crops, tmp_path / "part")
    part.run(stop_at=3)
    resumed = StereoTrainer(settings, crops, tmp_path / "part")
    assert resumed.step == 3
    resumed.run(stop_at=6)
    straight = StereoTrainer(settings, crops, tmp_path / "straight")
    straight.run(stop_at=6)
    for a, b in zip(resumed.network.parameters(), straight.network.parameters(), strict=True):
        assert torch.equal(a, b)
    facts = resumed.export(tmp_path / "m.safetensors", half=True)
    assert facts["steps"] == 6
    load_stereo(tmp_path / "m.safetensors")
    with pytest.raises(InputError, match="another configuration"):
        StereoTrainer(settings.model_copy(update={"seed": 1}), crops, tmp_path / "part")


def test_no_truth_reaches_a_prediction_or_the_signs_of_its_confidence(model):
    one = sample(0)
    order = np.random.default_rng(0).permutation(one.disparity_left.size)
    shuffled = replace(one, **{
        name: getattr(one, name).ravel()[order].reshape(one.raw.shape)
        for name in ("disparity_left", "disparity_right", "occluded", "material")
    })  # fmt: skip
    settings = EstimateSettings(calls=1, samples=2, max_disparity=32)
    (signs, errors), (others, wrong) = (signs_and_errors(model, [it], 0, settings, 0) for it in (one, shuffled))
    np.testing.assert_array_equal(signs, others)
    assert wrong.mean() > errors.mean()
    cases = [Case("", it.pair, it.disparity_left, {}, 32.0) for it in (one, shuffled)]
    for way, other in zip(*(every_way(model, case).values() for case in cases), strict=True):
        np.testing.assert_array_equal(way, other)

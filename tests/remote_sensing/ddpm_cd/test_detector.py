"""From a pair of images to the probability of change."""

from __future__ import annotations

import pytest
import torch

from remote_sensing.ddpm_cd.cache import ReferenceCache
from remote_sensing.ddpm_cd.config import LIGHT, detector_from_data
from remote_sensing.ddpm_cd.detector import ChangeDetector
from remote_sensing.ddpm_cd.files import fingerprint, load_detector, save_detector
from shared.errors import InputError
from shared.ledger import Ledger

UNET = {"channels": 8, "multipliers": [1, 2], "groups": 4, "fold": 2, "bands": 5}
TINY = {
    "preset": "light",
    "diffusion": {"unet": UNET, "low": [0, 0, 0, 0, -1], "high": [1, 1, 1, 2, 1]},
    "head": {"timesteps": [20, 200], "hidden": 8},
}


def tiny(**changes) -> ChangeDetector:
    torch.manual_seed(0)
    detector = ChangeDetector(detector_from_data({**TINY, **changes})).eval()
    for p in detector.parameters():
        p.data = p.data * 2
    return detector


@pytest.fixture(scope="module")
def scene():
    """Two dates of five bands in the units of a sensor, (1, 5, 64, 96)."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(1, 5, 64, 96, generator=generator), torch.rand(1, 5, 64, 96, generator=generator)


@pytest.mark.parametrize("finest", [False, True])
def test_identical_images_do_not_differ_at_all_with_shared_noise(scene, finest):
    detector = tiny(head={**TINY["head"], "use_finest": finest})
    seen = []
    inner = detector.head.compare
    detector.head.compare = lambda a, b: (seen.extend(x - y for x, y in zip(a, b, strict=True)), inner(a, b))[1]
    both = torch.cat([scene[0], scene[1]])
    detector.probability(both, torch.cat([scene[0], scene[0]]))
    assert all(float(difference[0].abs().max()) == 0 for difference in seen)
    assert all(float(difference[1].abs().max()) > 0 for difference in seen)
    independent = tiny(noise="independent")
    with torch.no_grad():
        a, b = (independent.embed(independent.scaled(scene[0]), date=date) for date in (0, 1))
    assert all(float((x - y).abs().max()) > 0 for x, y in zip(a, b, strict=True))


def test_swapping_the_dates_gives_the_same_map_with_shared_noise(scene):
    detector = tiny()
    torch.testing.assert_close(detector.probability(*scene), detector.probability(*scene[::-1]), rtol=0, atol=1e-6)


def test_an_ordered_head_begins_as_the_published_one_and_then_tells_the_dates_apart_but_not_equal_ones(scene):
    # Set by hand: the preset may have it.
    plain, ordered = (tiny(head={**TINY["head"], "ordered": ordered}) for ordered in (False, True))
    missing, unexpected = ordered.load_state_dict(plain.state_dict(), strict=False)
    assert missing
    assert all("head.order." in name for name in missing)
    assert not unexpected
    assert torch.equal(ordered.probability(*scene), plain.probability(*scene))
    with torch.no_grad():
        for name, parameter in ordered.named_parameters():
            if ".order." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    there, back = ordered.probability(*scene), ordered.probability(*scene[::-1])
    assert float((there - back).abs().max()) > 1e-3
    same = [detector.probability(scene[0], scene[0]) for detector in (ordered, plain)]
    torch.testing.assert_close(*same, rtol=0, atol=1e-6)


def test_a_tile_has_the_same_map_alone_in_a_batch_in_parts_and_with_a_bound_of_memory(scene):
    detector = tiny()
    origins = torch.tensor([[0, 0], [32, 48], [0, 48]])
    cut = [torch.cat([image[:, :, r : r + 32, c : c + 48] for r, c in origins.tolist()]) for image in scene]
    cut[1][2] = cut[0][2]
    batch = detector.probability(*cut, origins)
    assert batch.shape == (3, 32, 48)
    for index in range(3):
        alone = detector.probability(cut[0][[index]], cut[1][[index]], origins[[index]])
        torch.testing.assert_close(alone[0], batch[index], rtol=0, atol=1e-5)
    detector.most = 2
    with Ledger() as ledger:
        torch.testing.assert_close(detector.probability(*cut, origins), batch, rtol=0, atol=1e-5)
    assert ledger.samples == (3 + 2) * 2  # timesteps; the tile that is the same on both dates goes through once
    elsewhere = detector.probability(*cut, origins + 1)
    assert float((elsewhere - batch)[:2].abs().max()) > 1e-3


def test_both_dates_and_all_timesteps_are_one_call(scene):
    with Ledger() as ledger:
        tiny().probability(*scene)
    assert (ledger.calls, ledger.samples) == (1, 4)


def test_any_size_works_and_the_bands_limits_are_those_of_the_sensor(scene):
    detector = tiny()
    for height, width in ((1, 1), (7, 33), (64, 5)):
        found = detector.probability(*(image[..., :height, :width] for image in scene))
        assert found.shape == (1, height, width)
        assert bool(((found > 0) & (found < 1)).all())
    limits = torch.tensor([[0.0, 0, 0, 0, -1], [1, 1, 1, 2, 1], [0.5, 0.5, 0.5, 1, 0]])[:, :, None, None]
    assert detector.scaled(limits).flatten(1).tolist() == [[-1.0] * 5, [1.0] * 5, [0.0] * 5]
    with pytest.raises(InputError, match="bands of the network"):
        detector.probability(*(image[:, :3] for image in scene))
    with pytest.raises(InputError, match="one grid"):
        detector.probability(scene[0], scene[1][..., :5])
    with pytest.raises(InputError, match="whole numbers"):
        detector.probability(*scene, torch.zeros(1, 2))


def test_pixels_without_a_value_are_nan_and_their_numbers_never_matter(scene):
    detector = tiny()
    holes = [image.clone() for image in scene]
    holes[0][:, 2, 10:20, 30:50] = torch.nan
    holes[1][:, :, 40:50, :20] = torch.inf
    found = detector.probability(*holes)
    absent = torch.zeros(1, 64, 96, dtype=torch.bool)
    absent[:, 10:20, 30:50] = absent[:, 40:50, :20] = True
    assert torch.equal(found.isnan(), absent)
    wild = [torch.where(absent[:, None], 3e38, image) for image in scene]
    assert torch.equal(detector.probability(*wild, valid=~absent).nan_to_num(-1), found.nan_to_num(-1))


def test_half_precision_stays_close(scene):
    detector = tiny()
    exact = detector.probability(*scene)
    detector.precision = "bfloat16"
    found = detector.probability(*scene)
    assert found.dtype == torch.float32
    assert 0 < float((found - exact).abs().max()) < 0.05


@pytest.mark.parametrize("noise", ["shared", "independent"])
def test_a_cached_reference_date_gives_the_same_map_at_half_the_calls(scene, tmp_path, noise):
    detector = tiny(noise=noise)
    origins = torch.tensor([[0, 0], [32, 48]])
    cut = [torch.cat([image[:, :, r : r + 32, c : c + 48] for r, c in origins.tolist()]) for image in scene]
    expected = detector.probability(*cut, origins)
    cache = ReferenceCache(detector, tmp_path)
    torch.testing.assert_close(cache.probability(*cut, origins), expected, rtol=0, atol=1e-6)
    again = ReferenceCache(detector, tmp_path)
    with Ledger() as ledger:
        torch.testing.assert_close(again.probability(*cut, origins), expected, rtol=0, atol=1e-6)
    assert (again.hits, again.misses, ledger.samples) == (2, 0, 2 * 2)
    again.probability(cut[0] + 0.01, cut[1], origins)
    assert again.misses == 2
    again.probability(*cut, origins + 1)
    assert again.misses == 4
    detector.head.clfr_stg1.bias.data += 1
    other = ReferenceCache(detector, tmp_path)
    other.probability(*cut, origins)
    assert other.misses == 2


def test_a_reference_with_holes_leaves_no_false_edges(scene, tmp_path):
    detector = tiny()
    before, after = scene[0].clone(), scene[0].clone()
    after[:, :, 20:30, 20:30] = torch.nan
    before[:, :, 40:50, 20:30] = torch.nan
    nothing = detector.probability(scene[0], scene[0])
    found = ReferenceCache(detector, tmp_path).probability(before, after)
    assert int(found.isnan().sum()) == 200
    assert float((found - nothing).abs().nan_to_num(0).max()) < 1e-6


def test_a_file_describes_its_detector_completely(tmp_path, scene):
    detector = tiny()
    save_detector(tmp_path / "d.safetensors", detector.config, detector.state_dict(), {"scenes": 3}, half=False)
    loaded, training = load_detector(tmp_path / "d.safetensors")
    assert loaded.config == detector.config
    assert training == {"scenes": 3}
    assert torch.equal(loaded.probability(*scene), detector.probability(*scene))
    assert fingerprint(loaded) == fingerprint(detector)
    save_detector(tmp_path / "h.safetensors", detector.config, detector.state_dict(), {})
    half, _ = load_detector(tmp_path / "h.safetensors")
    torch.testing.assert_close(half.probability(*scene), detector.probability(*scene), rtol=0, atol=2e-2)
    assert (tmp_path / "h.safetensors").stat().st_size < 0.7 * (tmp_path / "d.safetensors").stat().st_size
    with pytest.raises(InputError, match="kind"):
        load_detector("shared/digits_denoiser")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preset": "huge"}, "one of official, light"),
        ({"nose": "shared"}, "nose"),
        ({"diffusion": {"unet": {"channels": 30}}}, "multiples of groups"),
        ({"diffusion": {"low": [0, 0]}}, "one for each"),
        ({"diffusion": {"high": [0]}}, "above low"),
        ({"head": {"timesteps": [5000]}}, "at most 2000"),
        ({"head": {"scales": [1, 3]}}, "one output of each"),
        ({"diffusion": {"schedule": {"kind": "quadratic"}}}, "linear"),
    ],
)
def test_a_wrong_configuration_names_what_is_wrong(change, message):
    with pytest.raises(InputError, match=message):
        detector_from_data({"preset": "light", **change})


def test_a_configuration_comes_back_from_its_data():
    assert detector_from_data(LIGHT.model_dump(mode="json")) == LIGHT
    assert detector_from_data({"preset": "light"}) == LIGHT

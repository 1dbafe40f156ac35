"""The networks have the published names and sizes, and compute what the published formulas say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from remote_sensing.ddpm_cd.config import OFFICIAL, DetectorConfig, detector_from_data
from remote_sensing.ddpm_cd.cost import cost
from remote_sensing.ddpm_cd.detector import ChangeDetector
from remote_sensing.ddpm_cd.head import ChangeHead
from remote_sensing.ddpm_cd.official import load_official, official_states, read_config, read_state
from remote_sensing.ddpm_cd.schedule import noise_process, published_buffers
from remote_sensing.ddpm_cd.unet import GaussianDiffusion, UNet
from shared.errors import InputError
from tests.oracles import official_ddpm_cd as oracle

INNER, GROUPS = 8, 4


def small(**changes) -> DetectorConfig:
    """The published architecture with 8 channels instead of 128."""
    unet = {"channels": INNER, "groups": GROUPS}
    return detector_from_data({"preset": "official", "diffusion": {"unet": unet}, **changes})


def shapes_of(state) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def gradients_of(head, dates) -> list[str]:
    head.requires_grad_()
    with torch.enable_grad():
        head(*dates).sum().backward()
    return [name for name, p in head.named_parameters() if p.grad is not None]


@pytest.fixture(scope="module")
def states():
    return (
        oracle.random_state(oracle.diffusion_shapes(INNER)),
        oracle.random_state(oracle.head_shapes(INNER), seed=1),
    )


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(5)
    return torch.rand(2, 3, 32, 48, generator=generator) * 2 - 1, torch.rand(2, 3, 32, 48, generator=generator) * 2 - 1


def test_the_published_network_is_362_tensors_12_tables_and_391_million_numbers():
    with torch.device("meta"):
        network = GaussianDiffusion(UNet(OFFICIAL.diffusion.unet), OFFICIAL.diffusion.schedule)
    assert len(oracle.unet_shapes()) == 362
    assert shapes_of(network.state_dict()) == oracle.diffusion_shapes()
    assert len(network.state_dict()) == 362 + 12
    assert sum(p.numel() for p in network.parameters()) == 391_048_067


@pytest.mark.parametrize(
    ("timesteps", "names", "numbers"),
    [((50,), 46, 39.08e6), ((50, 100), 56, 43.96e6), ((50, 100, 400), 56, 46.41e6), ((50, 100, 400, 650), 56, 48.85e6)],
)
def test_the_published_heads_have_the_published_names_and_sizes(timesteps, names, numbers):
    with torch.device("meta"):
        head = ChangeHead(detector_from_data({"preset": "official", "head": {"timesteps": timesteps}}))
    assert shapes_of(head.state_dict()) == oracle.head_shapes(timesteps=len(timesteps))
    assert len(head.state_dict()) == names
    assert sum(p.numel() for p in head.parameters()) == pytest.approx(numbers, abs=5e3)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_tables_are_those_of_the_published_schedule(kind):
    config = detector_from_data({"diffusion": {"schedule": {"kind": kind}}}).diffusion.schedule
    if kind == "linear":
        betas = np.linspace(1e-6, 1e-2, 2000)
    else:
        f = np.cos((np.arange(2001) / 2000 + 8e-3) / (1 + 8e-3) * np.pi / 2) ** 2
        betas = np.clip(1 - f[1:] / f[:-1], 0, 0.999)
    expected = oracle.tables(betas)
    found = published_buffers(config)
    assert list(found) == list(oracle.TABLES)
    for name, table in expected.items():
        assert found[name].dtype == torch.float32
        np.testing.assert_allclose(found[name].numpy(), table, rtol=1e-5, atol=1e-9, err_msg=name)


def test_noise_and_signal_at_the_used_steps_are_the_published_ones():
    process = noise_process(OFFICIAL.diffusion.schedule)
    steps = torch.tensor([50, 100, 400, 650])
    sigma = process.sigma(steps / 2000)
    torch.testing.assert_close(
        sigma, torch.tensor([0.078, 0.157, 0.574, 0.808], dtype=torch.float64), atol=6e-4, rtol=0
    )
    assert float(process.alpha(1.0)) ** 2 == pytest.approx(4.4e-5, rel=0.02)
    low, high = process.levels(steps)
    beta = np.linspace(1e-6, 1e-2, 2000)
    np.testing.assert_allclose((low / high).numpy() ** 2, 1 - beta[steps.numpy() - 1], rtol=1e-10)
    torch.testing.assert_close(process.network_time(process.time_of_level(low)), low)


def test_the_unet_computes_what_its_formulas_say(states, pair):
    state = {name.removeprefix("denoise_fn."): value for name, value in states[0].items()}
    network = GaussianDiffusion(UNet(small().diffusion.unet), small().diffusion.schedule).eval()
    network.load_state_dict(states[0], strict=True)
    level = torch.tensor([0.997, 0.3])
    noise, outputs = oracle.unet(state, pair[0], level, GROUPS)
    with torch.no_grad():
        torch.testing.assert_close(network.denoise_fn(pair[0], level), noise, rtol=1e-3, atol=1e-4)
        found = network.denoise_fn.features(pair[0], level, range(15))
    assert set(found) == set(range(15))
    for scale, expected in enumerate(outputs):
        torch.testing.assert_close(found[scale], expected, rtol=1e-3, atol=1e-4)
    assert float(outputs[0].std()) > 0.1


@pytest.mark.parametrize("timesteps", [(100,), (50, 100, 400)])
def test_a_published_detector_computes_what_its_formulas_say(pair, timesteps):
    diffusion = oracle.random_state(oracle.diffusion_shapes(INNER))
    head = oracle.random_state(oracle.head_shapes(INNER, len(timesteps)), seed=1)
    config = small(head={"timesteps": timesteps}, noise="shared")
    detector = load_official(config, diffusion, head)
    origins = torch.tensor([[0, 0], [-32, 1000]])
    levels = np.sqrt(np.cumprod(1 - np.linspace(1e-6, 1e-2, 2000)))
    unet = {name.removeprefix("denoise_fn."): value for name, value in diffusion.items()}
    dates = []
    for image in pair:
        steps = []
        for index, step in enumerate(timesteps):
            level = float(levels[step - 1])
            noised = detector.noised(image, origins)[:, index]
            noise = (noised - level * image) / (1 - level**2) ** 0.5
            assert float(noise.std()) == pytest.approx(1, abs=0.03)
            steps.append(oracle.unet(unet, noised, torch.full((2,), level), GROUPS)[1])
        dates.append(steps)
    expected = oracle.head(head, *dates)
    found = detector.logits(*pair, origins)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert float(expected.std()) > 1e-2


def test_the_finest_level_is_not_used_so_stopping_before_it_changes_no_bit(states, pair):
    detector = load_official(small(), *states)
    unet, head = detector.unet, detector.head
    assert head.used == (14, 11, 8, 5)
    level = torch.tensor([0.9, 0.9])
    whole = [unet.features(image, level, range(15)) for image in pair]
    stopped = [unet.features(image, level, head.used) for image in pair]
    whole, stopped = (
        [{k: v.repeat(1, 3, 1, 1) for k, v in date.items()} for date in dates] for dates in (whole, stopped)
    )
    expected = head(*whole)
    assert torch.equal(head(*stopped), expected)
    whole[1][2] += 100
    assert torch.equal(head(*whole), expected)
    assert not any(name.startswith("decoder.8") for name in gradients_of(head, whole))


def test_stopping_saves_28_percent_of_716_billion_multiply_adds():
    found = cost(OFFICIAL)
    attention = 6 * 2 * 256**2 * 1024 / 1e9  # q k^T and the sum of v, which the published count leaves out
    assert found.unet_gmac - attention == pytest.approx(716.4, abs=0.05)
    assert 1 - found.features_gmac / found.unet_gmac == pytest.approx(0.279, abs=5e-4)
    assert 6 * found.features_gmac * 1e3 / 256**2 == pytest.approx(47.3, abs=0.1)  # both dates, three timesteps
    assert (found.unet_parameters, found.head_parameters) == (391_048_067, 46_405_126)


def test_published_files_and_their_json_load_and_come_back(tmp_path, states, pair):
    for name, state in zip(("gen", "cd"), states, strict=True):
        torch.save(state, tmp_path / f"{name}.pth")
    (tmp_path / "levir.json").write_text(JSON)
    config = read_config(tmp_path / "levir.json")
    assert config == small(head={"scales": (2, 5, 8, 11, 14)})
    detector = load_official(config, read_state(tmp_path / "gen.pth"), read_state(tmp_path / "cd.pth"))
    diffusion, head = official_states(detector)
    assert all(
        torch.equal(value, states[0][name]) for name, value in diffusion.items() if name.startswith("denoise_fn")
    )
    assert set(diffusion) == set(states[0])
    assert all(torch.equal(value, states[1][name]) for name, value in head.items())


def test_the_json_of_the_released_models_is_the_official_preset(tmp_path):
    (tmp_path / "levir.json").write_text(
        JSON.replace('"inner_channel": 8', '"inner_channel": 128').replace('"norm_groups": 4,', "")
    )
    assert read_config(tmp_path / "levir.json") == OFFICIAL.model_copy(
        update={"head": OFFICIAL.head.model_copy(update={"scales": (2, 5, 8, 11, 14)})}
    )


def test_wrong_files_are_told_in_one_line(tmp_path, states):
    (tmp_path / "broken.pth").write_bytes(b"PK\x03\x04 not a zip")
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "opt.pth")
    (tmp_path / "wrong.json").write_text('{"model": {}}')
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(InputError, match="no readable weights"):
        read_state(tmp_path / "broken.pth")
    with pytest.raises(InputError, match="_gen"):
        read_state(tmp_path / "opt.pth")
    with pytest.raises(InputError, match="no 'unet'"):
        read_config(tmp_path / "wrong.json")
    with pytest.raises(InputError, match="no JSON"):
        read_config(tmp_path / "broken.json")
    short = {name: value for name, value in states[0].items() if name != "denoise_fn.init_conv.bias"}
    with pytest.raises(InputError, match=r"no denoise_fn\.init_conv\.bias"):
        load_official(small(), short, states[1])
    with pytest.raises(InputError, match="not "):
        load_official(small(head={"timesteps": [50, 100]}), *states)
    with pytest.raises(InputError, match="multiples of 16"):
        ChangeDetector(small()).unet(torch.zeros(1, 3, 24, 32), torch.zeros(1))


JSON = json.dumps(
    {
        "name": "ddpm-RS-CDHead-LEVIR",
        "homepage": "https://www.wgcban.com/research",
        "model_cd": {"feat_scales": [2, 5, 8, 11, 14], "feat_type": "dec", "t": [50, 100, 400], "psp": True},
        "model": {
            "which_model_G": "sr3",
            "unet": {
                "in_channel": 3, "out_channel": 3, "inner_channel": 8, "norm_groups": 4,
                "channel_multiplier": [1, 2, 4, 8, 8], "attn_res": [16], "res_blocks": 2, "dropout": 0.2,
            },
            "beta_schedule": {
                phase: {"schedule": kind, "n_timestep": 2000, "linear_start": 1e-6, "linear_end": 1e-2}
                for phase, kind in (("train", "cosine"), ("test", "linear"))
            },
            "diffusion": {"image_size": 256, "channels": 3},
        },
    },
    indent=1,
).replace('"model_cd"', '//"resume_state": null\n"model_cd"')  # fmt: skip

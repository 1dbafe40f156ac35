import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from robotics.policy.calibration import calibrate_warm_start
from robotics.policy.config import MlpConfig, PolicyConfig, TransformerConfig, UnetConfig
from robotics.policy.episodes import Episodes
from robotics.policy.files import ACTION, OBSERVATION, load_policy, policy_from_tensors
from robotics.policy.networks import build_network
from robotics.policy.networks.vision import SpatialSoftmax, cropped, resnet18
from robotics.policy.normalise import Normaliser
from robotics.policy.official import from_diffusion_policy, lerobot_name, read_lerobot
from robotics.policy.policy import Policy
from robotics.policy.rolling import RollingPolicy
from robotics.policy.runtime.buffers import SensorBuffer
from robotics.policy.runtime.settings import SensorLimit
from robotics.policy.training import PolicyTrainer, PolicyTraining
from robotics.policy.warmstart import WarmStart
from shared.errors import InputError
from tests.oracles import official_vision as official
from tests.robotics.policy.test_networks import random_weights

ANY_ACTION = Normaliser.fit(512 * torch.rand(9, 2, generator=torch.Generator().manual_seed(0)))
MLP = MlpConfig(width=64, depth=1, embedding=16)
NETWORKS = [MLP, UnetConfig(widths=(8, 16), step_embedding=8), TransformerConfig(layers=1, heads=2, width=16)]


def visual_config(network=MLP, *, size=32, vision=None, numbers=True, **changes) -> PolicyConfig:
    observation = [{"kind": "image", "name": "img", "shape": (3, size, size)}]
    values = {
        "observation": observation + ([{"name": "state", "size": 2}] if numbers else []), "action": {"size": 2},
        "chunk": {"horizon": 8, "observe": 2, "execute": 4}, "network": network,
        "vision": {"width": 16, "crop": (28, 28), "pool": "average"} | (vision or {}),
    }  # fmt: skip
    return PolicyConfig.model_validate(values | changes)


def test_resnet_has_the_published_names_and_gives_the_published_features():
    network = resnet18(3)
    assert {name: tuple(value.shape) for name, value in network.state_dict().items()} == official.backbone_layout(3)
    # The published ResNet-18 has 11 689 512 parameters, 513 000 of them in its classifier.
    assert sum(value.numel() for value in network.parameters()) == 11_689_512 - 513_000
    weights = random_weights(network)
    x = torch.rand(2, 3, 40, 52, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = network(x)
    assert found.shape == (2, 512, 2, 2)
    torch.testing.assert_close(found, official.backbone(weights, x), rtol=1e-3, atol=1e-3)


def test_spatial_softmax_tells_where_a_peak_is():
    height, width = 21, 41
    pool = SpatialSoftmax(2, height, width, 2)
    pool.nets.weight.data = torch.eye(2)[:, :, None, None]
    pool.nets.bias.data.zero_()
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    delta = torch.zeros(height, width)
    delta[3, 30] = 100.0
    gaussian = -((x - 0.25) ** 2 + (y + 0.1) ** 2) / (2 * 0.12**2)  # softmax of it: a Gaussian around its mean
    found = pool(torch.stack([delta, gaussian])[None])[0]
    torch.testing.assert_close(found[0], torch.tensor([-1 + 2 * 30 / 40, -1 + 2 * 3 / 20]))
    torch.testing.assert_close(found[1], torch.tensor([0.25, -0.1]), atol=1e-4, rtol=0)


def test_crops_are_parts_of_their_images_and_the_centre_in_evaluation():
    images = torch.arange(6 * 7 * 9.0).reshape(6, 1, 7, 9)
    torch.testing.assert_close(cropped(images, (5, 4), random=False), images[:, :, 1:6, 2:6])  # 2.5 is rounded to 2
    torch.manual_seed(0)
    seen = set()
    for _ in range(40):
        for image, part in zip(images, cropped(images, (5, 4), random=True), strict=True):
            corner = int(part[0, 0, 0] - image[0, 0, 0])
            top, left = divmod(corner, 9)
            assert torch.equal(part, image[:, top : top + 5, left : left + 4])
            seen.add((top, left))
    assert seen == {(top, left) for top in range(3) for left in range(6)}


LEROBOT = {
    "type": "diffusion", "horizon": 16, "n_obs_steps": 2, "n_action_steps": 8, "down_dims": [8, 16, 24],
    "diffusion_step_embed_dim": 8, "crop_shape": [44, 40], "spatial_softmax_num_keypoints": 5,
    "vision_backbone": "resnet18", "use_group_norm": True,
    "input_features": {
        "observation.images.top": {"type": "VISUAL", "shape": [3, 48, 48]},
        "observation.environment_state": {"type": "ENV", "shape": [3]},
        "observation.images.wrist": {"type": "VISUAL", "shape": [3, 48, 48]},
        "observation.state": {"type": "STATE", "shape": [2]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
}  # fmt: skip


def random_tensors(layout, generator):
    return {name: 0.1 * torch.randn(shape, generator=generator) for name, shape in layout.items()}


def lerobot_encoder(prefix, generator):
    layout = {f"backbone.{name}": shape for name, shape in official.backbone_layout(3).items()}
    layout |= {"pool.nets.weight": (5, 512, 1, 1), "pool.nets.bias": (5,), "out.weight": (10, 10), "out.bias": (10,)}
    tensors = random_tensors(layout, generator)
    y, x = np.meshgrid(np.linspace(-1, 1, 2), np.linspace(-1, 1, 2), indexing="ij")
    tensors["pool.pos_grid"] = torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=1)).float()
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def unet_tensors(config, name):
    network = build_network(config).model.state_dict()
    return {name(key): value for key, value in network.items()}


@pytest.mark.parametrize("separate", [True, False])
def test_lerobot_policy_of_two_cameras_loads_strictly_and_sees_the_same(tmp_path, separate):
    generator = torch.Generator().manual_seed(0)
    config_json = {**LEROBOT, "use_separate_rgb_encoder_per_camera": separate}
    (tmp_path / "config.json").write_text(json.dumps(config_json))
    places = ["0.", "1."] if separate else [""]
    encoders = {}
    for place in places:
        encoders |= lerobot_encoder(f"diffusion.rgb_encoder.{place}", generator)
    cameras = ["observation.images.top", "observation.images.wrist"]
    statistics = {
        "observation.state.min": torch.tensor([-1.0, -2.0]), "observation.state.max": torch.tensor([3.0, 2.0]),
        "observation.environment_state.min": torch.zeros(3), "observation.environment_state.max": torch.ones(3),
        "action.min": torch.zeros(2), "action.max": torch.ones(2),
    }  # fmt: skip
    for camera in cameras:
        statistics[f"{camera}.mean"] = torch.rand(3, 1, 1, generator=generator)
        statistics[f"{camera}.std"] = 0.2 + torch.rand(3, 1, 1, generator=generator)
    save_file(statistics, tmp_path / "policy_preprocessor_step_3_normalizer_processor.safetensors")
    shape = visual_config(
        UnetConfig(widths=(8, 16, 24), step_embedding=8), size=48, chunk={"horizon": 16},
        observation=[*({"kind": "image", "name": n, "shape": (3, 48, 48)} for n in cameras), {"name": "s", "size": 5}],
        vision={"pool": "spatial_softmax", "keypoints": 5, "crop": None},
    )  # fmt: skip
    unet = unet_tensors(shape, lambda name: lerobot_name(f"model.{name}"))
    save_file({**unet, **encoders}, tmp_path / "model.safetensors")

    config, tensors = read_lerobot(tmp_path)
    policy = policy_from_tensors(config, tensors, source="lerobot")
    images = {
        name: torch.randint(0, 256, (3, 2, 3, 48, 48), generator=generator, dtype=torch.uint8) for name in cameras
    }
    state, around = torch.rand(3, 2, 2, generator=generator), torch.rand(3, 2, 3, generator=generator)
    seen = {**images, "observation.state": state, "observation.environment_state": around}
    expected = [(state - torch.tensor([-1.0, -2.0])) / torch.tensor([4.0, 4.0]) * 2 - 1]
    for camera, place in zip(cameras, places * (1 if separate else 2), strict=True):
        prefix = f"diffusion.rgb_encoder.{place}"
        weights = {name.removeprefix(prefix): v for name, v in encoders.items() if name.startswith(prefix)}
        weights = {name.removeprefix("backbone."): value for name, value in weights.items()}
        unit = (images[camera].float() / 255 - statistics[f"{camera}.mean"]) / statistics[f"{camera}.std"]
        centre = unit.flatten(0, 1)[:, :, 2:46, 4:44]
        expected.append(official.encoder(weights, "pool.nets", "out", centre).unflatten(0, (3, 2)))
    expected.append(around * 2 - 1)
    told = policy.network.conditioning(policy.observation.apply(policy.observations(seen)))["global_cond"]
    torch.testing.assert_close(told, torch.cat(expected, dim=2).flatten(1), rtol=1e-3, atol=1e-3)
    chunk = policy.act(policy.observations(seen), grid=policy.grid(2), generator=generator)
    assert chunk.executable.shape == (3, 8, 2)


def test_lerobot_encoders_without_counterpart_are_refused(tmp_path):
    for change in ({"use_group_norm": False}, {"vision_backbone": "resnet50"}, {"resize_shape": [96, 96]}):
        (tmp_path / "config.json").write_text(json.dumps({**LEROBOT, **change}))
        with pytest.raises(InputError, match=next(iter(change))):
            read_lerobot(tmp_path)


def test_image_policy_of_diffusion_policy_loads_strictly_and_sees_the_same():
    generator = torch.Generator().manual_seed(3)
    vision = {"width": 64, "crop": (36, 33), "pool": "spatial_softmax", "keypoints": 8}
    config = visual_config(UnetConfig(widths=(8, 16), step_embedding=8), size=40, vision=vision)
    core = random_tensors({f"0.nets.{name}": shape for name, shape in official.backbone_layout(3).items()}, generator)
    core |= random_tensors({"1.nets.weight": (8, 512, 1, 1), "1.nets.bias": (8,)}, generator)
    core |= random_tensors({"3.weight": (16, 16), "3.bias": (16,)}, generator)
    core |= {"1.temperature": torch.tensor([0.5]), "1.pos_x": torch.zeros(1, 4), "1.pos_y": torch.zeros(1, 4)}
    theirs = {f"obs_encoder.obs_nets.img.nets.{name}": value for name, value in core.items()}
    # The parts are attributes of VisualCore besides, so its state has them twice.
    twice = {f"backbone.{name[2:]}": v for name, v in core.items() if name.startswith("0.")}
    twice |= {f"pool.{name[2:]}": v for name, v in core.items() if name.startswith("1.")}
    theirs |= {f"obs_encoder.obs_nets.img.{name}": value for name, value in twice.items()}
    theirs |= unet_tensors(config, lambda name: f"model.{name}")
    half = Normaliser(
        torch.tensor([2.0]), torch.tensor([-1.0]), dict.fromkeys(("min", "max", "mean", "std"), torch.ones(1))
    )
    theirs |= half.tensors("normalizer.params_dict.img")  # pixels 0 to 1 become -1 to 1
    state = Normaliser.fit(torch.rand(9, 2, generator=generator))
    theirs |= state.tensors("normalizer.params_dict.state") | state.tensors(ACTION)
    theirs |= {"_dummy_variable": torch.empty(0), "mask_generator._dummy_variable": torch.empty(0)}

    policy = policy_from_tensors(config, from_diffusion_policy(theirs, config), source="export")
    pixels = torch.randint(0, 256, (2, 2, 40, 40, 3), generator=generator, dtype=torch.uint8)
    low = torch.rand(2, 2, 2, generator=generator)
    found = policy.observations({"img": pixels, "state": low})
    told = policy.network.conditioning(policy.observation.apply(found))["global_cond"]
    x = pixels.movedim(-1, -3).flatten(0, 1)[:, :, 2:38, 4:37].float() / 255 * 2 - 1  # 3.5 is rounded to 4
    weights = {name.removeprefix("0.nets."): value for name, value in core.items()}
    features = official.encoder(weights, "1.nets", "3", x, temperature=0.5).unflatten(0, (2, 2))
    expected = torch.cat([features, low * state.scale + state.offset], dim=2).flatten(1)
    torch.testing.assert_close(told, expected, rtol=1e-3, atol=1e-3)
    del theirs["normalizer.params_dict.img.scale"]
    with pytest.raises(InputError, match=r"params_dict\.img\.scale: absent"):
        from_diffusion_policy(theirs, config)


def dots(episodes=4, frames=30, size=32) -> Episodes:
    """A white dot on a circle; the action is where it is, so only the image tells it."""
    t = np.arange(frames) * 0.2 + 1.5 * np.arange(episodes)[:, None]
    places = np.stack([np.cos(t), np.sin(t)], axis=-1).reshape(-1, 2).astype(np.float32)
    grid = np.arange(size) - (size - 1) / 2
    x, y = (10 * places[:, axis, None] for axis in (0, 1))
    row, column = np.exp(-((grid - y) ** 2) / 8), np.exp(-((grid - x) ** 2) / 8)
    image = (255 * row[:, :, None] * column[:, None, :]).astype(np.uint8)[..., None].repeat(3, axis=-1)
    still = np.zeros((len(places), 2), np.float32)
    still[0] = 1  # a number that tells nothing
    ends = frames * np.arange(1, episodes + 1)
    return Episodes({"img": image, "state": still, "action": places}, ends, Path("dots"))


def visual_settings(network=MLP, **changes) -> PolicyTraining:
    values = {"steps": 4, "batch": 8, "learning_rate": 2e-3, "warmup": 2, "validation": 0.25, "validate_every": 100}
    policy = visual_config(network, chunk={"horizon": 4, "observe": 1, "execute": 2})
    return PolicyTraining(name="robotics/dots", policy=policy, **{**values, **changes})


def test_a_policy_learns_where_to_go_from_images_alone(tmp_path):
    chosen = visual_settings(steps=60, batch=16, learning_rate=3e-3, average=0.8)
    chosen = chosen.model_copy(update={"policy": chosen.policy.model_copy(update={"prediction": "sample"})})
    trainer = PolicyTrainer(chosen, dots(), tmp_path)
    before = trainer.validate()["validation_loss"]
    trainer.run()
    after = trainer.validate()["validation_loss"]
    assert after < 0.25 * before
    trainer._observations.parts[0] = trainer._observations.parts[0].roll(13, dims=0)  # the dot is elsewhere
    assert trainer.validate()["validation_loss"] > 2 * after


def test_killed_training_with_random_crops_ends_with_the_same_bits(tmp_path):
    chosen = visual_settings(batch=4)
    whole = PolicyTrainer(chosen, dots(frames=6), tmp_path / "whole")
    whole.run()
    PolicyTrainer(chosen, dots(frames=6), tmp_path / "killed").run(stop_at=2)
    resumed = PolicyTrainer(chosen, dots(frames=6), tmp_path / "killed")
    resumed.run()
    for name, value in whole.average.average.items():
        assert torch.equal(value, resumed.average.average[name]), name


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_is_told_of_the_image_and_trains_its_encoder(tmp_path, network):
    trainer = PolicyTrainer(visual_settings(network, batch=2), dots(frames=6), tmp_path)
    first = trainer.network.rgb_encoder[0].backbone[0].weight.clone()
    for _ in range(2):  # networks may begin with last layers of zero
        trainer.train_step()
    assert not torch.equal(first, trainer.network.rgb_encoder[0].backbone[0].weight)
    trainer.network.eval()
    random_weights(trainer.network)
    seen = trainer.policy.observations({name: dots().arrays[name][None, :1] for name in ("img", "state")})
    generator = torch.Generator().manual_seed(0)
    x = trainer.policy.noise(1, generator)
    answers = []
    for observed in (seen, torch.cat([255 - seen[..., :-2], seen[..., -2:]], dim=-1)):
        told = trainer.network.conditioning(trainer.policy.observation.apply(observed))
        answers.append(trainer.network(x, 50, **told))
    assert (answers[0] - answers[1]).abs().max() > 1e-3


@pytest.mark.parametrize("pool", ["spatial_softmax", "average"])
def test_image_policy_survives_its_file_and_rolls_warm(tmp_path, pool):
    settings, data = visual_settings(), dots(frames=8, size=40)
    policy_settings = visual_config(size=40, vision={"pool": pool, "crop": (36, 36)})
    trainer = PolicyTrainer(settings.model_copy(update={"policy": policy_settings}), data, tmp_path)
    trainer.export(tmp_path / "p.safetensors")
    loaded = load_policy(tmp_path / "p.safetensors")
    assert loaded.config == policy_settings
    seen = loaded.observations({name: data.arrays[name][None, :2] for name in ("img", "state")})
    own = Policy(policy_settings, trainer.network.eval(), trainer.policy.observation, trainer.policy.action)
    own.network.load_state_dict(trainer.average.average)
    told, ours = (one.network.conditioning(one.observation.apply(seen))["cond"] for one in (loaded, own))
    torch.testing.assert_close(told, ours)
    assert told.shape == (1, 2, policy_settings.condition_size)
    rolling = RollingPolicy(loaded, warm=WarmStart(levels=(20, 4, 0), observation_gate=0.5))
    generator = torch.Generator().manual_seed(0)
    assert not rolling.act(seen, generator=generator).warm.any()
    dark = torch.cat([torch.zeros_like(seen[..., :-2]), seen[..., -2:]], dim=-1)
    assert rolling.act(dark, generator=generator).warm.all()  # pixels jump, the gate does not look at them
    warm = calibrate_warm_start(loaded, data.arrays, data.ends, pairs=4, most_contraction=1e9, exact_calls=2)
    assert warm.observation_gate is not None


def test_file_has_one_normaliser_entry_a_channel(tmp_path):
    from safetensors.torch import load_file

    PolicyTrainer(visual_settings(), dots(), tmp_path).export(tmp_path / "p.safetensors")
    tensors = load_file(tmp_path / "p.safetensors")
    assert tensors[f"{OBSERVATION}.scale"].shape == (3 + 2,)
    assert "rgb_encoder.0.backbone.0.weight" in tensors
    policy = load_policy(tmp_path / "p.safetensors")
    white = policy.observations({"img": np.full((1, 1, 32, 32, 3), 255, np.uint8), "state": np.zeros((1, 1, 2))})
    assert policy.observation.apply(white)[..., :-2].unique().tolist() == [1]


def test_policy_of_images_alone_has_no_gate_and_acts():
    config = visual_config(numbers=False)
    network = build_network(config).eval()
    policy = Policy(config, network, Normaliser.of_pixels(3).spread([1024] * 3), Normaliser.fit(torch.rand(9, 2)))
    seen = policy.observations({"img": dots().arrays["img"][None, :2]})
    rolling = RollingPolicy(policy, warm=WarmStart(levels=(4, 0), observation_gate=0.1))
    generator = torch.Generator().manual_seed(0)
    rolling.act(seen, generator=generator)
    assert rolling.act(seen, generator=generator).warm.all()
    warm = calibrate_warm_start(policy, dots().arrays, dots().ends, pairs=4, most_contraction=1e9, exact_calls=2)
    assert warm.observation_gate is None


def test_bad_images_say_what_is_wrong(tmp_path):
    data = dots()
    unit = Episodes({**data.arrays, "img": data.arrays["img"] / np.float32(255)}, data.ends, data.path)
    with pytest.raises(InputError, match=r"pixels of img from 0 to 0.99\d+; expected 0 to 255"):
        PolicyTrainer(visual_settings(), unit, tmp_path)
    small = Episodes({**data.arrays, "img": data.arrays["img"][:, :30]}, data.ends, data.path)
    with pytest.raises(InputError, match=r"images of shape \(30, 32, 3\); expected \(3, 32, 32\), or \(32, 32, 3\)"):
        PolicyTrainer(visual_settings(), small, tmp_path)
    with pytest.raises(ValueError, match="crop"):
        visual_config(size=20)
    with pytest.raises(ValueError, match="one place"):
        visual_config(vision={"pool": "spatial_softmax"})
    with pytest.raises(ValueError, match="images of one shape"):
        visual_config(
            vision={"separate": False, "crop": None},
            observation=[{"kind": "image", "name": n, "shape": (3, n_, n_)} for n, n_ in (("a", 32), ("b", 64))],
        )
    slow = Episodes(data.arrays, data.ends, data.path, {"rate_hz": 30})
    with pytest.raises(InputError, match="30 frames a second; expected 10"):
        PolicyTrainer(visual_settings(), slow, tmp_path)


def test_configurations_without_images_are_written_as_before():
    plain = visual_config(observation=[{"name": "state", "size": 2}], vision={"crop": None})
    assert "vision" not in json.loads(plain.model_dump_json())  # checkpoints of older trainings stay valid
    assert PolicyConfig.model_validate_json(plain.model_dump_json()).observation == plain.observation


def test_camera_of_a_control_loop_takes_channels_last_first_or_flat():
    field = visual_config().images[0]
    image = dots().arrays["img"][3]
    first = np.moveaxis(image, -1, 0)
    buffer = SensorBuffer(field, SensorLimit(max_age_s=1), 1.0)
    for time, values in enumerate((image, first, first.reshape(-1))):
        buffer.put(values, now=float(time))
        assert not buffer.faults(float(time))
        assert np.array_equal(buffer.at(np.array([float(time)]))[0], first.reshape(-1))
    buffer.put(image[:30], now=3.0)
    assert [fault.cause.name for fault in buffer.faults(3.0)] == ["MALFORMED"]


def test_push_t_draws_recorded_states_as_it_drew_the_world():
    pytest.importorskip("gym_pusht")
    from robotics.policy.pusht import PushT

    config = visual_config(size=96)
    live, placed = PushT(config.images), PushT(config.images)
    try:
        seen = live.reset(100_003)
        placed.reset(100_004)
        for _ in range(25):
            seen, _, _ = live.step(seen["keypoint"][3])
        assert seen["img"].shape == (96, 96, 3)
        assert seen["img"].dtype == np.uint8
        placed.place(seen["state"])
        again = placed.picture(96, 96)
        assert (again != seen["img"]).mean() < 0.002  # the state is float32: a pixel of an edge may differ
        placed.reset(100_004)
        assert (placed.picture(96, 96) != seen["img"]).mean() > 0.02
    finally:
        live.close()
        placed.close()
    with pytest.raises(InputError, match="1 channels"):
        PushT([field.model_copy(update={"shape": (1, 96, 96)}) for field in config.images])


def test_an_evaluation_gives_a_policy_the_pictures_of_its_world():
    pytest.importorskip("gym_pusht")
    from robotics.policy.evaluation import evaluate
    from robotics.policy.pusht import PushT

    config = visual_config(vision={"crop": None})
    observation = Normaliser.join([Normaliser.of_pixels(3), Normaliser.fit(512 * torch.rand(9, 5))])
    fields = (config.images[0], config.observation[1].model_copy(update={"size": 5}))
    config = config.model_copy(update={"observation": fields})
    policy = Policy(config, build_network(config).eval(), observation.spread(config.observation_repeats), ANY_ACTION)
    rolling = RollingPolicy(policy, warm=WarmStart(levels=(4, 0)), environments=2)
    found = evaluate(rolling, partial(PushT, config.images), [100_000, 100_001], execute=2, steps=4)
    assert [episode.ticks for episode in found.episodes] == [4, 4]
    assert found.warm == 0.5  # the second chunk of each


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.kind)
def test_many_chunks_of_an_observation_encode_its_images_once(network):
    config = visual_config(network, numbers=False)
    generator = torch.Generator().manual_seed(0)
    built = build_network(config)
    built.load_state_dict(random_weights(built))
    observation = Normaliser.of_pixels(3).spread(config.observation_repeats)
    policy = Policy(config, built.eval(), observation, ANY_ACTION)
    pixels = torch.randint(0, 256, (2, 2, 32, 32, 3), generator=generator, dtype=torch.uint8)
    found = policy.observations({"img": pixels})
    x = policy.noise(6, generator)
    seen = []
    encoder = next(part for part in built.rgb_encoder.modules() if hasattr(part, "backbone"))
    hook = encoder.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    with torch.no_grad():
        once = policy.denoiser(found, 3)(x, 0.7)
        hook.remove()
        each = policy.denoiser(found.repeat_interleave(3, dim=0))(x, 0.7)
    assert seen == [2 * 2]  # two observations of two frames
    torch.testing.assert_close(once, each, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(once[0], once[3], atol=1e-3)  # each chunk has its own observation

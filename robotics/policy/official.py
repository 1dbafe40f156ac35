r"""Checkpoints of others: real-stanford/diffusion_policy and LeRobot.

Diffusion Policy saves pickles of its own classes, which would run code when read. Export the averaged weights once,
where that repository is installed:

    payload = torch.load("latest.ckpt", pickle_module=dill, map_location="cpu")
    weights = {k: v.clone().contiguous() for k, v in payload["state_dicts"]["ema_model"].items()}
    safetensors.torch.save_file(weights, "ema_model.safetensors")

Its names are ours, but for the image encoder, where LeRobot's are. LeRobot's differ from them by

| Diffusion Policy | LeRobot |
| --- | --- |
| `model.` | `diffusion.unet.` |
| `.blocks.0.`, `.blocks.1.` | `.conv1.`, `.conv2.` |
| `(down,up)_modules.N.2.conv.` | `(down,up)_modules.N.2.` |
| `normalizer.params_dict.{obs,action}.input_stats.{min,max}` | `normalize_inputs.buffer_<name>.{min,max}`, ... |
| `obs_encoder.obs_nets.<camera>.nets.0.nets.` | `diffusion.rgb_encoder[.i].backbone.` |
| `obs_encoder.obs_nets.<camera>.nets.1.nets.`, `.nets.3.` | `.pool.nets.`, `.out.` |
| `.nets.1.{pos_x,pos_y,temperature}` | `.pool.pos_grid` |

Diffusion Policy's image policies are those with robomimic's `VisualCore` and group normalisation ("hybrid"); each of
their observations has a normaliser of its own. The configuration's observations are ordered as its `shape_meta.obs`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from robotics.policy.config import ImageField, PolicyConfig
from robotics.policy.files import ACTION, ENCODER, MODEL, OBSERVATION
from robotics.policy.networks.vision import STAGES, place_grid
from robotics.policy.normalise import STATISTICS, Normaliser
from shared.errors import InputError

DUMMY = "_dummy_variable"
STATE, ENVIRONMENT, IMAGE = "observation.state", "observation.environment_state", "observation.image"
PARAMETERS = "normalizer.params_dict"
PIXEL = 255.0  # theirs are 0 to 1
SCHEDULES = {"squaredcos_cap_v2": "squared_cosine", "linear": "linear"}
_BLOCKS = (("blocks.0.", "conv1."), ("blocks.1.", "conv2."))


def from_diffusion_policy(tensors: Mapping[str, Tensor], config: PolicyConfig) -> dict[str, Tensor]:
    """Return the tensors of an exported `ema_model` by our names, without its empty placeholders outside the network.

    Args:
        tensors: as exported.
        config: of the policy; its observations have the names of the `shape_meta`, in that order.

    Raises:
        InputError: an observation without a normaliser.
    """
    found = {
        name: value for name, value in tensors.items() if not (name.endswith(DUMMY) and not name.startswith(MODEL))
    }
    if not config.images:
        return found
    for place, camera in enumerate(config.images):
        found = _encoder_of_robomimic(found, camera.name, f"{ENCODER}{place}." if config.vision.separate else ENCODER)
        size = config.vision.crop or camera.shape[1:]
        grid = place_grid(*(-(-one // 2 ** (STAGES + 1)) for one in size))
        found[f"{ENCODER}{place}.pool.pos_grid" if config.vision.separate else f"{ENCODER}pool.pos_grid"] = grid
    parts = []
    for field in config.observation:
        prefix = f"{PARAMETERS}.{field.name}"
        if isinstance(field, ImageField):
            one = Normaliser.from_tensors(found, prefix, 1, "exported weights")
            parts.append(_of_unit_pixels(one.spread([field.shape[0]])))
        else:
            parts.append(Normaliser.from_tensors(found, prefix, field.size, "exported weights"))
        found = {name: value for name, value in found.items() if not name.startswith(f"{prefix}.")}
    return found | Normaliser.join(parts).tensors(OBSERVATION)


def _encoder_of_robomimic(tensors: Mapping[str, Tensor], camera: str, ours: str) -> dict[str, Tensor]:
    """Return the tensors with those of a camera's `VisualCore` renamed; it holds each of them twice."""
    theirs = f"obs_encoder.obs_nets.{camera}."
    found = {name: value for name, value in tensors.items() if not name.startswith(theirs)}
    temperature = tensors.get(f"{theirs}nets.1.temperature", torch.ones(1))
    for name, value in tensors.items():
        rest = name.removeprefix(f"{theirs}nets.")
        if rest == name or rest in ("1.pos_x", "1.pos_y", "1.temperature"):
            continue
        if rest.startswith("0.nets."):
            found[f"{ours}backbone.{rest.removeprefix('0.nets.')}"] = value
        elif rest.startswith("1.nets."):
            found[f"{ours}pool.nets.{rest.removeprefix('1.nets.')}"] = value / temperature  # softmax(f / temperature)
        else:
            found[f"{ours}out.{rest.removeprefix('3.')}"] = value
    return found


def _of_unit_pixels(normaliser: Normaliser) -> Normaliser:
    """Return the normaliser of pixels 0 to 255 from that of pixels 0 to 1."""
    statistics = {name: value * PIXEL for name, value in normaliser.statistics.items()}
    return Normaliser(normaliser.scale / PIXEL, normaliser.offset, statistics)


def lerobot_name(name: str) -> str:
    """Return LeRobot's name of a U-Net tensor that we call `model.<...>`."""
    name = "diffusion.unet." + name.removeprefix(MODEL)
    for ours, theirs in _BLOCKS:
        name = name.replace(f".{ours}", f".{theirs}")
    return re.sub(r"((?:down|up)_modules\.\d+\.2\.)conv\.", r"\1", name)


def name_from_lerobot(name: str) -> str:
    """Return our name of a tensor of LeRobot's `diffusion.unet.<...>`; the inverse of `lerobot_name`."""
    name = MODEL + name.removeprefix("diffusion.unet.")
    for ours, theirs in _BLOCKS:
        name = name.replace(f".{theirs}", f".{ours}")
    return re.sub(r"((?:down|up)_modules\.\d+\.2\.)(weight|bias)$", r"\1conv.\2", name)


def read_lerobot(folder: str | os.PathLike[str]) -> tuple[PolicyConfig, dict[str, Tensor]]:
    """Read the folder of a LeRobot diffusion policy.

    It holds `config.json`, `model.safetensors` and, since statistics moved out of the weights, the normaliser's file
    `policy_preprocessor*normalizer*.safetensors`.

    Raises:
        InputError: files are absent, or an option has no counterpart here.
    """
    from shared.weights import load

    place = Path(folder)
    try:
        values = json.loads((place / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            place, found=f"no config.json that can be read ({error})", expected="a LeRobot policy folder",
            fix="Give the folder that LeRobot saved.",
        ) from error  # fmt: skip
    config = _lerobot_config(values, place)
    stored = load(place / "model.safetensors").tensors
    statistics = _lerobot_statistics(place, stored)
    tensors = {name_from_lerobot(name): value for name, value in stored.items() if name.startswith("diffusion.unet.")}
    theirs = f"diffusion.{ENCODER}"
    tensors |= {name.removeprefix("diffusion."): value for name, value in stored.items() if name.startswith(theirs)}
    observation = [
        _of_unit_pixels(_lerobot_normaliser(statistics, field.name, values, place, channels=field.shape[0]))
        if isinstance(field, ImageField)
        else _lerobot_normaliser(statistics, field.name, values, place)
        for field in config.observation
    ]
    tensors |= Normaliser.join(observation).tensors(OBSERVATION)
    tensors |= _lerobot_normaliser(statistics, "action", values, place).tensors(ACTION)
    return config, tensors


def _lerobot_config(values: dict[str, Any], place: Path) -> PolicyConfig:
    inputs, outputs = values.get("input_features", {}), values.get("output_features", {})
    cameras = [name for name in inputs if name.startswith(IMAGE)]
    seen = [name for name in (STATE, *cameras, ENVIRONMENT) if name in inputs]  # the order of LeRobot's condition
    if values.get("type") != "diffusion" or {*inputs} - {*seen} or not seen or "action" not in outputs:
        raise InputError(
            place,
            found=f"a policy {values.get('type')!r} with inputs {', '.join(sorted(inputs)) or 'none'}",
            expected=f"a diffusion policy of {STATE}, {IMAGE}... and {ENVIRONMENT}",
            fix="This policy has no counterpart here.",
        )
    vision = _lerobot_vision(values, place) if cameras else {}
    schedule = str(values.get("beta_schedule", "squaredcos_cap_v2"))
    if schedule not in SCHEDULES:
        raise InputError(place, found=f"beta_schedule {schedule}", expected=", ".join(SCHEDULES), fix="Use another.")
    try:
        return PolicyConfig.model_validate(
            {
                "observation": [
                    {"kind": "image", "name": name, "shape": inputs[name]["shape"]}
                    if name in cameras
                    else {"name": name, "size": inputs[name]["shape"][0]}
                    for name in seen
                ],
                **vision,
                "action": {"size": outputs["action"]["shape"][0]},
                "chunk": {
                    "horizon": values.get("horizon", 16),
                    "observe": values.get("n_obs_steps", 2),
                    "execute": values.get("n_action_steps", 8),
                },
                "noise": {
                    "kind": SCHEDULES[schedule],
                    "steps": values.get("num_train_timesteps", 100),
                    "first": values.get("beta_start", 1e-4),
                    "last": values.get("beta_end", 2e-2),
                },
                "prediction": values.get("prediction_type", "epsilon"),
                "clip": values.get("clip_sample_range", 1.0) if values.get("clip_sample", True) else None,
                "network": {
                    "kind": "unet",
                    "widths": values.get("down_dims", (512, 1024, 2048)),
                    "kernel": values.get("kernel_size", 5),
                    "groups": values.get("n_groups", 8),
                    "step_embedding": values.get("diffusion_step_embed_dim", 128),
                    "scale": values.get("use_film_scale_modulation", True),
                },
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            place / "config.json",
            found=f"{'.'.join(map(str, first['loc']))}: {first.get('input')!r}",
            expected=first["msg"],
            fix="This policy has no counterpart here.",
        ) from error


def _lerobot_vision(values: dict[str, Any], place: Path) -> dict[str, Any]:
    """Return the entry `vision` of the configuration."""
    only = {"vision_backbone": "resnet18", "use_group_norm": True, "resize_shape": None}
    for name, value in only.items():
        if values.get(name, value) != value:
            raise InputError(
                place, found=f"{name} {values[name]!r}", expected=f"{value!r}",
                fix="Images are encoded by a ResNet-18 with group normalisation, of their own size or cropped.",
            )  # fmt: skip
    return {
        "vision": {
            "crop": values.get("crop_shape"),
            "keypoints": values.get("spatial_softmax_num_keypoints", 32),
            "separate": values.get("use_separate_rgb_encoder_per_camera", False),
        }
    }


def _lerobot_statistics(place: Path, stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `<feature>.<statistic>` from either generation of files."""
    from shared.weights import load

    found = {}
    for name, value in stored.items():
        if match := re.fullmatch(r"(?:normalize_inputs|normalize_targets)\.buffer_(\w+)\.(min|max|mean|std)", name):
            feature = match[1].replace("observation_", "observation.", 1)
            found[f"{feature}.{match[2]}"] = value
    for file in sorted(place.glob("policy_preprocessor*normalizer*.safetensors")):
        found |= load(file).tensors
    return found


def _lerobot_normaliser(
    statistics: Mapping[str, Tensor], feature: str, values: dict[str, Any], place: Path, *, channels: int | None = None
) -> Normaliser:
    """Return the normaliser of a feature; `channels` makes it an image of that many."""
    kind = "VISUAL" if channels else {"action": "ACTION", ENVIRONMENT: "ENV"}.get(feature, "STATE")
    default = {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ENV": "MIN_MAX", "ACTION": "MIN_MAX"}
    mode = {**default, **values.get("normalization_mapping", {})}[kind]
    if mode == "IDENTITY" and channels:
        pixels = Normaliser.of_pixels(channels)
        unit = {name: value / PIXEL for name, value in pixels.statistics.items()}
        return Normaliser(pixels.scale * PIXEL, pixels.offset, unit)
    needed = {"MIN_MAX": ("min", "max"), "MEAN_STD": ("mean", "std")}.get(mode)
    if needed is None or any(f"{feature}.{name}" not in statistics for name in needed):
        raise InputError(
            place,
            found=f"{feature} normalised by {mode}, statistics {', '.join(sorted(statistics)) or 'none'}",
            expected="MIN_MAX or MEAN_STD with their statistics",
            fix="Put the normaliser's file (policy_preprocessor...normalizer...safetensors) into the folder.",
        )
    first, second = (statistics[f"{feature}.{name}"].float().flatten() for name in needed)
    if mode == "MIN_MAX":
        scale = 2 / (second - first + 1e-8)
        offset = -1 - scale * first
    else:
        scale = 1 / (second + 1e-8)
        offset = -first * scale
    kept = {name: statistics.get(f"{feature}.{name}", torch.zeros_like(scale)).float().flatten() for name in STATISTICS}
    return Normaliser(scale, offset, kept)

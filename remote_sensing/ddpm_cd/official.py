"""Published DDPM-CD files, loaded unchanged: the JSON configuration and two state dicts (wgcban/ddpm-cd @4970792).

`*_gen.pth` of the diffusion holds 362 tensors under `denoise_fn.` and 12 tables of its noise; `best_cd_model_gen.pth`
holds the head's 56 (46 with one timestep). Reading is strict: every tensor is used, and every needed one is there. The
features depend on the schedule in the JSON, not on the tables in the file, as published.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from remote_sensing.ddpm_cd.config import (
    DetectorConfig,
    DiffusionConfig,
    HeadConfig,
    ScheduleConfig,
    UNetConfig,
    from_data,
)
from remote_sensing.ddpm_cd.detector import ChangeDetector
from remote_sensing.ddpm_cd.files import filled
from remote_sensing.ddpm_cd.unet import GaussianDiffusion, UNet
from shared.errors import InputError
from shared.interop.state_dict import read_state_dict

_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*')  # strings are kept whole: URLs hold // too


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a published `.pth` file. No code in the file is run.

    Raises:
        InputError: the file is absent or holds anything else than named tensors.
    """
    return read_state_dict(path, fix="Give a `_gen.pth` file; `_opt.pth` files hold no weights.")


def read_config(path: str | os.PathLike[str]) -> DetectorConfig:
    """Read a published JSON configuration, with its comments.

    Of the schedules that of the phase `test` counts. Values of the JSON that change nothing in the published code
    (`psp`, `output_cm_size`, `norm_groups` left out is 32) change nothing here.

    Raises:
        InputError: no JSON, a missing key, or a network that is not DDPM-CD's.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        data = json.loads(_COMMENT.sub(lambda found: found[1] or "", text))
        return _config(data)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(
            path, found=f"no JSON ({error})", expected="a configuration of DDPM-CD", fix="Give a file of its config/."
        ) from error
    except (KeyError, TypeError) as error:
        raise InputError(
            path, found=f"no {error}", expected="a configuration of DDPM-CD", fix="Give a file of its config/."
        ) from error


def load_official(
    config: DetectorConfig, diffusion: Mapping[str, Tensor], head: Mapping[str, Tensor]
) -> ChangeDetector:
    """Return the published detector, in evaluation mode.

    Args:
        config: of `read_config`.
        diffusion: state of the diffusion network, of `read_state`.
        head: state of the head, of `read_state`.

    Raises:
        InputError: names or shapes that are not DDPM-CD's with this configuration.
    """
    with torch.device("meta"):
        detector = ChangeDetector(config)
    detector.unet = load_official_diffusion(config.diffusion, diffusion)
    filled(detector.head, head, "change head")
    return detector.eval().requires_grad_(False)


def load_official_diffusion(config: DiffusionConfig, state: Mapping[str, Tensor]) -> UNet:
    """Return the published diffusion network, in evaluation mode; errors as for `load_official`."""
    with torch.device("meta"):
        network = GaussianDiffusion(UNet(config.unet), config.schedule)
    return filled(network, state, "diffusion network").denoise_fn.eval()


def official_states(detector: ChangeDetector) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the state dicts of a detector in the published layout: diffusion network and head."""
    diffusion = GaussianDiffusion(detector.unet, detector.config.diffusion.schedule)
    return diffusion.state_dict(), detector.head.state_dict()


def _config(data: Mapping[str, Any]) -> DetectorConfig:
    unet, schedule = data["model"]["unet"], data["model"]["beta_schedule"]["test"]
    change = data["model_cd"]
    size = data["model"]["diffusion"]["image_size"]
    if (
        change["feat_type"] != "dec"
        or data["model"]["which_model_G"] != "sr3"
        or unet["in_channel"] != unet["out_channel"]
    ):
        raise InputError(
            "model",
            found=f"feat_type {change['feat_type']}, which_model_G {data['model']['which_model_G']}",
            expected="decoder features (dec) of the SR3 network (sr3), as many channels out as in",
            fix="Give the configuration of a released model.",
        )
    levels = range(len(unet["channel_multiplier"]))
    values: dict[str, Any] = {
        "bands": unet["in_channel"],
        "channels": unet["inner_channel"],
        "multipliers": unet["channel_multiplier"],
        "blocks": unet["res_blocks"],
        "attention": [level for level in levels if size // 2**level in unet["attn_res"]],
        "groups": unet.get("norm_groups") or 32,
        "dropout": unet["dropout"],
    }
    table: dict[str, Any] = {"kind": schedule["schedule"], "steps": schedule["n_timestep"]}
    if schedule["schedule"] == "linear":
        table |= {"first": schedule["linear_start"], "last": schedule["linear_end"]}
    diffusion = DiffusionConfig(unet=from_data(UNetConfig, values), schedule=from_data(ScheduleConfig, table))
    head = from_data(HeadConfig, {"timesteps": change["t"], "scales": change["feat_scales"]})
    return from_data(DetectorConfig, {"diffusion": diffusion, "head": head, "noise": "independent"})

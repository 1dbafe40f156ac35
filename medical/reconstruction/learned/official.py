"""Published weights, loaded unchanged: NO-MRI (neuraloperator/mri) and fastMRI's VarNet.

Both networks are those of this package with other settings: means and deviations of real and imaginary part, corners
aligned, every coil's k-space replaced by the operator's answer. What remains is a table of names. Reading is strict:
every tensor of the file is used, and every one that the network needs is there, in the right shape.

NO-MRI: 24 tensors an operator, one weight for the data consistency of each cascade: 198 with 6 cascades. fastMRI: 324
with 12 cascades. Their line masks are along the last axis; the box of `calibration_box` is theirs, except that with an
odd number of columns it lies one column to the left, symmetrical about N//2 - 1/2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from torch import Tensor

from medical.reconstruction.learned.disco import UnitSquareBasis
from medical.reconstruction.learned.no_varnet import CoilwiseOperator
from medical.reconstruction.learned.normalise import ComplexNetwork, real_imaginary
from medical.reconstruction.learned.sensitivity import SensitivityNetwork
from medical.reconstruction.learned.udno import udno
from medical.reconstruction.learned.unet import unet
from medical.reconstruction.learned.varnet import UnrolledNetwork
from shared.errors import InputError
from shared.interop.state_dict import read_state_dict

POOLS = 4
_IN_BLOCK = {"layers.0": "first", "layers.4": "second"}


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a published file: a state dict (.pt), a Lightning checkpoint (.ckpt), or .safetensors.

    No code in the file is run.

    Returns:
        Name to tensor, without the prefix "model." that Lightning adds.

    Raises:
        InputError: the file is absent or holds anything else.
    """
    content = read_state_dict(path, fix="Download the file again, or save its state dict alone.")
    prefixed = bool(content) and all(key.startswith("model.") for key in content)
    return {key.removeprefix("model.") if prefixed else key: value for key, value in content.items()}


def no_mri_network(
    state: Mapping[str, Tensor],
    *,
    shape: tuple[int, int] = (320, 320),
    radius: float = 0.02,
    kernel_shape: tuple[int, int] = (6, 7),
) -> UnrolledNetwork:
    """Return the network of a NO-MRI state dict, in evaluation mode; its published output is `LearnedOutput.rss`.

    Args:
        state: of `read_state`.
        shape: matrix size (H, W) for which the kernels are made ("in_shape"); give the data's for super-resolution.
        radius: radius_cutoff, in units of half the image.
        kernel_shape: (rings, angles).

    Raises:
        InputError: names or shapes that are not NO-MRI's.
    """
    names = _widths_and_cascades(state, "NO-MRI", "udno", "sens_net.norm_udno.udno", ("kno",))
    functions = (kernel_shape[0] - 1) * kernel_shape[1] + 1

    def operator(channels: int) -> ComplexNetwork:
        return ComplexNetwork(
            udno(
                2,
                2,
                channels=channels,
                pools=POOLS,
                basis=lambda level: UnitSquareBasis(
                    radius * 2**level, (shape[0] // 2**level, shape[1] // 2**level), *kernel_shape
                ),
                align_corners=True,
            ),
            real_imaginary,
        )

    network = UnrolledNetwork(
        SensitivityNetwork(operator(names["sens"]), residual=False),
        [operator(names["cascade"]) for _ in range(names["cascades"])],
        CoilwiseOperator(operator(names["kno"])),
    )
    return _load(network, state, no_mri_names(names["cascades"]), f"NO-MRI with kernels of {functions} functions")


def fastmri_varnet(state: Mapping[str, Tensor]) -> UnrolledNetwork:
    """Return the network of a fastMRI VarNet state dict, in evaluation mode; its published output is `rss`.

    Raises:
        InputError: names or shapes that are not fastMRI's.
    """
    names = _widths_and_cascades(state, "fastMRI's VarNet", "unet", "sens_net.norm_unet.unet", ())

    def network(channels: int) -> ComplexNetwork:
        return ComplexNetwork(unet(2, 2, channels=channels, pools=POOLS), real_imaginary)

    varnet = UnrolledNetwork(
        SensitivityNetwork(network(names["sens"]), residual=False),
        [network(names["cascade"]) for _ in range(names["cascades"])],
    )
    return _load(varnet, state, fastmri_names(names["cascades"]), "fastMRI's VarNet")


def no_mri_names(cascades: int) -> dict[str, str]:
    """Return the published name of every tensor, and ours: 24 (cascades + 2) + cascades."""
    u = {
        **_blocks("down_sample_layers", "down", POOLS, ""),
        **{f"bottleneck.{theirs}.weight": f"bottleneck.{ours}.weight" for theirs, ours in _IN_BLOCK.items()},
        **_blocks("up", "up", POOLS, ""),
        **{f"up_transpose.{i}.layers.1.weight": f"rise.{i}.disco.weight" for i in range(POOLS)},
        f"up.{POOLS - 1}.1.weight": "last.weight",
        f"up.{POOLS - 1}.1.bias": "last.bias",
    }
    places = {"sens_net.norm_udno.udno": "sensitivity", "kno.udno": "kspace_operator"}
    return _everywhere(u, places, "udno", cascades)


def fastmri_names(cascades: int) -> dict[str, str]:
    """Return the published name of every tensor, and ours: 24 (cascades + 1) + cascades."""
    u = {
        **_blocks("down_sample_layers", "down", POOLS, "convolution."),
        **{f"conv.{theirs}.weight": f"bottleneck.{ours}.convolution.weight" for theirs, ours in _IN_BLOCK.items()},
        **_blocks("up_conv", "up", POOLS, "convolution."),
        **{f"up_transpose_conv.{i}.layers.0.weight": f"rise.{i}.convolution.weight" for i in range(POOLS)},
        f"up_conv.{POOLS - 1}.1.weight": "last.weight",
        f"up_conv.{POOLS - 1}.1.bias": "last.bias",
    }
    return _everywhere(u, {"sens_net.norm_unet.unet": "sensitivity"}, "unet", cascades)


def _blocks(theirs: str, ours: str, count: int, inside: str) -> dict[str, str]:
    """Names of the blocks of one side of the U; the last block on the way up stands before the 1 x 1 convolution."""
    return {
        f"{theirs}.{i}{'.0' if ours == 'up' and i == count - 1 else ''}.{a}.weight": f"{ours}.{i}.{b}.{inside}weight"
        for i in range(count)
        for a, b in _IN_BLOCK.items()
    }


def _everywhere(u: Mapping[str, str], places: Mapping[str, str], kind: str, cascades: int) -> dict[str, str]:
    places = {**places, **{f"cascades.{i}.model.{kind}": f"cascades.{i}" for i in range(cascades)}}
    names = {f"{a}.{x}": f"{b}.network.network.{y}" for a, b in places.items() for x, y in u.items()}
    return {**names, **{f"cascades.{i}.dc_weight": f"cascades.{i}.consistency" for i in range(cascades)}}


def _widths_and_cascades(
    state: Mapping[str, Tensor], what: str, kind: str, sensitivity: str, others: tuple[str, ...]
) -> dict[str, int]:
    """Return the numbers of cascades and of channels ("sens", "cascade", and every one of `others`)."""
    cascades = {int(found[1]) for key in state if (found := re.match(r"cascades\.(\d+)\.dc_weight$", key))}
    places = {"sens": sensitivity, "cascade": f"cascades.0.model.{kind}", **{o: f"{o}.{kind}" for o in others}}
    first = {name: f"{place}.down_sample_layers.0.layers.0.weight" for name, place in places.items()}
    missing = [key for key in first.values() if key not in state]
    if missing or cascades != set(range(len(cascades))):
        raise InputError(
            "weights",
            found=f"{len(state)} tensors, without {missing[0] if missing else 'some cascades'}",
            expected=f"the state dict of {what}",
            fix="Give the published file, unchanged.",
        )
    return {"cascades": len(cascades), **{name: int(state[key].shape[0]) for name, key in first.items()}}


def _load(
    network: UnrolledNetwork, state: Mapping[str, Tensor], names: Mapping[str, str], what: str
) -> UnrolledNetwork:
    own = network.state_dict()
    unknown, missing = sorted(set(state) - set(names)), sorted(set(names) - set(state))
    wrong = [
        f"{key} {tuple(state[key].shape)}, not {tuple(own[name].shape)}"
        for key, name in names.items()
        if key in state and state[key].shape != own[name].shape
    ]
    problems = [f"unknown {key}" for key in unknown] + [f"no {key}" for key in missing] + wrong
    if problems:
        raise InputError(
            "weights",
            found=f"{'; '.join(problems[:3])}{f' and {len(problems) - 3} more' if len(problems) > 3 else ''}",
            expected=f"the {len(names)} tensors of {what}",
            fix="Give the published file, unchanged, and the settings it was trained with.",
        )
    network.load_state_dict({ours: state[theirs] for theirs, ours in names.items()})
    return network.eval()

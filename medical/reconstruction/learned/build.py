"""From a configuration to a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from medical.reconstruction.learned.backbones import BACKBONES
from medical.reconstruction.learned.configs import (
    NAMES,
    SMALL,
    MoDLConfig,
    NetworkConfig,
    NOVarNetConfig,
    OperatorConfig,
    ProximalConfig,
    VarNetConfig,
)
from medical.reconstruction.learned.disco import Basis, PolarBasis, WhitenedBasis
from medical.reconstruction.learned.modl import ConvolutionStack, MoDL
from medical.reconstruction.learned.no_varnet import FillingOperator
from medical.reconstruction.learned.normalise import ComplexNetwork, ImageNetwork
from medical.reconstruction.learned.proximal import CONDITIONS, ProximalNetwork
from medical.reconstruction.learned.sensitivity import SensitivityNetwork
from medical.reconstruction.learned.udno import udno
from medical.reconstruction.learned.unet import unet
from medical.reconstruction.learned.varnet import UnrolledNetwork
from shared.errors import InputError


def build(config: NetworkConfig) -> nn.Module:
    """Return an untrained network, `forward(kspace, mask, calibration, spacing) -> LearnedOutput`.

    Its refinements start at zero: an untrained one gives the classical image of its kind with classical coil maps.

    Raises:
        InputError: an unknown backbone.
        MissingExtra: a backbone whose package is not installed.
    """
    match config:
        case VarNetConfig():
            return _varnet(config)
        case NOVarNetConfig():
            return _no_varnet(config)
        case MoDLConfig():
            return _modl(config)
        case ProximalConfig():
            return _proximal(config)
        case OperatorConfig():
            return _operator_network(config)


def network_from_data(data: Mapping[str, Any]) -> nn.Module:
    """Return the network that a mapping describes, as it stands in a YAML file or in the metadata of weights.

    Args:
        data: "name" ("varnet", "no_varnet", ...), an optional "preset" ("small"), and fields of its configuration.

    Raises:
        InputError: an unknown name, preset or field, or a value that is no positive number.
    """
    return build(config_from_data(data))


def config_from_data(data: Mapping[str, Any]) -> NetworkConfig:
    """Return the configuration that a mapping describes; arguments and errors as in `network_from_data`."""
    values = dict(data)
    name = values.pop("name", None)
    if name not in NAMES:
        raise InputError(
            "network", found=f"name {name!r}", expected=f"one of {', '.join(NAMES)}", fix="Correct the name."
        )
    preset = values.pop("preset", None)
    if preset not in (None, "small"):
        raise InputError("network", found=f"preset {preset!r}", expected="small, or none", fix="Correct the preset.")
    base = SMALL[name] if preset else NAMES[name]()
    return base.changed(values)


def config_to_data(config: NetworkConfig) -> dict[str, Any]:
    """Return the mapping from which `network_from_data` makes the same network."""
    (name,) = (name for name, kind in NAMES.items() if type(config) is kind)
    return {"name": name, **config.values()}


def _sensitivity(network: ImageNetwork) -> SensitivityNetwork:
    return SensitivityNetwork(ComplexNetwork(network, start_at_zero=True), residual=True)


def _varnet(config: VarNetConfig) -> UnrolledNetwork:
    return UnrolledNetwork(
        _sensitivity(unet(2, 2, channels=config.sensitivity_channels, pools=config.sensitivity_pools)),
        [
            ComplexNetwork(
                unet(2, 2, channels=config.channels, pools=config.pools, dropout=config.dropout), start_at_zero=True
            )
            for _ in range(config.cascades)
        ],
    )


def _no_varnet(config: NOVarNetConfig) -> UnrolledNetwork:
    basis = _image_basis(config)
    return UnrolledNetwork(
        _sensitivity(udno(2, 2, channels=config.sensitivity_channels, pools=config.sensitivity_pools, basis=basis)),
        [
            ComplexNetwork(
                udno(2, 2, channels=config.channels, pools=config.pools, basis=basis, dropout=config.dropout),
                start_at_zero=True,
            )
            for _ in range(config.cascades)
        ],
        _filling(config),
    )


def _proximal(config: ProximalConfig) -> ProximalNetwork:
    def network() -> ImageNetwork:
        channels, pools = config.channels, config.pools
        if config.backbone == "unet":
            return unet(2, 2, channels=channels, pools=pools, conditions=CONDITIONS)
        return udno(2, 2, channels=channels, pools=pools, basis=_image_basis(config), conditions=CONDITIONS)

    if config.backbone not in ("unet", "udno"):
        raise InputError("backbone", found=repr(config.backbone), expected="unet or udno", fix="Correct the name.")
    return ProximalNetwork(
        [ComplexNetwork(network(), start_at_zero=True) for _ in range(config.cascades)],
        iterations=config.gradient_steps,
        kspace_operator=_filling(config) if config.backbone == "udno" else None,
    )


def _image_basis(config: NOVarNetConfig | ProximalConfig) -> Callable[[int], Basis]:
    return _levels(config.radius_mm, config, config.reference_mm if isinstance(config, ProximalConfig) else None)


def _levels(radius: float, config: NOVarNetConfig | ProximalConfig, reference: float | None) -> Callable[[int], Basis]:
    """Return level -> basis, radius and pixel of reference doubling with the level."""

    def basis(level: int) -> Basis:
        polar = PolarBasis(radius * 2**level, config.rings, config.angles)
        return polar if reference is None else WhitenedBasis(polar, reference * 2**level)

    return basis


def _filling(config: NOVarNetConfig | ProximalConfig) -> FillingOperator:
    reference = 1 / config.reference_fov_mm if isinstance(config, ProximalConfig) else None
    basis = _levels(config.kspace_radius_per_mm, config, reference)
    network = udno(3, 2, channels=config.kspace_channels, pools=config.kspace_pools, basis=basis)
    return FillingOperator(ComplexNetwork(network, start_at_zero=True))


def _modl(config: MoDLConfig) -> MoDL:
    return MoDL(
        _sensitivity(unet(2, 2, channels=config.sensitivity_channels, pools=config.sensitivity_pools)),
        ComplexNetwork(ConvolutionStack(2, 2, channels=config.channels, layers=config.layers), start_at_zero=True),
        steps=config.steps,
        iterations=config.gradient_steps,
    )


def _operator_network(config: OperatorConfig) -> UnrolledNetwork:
    if config.backbone not in BACKBONES:
        raise InputError(
            "backbone", found=repr(config.backbone), expected=f"one of {', '.join(BACKBONES)}", fix="Correct the name."
        )
    make = BACKBONES[config.backbone]
    return UnrolledNetwork(
        _sensitivity(unet(2, 2, channels=config.sensitivity_channels, pools=config.sensitivity_pools)),
        [
            ComplexNetwork(
                make(2, 2, channels=config.channels, modes=config.modes, layers=config.layers), start_at_zero=True
            )
            for _ in range(config.cascades)
        ],
    )

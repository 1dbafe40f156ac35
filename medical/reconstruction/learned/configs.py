"""The sizes of the learned networks, as data: `build(config)` makes the network, `network_from_data` from a dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, TypeVar

from shared.errors import InputError

Config = TypeVar("Config", bound="_Config")


@dataclass(frozen=True)
class _Config:
    """Numbers that must be positive (dropout: in [0, 1)) and whole where their default is."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, default = getattr(self, field.name), field.default
            if isinstance(default, str):
                continue
            whole, number = isinstance(default, int), isinstance(value, int | float) and not isinstance(value, bool)
            good = number and (not whole or isinstance(value, int))
            good = good and (0 <= value < 1 if field.name == "dropout" else value > 0)
            if not good:
                raise InputError(
                    field.name,
                    found=f"{value!r}",
                    expected="0 or more and less than 1"
                    if field.name == "dropout"
                    else f"a {'whole ' if whole else ''}number above 0",
                    fix="Correct the configuration of the network.",
                )

    def changed(self: Config, values: Mapping[str, Any]) -> Config:
        """Return the configuration with some values replaced.

        Raises:
            InputError: an unknown field or a value that does not fit.
        """
        known = [field.name for field in fields(self)]
        for key in values:
            if key not in known:
                raise InputError(
                    f"network {key}", found="no such field", expected=f"one of {', '.join(known)}", fix="Correct it."
                )
        return replace(self, **values)

    def values(self) -> dict[str, Any]:
        """Return the fields as a plain dict."""
        return asdict(self)


@dataclass(frozen=True)
class VarNetConfig(_Config):
    """E2E-VarNet (U-Nets).

    Attributes:
        cascades: number of unrolled steps.
        channels: of the U-Nets' finest level.
        pools: number of times that they halve the grid.
        sensitivity_channels: of the coil-map network.
        sensitivity_pools: of the coil-map network.
        dropout: probability to drop a channel in training.
    """

    cascades: int = 12
    channels: int = 18
    pools: int = 4
    sensitivity_channels: int = 8
    sensitivity_pools: int = 4
    dropout: float = 0.0


@dataclass(frozen=True)
class NOVarNetConfig(_Config):
    """NO-VarNet (U-shaped DISCO operators).

    Two rings of eight angles make 9 functions, as many as a 3 x 3 convolution has weights and as the published (3, 4),
    but they stay independent on pixels as large as the radius, where those of (3, 4) need pixels below 0.6 of it.

    Attributes:
        cascades: number of unrolled steps.
        channels: of the image operators' finest level.
        pools: number of times that they halve the grid.
        sensitivity_channels: of the coil-map operator.
        sensitivity_pools: of the coil-map operator.
        kspace_channels: of the k-space operator.
        kspace_pools: of the k-space operator.
        radius_mm: DISCO radius of the finest level in image space.
        kspace_radius_per_mm: the same in k-space.
        rings: of the basis.
        angles: of the basis.
        dropout: probability to drop a channel in training.
    """

    cascades: int = 6
    channels: int = 18
    pools: int = 4
    sensitivity_channels: int = 8
    sensitivity_pools: int = 4
    kspace_channels: int = 16
    kspace_pools: int = 4
    radius_mm: float = 3.0
    kspace_radius_per_mm: float = 0.011
    rings: int = 2
    angles: int = 8
    dropout: float = 0.0


@dataclass(frozen=True)
class MoDLConfig(_Config):
    """MoDL (conjugate-gradient data consistency, one denoiser shared by all steps).

    Attributes:
        steps: number of alternations K.
        layers: convolutions of the denoiser.
        channels: of the denoiser's hidden layers.
        gradient_steps: conjugate-gradient iterations of a data-consistency step.
        sensitivity_channels: of the coil-map network.
        sensitivity_pools: of the coil-map network.
    """

    steps: int = 5
    layers: int = 5
    channels: int = 64
    gradient_steps: int = 8
    sensitivity_channels: int = 8
    sensitivity_pools: int = 4


@dataclass(frozen=True)
class ProximalConfig(_Config):
    """Cascades that solve for the data on ESPIRiT maps (`proximal.py`), with U-Nets or U-shaped DISCO operators.

    Attributes:
        backbone: "unet" (VarNet), or "udno" (NO-VarNet, with its operator on k-space).
        cascades: number of unrolled steps.
        channels: of the image networks' finest level.
        pools: number of times that they halve the grid.
        gradient_steps: conjugate-gradient iterations of a cascade.
        kspace_channels: of the k-space operator (udno).
        kspace_pools: of the k-space operator (udno).
        radius_mm: DISCO radius of the finest level in image space (udno).
        kspace_radius_per_mm: the same in k-space (udno).
        rings: of the basis (udno).
        angles: of the basis (udno).
        reference_mm: pixel size on which the functions of the basis are orthonormal (udno).
        reference_fov_mm: field of view whose k-space grid is that of the k-space operator (udno).
    """

    backbone: str = "udno"
    cascades: int = 5
    channels: int = 18
    pools: int = 4
    gradient_steps: int = 8
    kspace_channels: int = 16
    kspace_pools: int = 4
    radius_mm: float = 3.0
    kspace_radius_per_mm: float = 0.011
    rings: int = 2
    angles: int = 8
    reference_mm: float = 2.0
    reference_fov_mm: float = 220.0


@dataclass(frozen=True)
class OperatorConfig(_Config):
    """The unrolled network with a Fourier or U-shaped neural operator for its image networks.

    Attributes:
        backbone: "fno" or "uno", an operator of the package `neuraloperator`.
        cascades: number of unrolled steps.
        channels: hidden channels of the operator.
        modes: Fourier modes kept along each axis.
        layers: of the operator.
        sensitivity_channels: of the coil-map network (a U-Net).
        sensitivity_pools: of the coil-map network.
    """

    backbone: str = "fno"
    cascades: int = 6
    channels: int = 32
    modes: int = 24
    layers: int = 4
    sensitivity_channels: int = 8
    sensitivity_pools: int = 4


NetworkConfig = VarNetConfig | NOVarNetConfig | MoDLConfig | ProximalConfig | OperatorConfig

NAMES: dict[str, type[NetworkConfig]] = {
    "varnet": VarNetConfig,
    "no_varnet": NOVarNetConfig,
    "modl": MoDLConfig,
    "proximal": ProximalConfig,
    "operator": OperatorConfig,
}
"""The name of every kind of network in data."""

SMALL: dict[str, NetworkConfig] = {
    "varnet": VarNetConfig(cascades=7, channels=10, pools=3, sensitivity_channels=4, sensitivity_pools=3),
    "no_varnet": NOVarNetConfig(
        cascades=6,
        channels=10,
        pools=3,
        sensitivity_channels=4,
        sensitivity_pools=3,
        kspace_channels=8,
        kspace_pools=2,
    ),
    "proximal": ProximalConfig(cascades=4, channels=10, pools=3, kspace_channels=11, kspace_pools=2),
    "modl": MoDLConfig(channels=48, sensitivity_channels=4, sensitivity_pools=3),
    "operator": OperatorConfig(channels=20, modes=16, layers=4, sensitivity_channels=4, sensitivity_pools=3),
}
"""Networks that train on a CPU; VarNet and NO-VarNet have equal size (1.35 and 1.32 million parameters)."""

r"""Unrolled reconstruction in k-space: the end-to-end variational network (E2E-VarNet) and what is built like it.

With measured k-space y, mask M, coil maps S and a network N_i on one complex image for every cascade,

    k_0 = y (or the answer of a k-space operator),
    k_{i+1} = k_i - eta_i M (k_i - y) - F S N_i(S^H F^-1 k_i),

eta_i learned, one at first; S^H F^-1 of the last k is the image.

Reference: Sriram et al., MICCAI 2020, arXiv 2004.06688, eq. 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medical.reconstruction.learned.disco import Spacing
from medical.reconstruction.learned.normalise import ComplexNetwork
from medical.reconstruction.learned.output import LearnedOutput, combine, expand, normalised
from medical.reconstruction.learned.sensitivity import SensitivityNetwork, in_reference_phase
from shared.errors import InputError


class Cascade(nn.Module):
    """One step of data consistency and refinement.

    Args:
        network: N_i, complex image to complex image.
    """

    def __init__(self, network: ComplexNetwork) -> None:
        super().__init__()
        self.network = network
        self.consistency = nn.Parameter(torch.ones(1))

    def forward(self, kspace: Tensor, measured: Tensor, mask: Tensor, coil_maps: Tensor, spacing: Spacing) -> Tensor:
        """Return k_{i+1} (B, C, H, W)."""
        refinement = expand(self.network(combine(kspace, coil_maps), spacing), coil_maps)
        return kspace - self.consistency * mask[:, None] * (kspace - measured) - refinement


class UnrolledNetwork(nn.Module):
    """Coil maps, an optional operator on k-space, and cascades.

    Args:
        sensitivity: estimates the coil maps.
        networks: N_i, one for each cascade.
        kspace_operator: module (measured, mask, coil_maps, spacing) -> k_0; without it k_0 = y.
    """

    def __init__(
        self,
        sensitivity: SensitivityNetwork,
        networks: Sequence[ComplexNetwork],
        kspace_operator: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.sensitivity = sensitivity
        self.kspace_operator = kspace_operator
        self.cascades = nn.ModuleList(Cascade(network) for network in networks)

    def forward(self, kspace: Tensor, mask: Tensor, calibration: Tensor, spacing: Spacing) -> LearnedOutput:
        """Reconstruct a batch of slices.

        Args:
            kspace: complex (B, C, H, W), zero where not sampled, DC at N//2; any scale, any number of coils.
            mask: bool (B, H, W), true where sampled.
            calibration: bool (B, H, W), the fully sampled box of `calibration_box`.
            spacing: pixel size in mm (y, x).

        Raises:
            InputError: shapes or types that do not fit.
        """
        check_input(kspace, mask, calibration)
        measured, scale = normalised(kspace)
        coil_maps = self.sensitivity(measured, calibration, spacing)
        k = measured
        if self.kspace_operator is not None:
            k = self.kspace_operator(measured, mask, coil_maps, spacing)
        for cascade in self.cascades:
            k = cascade(k, measured, mask, coil_maps, spacing)
        k = k * scale
        coil_maps = in_reference_phase(coil_maps, measured, calibration)
        return LearnedOutput(combine(k, coil_maps), coil_maps, k)


def check_input(kspace: Tensor, mask: Tensor, calibration: Tensor) -> None:
    """Raise InputError unless k-space is complex (B, C, H, W) and both masks are bool (B, H, W)."""
    if not kspace.is_complex() or kspace.dim() != 4:
        raise InputError(
            "kspace",
            found=f"{kspace.dtype} {tuple(kspace.shape)}",
            expected="complex (batch, coil, y, x)",
            fix="Give complex64 k-space with a batch and a coil axis.",
        )
    expected = (kspace.shape[0], *kspace.shape[2:])
    for name, given in (("mask", mask), ("calibration", calibration)):
        if given.dtype != torch.bool or given.shape != expected:
            raise InputError(
                name,
                found=f"{given.dtype} {tuple(given.shape)}",
                expected=f"bool {expected}, as the k-space",
                fix="Give one mask for each slice.",
            )

"""Fourier and U-shaped neural operators of the package `neuraloperator` as image networks, to compare with.

Both keep a number of Fourier modes of the image's square, so they run on any matrix size, but they know nothing of
millimetres: another field of view is another input to them. (Li et al., Fourier neural operator, ICLR 2021; Rahman et
al., U-NO, TMLR 2023; Kossaifi et al., neuraloperator, arXiv 2412.10354.)
"""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from typing import Any

from torch import Tensor, nn

from medical.reconstruction.learned.disco import Spacing
from medical.reconstruction.learned.normalise import ImageNetwork
from shared.errors import MissingExtra


class OperatorBackbone(ImageNetwork):
    """A network of `neuraloperator` where a U-Net would be.

    Args:
        operator: FNO or UNO, (B, in, H, W) -> (B, out, H, W); its last layer is `projection.fcs[-1]`.
        pools: H and W are padded to multiples of 2^pools.
    """

    def __init__(self, operator: Any, *, pools: int) -> None:
        super().__init__()
        self.operator: Any = operator
        self.pools = pools
        self.register_state_dict_post_hook(_only_tensors)

    def output_layer(self) -> nn.Module:
        """Return the last layer of the projection to the output's channels."""
        return self.operator.projection.fcs[-1]

    def forward(self, x: Tensor, spacing: Spacing) -> Tensor:
        """Return the operator's output on the grid of x."""
        return self.operator(x)


def fno(in_channels: int, out_channels: int, *, channels: int, modes: int, layers: int) -> OperatorBackbone:
    """Return a Fourier neural operator with `modes` modes along each axis.

    Raises:
        MissingExtra: `neuraloperator` is not installed.
    """
    models = _neuralop_models()
    return OperatorBackbone(
        models.FNO(
            n_modes=(modes, modes),
            in_channels=in_channels,
            out_channels=out_channels,
            hidden_channels=channels,
            n_layers=layers,
        ),
        pools=0,
    )


def uno(in_channels: int, out_channels: int, *, channels: int, modes: int, layers: int) -> OperatorBackbone:
    """Return a U-shaped neural operator: its second layer halves the grid, its last but one (or last of 3) doubles it.

    Raises:
        MissingExtra: `neuraloperator` is not installed.
    """
    models = _neuralop_models()
    scalings = [[1.0, 1.0] for _ in range(layers)]
    scalings[1], scalings[-2 if layers > 3 else -1] = [0.5, 0.5], [2.0, 2.0]
    with redirect_stdout(StringIO()):  # the constructor prints
        operator = models.UNO(
            in_channels=in_channels,
            out_channels=out_channels,
            hidden_channels=channels,
            lifting_channels=2 * channels,
            projection_channels=2 * channels,
            n_layers=layers,
            uno_out_channels=[channels] * layers,
            uno_n_modes=[[modes, modes]] * layers,
            uno_scalings=scalings,
            channel_mlp_skip="linear",
        )
    return OperatorBackbone(operator, pools=1)


def _only_tensors(module: nn.Module, state: dict[str, Any], prefix: str, facts: dict[str, Any]) -> None:
    """Take out what the package puts among the tensors: the arguments of its constructor."""
    state.pop("_metadata", None)


BACKBONES = {"fno": fno, "uno": uno}


def _neuralop_models() -> Any:
    try:
        from neuralop import models
    except ImportError as error:
        raise MissingExtra("neuralop", extra="operators", purpose="for the backbones fno and uno") from error
    return models

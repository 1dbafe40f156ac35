"""A DISCO layer is an integral: of one function on every grid, in millimetres, centred, and of full rank."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from medical.reconstruction.learned.disco import Disco, PolarBasis, UnitSquareBasis, WhitenedBasis
from shared.errors import InputError
from tests.oracles.disco import published_stencils, wave_through_kernel

BASES = [PolarBasis(3.0, 2, 8), PolarBasis(5.0, 3, 4)]
FOV = 96.0


def layer(basis: PolarBasis, in_channels: int = 1, out_channels: int = 1, seed: int = 0) -> Disco:
    torch.manual_seed(seed)
    return Disco(in_channels, out_channels, basis).double()


def waves(n: int, spacing: float) -> torch.Tensor:
    """A band-limited function, the same at every n: pixel i lies at (i - n // 2) spacing."""
    at = (torch.arange(n, dtype=torch.float64) - n // 2) * spacing
    y, x = at[:, None], at[None, :]
    turns = 2 * math.pi / FOV
    return (
        torch.cos(turns * (5 * x + 3 * y) + 0.3) + 0.7 * torch.sin(turns * (2 * x - 6 * y)) + torch.cos(turns * 8 * y)
    )[None, None]


def middle(x: torch.Tensor, share: float = 0.25) -> torch.Tensor:
    """Without the border, which sees the zeros outside."""
    cut = [int(share * n) for n in x.shape[-2:]]
    return x[..., cut[0] : -cut[0], cut[1] : -cut[1]]


@pytest.mark.parametrize("basis", BASES)
def test_stencils_are_odd_and_their_sums_do_not_depend_on_the_grid(basis):
    for spacing in [(2.0, 2.0), (1.0, 1.0), (0.5, 0.5), (0.47, 1.9)]:
        stencils = basis.stencils(spacing)
        assert all(n % 2 for n in stencils.shape[1:])
        torch.testing.assert_close(stencils.sum((1, 2)), torch.ones(basis.functions, dtype=torch.float64))


@pytest.mark.parametrize("basis", BASES)
def test_every_function_is_centred_in_millimetres_where_its_formula_says(basis):
    """First moments against those of the continuous functions, by quadrature on a much finer mesh."""
    at = (torch.arange(2000, dtype=torch.float64) + 0.5) / 1000 * basis.radius - basis.radius
    dense = basis.values(at[:, None], at[None, :])
    dense = dense / dense.sum((1, 2), keepdim=True)
    expected = torch.stack([(dense * at[:, None]).sum((1, 2)), (dense * at).sum((1, 2))])
    for spacing in [(2.0, 2.0), (1.1, 1.1), (0.5, 1.7)]:
        stencils = basis.stencils(spacing)
        y, x = (
            (torch.arange(n, dtype=torch.float64) - n // 2) * h
            for n, h in zip(stencils.shape[1:], spacing, strict=True)
        )
        moments = torch.stack([(stencils * y[:, None]).sum((1, 2)), (stencils * x).sum((1, 2))])
        assert (moments - expected).abs().max() < 0.12 * max(spacing)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("pixels", [64, 96, 128, 160, 192, 256, 320, 480, 640])
def test_the_basis_has_full_rank_on_every_grid_it_serves(basis, pixels):
    stencils = basis.stencils((128 / pixels, 128 / pixels)).flatten(1)
    assert torch.linalg.matrix_rank(stencils, rtol=1e-2) == basis.functions


@pytest.mark.parametrize("basis", [PolarBasis(3.2, 6, 7), PolarBasis(3.0, 3, 4), PolarBasis(1.0, 2, 8)])
def test_a_grid_on_which_functions_are_dependent_is_refused(basis):
    with pytest.raises(InputError, match="linearly dependent"):
        layer(basis)(waves(16, 2.0), (2.0, 2.0))


def integral(disco: Disco, n: int) -> torch.Tensor:
    """The layer's answer to `waves`, by an independent dense quadrature: its value at the n x n pixel centres."""
    basis = disco.basis
    return wave_through_kernel(
        disco.weight[0, 0].detach(),
        basis.radius,
        basis.rings,
        basis.angles,
        frequencies=[(3, 5), (-6, 2), (8, 0)],
        amplitudes=[1.0, 0.7, 1.0],
        phases=[0.3, -math.pi / 2, 0.0],
        fov=FOV,
        n=n,
    )


def relative(x: torch.Tensor, truth: torch.Tensor) -> float:
    return float(middle(x - truth).norm() / middle(truth).norm())


def without_mean(module: nn.Module) -> nn.Module:
    """Weights that sum to zero, as derivatives have."""
    module.weight.data -= module.weight.data.mean()
    return module.requires_grad_(False)


@pytest.mark.parametrize("basis", BASES)
def test_the_layer_is_the_integral_of_kernel_times_function_with_an_error_that_falls_with_the_pixel(basis):
    disco = layer(basis).requires_grad_(False)
    errors = [relative(disco(waves(n, FOV / n), (FOV / n,) * 2)[0, 0], integral(disco, n)) for n in (48, 96, 192)]
    assert errors[0] < 0.2
    assert errors[1] < 0.6 * errors[0]
    assert errors[2] < 0.6 * errors[1]
    assert errors[2] < 0.01


@pytest.mark.parametrize("basis", BASES)
def test_twice_the_resolution_gives_the_same_function_where_a_convolution_in_pixels_gives_another(basis):
    """Weights of sum zero see the function's slope, which a kernel in pixels sees halved on pixels of half the size."""
    torch.manual_seed(0)
    disco = without_mean(layer(basis))
    convolution = without_mean(nn.Conv2d(1, 1, 3, padding=1, bias=False).double())

    def change(n: int, answer) -> float:
        return relative(answer(2 * n)[..., ::2, ::2], answer(n))

    def by_disco(n: int) -> torch.Tensor:
        return disco(waves(n, FOV / n), (FOV / n, FOV / n))

    changes = [change(n, by_disco) for n in (48, 96)]
    assert changes[0] < 0.2
    assert changes[1] < 0.6 * changes[0]
    assert all(change(n, lambda m: convolution(waves(m, FOV / m))) > 0.4 for n in (48, 96))


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.7, 1.3), (2.0, 2.0)])
def test_shifts_by_whole_pixels_commute_exactly_away_from_the_border(spacing):
    disco = layer(BASES[0])
    x = torch.randn(1, 1, 40, 44, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    shifted = disco(x.roll((3, -5), (-2, -1)), spacing)
    torch.testing.assert_close(middle(shifted), middle(disco(x, spacing).roll((3, -5), (-2, -1))), rtol=0, atol=1e-13)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize("spacing", [(1.0, 1.0), (1.3, 0.8), (0.3, 0.3), (1.9, 1.9)])
def test_the_answer_to_a_point_is_centred_on_it(basis, spacing):
    """With one weight a ring the kernel is symmetric: no drift by half a pixel on any grid."""
    disco = layer(basis)
    rings = torch.tensor([1.0] + [0.5] * basis.angles + [0.2] * basis.angles * (basis.rings - 2))
    disco.weight.data = rings.double()[None, None]
    x = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    x[..., 32, 32] = 1
    out = disco(x, spacing)[0, 0, 1:, 1:]
    torch.testing.assert_close(out, out.flip(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(out, out.flip(1), rtol=0, atol=1e-12)


def test_kernels_are_round_in_millimetres_on_anisotropic_pixels_and_oblong_fields_of_view():
    """A Gaussian of 6 mm stays round: second moments along both axes agree, whatever the pixels and the matrix."""
    disco = layer(PolarBasis(6.0, 2, 8))
    disco.weight.data = torch.tensor([[[0.2] + [0.1] * 8]], dtype=torch.float64)
    spreads = []
    for (ny, nx), (hy, hx) in [((128, 64), (0.5, 1.0)), ((128, 64), (1.0, 1.0)), ((64, 64), (1.0, 1.0))]:
        y = (torch.arange(ny, dtype=torch.float64) - ny // 2)[:, None] * hy
        x = (torch.arange(nx, dtype=torch.float64) - nx // 2)[None, :] * hx
        out = disco(torch.exp(-(y**2 + x**2) / (2 * 6.0**2))[None, None], (hy, hx))[0, 0]
        spreads.append(torch.stack([(out * y**2).sum(), (out * x**2).sum()]) / out.sum())
    for spread in spreads:
        assert abs(float(spread[0].detach() / spread[1].detach()) - 1) < 0.005
        torch.testing.assert_close(spread, spreads[-1], rtol=0.01, atol=0)


def test_kernels_kept_in_evaluation_follow_new_weights_and_new_grids():
    disco = layer(BASES[0]).eval()
    x = waves(32, 2.0)
    with torch.no_grad():
        first = disco(x, (2.0, 2.0))
        assert not torch.equal(first, disco(x, (1.5, 1.5)))
        disco.weight.mul_(2)
        torch.testing.assert_close(disco(x, (2.0, 2.0)), 2 * first)
        disco.load_state_dict({"weight": disco.weight / 4})
        torch.testing.assert_close(disco(x, (2.0, 2.0)), first / 2)


@pytest.mark.parametrize(
    ("pixels", "radius", "kernel", "size", "rank"),
    [  # measured on the published code: notes/mri.md 1.4
        (320, 0.02, (3, 4), 7, 9),
        (640, 0.02, (3, 4), 13, 9),
        (320, 0.02, (3, 3), 7, 7),
        (320, 0.02, (2, 4), 7, 5),
        (320, 0.02, (4, 6), 7, 19),
        (320, 0.02, (6, 7), 7, 23),
        (640, 0.02, (6, 7), 13, 36),
        (480, 0.02, (6, 7), 10, 32),
        (320, 0.01, (6, 7), 4, 4),
    ],
)
def test_published_stencils_have_the_published_sizes_and_ranks(pixels, radius, kernel, size, rank):
    stencils = UnitSquareBasis(radius, (pixels, pixels), *kernel).stencils((1.0, 1.0))
    assert stencils.shape == ((kernel[0] - 1) * kernel[1] + 1, size, size)
    assert torch.linalg.matrix_rank(stencils.flatten(1)) == rank


@pytest.mark.parametrize(("shape", "kernel"), [((320, 320), (6, 7)), ((320, 320), (3, 4)), ((256, 320), (4, 6))])
def test_published_stencils_equal_their_formula_point_by_point(shape, kernel):
    stencils = UnitSquareBasis(0.02, shape, *kernel).stencils((1.0, 1.0))
    torch.testing.assert_close(stencils, published_stencils(0.02, shape, *kernel), rtol=1e-9, atol=1e-12)
    assert int((stencils.flatten(1).abs().sum(1) == 0).sum()) == (
        5 if kernel == (6, 7) else int(stencils.shape[-1] % 2 == 0)
    )


def test_even_published_stencils_look_one_pixel_further_back():
    disco = Disco(1, 1, UnitSquareBasis(0.02, (256, 256), 3, 4)).double()
    x = torch.zeros(1, 1, 20, 20, dtype=torch.float64)
    x[..., 10, 10] = 1
    out = disco(x, (1.0, 1.0))
    kernel = disco.kernel((1.0, 1.0))[0, 0]
    assert kernel.shape == (6, 6)
    torch.testing.assert_close(out[0, 0, 8:14, 8:14], kernel.flip(0, 1))


@pytest.mark.parametrize(("rings", "angles"), [(2, 8), (3, 4)])
def test_a_whitened_basis_spans_the_same_kernels_and_is_orthonormal_on_its_grid(rings, angles):
    polar = PolarBasis(3.0, rings, angles)
    basis = WhitenedBasis(polar, reference=1.4)
    on_reference = basis.stencils((1.4, 1.4)).flatten(1)
    torch.testing.assert_close(on_reference @ on_reference.T, torch.eye(basis.functions, dtype=torch.float64))
    mixing = None
    for spacing in ((1.4, 1.4), (0.7, 1.0), (0.4, 0.4)):
        plain, whitened = polar.stencils(spacing).flatten(1), basis.stencils(spacing).flatten(1)
        found = torch.linalg.lstsq(plain.T, whitened.T).solution
        torch.testing.assert_close(plain.T @ found, whitened.T)
        mixing = found if mixing is None else mixing
        torch.testing.assert_close(found, mixing)  # one mixture on all grids: one operator


def test_a_whitened_basis_refuses_the_grids_that_its_functions_do():
    with pytest.raises(InputError, match="linearly dependent"):
        WhitenedBasis(PolarBasis(2.0), reference=1.0).stencils((4.0, 4.0))

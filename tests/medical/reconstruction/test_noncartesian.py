"""The non-uniform transform is the Fourier sum written out, and gridding inverts it where k-space is filled."""

from __future__ import annotations

import builtins
import math

import numpy as np
import pytest
import torch

from medical.images import Geometry
from medical.reconstruction.fourier import fft_centred
from medical.reconstruction.noncartesian import Nufft, density_compensation, gridding, image_shape, sample_weights
from medical.reconstruction.operators import Mask, Sense
from medical.reconstruction.raw import RawScan
from medical.reconstruction.solvers import conjugate_gradient
from shared.errors import InputError, MissingExtra
from tests.medical.reconstruction.adjoint import assert_adjoint, complex_noise
from tests.medical.reconstruction.bart import bart, needs_bart
from tests.medical.reconstruction.scans import blobs

SHAPES = [(8, 9), (7, 6), (12, 12), (4, 5, 6)]


def random_trajectory(shape: tuple[int, ...], shots: int = 3, samples: int = 11) -> torch.Tensor:
    """Points over the whole band, with the edges -N/2 and N/2 among them; columns x, y(, z)."""
    size = torch.tensor(shape[::-1], dtype=torch.float64)
    points = torch.rand((shots, samples, len(shape)), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    points[0, 0], points[0, 1] = 0.0, 1.0
    return (points - 0.5) * size


def direct_sum(x: torch.Tensor, trajectory: torch.Tensor) -> torch.Tensor:
    """The Fourier sum over all pixels, written out."""
    shape = x.shape[-trajectory.shape[-1] :]
    offsets = torch.meshgrid(*[(torch.arange(n, dtype=torch.float64) - n // 2) / n for n in shape], indexing="ij")
    phase = sum(k[..., None] * r.flatten() for k, r in zip(trajectory.unbind(-1), offsets[::-1], strict=True))
    matrix = torch.exp(-2j * math.pi * phase) / math.sqrt(math.prod(shape))
    return torch.einsum("...n,spn->...sp", x.flatten(-len(shape)), matrix)


def radial(matrix: int, spokes: int, samples: int | None = None) -> torch.Tensor:
    angle = torch.arange(spokes, dtype=torch.float64) * math.pi / spokes
    samples = samples or matrix
    k = (torch.arange(samples, dtype=torch.float64) - samples // 2) * matrix / samples
    return torch.stack([k * angle.cos()[:, None], k * angle.sin()[:, None]], -1)


def radial_scan(images: torch.Tensor, trajectory: torch.Tensor, **changes) -> RawScan:
    """Scan of coil images (slice, coil, y, x)."""
    slices, _, y, x = images.shape
    kspace = direct_sum(images, trajectory)
    return RawScan(
        kspace=kspace,
        mask=torch.ones(kspace[:, 0].shape, dtype=torch.bool),
        geometry=Geometry((float(x), float(y), 1.0), positions_mm=((0.0, 0.0, 0.0),) * slices),
        recon_matrix=(1, y, x),
        recon_fov_mm=(float(x), float(y), 1.0),
        source="test",
        trajectory=trajectory.expand(slices, *trajectory.shape),
    ).after("", **changes)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.complex128, 1e-10), (torch.complex64, 1e-5)])
def test_transform_is_the_fourier_sum_up_to_the_edge_of_k_space(shape, dtype, tolerance):
    x, trajectory = complex_noise((2, 3, *shape)), random_trajectory(shape)
    truth = direct_sum(x, trajectory)
    error = (Nufft(trajectory, shape)(x.to(dtype)) - truth).abs().max() / truth.abs().max()
    assert error < tolerance


@pytest.mark.parametrize("shape", SHAPES)
def test_transform_of_a_cartesian_trajectory_is_the_centred_fourier_transform(shape):
    grid = torch.meshgrid(*[torch.arange(n) - n // 2 for n in shape], indexing="ij")
    operator = Nufft(torch.stack(grid[::-1], -1).float(), shape)
    x = complex_noise((2, *shape))
    axes = tuple(range(-len(shape), 0))
    torch.testing.assert_close(operator(x), fft_centred(x, axes), rtol=0, atol=1e-11)
    torch.testing.assert_close(operator.normal(x), x, rtol=0, atol=1e-11)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize(("shape", "lead"), [((8, 9), (2, 3)), ((7, 7), (1,)), ((4, 5, 6), (1, 2))])
def test_transform_has_an_exact_adjoint_and_toeplitz_normal_operator(shape, lead, dtype, weighted):
    trajectory = random_trajectory(shape)
    weights = torch.rand(trajectory.shape[:-1], generator=torch.Generator().manual_seed(2)) if weighted else None
    operator = Nufft(trajectory, shape, weights)
    assert_adjoint(operator, (*lead, *shape), (*lead, 3, 11), dtype)


def test_weights_enter_as_their_square_root():
    trajectory = random_trajectory((8, 9))
    weights = torch.rand(3, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = complex_noise((8, 9))
    torch.testing.assert_close(Nufft(trajectory, (8, 9), weights)(x), weights.sqrt() * direct_sum(x, trajectory))


def test_density_compensation_is_one_on_a_grid_and_the_ramp_on_a_radial_trajectory():
    grid = torch.stack(torch.meshgrid(torch.arange(12) - 6, torch.arange(10) - 5, indexing="xy"), -1).double()
    torch.testing.assert_close(density_compensation(grid, (10, 12)), torch.ones(10, 12))
    matrix, spokes = 48, 96
    weights = density_compensation(radial(matrix, spokes), (matrix, matrix))
    radius = (torch.arange(matrix) - matrix // 2).abs()
    # The area of a sample: a ring sector of length one and width |k| pi / spokes.
    inside = (radius >= 3) & (radius <= 20)
    ratio = weights / (radius * math.pi / spokes)
    assert (ratio[:, inside].mean(0) - 1).abs().max() < 0.02
    assert ratio[:, inside].std(0).max() < 0.05
    assert weights.sum() == pytest.approx(math.pi * (matrix / 2) ** 2, rel=0.05)


def test_density_compensation_of_a_radial_volume_grows_with_the_square_of_the_radius():
    count, matrix = 900, 12
    index = torch.arange(count, dtype=torch.float64) + 0.5
    polar, azimuth = torch.acos(1 - 2 * index / count), math.pi * (1 + math.sqrt(5)) * index
    direction = torch.stack([azimuth.cos() * polar.sin(), azimuth.sin() * polar.sin(), polar.cos()], -1)
    trajectory = direction[:, None] * torch.arange(7, dtype=torch.float64)[:, None]
    weights = density_compensation(trajectory, (matrix, matrix, matrix)).mean(0)
    shell = 4 * math.pi * torch.arange(7.0) ** 2 / count
    assert ((weights / shell)[2:6] - 1).abs().max() < 0.05


def test_gridding_of_a_filled_radial_scan_is_the_image_in_its_units():
    images = torch.stack([blobs((48, 48), s) for s in range(4)]).reshape(2, 2, 48, 48)
    scan = radial_scan(images, radial(48, 96))
    assert image_shape(scan) == (48, 48)
    out = gridding(scan, image_shape(scan))
    assert out.shape == images.shape
    assert (out - images).norm() < 0.03 * images.norm()
    ramp = 17.0 * (torch.arange(48) - 24).abs().clamp_min(0.25).float().expand(2, 96, 48)
    from_file = gridding(scan.after("", density=ramp), (48, 48))
    assert (from_file - images).norm() < 0.03 * images.norm()


def test_samples_that_were_not_acquired_have_no_weight():
    images = blobs((24, 24)).expand(1, 1, 24, 24)
    scan = radial_scan(images, radial(24, 60))
    mask = scan.mask.clone()
    mask[:, 30:] = False
    for density in (None, torch.ones(1, 60, 24)):
        weights = sample_weights(scan.after("", mask=mask, density=density), 0, (24, 24))
        assert not weights[30:].any()
        assert weights[:30].min() > 0


def test_conjugate_gradients_with_coils_recover_the_image_from_a_third_of_the_spokes():
    matrix = 48
    truth = blobs((matrix, matrix))[None, None]
    position = torch.linspace(-1, 1, matrix, dtype=torch.float64)
    centres = [(-1.2, 0.0), (1.2, 0.0), (0.0, -1.2), (0.0, 1.2), (1.0, 1.0), (-1.0, 1.0)]
    coils = [torch.exp(-((position[:, None] - y) ** 2 + (position - x) ** 2) + 1j * (x + y)) for y, x in centres]
    maps = torch.stack(coils)[None, None]
    trajectory = radial(matrix, 25)
    weights = density_compensation(trajectory, (matrix, matrix)).double()
    data = direct_sum((maps * truth)[0], trajectory)
    operator = Nufft(trajectory, (matrix, matrix), weights) @ Sense(maps)
    image = conjugate_gradient(operator.normal, operator.adjoint(weights.sqrt() * data), iterations=60)
    assert (image - truth).norm() < 3e-3 * truth.norm()
    plain = Mask(weights.sqrt()) @ Nufft(trajectory, (matrix, matrix)) @ Sense(maps)
    torch.testing.assert_close(operator.normal(truth), plain.normal(truth), rtol=0, atol=1e-9)


def likeness(a: torch.Tensor, b: torch.Tensor) -> float:
    """Real part of the normalised inner product."""
    return float((a.conj() * b).sum().real / (a.norm() * b.norm()))


@pytest.mark.peer
@needs_bart
def test_transform_and_gridding_of_a_radial_phantom_agree_with_bart():
    matrix, spokes = 64, 110
    trajectory = bart(f"traj -r -x {matrix} -y {spokes}")
    kspace = torch.from_numpy(bart("phantom -k -t @in0", trajectory)[0].T.copy()).to(torch.complex128)
    image = bart(f"phantom -x {matrix}")
    ours = torch.from_numpy(np.ascontiguousarray(trajectory.real[:2].transpose(2, 1, 0))).double()
    x = torch.from_numpy(image.T.copy()).to(torch.complex128)
    operator = Nufft(ours, (matrix, matrix))
    peer = torch.from_numpy(bart("nufft", trajectory, image)[0].T.copy())
    assert (operator(x) - peer).norm() < 2.5e-3 * peer.norm()
    adjoint = torch.from_numpy(bart("nufft -a -d 64:64:1", trajectory, kspace.numpy().T[None]).T.copy())
    assert (operator.adjoint(kspace) - adjoint).norm() < 2.5e-3 * adjoint.norm()
    # The analytic transform of the phantom is that of its pixels, up to their size; a mirrored one is told apart.
    assert likeness(operator(x), kspace) > 0.997
    for wrong in (x.flip(-1), x.flip(-2), x.T, x.roll(1, -1)):
        assert likeness(operator(wrong), kspace) < 0.99
    gridded = operator.adjoint(kspace * density_compensation(ours, (matrix, matrix)))
    assert likeness(gridded, operator.adjoint(operator(x) * density_compensation(ours, (matrix, matrix)))) > 0.95


@pytest.mark.parametrize(
    ("trajectory", "shape", "message"),
    [
        (torch.zeros(3, 5, 3), (8, 8), "one column per axis"),
        (torch.full((3, 5, 2), math.nan), (8, 8), "not finite"),
        (torch.full((3, 5, 2), 5.0), (8, 8), "beyond N/2"),
    ],
)
def test_wrong_trajectories_are_refused(trajectory, shape, message):
    with pytest.raises(InputError, match=message):
        Nufft(trajectory, shape)


def test_cartesian_scans_are_refused():
    scan = radial_scan(complex_noise((1, 1, 8, 8)), radial(8, 4)).after("", trajectory=None)
    with pytest.raises(InputError, match="Cartesian"):
        gridding(scan, (8, 8))


def test_missing_library_is_told_with_the_extra_that_brings_it(monkeypatch):
    original = builtins.__import__

    def without_finufft(name, *args, **kwargs):
        if name == "finufft":
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_finufft)
    with pytest.raises(MissingExtra, match=r"fewstep\[medical\]"):
        Nufft(torch.zeros(3, 5, 2), (8, 8))(complex_noise((8, 8)))

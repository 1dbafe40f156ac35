"""Virtual coils keep the signal: orthonormal weights, the largest energy, smooth along the readout, BART's subspace."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medical.reconstruction.axis_matrix import AxisMatrix
from medical.reconstruction.coil_compression import ReadoutCompression, align, compress_coils, principal_coils
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.preprocess import noise_covariance, resize_centred
from medical.reconstruction.raw import RawScan
from shared.errors import InputError
from tests.medical.reconstruction.adjoint import assert_adjoint, complex_noise
from tests.medical.reconstruction.bart import bart, needs_bart
from tests.medical.reconstruction.scans import scan_of


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random matrices (..., p, coil) with orthonormal rows."""
    return torch.linalg.qr(complex_noise((*shape[:-2], shape[-1], shape[-2]), seed=seed))[0].mH


def scan_of_rank(rank: int, coils: int = 6, slices: int = 2) -> RawScan:
    """Coils that are combinations of `rank` sources, so `rank` virtual coils hold everything."""
    return scan_of(torch.einsum("cr,sryx->scyx", complex_noise((coils, rank)), complex_noise((slices, rank, 9, 8))))


def virtual_energy(scan: RawScan, coils: int, method: str) -> float:
    compressed = compress_coils(scan, coils=coils, method=method).kspace
    return float(compressed.norm() ** 2 / scan.kspace.norm() ** 2)


@pytest.fixture
def brain(data_file) -> RawScan:
    kspace = torch.from_numpy(np.load(data_file("mri/pulseq_cimaX_brain_16ch_128.npy")))
    return scan_of(kspace[None] / kspace.abs().max())


@pytest.mark.parametrize("method", ["scc", "gcc"])
def test_as_many_virtual_coils_as_sources_lose_nothing(method):
    scan = scan_of_rank(3)
    out = compress_coils(scan, coils=3, method=method)
    rss, expected = (ifft_centred(s.kspace).abs().square().sum(1) for s in (out, scan))
    torch.testing.assert_close(rss, expected)
    assert out.coils == 3
    assert "6 to 3" in out.history[-1]
    assert "100.00 %" in out.history[-1]
    assert compress_coils(scan, energy=0.999999, method=method).coils == 3


@pytest.mark.parametrize("method", ["scc", "gcc"])
def test_reported_energy_is_the_energy_of_the_virtual_coils(method):
    scan = scan_of(complex_noise((2, 5, 9, 8)))
    out = compress_coils(scan, coils=2, method=method)
    assert f"{100 * virtual_energy(scan, 2, method):.2f} %" in out.history[-1]
    for energy in (0.3, 0.6, 0.9, 1.0):
        coils = compress_coils(scan, energy=energy, method=method).coils
        assert virtual_energy(scan, coils, method) >= energy - 1e-9
        assert coils == 1 or virtual_energy(scan, coils - 1, method) < energy


def test_single_coil_compression_projects_on_the_leading_singular_vectors():
    scan = scan_of(complex_noise((2, 5, 9, 8)))
    samples = scan.kspace.movedim(1, 0).flatten(1)
    u = torch.linalg.svd(samples, full_matrices=False)[0][:, :2]
    out = compress_coils(scan, coils=2).kspace.movedim(1, 0).flatten(1)
    torch.testing.assert_close(out.mH @ out, samples.mH @ (u @ u.mH) @ samples)


@pytest.mark.parametrize("method", ["scc", "gcc"])
def test_order_of_the_coils_does_not_matter(method):
    scan = scan_of(complex_noise((1, 5, 9, 8)))
    permuted = scan_of(scan.kspace[:, [3, 0, 4, 1, 2]])
    images = [ifft_centred(compress_coils(s, coils=2, method=method).kspace) for s in (scan, permuted)]
    torch.testing.assert_close(images[0].abs().square().sum(1), images[1].abs().square().sum(1))


def test_compression_keeps_whitened_noise_white_and_covers_navigators_and_calibration():
    scan = scan_of_rank(3)
    noise = complex_noise((6, 50), seed=5)
    noise = torch.linalg.solve_triangular(torch.linalg.cholesky(noise_covariance(noise)), noise, upper=False)
    scan = scan.after("", noise=noise, navigators=scan.kspace.transpose(1, 2), calibration=scan.kspace)
    for method in ("scc", "gcc"):
        out = compress_coils(scan, coils=3, method=method)
        torch.testing.assert_close(noise_covariance(out.noise), torch.eye(3, dtype=torch.complex128))
        torch.testing.assert_close(out.navigators, out.kspace.transpose(1, 2))
        torch.testing.assert_close(out.calibration, out.kspace)


def test_short_calibration_block_is_compressed_with_the_maps_of_its_own_pixels():
    # Only the low frequencies along the readout: a block of them must give the same virtual coils as the padded line.
    block = complex_noise((1, 4, 6, 5))
    matrices = rows(2, 4).expand(16, 2, 4)
    operator = ReadoutCompression(matrices, 1)
    torch.testing.assert_close(operator(block), resize_centred(operator(resize_centred(block, 16, -1)), 5, -1))
    torch.testing.assert_close(operator(block), AxisMatrix(matrices[0], 1)(block))


def test_alignment_undoes_arbitrary_rotations_of_smooth_virtual_coils():
    coils, p, readout = 6, 3, 40
    generator = complex_noise((coils, coils))
    generator = generator - generator.mH
    position = torch.linspace(-1, 1, readout, dtype=torch.float64)
    smooth = rows(p, coils) @ torch.linalg.matrix_exp(0.2 * position[:, None, None] * generator)
    rotated = rows(readout, p, p, seed=3) @ smooth
    aligned = align(rotated)
    torch.testing.assert_close(aligned @ aligned.mH, torch.eye(p, dtype=torch.complex128).expand(readout, p, p))
    torch.testing.assert_close(aligned.mH @ aligned, smooth.mH @ smooth)
    jump = torch.linalg.matrix_norm(aligned.diff(dim=0))
    assert jump.max() <= torch.linalg.matrix_norm(smooth.diff(dim=0)).max() * (1 + 1e-9)
    assert torch.linalg.matrix_norm(rotated.diff(dim=0)).mean() > 20 * jump.mean()


@pytest.mark.data
def test_geometric_compression_of_a_real_brain_keeps_more_energy_than_single_and_is_smooth(brain):
    for coils in (2, 4, 8):
        assert virtual_energy(brain, coils, "gcc") > virtual_energy(brain, coils, "scc")
    # Navigator c is an impulse in coil c: it comes out as that coil's weight along the readout.
    identity = torch.zeros(1, 16, 16, 128, dtype=torch.complex64)
    identity[0, range(16), range(16), 64] = 1
    weights = ifft_centred(compress_coils(brain.after("", navigators=identity), 4, method="gcc").navigators, (-1,))
    weights = weights[0] * 128**0.5
    head = weights[..., 30:98]
    torch.testing.assert_close((head.abs() ** 2).sum((0, 1)), torch.full((68,), 4.0), atol=1e-3, rtol=0)
    jump = head.diff(dim=-1).abs().square().sum((0, 1)).sqrt()
    assert jump.mean() < 0.5


@pytest.mark.data
def test_nine_virtual_coils_of_a_real_brain_hold_99_percent_and_change_the_image_by_less_than_half_a_percent(
    brain, data_file
):
    maps = torch.from_numpy(
        np.load(data_file("mri/bart080_golden_cimaX_brain_R4.npz"), allow_pickle=False)["sens_full"]
    )
    support = maps.abs().square().sum(0) > 0.5

    def combined(kspace, maps):
        return ((maps.conj() * ifft_centred(kspace)).sum(0) / maps.abs().square().sum(0).clamp_min(1e-6))[support]

    # Maps travel in the navigators, so the same matrices act on them.
    compressed = compress_coils(brain.after("", navigators=fft_centred(maps)[None].transpose(1, 2)), energy=0.99)
    virtual_maps = ifft_centred(compressed.navigators.transpose(1, 2)[0])
    image, reference = combined(compressed.kspace[0], virtual_maps), combined(brain.kspace[0], maps)
    assert compressed.coils == 9
    assert (image - reference).norm() < 0.005 * reference.norm()


@pytest.mark.data
@pytest.mark.peer
@needs_bart
@pytest.mark.parametrize(("method", "flag"), [("scc", "-S"), ("gcc", "-G")])
def test_virtual_coils_span_the_same_space_as_those_of_bart(brain, method, flag):
    kspace = brain.kspace[0].numpy().transpose(2, 1, 0)[:, :, None, :]
    peer = torch.from_numpy(bart(f"cc -p 6 -A {flag}", kspace)[:, :, 0].transpose(2, 1, 0).copy())
    ours = compress_coils(brain, coils=6, method=method).kspace[0]
    # Bases may differ by a unitary at each readout position, which the sum of squares of the image does not see.
    images = [ifft_centred(k).abs().square().sum(0).sqrt() for k in (ours, peer)]
    assert (images[0] - images[1]).norm() < 1e-3 * images[1].norm()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize(("coils", "p", "readout", "samples"), [(1, 1, 9, 9), (4, 2, 8, 8), (5, 3, 9, 5)])
def test_compression_operators_have_exact_adjoints_and_orthonormal_rows(coils, p, readout, samples, dtype):
    matrices = rows(readout, p, coils)
    operator = ReadoutCompression(matrices, 1)
    assert_adjoint(operator, (2, coils, 3, samples), (2, p, 3, samples), dtype)
    assert_adjoint(AxisMatrix(matrices[0], 1), (2, coils, 3, samples), (2, p, 3, samples), dtype)
    y = complex_noise((2, p, 3, readout))
    torch.testing.assert_close(operator(operator.adjoint(y)), y)


def test_wrong_requests_are_refused():
    scan = scan_of(complex_noise((1, 4, 6, 8)))
    for arguments in ({"coils": 5}, {"coils": 0}, {"energy": 1.5}, {"energy": 0.9, "coils": 2}, {"method": "ecc"}):
        with pytest.raises(InputError):
            compress_coils(scan, **arguments)
    mask = scan.mask.clone()
    mask[..., :3] = False
    with pytest.raises(InputError, match="missing samples"):
        compress_coils(scan_of(scan.kspace, mask), coils=2, method="gcc")
    assert compress_coils(scan_of(scan.kspace, mask), coils=2).coils == 2
    assert compress_coils(scan).coils >= 1


def test_principal_coils_have_orthonormal_weights_and_the_energies_of_the_largest_singular_values():
    samples = complex_noise((6, 200), seed=3) * torch.logspace(1, -1, 6, dtype=torch.float64)[:, None]
    matrix = principal_coils(samples, 4)
    torch.testing.assert_close(matrix @ matrix.mH, torch.eye(4, dtype=matrix.dtype))
    energies = (matrix @ samples).abs().square().sum(1)
    torch.testing.assert_close(energies, torch.linalg.svdvals(samples)[:4].square())

"""ESPIRiT finds the true sensitivities, knows where there is no object, and agrees with BART and SigPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medical.reconstruction.coil_maps import calibration_region, espirit, espirit_hybrid, fitting_kernel
from medical.reconstruction.fourier import fft_centred, ifft_centred
from shared.errors import InputError
from tests.medical.reconstruction.adjoint import complex_noise
from tests.medical.reconstruction.bart import bart, needs_bart
from tests.medical.reconstruction.golden import collinearity, read_golden
from tests.medical.reconstruction.phantom import coil_maps, every_nth_line, head, scan


def central(kspace: torch.Tensor, *sizes: int) -> torch.Tensor:
    box = tuple(
        slice(n // 2 - s // 2, n // 2 - s // 2 + s) for n, s in zip(kspace.shape[-len(sizes) :], sizes, strict=True)
    )
    return kspace[(..., *box)]


def simulated(shape: tuple[int, ...], coils: int = 8, noise_sd: float = 1e-3) -> tuple[torch.Tensor, ...]:
    truth, image = coil_maps(shape, coils), head(shape)
    kspace = scan(image, truth, torch.ones(shape, dtype=torch.bool), noise_sd)
    return kspace, truth, image.abs() > 0


@pytest.mark.parametrize("shape", [(64, 64), (63, 80), (48, 51)])
@pytest.mark.parametrize("box", [(24, 24), (23, 20)])
def test_maps_are_collinear_with_the_true_sensitivities_with_eigenvalue_one_in_the_object(shape, box):
    kspace, truth, inside = simulated(shape)
    maps, eigenvalues = espirit(central(kspace, *box), shape)
    assert maps.shape == (1, 1, 8, *shape)
    assert eigenvalues.shape == (1, 1, *shape)
    products, support, _ = collinearity(maps[0, 0], truth)
    assert support[inside].all()
    alike = (maps[0, 0].conj() * truth).sum(0).abs()[inside]
    assert alike.mean() > 0.9995
    assert alike.min() > 0.98
    assert eigenvalues[0, 0][inside].min() > 0.97
    assert eigenvalues[0, 0][inside].mean() > 0.995
    assert eigenvalues.max() < 1 + 1e-6
    norms = maps[0, 0].norm(dim=0)
    assert (norms[support] - 1).abs().max() < 1e-9
    assert eigenvalues[0, 0][~support].max() < 0.8
    assert products.numel() < inside.numel()


def test_eigenvalues_and_vectors_are_those_of_the_projection_onto_calibration_patches():
    """Independent of the implementation: apply patch projection to an impulse in k-space and transform densely."""
    coils, k, n = 3, 3, 12
    calibration = simulated((n, n), coils)[0][0][:, 1:11, 2:11].to(torch.complex128)
    maps, eigenvalues = espirit(calibration, (n, n), kernel_size=k, threshold=0.01, crop=0.0)
    rows = torch.stack(
        [calibration[:, a : a + k, b : b + k].flatten() for a in range(10 - k + 1) for b in range(9 - k + 1)]
    )
    _, singular, right = torch.linalg.svd(rows, full_matrices=False)
    kept = right[singular**2 > 0.01 * singular[0] ** 2]
    projector = kept.T @ kept.conj()  # patches as columns are spanned by the transposed right vectors
    images = torch.zeros(coils, coils, n, n, dtype=torch.complex128)
    for c in range(coils):
        impulse = torch.zeros(coils, n, n, dtype=torch.complex128)
        impulse[c, n // 2, n // 2] = 1
        response = torch.zeros_like(impulse)
        for a in range(n - k + 1):
            for b in range(n - k + 1):
                patch = projector @ impulse[:, a : a + k, b : b + k].flatten()
                response[:, a : a + k, b : b + k] += patch.reshape(coils, k, k) / k**2
        images[:, c] = ifft_centred(response) * n
    values, vectors = torch.linalg.eigh(images.permute(2, 3, 0, 1))
    clear = values[..., -1] - values[..., -2] > 0.2
    alike = (maps[0].conj() * vectors[..., -1].permute(2, 0, 1)).sum(0).abs()
    assert clear.sum() > 20
    torch.testing.assert_close(eigenvalues[0][clear], values[..., -1][clear], atol=1e-4, rtol=0)
    assert (eigenvalues[0] <= values[..., -1] + 1e-6).all()
    assert alike[clear].min() > 0.999


def test_coil_order_and_batch_do_not_matter():
    kspace, _, _ = simulated((48, 48), 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    calibration = central(kspace, 24, 24)[0]
    both = torch.stack([calibration, calibration[order]])
    maps, _ = espirit(both, (48, 48))
    single, _ = espirit(calibration, (48, 48))
    torch.testing.assert_close(maps[0], single)
    torch.testing.assert_close(maps[1], maps[0][:, order], atol=2e-3, rtol=0)


def test_phase_is_relative_to_the_principal_coil_combination():
    kspace, _, inside = simulated((48, 48), 6)
    calibration = central(kspace, 24, 24)[0]
    maps, _ = espirit(calibration, (48, 48))
    y = calibration.flatten(1)
    principal = torch.linalg.eigh(y @ y.mH)[1][:, -1]
    projected = (principal.conj()[:, None, None] * maps[0]).sum(0)[inside]
    projected = projected / projected[0] * projected[0].abs()
    assert projected.imag.abs().max() < 1e-9
    assert projected.real.min() > 0


@pytest.mark.parametrize("coils", [1, 4, 8, 32])
@pytest.mark.parametrize("size", [16, 24])
def test_noise_alone_has_an_empty_support(coils, size):
    maps, eigenvalues = espirit(complex_noise((coils, size, size), torch.complex64), (40, 40))
    assert (maps != 0).sum() == 0
    assert eigenvalues.max() == 0


@pytest.mark.parametrize("coils", [1, 2, 3])
@pytest.mark.parametrize("noise_sd", [1e-3, 0.3])
def test_few_coils_still_find_the_object(coils, noise_sd):
    """One coil has no redundancy, and its patches spread like noise; only the concentration in k-space tells."""
    kspace, _, inside = simulated((48, 48), coils, noise_sd)
    maps, _ = espirit(central(kspace, 24, 24), (48, 48))
    support = maps[0, 0].norm(dim=0) > 0
    assert support[inside].float().mean() > 0.95


def test_a_point_object_is_no_noise():
    """Its k-space is as flat as that of noise, but all its patches are alike."""
    point = torch.zeros(32, 32, dtype=torch.complex128)
    point[12, 19] = 1
    kspace = fft_centred(coil_maps((32, 32), 4) * point)
    maps, _ = espirit(central(kspace, 24, 24), (32, 32))
    assert maps[0, :, 12, 19].norm() > 0.99


def test_an_object_larger_than_the_field_of_view_needs_the_second_set():
    """Where the object folds over, two sensitivities meet in a pixel and the second eigenvalue rises to one."""
    large = (96, 64)
    truth, image = coil_maps(large, 12), head(large, size=0.8)
    half = fft_centred(truth * image)[:, ::2]  # half the field of view along y: 48 lines
    inside = image.abs() > 0
    twice = inside[24:72] & torch.cat([inside[72:], inside[:24]])  # the central rows and what folds onto them
    maps, eigenvalues = espirit(central(half, 24, 24), (48, 64), maps=2)
    assert maps.shape == (2, 12, 48, 64)
    assert twice.sum() > 100
    assert eigenvalues[1][twice].median() > 0.95
    assert eigenvalues[1][~twice].median() < 0.3
    assert eigenvalues[0][twice].min() > 0.9
    inner = (maps[0].conj() * maps[1]).sum(0).abs()
    assert inner.max() < 1e-4
    whole, second = espirit(central(simulated((48, 64), 12)[0], 24, 24)[0], (48, 64), maps=2)
    assert (second[1] > 0.8).float().mean() < 0.02
    assert whole[0].norm(dim=0).max() > 0.99


@pytest.mark.parametrize("estimate", [espirit, espirit_hybrid])
def test_3d_maps_are_collinear_with_the_truth_and_continuous_along_the_readout(estimate):
    shape = (16, 20, 24)
    kspace, truth, inside = simulated(shape, 5)
    maps, eigenvalues = estimate(central(kspace, 12, 12, 24), shape, kernel_size=4)
    assert maps.shape == (1, 1, 5, *shape)
    assert eigenvalues.shape == (1, 1, *shape)
    alike = (maps[0, 0].conj() * truth).sum(0).abs()[inside]
    assert alike.mean() > 0.99
    both = inside & inside.roll(1, -1)
    steps = (maps[0, 0] - maps[0, 0].roll(1, -1)).norm(dim=0)[both]
    assert steps.median() < 0.2


def test_calibration_region_is_the_largest_complete_box_around_dc():
    mask = every_nth_line((128, 100), 4, 24)
    assert calibration_region(mask) == (slice(52, 76), slice(38, 62))
    assert calibration_region(mask, size=32) == (slice(52, 76), slice(34, 66))
    plane = torch.zeros(1, 31, 40, dtype=torch.bool)
    plane[:, 15 - 5 : 15 + 5, 20 - 9 : 20 + 9] = True
    plane[:, 15 - 8 : 15 + 8, 20 - 3 : 20 + 3] = True
    assert calibration_region(plane) == (slice(10, 20), slice(11, 29))
    plane[:, 12, 29] = True
    plane[:, 12, 12] = False
    assert calibration_region(plane) == (slice(10, 20), slice(13, 27))
    volume = torch.zeros(1, 30, 32, 64, dtype=torch.bool)
    volume[:, 15 - 6 : 15 + 6, 16 - 7 : 16 + 7] = True
    assert calibration_region(volume) == (slice(9, 21), slice(9, 23), slice(20, 44))
    half = torch.ones(2, 64, 64, dtype=torch.bool)
    half[1, :22] = False
    assert calibration_region(half, size=64) == (slice(22, 42), slice(0, 64))


@pytest.mark.parametrize("calibration", [0, 2])
def test_missing_calibration_lines_are_one_clear_error(calibration):
    with pytest.raises(InputError, match=r"calibration: found a fully sampled k-space centre of .*rss"):
        calibration_region(every_nth_line((64, 64), 4, calibration))


def test_a_box_smaller_than_the_kernel_and_more_sets_than_coils_are_errors():
    with pytest.raises(InputError, match="5 x 24 samples"):
        espirit(complex_noise((4, 5, 24)), (64, 64))
    with pytest.raises(InputError, match="2 map sets from 1 coil"):
        espirit(complex_noise((1, 24, 24)), (64, 64), maps=2)


@pytest.mark.parametrize(
    ("box", "width"),
    [((24, 24), 6), ((10, 24), 6), ((8, 8), 5), ((6, 128), 4), ((4, 24), 3), ((1, 8, 24), 5), ((1, 1), 1)],
)
def test_the_kernel_narrows_with_the_box_and_never_exceeds_it(box, width):
    assert fitting_kernel(box) == width


@pytest.mark.data
def test_a_kernel_that_fits_six_lines_finds_maps_that_one_as_wide_as_the_lines_does_not(data_file):
    golden = read_golden(data_file)
    lines = golden.full[:, :, 61:67, 52:76]
    fitted, wide = (
        collinearity(espirit(lines, (128, 128), kernel_size=width, crop=0.0)[0], golden.maps_full)[0].mean()
        for width in (fitting_kernel((6, 24)), 6)
    )
    assert fitted > wide + 0.01


@pytest.mark.data
@pytest.mark.parametrize("sampled", ["undersampled", "full"])
def test_maps_of_the_brain_equal_barts(data_file, sampled):
    golden = read_golden(data_file)
    kspace, expected = (golden.kspace, golden.maps) if sampled == "undersampled" else (golden.full, golden.maps_full)
    box = calibration_region(golden.mask)
    maps, _ = espirit(kspace[(slice(None), slice(None), *box)], (128, 128))
    alike, support, theirs = collinearity(maps, expected)
    assert alike.mean() >= 0.9999
    assert alike.quantile(0.01) >= 0.999
    assert abs(support.float().mean() - theirs.float().mean()) < 0.005
    assert (support ^ theirs).float().mean() < 0.01
    phase = (expected.conj() * maps).sum(2)[support & theirs]
    assert (phase * phase.mean().conj()).angle().abs().max() < 0.1


@pytest.mark.peer
@needs_bart
@pytest.mark.parametrize("sets", [1, 2])
def test_maps_equal_barts_on_a_phantom_with_odd_matrix(sets):
    shape = (63, 80)
    kspace, _, _ = simulated(shape, 6, 0.01)
    theirs = np.asarray(bart(f"ecalib -m{sets} -r24 -k6", kspace[0].permute(1, 2, 0)[:, :, None].numpy()))
    theirs = torch.from_numpy(theirs.reshape(*shape, 6, sets)).permute(3, 2, 0, 1).to(torch.complex128)
    maps, _ = espirit(kspace[(slice(None), slice(None), *calibration_region(torch.ones(1, *shape)))], shape, maps=sets)
    for ours, expected in zip(maps[0], theirs, strict=True):
        alike, support, other = collinearity(ours, expected)
        assert (support ^ other).float().mean() < 0.03
        if support.float().mean() > 0.1:
            assert alike.mean() > 0.9995


@pytest.mark.peer
def test_maps_equal_sigpys_with_the_square_root_of_the_threshold():
    mri = pytest.importorskip("sigpy.mri")
    shape = (64, 64)
    kspace, _, _ = simulated(shape, 6, 0.01)
    theirs = mri.app.EspiritCalib(
        kspace[0].to(torch.complex64).numpy(),
        calib_width=24,
        thresh=0.001**0.5,
        kernel_width=6,
        crop=0.8,
        show_pbar=False,
    ).run()
    maps, _ = espirit(central(kspace, 24, 24), shape)
    alike, support, other = collinearity(maps[0, 0], torch.from_numpy(theirs).to(torch.complex128))
    assert alike.mean() > 0.9999
    assert (support ^ other).float().mean() < 0.01

"""The simulated scanner against analytic transforms, its own truth, its noise, and the anatomy it scanned."""

from __future__ import annotations

import math

import nibabel
import numpy as np
import pytest
import torch
from nibabel.processing import resample_from_to
from scipy.special import j1

from medical.anatomy import SHEPP_LOGAN, head_phantom, load_anatomy
from medical.images import Geometry, Image, affine_from_geometry, write_image
from medical.reconstruction.continuous_object import Plane
from medical.reconstruction.fourier import ifft_centred
from medical.reconstruction.preprocess import prewhiten
from medical.reconstruction.simulate import axial_slices, simulate_scan
from shared.errors import InputError

INF = float("inf")


@pytest.fixture(scope="module")
def blob() -> Image:
    """A smooth head-sized anatomy without any symmetry, 3 mm voxels, not centred on the origin."""
    z, y, x = np.mgrid[:44, :64, :52] * 3.0
    body = ((x - 78) / 66) ** 2 + ((y - 93) / 84) ** 2 + ((z - 66) / 60) ** 2
    rho = 1 / (1 + np.exp(14 * (body - 1)))
    for x0, y0, z0, size, value in ((50, 60, 60, 14, 0.8), (100, 120, 75, 22, -0.5), (95, 70, 55, 9, 0.7)):
        rho += value * np.exp(-(((x - x0) ** 2 + (y - y0) ** 2 + (z - z0) ** 2) / (2 * size**2)))
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = (-70.0, -100.0, -50.0)
    return Image(torch.from_numpy(rho.clip(0).astype(np.float32)), affine, {"source": "blob"})


def oblique(anatomy: Image, slices: int = 2) -> Geometry:
    c, s = math.cos(0.35), math.sin(0.35)
    frame = np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    centre = np.array([-8.0, 7.0, 16.0])
    positions = tuple(tuple(centre + 9.0 * n * frame[:, 2]) for n in range(slices))
    return Geometry((216, 216, 4), tuple(frame[:, 0]), tuple(frame[:, 1]), tuple(frame[:, 2]), positions)


def coil_images(scan) -> torch.Tensor:
    """Invert and crop the readout so that index N//2 stays at M//2: written out here, apart from the package."""
    image = ifft_centred(scan.kspace.to(torch.complex128))
    wide, kept = image.shape[-1], scan.recon_matrix[2]
    start = wide // 2 - kept // 2
    return image[..., start : start + kept]


def relative(x: torch.Tensor, reference: torch.Tensor) -> float:
    return float((x - reference).norm() / reference.norm())


def test_kspace_of_an_ellipse_is_the_bessel_function_that_theory_gives():
    """An ellipse at r_0 has a b J_1(2 pi q) / q exp(-2 pi i k.r_0) with q^2 = (a kx)^2 + (b ky)^2."""
    a, b, u0, v0, cell = 62.0, 41.0, 17.0, -23.0, 0.25
    u, v = (np.arange(800) - 399.5) * cell, (np.arange(760) - 379.5) * cell
    inside = ((u - u0) / a) ** 2 + ((v[:, None] - v0) / b) ** 2 <= 1
    plane = Plane(inside.astype(complex), u, v, cell, np.eye(3), np.zeros(3))
    matrix, fov = (96, 128), (192.0, 256.0)
    ky, kx = (np.arange(96) - 48)[:, None] / fov[0], (np.arange(128) - 64) / fov[1]
    q = np.hypot(a * kx, b * ky)
    q[48, 64] = 1e-9
    exact = a * b * j1(2 * np.pi * q) / q * np.exp(-2j * np.pi * (kx * u0 + ky * v0))
    exact *= math.sqrt(96 * 128) / (fov[0] * fov[1])
    computed = plane.encode(plane.values, matrix, fov)
    assert np.linalg.norm(computed - exact) / np.linalg.norm(exact) < 4e-3
    assert computed[48, 64] == pytest.approx(exact[48, 64], rel=1e-4)
    # at the edge of k-space a shift by half a cell or pixel shows most
    outer = (np.abs(kx) > 0.15) & (np.abs(ky) > 0.1)
    product = np.vdot(computed[outer], exact[outer]).real
    assert product / (np.linalg.norm(computed[outer]) * np.linalg.norm(exact[outer])) > 0.99


@pytest.mark.parametrize("oversampling", [1, 2])
@pytest.mark.parametrize("matrix", [(72, 72), (63, 80)])
def test_full_scan_without_noise_gives_the_truth_back(blob, matrix, oversampling):
    scan, truth = simulate_scan(
        blob,
        oblique(blob),
        matrix=matrix,
        acceleration=1,
        snr=INF,
        readout_oversampling=oversampling,
        generator=torch.Generator().manual_seed(0),
    )
    assert scan.acceleration == 1
    assert scan.noise is None
    images = coil_images(scan)
    mvue = (truth.coil_maps.conj() * images).sum(1)
    assert relative(mvue, truth.image.data) < 7e-3
    assert relative(images.abs().square().sum(1).sqrt(), truth.image.data.abs()) < 7e-3
    norm = truth.coil_maps.abs().square().sum(1)
    torch.testing.assert_close(norm, torch.ones_like(norm))
    # shuffled coils must not pass
    assert relative((truth.coil_maps.roll(1, 1).conj() * images).sum(1), truth.image.data) > 0.5


def test_truth_over_shading_is_the_anatomy_at_the_pixels(blob):
    geometry = oblique(blob)
    _, truth = simulate_scan(blob, geometry, matrix=(72, 72), snr=INF, echo_time_ms=0.0)
    affine = affine_from_geometry(geometry, (2, 72, 72), geometry.fov_mm, volumetric=False)
    np.testing.assert_allclose(truth.image.affine, affine)
    source = nibabel.Nifti1Image(blob.data.numpy().transpose(2, 1, 0), blob.affine)
    sampled = resample_from_to(source, ((72, 72, 2), affine), order=3).get_fdata().transpose(2, 1, 0)
    rho = (truth.image.data / truth.shading).numpy()
    assert np.abs(rho.imag).max() < 0.02
    assert np.linalg.norm(rho.real - sampled) / np.linalg.norm(sampled) < 0.03
    assert float((truth.shading * truth.image.data.abs()).sum() / truth.image.data.abs().sum()) == pytest.approx(1, 0.1)


def test_phase_scales_with_the_echo_time_and_is_smooth(blob):
    phases = {}
    for echo in (2.0, 4.0):
        _, truth = simulate_scan(blob, matrix=(72, 72), snr=INF, echo_time_ms=echo)
        x = truth.image.data
        phases[echo] = x.angle()[x.abs() > 0.5]
        step = (x[..., 1:] * x[..., :-1].conj()).angle()[(x.abs() > 0.5)[..., 1:] & (x.abs() > 0.5)[..., :-1]]
        assert step.abs().max() < 0.5
    assert phases[4.0].abs().max() > 0.3
    torch.testing.assert_close(phases[4.0], 2 * phases[2.0], atol=0.02, rtol=0.05)


def test_noise_scan_and_kspace_carry_the_promised_covariance(blob):
    def run(snr):
        return simulate_scan(
            blob,
            oblique(blob),
            matrix=(96, 96),
            acceleration=1,
            snr=snr,
            generator=torch.Generator().manual_seed(3),
        )

    (noisy, truth), (clean, _) = run(20.0), run(INF)
    psi = truth.noise_covariance
    scale = psi.diagonal().real.mean()
    for samples in (noisy.noise, (noisy.kspace - clean.kspace).transpose(0, 1).flatten(1)):
        measured = samples @ samples.mH / samples.shape[1]
        assert float((measured - psi).abs().max() / scale) < 0.06
    deviation = psi.diagonal().real.sqrt()
    correlation = (psi / (deviation[:, None] * deviation)).abs() - torch.eye(8)
    assert 0.2 < correlation.max() < 0.9
    assert deviation.max() / deviation.min() > 1.3


def test_optimal_combination_of_a_full_scan_has_the_asked_snr(blob):
    def run(snr, seed):
        return simulate_scan(
            blob, oblique(blob), matrix=(72, 72), acceleration=1, snr=snr, generator=torch.Generator().manual_seed(seed)
        )

    scan, truth = run(25.0, 1)
    inverse = torch.linalg.inv(truth.noise_covariance.to(torch.complex128))
    maps = truth.coil_maps.to(torch.complex128)
    weight = torch.einsum("scyx,cd->sdyx", maps.conj(), inverse)
    norm = torch.einsum("sdyx,sdyx->syx", weight, maps)
    error = (weight * coil_images(scan)).sum(1) / norm - truth.image.data
    inside = truth.image.data.abs() > 0.1 * truth.image.data.abs().max()
    expected = norm.real**-0.5
    assert float((error.abs().square() / expected**2)[inside].mean()) == pytest.approx(1, rel=0.08)
    assert float((truth.image.data.abs() / expected)[inside].mean()) == pytest.approx(25, rel=1e-3)


def test_prewhitened_full_scan_is_the_whitened_truth_in_noise_units(blob):
    scan, truth = simulate_scan(
        blob, oblique(blob), matrix=(72, 72), acceleration=1, snr=200.0, generator=torch.Generator().manual_seed(1)
    )
    images = coil_images(prewhiten(scan))
    expected = truth.whitened().data
    bright = expected.abs() > 0.3 * expected.abs().max()
    rss = images.abs().square().sum(1).sqrt()
    assert relative(rss[bright], expected.abs()[bright]) < 0.02
    assert relative(rss[bright], truth.image.data.abs()[bright]) > 0.5
    air = images[..., :6, :6]
    assert float(air.abs().square().mean()) == pytest.approx(1, rel=0.15)
    with pytest.raises(InputError, match="without noise"):
        simulate_scan(blob, matrix=(48, 48), snr=INF)[1].whitened()


@pytest.mark.parametrize("sampling", ["equispaced", "variable-density"])
def test_only_the_lines_of_the_mask_are_acquired_and_the_true_acceleration_is_reported(blob, sampling):
    def run(acceleration):
        return simulate_scan(
            blob,
            matrix=(96, 80),
            acceleration=acceleration,
            calibration_lines=16,
            sampling=sampling,
            snr=INF,
            generator=torch.Generator().manual_seed(5),
        )[0]

    scan, full = run(4), run(1)
    assert scan.kspace.shape == (1, 8, 96, 160)
    assert scan.mask.shape == (1, 96, 160)
    assert scan.simulated
    assert "not measured" in scan.warnings[0]
    assert bool((scan.kspace.abs().sum(1) > 0).eq(scan.mask).all())
    torch.testing.assert_close(scan.kspace, full.kspace * scan.mask[:, None])
    lines = int(scan.mask[0, :, 0].sum())
    assert lines == (36 if sampling == "equispaced" else 24)
    assert scan.acceleration == pytest.approx(96 / lines)
    assert bool(scan.mask[0, 40:56].all())


def test_same_seed_gives_the_same_scan_and_another_seed_other_noise(blob):
    scans = [
        simulate_scan(blob, matrix=(48, 48), generator=torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)
    ]
    assert torch.equal(scans[0].kspace, scans[1].kspace)
    assert torch.equal(scans[0].noise, scans[1].noise)
    assert not torch.equal(scans[0].noise, scans[2].noise)


def test_object_larger_than_the_field_of_view_wraps_around(blob):
    narrow = axial_slices(blob, fov_mm=(240.0, 120.0))
    wide = axial_slices(blob, fov_mm=(240.0, 240.0))
    images = [
        coil_images(simulate_scan(blob, g, matrix=m, acceleration=1, snr=INF, echo_time_ms=0.0)[0])
        for g, m in ((narrow, (40, 80)), (wide, (80, 80)))
    ]
    folded = torch.zeros_like(images[0])
    for y in range(80):
        folded[..., (y - 40 + 20) % 40, :] += images[1][..., y, :]
    assert relative(images[0], folded) < 0.02


def test_reconstruction_of_the_brain_template_lands_on_the_template(tmp_path):
    """Oblique slices of the packaged brain, reconstructed and written as NIfTI, correlate with it in its own space."""
    pytest.importorskip("nilearn")
    brain = load_anatomy()
    c, s = math.cos(0.3), math.sin(0.3)
    frame = np.array([[0, -c, s], [1, 0, 0], [0, s, c]])  # read to posterior; phase and slice tilted
    centre = np.array([4.0, 15.0, 12.0])
    positions = tuple(tuple(centre + 2.0 * n * frame[:, 2]) for n in range(-2, 3))
    geometry = Geometry((240, 204, 2), tuple(frame[:, 0]), tuple(frame[:, 1]), tuple(frame[:, 2]), positions)
    scan, truth = simulate_scan(
        brain, geometry, matrix=(136, 160), coils=4, acceleration=1, snr=100, generator=torch.Generator().manual_seed(0)
    )
    image = (truth.coil_maps.conj() * coil_images(scan)).sum(1) / truth.shading
    placed = Image.placed(image, scan.geometry, fov_mm=scan.recon_fov_mm, volumetric=False)
    path, _ = write_image(placed, tmp_path / "brain.nii.gz")
    template = nibabel.Nifti1Image(brain.data.numpy().transpose(2, 1, 0), brain.affine)
    written = nibabel.load(path)

    def correlation(shift=(0.0, 0.0, 0.0), flip=None):
        affine = written.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ np.array(shift)
        voxels = written.get_fdata() if flip is None else np.flip(written.get_fdata(), flip)
        moved = resample_from_to(template, (written.shape, affine), order=1).get_fdata()
        return np.corrcoef(voxels[..., 1:-1].ravel(), moved[..., 1:-1].ravel())[0, 1]

    best = correlation()
    assert best > 0.99
    for axis in range(3):
        for step in (-1.0, -0.5, 0.5, 1.0):
            shift = [0.0, 0.0, 0.0]
            shift[axis] = step
            drop = best - correlation(tuple(shift))
            assert drop > (0.0005 if abs(step) < 1 else 0.004)
    assert all(correlation(flip=axis) < 0.96 for axis in (0, 1))


def test_phantom_integrates_to_the_volumes_of_its_ellipsoids():
    phantom = head_phantom(voxel_mm=2.0, field_mm=220.0)
    exact = sum(value * 4 / 3 * np.pi * np.prod(np.multiply(axes, 110.0)) for value, axes, _, _ in SHEPP_LOGAN)
    assert float(phantom.data.double().sum()) * 2**3 == pytest.approx(exact, rel=2e-3)
    inside = phantom.affine @ np.array([55, 55, 55, 1.0])
    np.testing.assert_allclose(inside[:3], 1.0)
    # the upper ventricle-like ellipse lies anterior, the three small ones posterior: not upside down
    assert float(phantom.data[47, 55 + 19, 55]) == pytest.approx(0.3, abs=1e-6)
    assert float(phantom.data[55, 55 - 19, 55]) == pytest.approx(0.2, abs=1e-6)


def test_anatomy_without_nilearn_is_the_phantom(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "nilearn.datasets", None)
    monkeypatch.setattr("medical.anatomy.head_phantom", lambda: "phantom")
    assert load_anatomy() == "phantom"


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ({"coils": 0}, "coils"),
        ({"snr": 0.0}, "snr"),
        ({"snr": float("nan")}, "snr"),
        ({"matrix": (0, 8)}, "matrix"),
        ({"readout_oversampling": 0}, "oversampling"),
        ({"acceleration": 0.5}, "acceleration"),
        ({"geometry": Geometry((200, 200, 4), positions_mm=((0.0, 0.0, 500.0),))}, "do not meet"),
    ],
)
def test_impossible_scans_are_refused(blob, bad, named):
    with pytest.raises(InputError, match=named):
        simulate_scan(blob, **{"matrix": (48, 48), **bad})

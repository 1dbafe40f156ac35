"""EPI corrections give back what a scanner without gradient ramps and delays would have measured."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from medical.reconstruction.axis_matrix import AxisMatrix
from medical.reconstruction.epi import correct_epi_ghost, odd_even_phase, regrid_readout, regridding_matrix
from medical.reconstruction.formats import read_scan
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.preprocess import noise_covariance, prewhiten, remove_readout_oversampling, resize_centred
from medical.reconstruction.raw import RawScan
from shared.errors import InputError
from tests.medical.reconstruction.adjoint import assert_adjoint, complex_noise
from tests.medical.reconstruction.scans import blobs, scan_of


def trapezoid_positions(matrix: int, samples: int, ramp: float = 0.3) -> torch.Tensor:
    """Sample positions under a trapezoid whose ramps take `ramp` of the window each, symmetric about zero."""
    time = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
    fine = torch.linspace(0, 1, 20001, dtype=torch.float64)
    gradient = torch.clamp(torch.minimum(0.2 + fine / ramp, 0.2 + (1 - fine) / ramp), max=1.0)
    area = torch.cat([torch.zeros(1, dtype=torch.float64), torch.cumulative_trapezoid(gradient, fine)])
    area = matrix * (area / area[-1] - 0.5)
    return torch.from_numpy(np.interp(time.numpy(), fine.numpy(), area.numpy()))


def direct_fourier(image: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Sum of exp(-2 pi i p r) over the last axis, written out."""
    n = image.shape[-1]
    r = (torch.arange(n) - n // 2) / n
    return image @ torch.exp(-2j * math.pi * r[:, None] * positions) / math.sqrt(n)


def ramp_scan(image: torch.Tensor, samples: int) -> RawScan:
    """EPI scan of (slice, coil, y, x) sampled on ramps; the object lies in the middle half along x."""
    positions = trapezoid_positions(image.shape[-1], samples)
    kspace = fft_centred(direct_fourier(image, positions), (-2,))
    y, x = image.shape[-2:]
    scan = scan_of(kspace, readout_positions=positions.float(), recon_matrix=(1, y, x // 2))
    return scan.after("", geometry=scan.geometry.__class__((float(x), float(y), 1.0)), recon_fov_mm=(x / 2, y, 1.0))


@pytest.mark.parametrize("size", [64, 63])
def test_uniform_readout_is_unchanged_by_regridding(size):
    scan = scan_of(complex_noise((2, 3, 5, size)), recon_fov_mm=(32.0, 5.0, 1.0))
    positions = torch.arange(size, dtype=torch.float32) - size // 2
    out = regrid_readout(scan.after("", readout_positions=positions))
    torch.testing.assert_close(out.kspace, scan.kspace, rtol=0, atol=1e-5)
    assert out.mask.all()
    assert out.readout_positions is None
    assert out.noise_bandwidth_ratio == pytest.approx(1.0)


def test_ramp_sampled_object_comes_out_as_the_plain_image():
    image = torch.zeros(1, 2, 16, 128, dtype=torch.complex128)
    image[..., 32:96] = torch.stack([blobs((16, 64), seed) for seed in (0, 1)])
    image[..., 40:88] += 0.2 * complex_noise((1, 2, 16, 48))
    scan = ramp_scan(image, 128)
    out = ifft_centred(remove_readout_oversampling(regrid_readout(scan)).kspace)
    assert (out - image[..., 32:96]).abs().max() < 2e-3 * image.abs().max()
    assert (ifft_centred(scan.kspace) - image).abs().max() > 0.3 * image.abs().max()


def test_more_samples_than_grid_points_leave_the_grid_beyond_them_not_acquired():
    image = torch.zeros(1, 1, 8, 128, dtype=torch.complex128)
    image[..., 32:96] = blobs((8, 64))
    out = regrid_readout(ramp_scan(image, 150))
    assert out.encoded_matrix == (8, 150)
    assert torch.equal(out.mask[0, 0].nonzero().flatten(), torch.arange(75 - 64, 75 + 65))
    assert not out.kspace[..., :11].any()
    kspace = fft_centred(image)
    assert (out.kspace[..., 11:139] - kspace).abs().max() < 1e-3 * kspace.abs().max()


def test_gaussian_of_known_fourier_transform_is_regridded_to_its_uniform_samples():
    n, width, centre = 128, 3.0, 7.25
    positions = trapezoid_positions(n, n)

    def transform(k):
        scale = width * math.sqrt(2 * math.pi / n)
        return scale * torch.exp(-2 * (math.pi * k * width / n) ** 2 - 2j * math.pi * k * centre / n)

    uniform = transform(torch.arange(n, dtype=torch.float64) - n // 2)
    regridded = regridding_matrix(positions, n, inside=0.5) @ transform(positions)
    assert (regridded - uniform).abs().max() < 1e-4 * uniform.abs().max()
    mirrored = regridding_matrix(positions, n, inside=0.5) @ transform(-positions)
    assert (mirrored - uniform).abs().max() > 0.1 * uniform.abs().max()


def test_noise_gain_of_regridding_keeps_prewhitened_image_noise_at_one():
    positions = trapezoid_positions(64, 64)
    data = complex_noise((1, 2, 600, 64), seed=1)
    scan = scan_of(data, readout_positions=positions, noise=complex_noise((2, 20000), seed=2))
    out = prewhiten(regrid_readout(scan.after("", recon_fov_mm=(32.0, 600.0, 1.0))))
    image = ifft_centred(remove_readout_oversampling(out).kspace, (-1,))
    assert image.abs().square().mean() == pytest.approx(1.0, abs=0.02)
    assert image.abs().square().mean((0, 1, 2)).std() < 0.06


def test_positions_that_do_not_fit_are_refused_and_steps_in_wrong_order_too():
    scan = scan_of(complex_noise((1, 1, 4, 8)))
    assert regrid_readout(scan) is scan
    for positions in (torch.arange(7.0), torch.arange(8.0).flip(0)):
        with pytest.raises(InputError, match="ascending"):
            regrid_readout(scan.after("", readout_positions=positions))
    with pytest.raises(InputError, match="regrid_readout"):
        correct_epi_ghost(scan.after("", readout_positions=torch.arange(8.0) - 4))


def epi_scan(constant: float, slope: float, first_backwards: bool, navigators: int = 3, drift: float = 0.3) -> RawScan:
    """Two slices, two coils; slice 1 has twice the phase of slice 0; navigators drift by off-resonance."""
    image = torch.stack([blobs((24, 21), s) for s in range(4)]).reshape(2, 2, 24, 21)
    pixels = torch.arange(21, dtype=torch.float64) - 10

    def measured(lines, backwards, factor):
        sign = torch.where(backwards, 0.5, -0.5).to(torch.float64)[:, None]
        phase = factor * sign * (constant + slope * pixels)
        return fft_centred(ifft_centred(lines, (-1,)) * torch.exp(1j * phase), (-1,))

    backwards = (torch.arange(24) % 2 == 1) ^ first_backwards
    navigator_backwards = (torch.arange(navigators) % 2 == 1) ^ first_backwards
    kspace, factors = fft_centred(image), (1.0, 2.0)
    echo = torch.exp((1j * drift - 0.05) * torch.arange(navigators, dtype=torch.float64))
    centre = kspace[:, None, :, 12] * echo[None, :, None, None]
    lines = [
        torch.stack([measured(centre[s, :, c], navigator_backwards, factors[s]) for c in (0, 1)], 1) for s in (0, 1)
    ]
    data = torch.stack([measured(kspace[s], backwards, factors[s]) for s in (0, 1)])
    return scan_of(
        data,
        navigators=torch.stack(lines),
        navigator_reversed=navigator_backwards.expand(2, -1),
        line_reversed=backwards.expand(2, -1),
    ).after("", header={"truth": image})


@pytest.mark.parametrize("per_coil", [False, True])
@pytest.mark.parametrize("navigators", [3, 8])
@pytest.mark.parametrize("first_backwards", [False, True])
def test_ghost_of_delayed_gradients_vanishes_and_the_object_stays_in_place(first_backwards, navigators, per_coil):
    scan = epi_scan(constant=0.7, slope=-0.21, first_backwards=first_backwards, navigators=navigators)
    truth = scan.header["truth"]
    before, after = ifft_centred(scan.kspace), ifft_centred(correct_epi_ghost(scan, per_coil).kspace)
    assert (before - truth).norm() > 0.3 * truth.norm()
    torch.testing.assert_close(after, truth, rtol=0, atol=1e-9)


def test_phase_of_backward_against_forward_lines_is_found_with_its_sign():
    scan = epi_scan(constant=0.7, slope=-0.21, first_backwards=False)
    constant, slope = odd_even_phase(scan.navigators[0], scan.navigator_reversed[0])
    assert constant.item() == pytest.approx(0.7, abs=1e-9)
    assert slope.item() == pytest.approx(-0.21, abs=1e-9)


def test_two_navigator_lines_suffice_without_drift_and_one_direction_is_refused():
    scan = epi_scan(constant=0.4, slope=0.1, first_backwards=False, navigators=2, drift=0.0)
    torch.testing.assert_close(ifft_centred(correct_epi_ghost(scan).kspace), scan.header["truth"], rtol=0, atol=1e-9)
    alike = torch.zeros_like(scan.navigator_reversed)
    with pytest.raises(InputError, match="one readout direction"):
        correct_epi_ghost(scan.after("", navigator_reversed=alike))
    with pytest.raises(InputError, match="no navigator"):
        correct_epi_ghost(scan.after("", navigators=None))


def test_corrected_navigators_have_no_odd_even_phase_left():
    out = correct_epi_ghost(epi_scan(constant=0.7, slope=-0.21, first_backwards=True))
    for index in (0, 1):
        constant, slope = odd_even_phase(out.navigators[index], out.navigator_reversed[index])
        assert abs(constant.item()) < 1e-9
        assert abs(slope.item()) < 1e-9


def object_of(magnitude: np.ndarray) -> np.ndarray:
    """Support of the object in a ghost-free image: pixels above a fifth of its level, holes closed."""
    bright = magnitude > 0.2 * np.percentile(magnitude, 95)
    largest = ndimage.label(ndimage.binary_closing(bright, iterations=3))[0]
    return ndimage.binary_fill_holes(largest == 1 + np.bincount(largest[largest > 0] - 1).argmax())


def ghost_level(magnitude: np.ndarray, support: np.ndarray) -> float:
    """Mean signal where only the ghost at N/2 can be, over the mean signal where only the object can be."""
    ghost = np.roll(support, support.shape[0] // 2, axis=0)
    around = ndimage.binary_dilation(support, iterations=2)
    return float(magnitude[ghost & ~around].mean() / magnitude[support & ~ghost].mean())


def pulseq_epi(data_file, name: str) -> RawScan:
    """Trio EPI without averages: every second line and navigator line ran backwards."""
    backwards = torch.arange(96) % 2 == 1

    def lines(part):
        data = torch.from_numpy(np.load(data_file(f"mri/pulseq_trio_epi96_basic_{part}.npy")))[0]
        return torch.where(backwards[:, None], data.flip(-1), data)

    return scan_of(
        lines(name)[None, None],
        navigators=lines("nav")[None, :, None],
        navigator_reversed=backwards[None],
        line_reversed=backwards[None],
    )


@pytest.mark.data
@pytest.mark.parametrize("name", ["pePlus", "peMinus"])
def test_ghost_of_a_real_phantom_falls_below_five_percent_with_a_navigator_shot(data_file, name):
    scan = pulseq_epi(data_file, name)
    before, after = (ifft_centred(s.kspace)[0, 0].abs().numpy().astype(float) for s in (scan, correct_epi_ghost(scan)))
    support = object_of(after)
    assert ghost_level(after, support) < 0.05
    assert ghost_level(before, support) > 0.3


def combined(scan: RawScan) -> np.ndarray:
    """Root sum of squares (y, x) of the first slice in the recon field of view, at 80 x 80 pixels."""
    kspace = remove_readout_oversampling(scan).kspace[0]
    low = resize_centred(resize_centred(kspace, 80, -1), 80, -2)
    return ifft_centred(low).abs().square().sum(0).sqrt().double().numpy()


def ghost_above_noise(magnitude: np.ndarray, support: np.ndarray) -> float:
    """Root mean square of the ghost over the object, less the power where neither of them can be."""
    around = ndimage.binary_dilation(support, iterations=2)
    ghost_around = np.roll(around, 40, axis=0)
    ghost, air = np.roll(support, 40, axis=0) & ~around, ~around & ~ghost_around
    power = (magnitude[ghost] ** 2).mean() - (magnitude[air] ** 2).mean()
    return math.sqrt(max(power, 0)) / magnitude[support].mean()


@pytest.mark.data
def test_siemens_epi_with_ramps_and_three_navigators_becomes_the_phantom_of_the_gradient_echo_scan(data_file):
    scan = read_scan(data_file("mri/twixtools_skyra_epi_2ch.dat"))
    anatomy = combined(read_scan(data_file("mri/twixtools_skyra_gre_2ch.dat")))
    regridded = regrid_readout(scan)
    ghosted, image = combined(regridded), combined(correct_epi_ghost(regridded))
    support, outline = object_of(image), object_of(anatomy)
    assert (support & outline).sum() > 0.97 * (support | outline).sum()
    likeness = np.corrcoef(image.ravel(), anatomy.ravel())[0, 1]
    assert likeness > 0.9
    assert np.corrcoef(image[:, ::-1].ravel(), anatomy.ravel())[0, 1] < likeness - 0.05
    assert np.corrcoef(image[::-1].ravel(), anatomy.ravel())[0, 1] < likeness - 0.05
    not_regridded = combined(correct_epi_ghost(scan.after("", readout_positions=None)))
    assert np.corrcoef(not_regridded.ravel(), anatomy.ravel())[0, 1] < likeness - 0.05
    assert ghost_above_noise(ghosted, support) > 0.18
    assert ghost_above_noise(image, support) < 0.08


def trapezoids(path: Path) -> dict[int, tuple[float, float, float, float]]:
    """Trapezoid gradients of a Pulseq 1.4 file: id to amplitude (1/m/s) and rise, flat and fall times (s)."""
    section = path.read_text().split("[TRAP]")[1].split("[")[0]
    rows = [line.split() for line in section.splitlines() if line.strip() and not line.startswith("#")]
    return {int(r[0]): (float(r[1]), *(float(t) * 1e-6 for t in r[2:5])) for r in rows}


def trapezoid_area(gradient: tuple[float, float, float, float], until: float = math.inf) -> float:
    """Area from the start of the gradient to the time `until` after it."""
    amplitude, rise, flat, fall = gradient
    ramp_up, top, ramp_down = (min(max(until - a, 0), b) for a, b in ((0, rise), (rise, flat), (rise + flat, fall)))
    return amplitude * (ramp_up**2 / (2 * rise) + top + ramp_down - ramp_down**2 / (2 * fall))


@pytest.mark.data
def test_regridding_with_the_trajectory_of_the_pulse_sequence_shifts_the_image_by_its_half_sample(data_file):
    path = data_file("mri/pulseq_trio_epi96_basic_pePlus.seq")
    gradients = trapezoids(path)
    # Blocks 4 and 5: prephasing gradient 4, then readout lobe 7 (backwards: 9) with 96 samples of 4 us after 213 us.
    start, fov = trapezoid_area(gradients[4]), 0.22
    times = 213e-6 + (np.arange(96) + 0.5) * 4e-6
    forwards = fov * np.array([start + trapezoid_area(gradients[7], t) for t in times])
    middle = start + trapezoid_area(gradients[7])
    backwards = fov * np.array([middle + trapezoid_area(gradients[9], t) for t in times])
    np.testing.assert_allclose(forwards, np.arange(96) - 47.5, atol=2e-3)
    np.testing.assert_allclose(backwards[::-1], forwards, atol=2e-3)

    scan = correct_epi_ghost(pulseq_epi(data_file, "pePlus"))
    half = torch.exp(1j * math.pi * (torch.arange(96) - 48) / 96)
    expected = ifft_centred(scan.kspace) * half
    regridded = regrid_readout(scan.after("", readout_positions=torch.from_numpy(forwards)))
    error = (ifft_centred(regridded.kspace) - expected).norm() / expected.norm()
    assert error < 0.03


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize(("size", "samples"), [(16, 16), (15, 20)])
def test_regridding_has_an_exact_adjoint(size, samples, dtype):
    operator = AxisMatrix(regridding_matrix(trapezoid_positions(size, samples), size, 0.5), -1)
    assert_adjoint(operator, (2, 1, 3, samples), (2, 1, 3, size), dtype)


def test_noise_covariance_of_coils_is_untouched_by_regridding():
    data = complex_noise((1, 3, 200, 32), seed=4)
    mixing = complex_noise((3, 3), seed=5)
    scan = scan_of(AxisMatrix(mixing, 1)(data), readout_positions=trapezoid_positions(32, 32))
    out = regrid_readout(scan)
    before, after = (noise_covariance(s.kspace[0].flatten(1)) for s in (scan, out))
    torch.testing.assert_close(after / after.trace(), before / before.trace(), atol=0.05, rtol=0)

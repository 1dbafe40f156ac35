"""Samples on a gradient's ramps have the positions and phases of the gradient's area."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medical.reconstruction.formats import read_scan
from medical.reconstruction.formats.ramp import Ramp
from tests.medical.reconstruction.formats.mrd_files import line, write_mrd, xml
from tests.medical.reconstruction.formats.twix_files import POSITION, Readout, Scan, write_twix

UP, FLAT, DOWN, DELAY, DWELL, SAMPLES = 40.0, 80.0, 60.0, 20.0, 8.0, 18
OFFSET_FOV = 0.13


def gradient(time: np.ndarray, sinusoidal: bool) -> np.ndarray:
    """Amplitude of the readout gradient relative to its flat top."""
    rise, fall = time / UP, (UP + FLAT + DOWN - time) / DOWN
    linear = np.clip(np.minimum(rise, fall), 0, 1)
    return np.sin(np.pi / 2 * linear) if sinusoidal else linear


def truth(matrix: int, sinusoidal: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Positions k and those of a gradient without ramps k', by numerical integration of the gradient."""
    fine = np.linspace(DELAY, DELAY + SAMPLES * DWELL, 200_001)
    amplitude = gradient(fine, sinusoidal)
    area = np.concatenate([[0], np.cumsum((amplitude[1:] + amplitude[:-1]) / 2) * (fine[1] - fine[0])])
    times = DELAY + (np.arange(SAMPLES) + 0.5) * DWELL
    middle = DELAY + SAMPLES * DWELL / 2
    k = (np.interp(times, fine, area) - np.interp(middle, fine, area)) * matrix / area[-1]
    return k, (times - middle) * matrix / area[-1]


@pytest.mark.parametrize("sinusoidal", [False, True])
def test_positions_are_the_area_under_the_gradient(sinusoidal: bool) -> None:
    ramp = Ramp(UP, FLAT, DOWN, DELAY, DWELL, SAMPLES, sinusoidal)
    np.testing.assert_allclose(ramp.positions(16), truth(16, sinusoidal)[0], atol=1e-4)
    assert not ramp.is_uniform()


def test_receiver_open_on_the_flat_top_only_samples_uniformly() -> None:
    ramp = Ramp(UP, FLAT, DOWN, UP, FLAT / 16, 16)
    assert ramp.is_uniform()
    np.testing.assert_allclose(ramp.positions(16), np.arange(16) - 7.5, atol=1e-9)


def demodulated(matrix: int, offset: float, point: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Signal of a point at `offset + point` (fields of view), received at the flat top's frequency, and as wanted."""
    k, flat = truth(matrix)
    received = np.exp(-2j * np.pi * k * (offset + point)) * np.exp(2j * np.pi * flat * offset)
    return received, np.exp(-2j * np.pi * k * point)


def test_twix_readouts_have_positions_and_the_phase_of_their_off_centre_removed(tmp_path: Path) -> None:
    """Siemens stores the conjugate; the read direction is (0, .8, -.6) and the encoded field of view 32 mm."""
    offset = float(np.dot(POSITION, (0, 0.8, -0.6))) / 32
    received, wanted = demodulated(16, offset)
    flags = ["REFLECT"]
    lines = [
        Readout(np.stack([received, 2 * received]).conj()[:, :: -1 if n % 2 else 1], flags if n % 2 else [], {"Lin": n})
        for n in range(6)
    ]
    times = {
        "alRegridMode": "2",
        "alRegridRampupTime": f"{UP:g}",
        "alRegridFlattopTime": f"{FLAT:g}",
        "alRegridRampdownTime": f"{DOWN:g}",
        "alRegridDelaySamplesTime": f"{DELAY:g}",
    }
    meas = "".join(f'<ParamLong."{name}">  {{ {value} }}\n' for name, value in times.items())
    meas += f'<ParamDouble."aflRegridADCDuration">  {{ <Precision> 6 {SAMPLES * DWELL:g} }}\n'
    scan = read_scan(write_twix(tmp_path / "a.dat", Scan(lines, meas=meas)))
    assert scan.readout_positions is not None
    assert scan.kspace.shape == (1, 2, 6, SAMPLES)
    np.testing.assert_allclose(scan.readout_positions.numpy(), truth(16)[0], atol=1e-4)
    expected = np.broadcast_to(wanted, (6, SAMPLES))
    np.testing.assert_allclose(scan.kspace[0, 0].numpy(), expected, atol=2e-4)


def test_ismrmrd_readouts_have_the_positions_of_the_trajectory_description(tmp_path: Path) -> None:
    numbers = {
        "rampUpTime": UP,
        "flatTopTime": FLAT,
        "rampDownTime": DOWN,
        "acqDelayTime": DELAY,
        "numSamples": SAMPLES,
    }
    parts = [
        f"<userParameterLong><name>{name}</name><value>{value:g}</value></userParameterLong>"
        for name, value in numbers.items()
    ]
    parts.append(f"<userParameterDouble><name>dwellTime</name><value>{DWELL}</value></userParameterDouble>")
    description = (
        f"<trajectoryDescription><identifier>ConventionalEPI</identifier>{''.join(parts)}</trajectoryDescription>"
    )
    received, wanted = demodulated(16, OFFSET_FOV)
    lines = [line(np.stack([received] * 2).conj(), ky=n, position=(OFFSET_FOV * 32, 0.0, 0.0)) for n in range(6)]
    header = xml((1, 6, 16), (0, 3), trajectory="epi", description=description, vendor="SIEMENS")
    scan = read_scan(write_mrd(tmp_path / "a.h5", header, lines))
    assert scan.readout_positions is not None
    np.testing.assert_allclose(scan.readout_positions.numpy(), truth(16)[0], atol=1e-4)
    np.testing.assert_allclose(scan.kspace[0, 0].numpy(), np.broadcast_to(wanted, (6, SAMPLES)), atol=2e-4)

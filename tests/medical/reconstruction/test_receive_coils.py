"""Fields of wire loops against the Biot-Savart integral and the textbook value on the axis."""

from __future__ import annotations

import numpy as np
import pytest

from medical.reconstruction.receive_coils import Loop, head_array, loop_field, noise_coupling, sensitivities

NORMAL = np.array([2.0, -1.0, 2.0]) / 3
LOOP = Loop(np.array([5.0, -3.0, 8.0]), NORMAL, 40.0)


def biot_savart(points, loop, segments=4000):
    """Sum of dl x r / (4 pi |r|^3), written from the law, right-handed about the normal."""
    e1 = np.cross(loop.normal, [1.0, 0.0, 0.0])
    e1 /= np.linalg.norm(e1)
    e2 = np.cross(loop.normal, e1)
    angle = 2 * np.pi * (np.arange(segments) + 0.5) / segments
    wire = loop.centre_mm + loop.radius_mm * (np.cos(angle)[:, None] * e1 + np.sin(angle)[:, None] * e2)
    dl = loop.radius_mm * 2 * np.pi / segments * (-np.sin(angle)[:, None] * e1 + np.cos(angle)[:, None] * e2)
    r = points[:, None] - wire
    return (np.cross(dl, r) / (4 * np.pi * np.linalg.norm(r, axis=-1, keepdims=True) ** 3)).sum(1)


def test_loop_field_equals_the_biot_savart_integral_everywhere():
    points = np.random.default_rng(0).uniform(-120, 120, (200, 3))
    exact = biot_savart(points, LOOP)
    error = np.linalg.norm(loop_field(points, LOOP) - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert np.median(error) < 1e-9
    assert error.max() < 1e-4


@pytest.mark.parametrize("z", [-70.0, 0.0, 25.0])
def test_field_on_the_axis_is_the_textbook_one(z):
    expected = LOOP.radius_mm**2 / (2 * (LOOP.radius_mm**2 + z**2) ** 1.5) * NORMAL
    np.testing.assert_allclose(loop_field(LOOP.centre_mm + z * NORMAL, LOOP), expected, rtol=1e-9, atol=1e-15)


def test_field_on_the_wire_is_finite():
    on_wire = LOOP.centre_mm + LOOP.radius_mm * np.cross(NORMAL, [0.0, 1.0, 0.0]) / np.linalg.norm(
        np.cross(NORMAL, [0.0, 1.0, 0.0])
    )
    assert np.isfinite(loop_field(on_wire, LOOP)).all()


@pytest.mark.parametrize("coils", [1, 2, 8, 12, 32])
def test_every_coil_of_an_array_is_outside_the_head_and_sees_its_own_side_best(coils):
    centre, half = np.array([3.0, 10.0, -5.0]), np.array([75.0, 95.0, 80.0])
    loops = head_array(coils, centre, half)
    assert len(loops) == coils
    turn = 2 * np.pi * np.arange(400) / 400
    for loop in loops:
        e1 = np.cross(loop.normal, [0, 0, 1.0])
        wire = loop.centre_mm + loop.radius_mm * (
            np.cos(turn)[:, None] * e1 + np.sin(turn)[:, None] * np.array([0, 0, 1.0])
        )
        assert ((((wire - centre) / half)[:, :2] ** 2).sum(1) > 1).all()
        towards = (loop.centre_mm - centre) * (1, 1, 0)
        near, far = centre + 0.6 * towards, centre - 0.6 * towards
        S = np.abs(sensitivities(np.stack([near, far]), [loop]))[0]
        assert S[0] > 3 * S[1]


def test_sensitivities_are_smooth_and_differ_between_coils():
    loops = head_array(8, np.zeros(3), np.array([80.0, 95.0, 85.0]))
    G = noise_coupling(loops, np.zeros(3), np.array([80.0, 95.0, 85.0]))
    np.testing.assert_allclose(G, G.conj().T)
    np.testing.assert_allclose(np.diag(G), 1)
    assert np.linalg.eigvalsh(G).min() > 0
    between = np.abs(G - np.eye(8))
    assert 0.2 < between.max() < 0.95
    # neighbours overlap more than coils on opposite sides
    assert all(between[c, (c + 1) % 8] > between[c, (c + 4) % 8] for c in range(8))

"""IR-MAD: canonical correlations of a peer, the chi-square of no change, and the numbers of the note."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from remote_sensing.classical.ir_mad import fit_ir_mad
from remote_sensing.rasters import Sample, open_pair
from tests.remote_sensing.scenes import scene


def sample_of(before, after):
    return Sample(
        np.asarray(before, np.float32).reshape(len(before), -1),
        np.asarray(after, np.float32).reshape(len(after), -1),
        1,
        {"before": 1.0, "after": 1.0, "both": 1.0},
        np.zeros((2, len(before), 1, 1), np.float32),
    )


def test_first_pass_has_the_canonical_correlations_of_scikit_learn():
    from sklearn.cross_decomposition import CCA

    before, after, _ = scene((60, 70), seed=3)
    sample = sample_of(before, after)
    model = fit_ir_mad(sample, max_iterations=1)
    u, v = CCA(n_components=4, tol=1e-12, max_iter=5000).fit_transform(sample.before.T, sample.after.T)
    expected = [abs(np.corrcoef(u[:, k], v[:, k])[0, 1]) for k in range(4)]
    assert model.rho == pytest.approx(sorted(expected, reverse=True), abs=1e-4)
    d = model.variates(sample.before.astype(float), sample.after.astype(float))
    np.testing.assert_allclose(np.cov(d), np.diag(2 * (1 - model.rho)), atol=2e-3)


def test_z_of_unchanged_gaussian_pixels_is_chi_square_before_reweighting():
    generator = np.random.default_rng(0)
    ground = generator.standard_normal((3, 40_000)) * [[20], [30], [40]]
    before, after = (ground + 5 * generator.standard_normal(ground.shape) for _ in range(2))
    model = fit_ir_mad(sample_of(before, after), max_iterations=1)
    z = model.chi_square(before, after)
    for quantile in (0.5, 0.9, 0.99):
        assert (z < chi2.ppf(quantile, 3)).mean() == pytest.approx(quantile, abs=0.01)


@settings(deadline=None, max_examples=15)
@given(
    gains=st.lists(st.floats(0.01, 100), min_size=4, max_size=4),
    offsets=st.lists(st.floats(-1e3, 1e3), min_size=4, max_size=4),
    flip=st.booleans(),
)
def test_an_affine_change_of_any_band_changes_nothing(gains, offsets, flip):
    before, after, _ = scene((40, 50), seed=1)
    gain = np.array(gains)[:, None, None] * (-1 if flip else 1)
    moved = after * gain + np.array(offsets)[:, None, None] * np.abs(gain)
    plain, other = (
        fit_ir_mad(s).chi_square(s.before.astype(float), s.after.astype(float))
        for s in (sample_of(before, after), sample_of(before, moved))
    )
    np.testing.assert_allclose(np.sqrt(other), np.sqrt(plain), rtol=5e-3, atol=5e-3)


def test_the_order_of_the_dates_does_not_matter():
    before, after, _ = scene((40, 50), seed=1)
    forth, back = sample_of(before, after), sample_of(after, before)
    z, reverse = (fit_ir_mad(s).chi_square(s.before.astype(float), s.after.astype(float)) for s in (forth, back))
    np.testing.assert_allclose(reverse, z, rtol=1e-6)


def test_reweighting_makes_the_change_stand_out_more():
    before, after, changed = scene(seed=2)
    sample, truth = sample_of(before, after), changed.ravel()
    once, often = (
        fit_ir_mad(sample, max_iterations=count).chi_square(sample.before.astype(float), sample.after.astype(float))
        for count in (1, 100)
    )
    assert np.median(often[truth]) / np.median(often[~truth]) > 3 * np.median(once[truth]) / np.median(once[~truth])


def test_a_band_that_repeats_another_adds_no_degree_of_freedom():
    before, after, _ = scene((40, 50), bands=3)
    repeated = sample_of(np.concatenate([before, before[:1] * 2]), np.concatenate([after, after[:1] * 2]))
    plain = sample_of(before, after)
    model, reference = fit_ir_mad(repeated), fit_ir_mad(plain)
    assert model.dof == reference.dof == 3
    np.testing.assert_allclose(model.rho, reference.rho, atol=1e-3)


def test_identical_dates_have_no_change():
    before, _, _ = scene((40, 50))
    sample = sample_of(before, before)
    assert fit_ir_mad(sample).sample_score(sample).max() < 0.1


@pytest.mark.data
def test_taizhou_has_the_correlations_and_the_iterations_of_the_note(data_file):
    folder = data_file("remote_sensing/open/landsat_taizhou")
    model = fit_ir_mad(open_pair(folder / "2000TM", folder / "2003TM").sample())
    assert model.rho[::-1] == pytest.approx([0.455, 0.570, 0.705, 0.874, 0.966, 0.982], abs=6e-4)
    assert model.iterations == 16

"""Parts of the stereo network against what they must give on inputs whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from robotics.stereo.config import StereoConfig
from robotics.stereo.networks import StereoNetwork, reduced
from robotics.stereo.networks.upsample import UNTRUSTED, Upsample, warped
from robotics.stereo.networks.volume import UNSEEN, best, consistent, correlation, pyramid, read, seen, spread_out
from robotics.stereo.training import volume_loss
from tests.robotics.stereo.volumes import say

SMALL = StereoConfig(half=8, quarter=16, groups=4, volume=4, channels=(8, 16), embedding=8, correction=8)


def test_correlation_is_largest_where_the_right_features_were_moved_from():
    torch.manual_seed(0)
    right = torch.randn(1, 16, 6, 40)
    right = right / right.norm(dim=1, keepdim=True)  # then no other place can fit better
    left = torch.zeros_like(right)
    left[..., 5:] = right[..., :-5]  # d = x_l - x_r = 5
    fit = correlation(left, right, 12, 4)
    assert fit.shape == (1, 4, 12, 6, 40)
    total = fit.mean(1)[0]
    assert (total[:, :, 12:].argmax(0) == 5).all()
    torch.testing.assert_close(total[5, :, 12:], torch.full((6, 28), 1 / 8))
    assert (total[7, :, :7] == 0).all()  # x - 7 is out of view


def test_scores_out_of_view_are_never_the_best_and_the_best_lies_between_two_entries():
    network = StereoNetwork(SMALL)
    score = network.volume(torch.randn(2, 16, 4, 20), torch.randn(2, 16, 4, 20), 8)
    hidden = ~seen(8, 20, torch.device("cpu"))[:, 0]
    assert (score.permute(0, 2, 1, 3)[:, :, hidden] == UNSEEN).all()
    sharp = torch.full((1, 10, 1, 1), -30.0)
    sharp[0, 3], sharp[0, 4] = 0.0, 0.0
    place, sure = best(sharp)
    assert float(place) == pytest.approx(3.5, abs=1e-4)
    assert float(sure) == pytest.approx(1.0, abs=1e-4)


def test_left_and_right_agree_where_nothing_is_hidden():
    torch.manual_seed(1)
    right, hidden = functional.normalize(torch.randn(2, 1, 32, 4, 60), dim=2)
    columns = torch.arange(60)
    near = (columns >= 30) & (columns < 40)  # d = 8 before a background of d = 2: columns 24 to 29 are hidden
    behind = (columns >= 24) & (columns < 30)
    partner = (columns - torch.where(near, 8, 2)).clamp(min=0)
    left = torch.where(behind | (columns < 2), hidden, right[..., partner])
    agree = consistent(torch.where(seen(12, 60, left.device), correlation(left, right, 12, 1)[:, 0], UNSEEN))[0, 0]
    assert (agree[:, ~behind & (columns >= 2)] == 1).all()
    assert agree[:, behind].mean() < 0.3


def test_holes_take_the_mean_of_their_surroundings_and_what_is_known_stays():
    value, weight = torch.rand(1, 1, 12, 20), torch.zeros(1, 1, 12, 20)
    weight[..., 3, 4] = 1.0
    torch.testing.assert_close(spread_out(value, weight), value[..., 3, 4].expand_as(value).reshape(value.shape))
    ramp = torch.arange(20.0).expand(1, 1, 12, 20)
    weight = torch.ones_like(ramp)
    weight[..., 5:8, 6:9] = 0
    found = spread_out(torch.where(weight > 0, ramp, 1e6), weight)
    assert torch.equal(found[weight > 0], ramp[weight > 0])
    torch.testing.assert_close(found, ramp, rtol=0, atol=2.0)


def test_a_volume_linear_in_disparity_is_read_exactly_at_every_level():
    """A mean of neighbouring entries of a linear volume is its value at their middle."""
    volume = torch.arange(60.0)[None, :, None, None].expand(1, 60, 2, 3)
    place = torch.full((1, 1, 2, 3), 25.3)
    found = read(pyramid(volume), place)[0, :, 0, 0]
    offsets = torch.arange(-4.0, 5.0)
    expected = torch.cat([25.3 + step * offsets for step in (1, 2, 4)])
    torch.testing.assert_close(found, expected)
    outside = read(pyramid(volume), torch.full((1, 1, 2, 3), -200.0))
    assert (outside == 0).all()


def test_residuals_are_linear_below_a_pixel_and_come_back():
    network = StereoNetwork(SMALL)
    residual = torch.tensor([-19.0, -2.0, -0.05, 0.0, 0.05, 3.0, 19.9])
    x = network.encode(residual)
    torch.testing.assert_close(network.decode(x), residual, rtol=1e-4, atol=1e-5)
    assert float(network.encode(torch.tensor(20.0))) == pytest.approx(1.0)
    assert float(x[4] / x.new_tensor(0.05)) == pytest.approx(float(network.encode(torch.tensor(0.01)) / 0.01), rel=0.02)


def test_reduced_takes_the_median_and_leaves_holes_out():
    block = torch.tensor([1.0] * 9 + [50.0] * 7).reshape(1, 1, 4, 4)
    assert float(reduced(block)) == 1.0
    holes = block.clone()
    holes[block == 1] = torch.nan
    assert float(reduced(holes)) == 50.0
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    assert float(reduced(ramp)) == 1.5


def test_warping_takes_the_right_image_back_by_the_disparity():
    column = torch.arange(30.0).expand(1, 1, 2, 30)
    found = warped(column, torch.full((1, 1, 2, 30), 4.25))
    torch.testing.assert_close(found[..., 5:], column[..., 5:] - 4.25)
    assert (found[..., :4] == 0).all()  # the border, repeated


def test_an_untrained_network_estimates_what_noise_alone_suggests_and_starts_at_the_first_map(monkeypatch):
    network = StereoNetwork(SMALL).eval()
    say(network, (1,), monkeypatch)
    left, right = torch.rand(2, 2, 3, 32, 48)
    first = torch.full((2, 1, 32, 48), 6.0)
    with torch.no_grad():
        prepared = network.prepare(left, right, first, torch.ones_like(first), 8)
        x = torch.randn(2, 1, 8, 12)
        estimate = network(x, 99.0, prepared=prepared)
        full = network.full(torch.zeros_like(x), prepared)
    assert float(estimate.abs().max()) < 1e-3  # alpha is nearly 0 at pure noise
    torch.testing.assert_close(full, first, rtol=0, atol=1e-4)  # whatever share of it passes
    mixed = torch.tensor([0.0, 99.0])
    with torch.no_grad():
        both = network(x, mixed, prepared=prepared)
        one = network(x[:1], 0, prepared=network.prepare(left[:1], right[:1], first[:1], torch.ones_like(first[:1]), 8))
    torch.testing.assert_close(both[:1], one, rtol=1e-4, atol=1e-5)


def test_the_start_is_the_match_unless_the_first_map_is_near_it(monkeypatch):
    network = StereoNetwork(SMALL).eval()
    say(network, (3,), monkeypatch)
    left, right = torch.rand(2, 1, 3, 32, 48)
    first = torch.full((1, 1, 32, 48), 14.0)  # 2 px from the match at 12
    first[..., 24:] = 30.0
    known = torch.ones_like(first)
    known[..., :16, :] = 0
    with torch.no_grad():
        start = network.prepare(left, right, first, known, 8).start
        without = network.prepare(left, right, torch.full_like(first, torch.nan), torch.zeros_like(first), 8)
    torch.testing.assert_close(without.start, torch.full_like(start, 3.0))
    torch.testing.assert_close(without.first, torch.full_like(first, 12.0))
    expected = torch.full_like(start, 3.0)
    expected[..., 4:, :6] = 3.5
    torch.testing.assert_close(start[..., 3:], expected[..., 3:])  # left of it the partner is out of view


def test_the_given_map_passes_where_it_is_trusted_and_known_and_nowhere_else():
    upsample = Upsample(16, 8, 8)
    coarse, quarter, half = torch.full((1, 1, 8, 12), 2.0), torch.rand(1, 16, 8, 12), torch.rand(1, 8, 16, 24)
    left, right = torch.rand(2, 1, 3, 32, 48)
    given = torch.full((1, 1, 32, 48), 20.0)
    known = torch.ones_like(given)
    known[..., :10] = 0
    for logit, share in ((UNTRUSTED, 0.0474), (30.0, 1.0)):
        with torch.no_grad():
            upsample.leave.bias[1] = logit
            found = upsample(coarse, quarter, half, left, right, given, known)
        torch.testing.assert_close(found[..., :10], torch.full((1, 1, 32, 10), 8.0))
        torch.testing.assert_close(found[..., 10:], torch.full((1, 1, 32, 38), 8 + 12 * share), rtol=1e-4, atol=0)


def test_volume_loss_is_the_cross_entropy_at_the_true_disparity_of_seen_pixels():
    score = torch.randn(1, 10, 2, 2, generator=torch.Generator().manual_seed(0))
    truth = torch.full((1, 1, 8, 8), 4 * 3.25)
    visible = torch.ones_like(truth)
    visible[..., :4] = 0
    logs = score.log_softmax(1)[0, :, :, 1]
    expected = -(0.75 * logs[3] + 0.25 * logs[4]).mean()
    torch.testing.assert_close(volume_loss(score, truth, visible), expected)

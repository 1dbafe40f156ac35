"""Augmentations of labelled pairs: labels follow the pixels, and every batch is a function of its generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from remote_sensing.ddpm_cd.augment import Augmentation, Augmenter, cut_objects
from remote_sensing.ddpm_cd.change_training import augmented_crops, change_loss
from remote_sensing.ddpm_cd.crops import PairBatch, PairScene

CROP = 32
OBJECT = 200.0
EVERY = Augmentation(paste=0.5, both=0.5, same=0.3, warp=0.7, shift=1.5, light=0.3, blur=1.0)


def pair(seed: int = 0) -> PairScene:
    """A dark ground below 100, one bright new square and one strip without a label."""
    rng = np.random.default_rng(seed)
    before, label = rng.integers(20, 100, (3, 80, 88)).astype(np.uint8), np.zeros((80, 88), np.uint8)
    label[30:40, 50:58] = 1
    after = np.where(label, np.uint8(OBJECT), before)
    label[:4] = 255
    return PairScene(before, after, label)


def batch_of(augment: Augmentation, seed: int = 0, count: int = 24, on_change: float = 0.0) -> PairBatch:
    augmenter, crops = augmented_crops(augment, [pair()], [(0.0, 255.0)] * 3, CROP, on_change)
    generator = torch.Generator().manual_seed(seed)
    return augmenter(crops.draw(count, generator), generator)


def plain(augment: Augmentation, seed: int = 0, count: int = 24) -> PairBatch:
    """What the augmenter is given."""
    _, crops = augmented_crops(augment, [pair()], [(0.0, 255.0)] * 3, CROP, 0.0)
    return crops.draw(count, torch.Generator().manual_seed(seed))


def test_the_same_seed_gives_the_same_batch_and_another_seed_another():
    one, same, other = batch_of(EVERY), batch_of(EVERY), batch_of(EVERY, seed=1)
    for part in ("before", "after", "label", "origins"):
        assert torch.equal(getattr(one, part).nan_to_num(), getattr(same, part).nan_to_num())
        assert not torch.equal(getattr(one, part).nan_to_num(), getattr(other, part).nan_to_num())
    assert one.before.shape == (24, 3, CROP, CROP)
    assert one.label.shape == (24, CROP, CROP)
    assert set(one.label.unique().tolist()) <= {0, 1, 255}


def test_without_settings_nothing_changes():
    augment = Augmentation()
    assert augment.reach(CROP, 80) == CROP
    drawn, kept = plain(augment), batch_of(augment)
    assert torch.equal(drawn.before, kept.before)
    assert torch.equal(drawn.after, kept.after)
    assert torch.equal(drawn.label, kept.label)


def test_objects_are_the_changed_parts_and_their_masks():
    objects = cut_objects([pair(), PairScene(pair().before, pair().after)], CROP)
    assert objects.shape == (1, 4, CROP, CROP)
    inside = objects[0, 3] >= 0.5
    assert int(inside.sum()) == 10 * 8
    assert bool((objects[0, :3, inside] == OBJECT).all())
    assert float(objects[0, 3, 0].max()) == 0
    assert not len(cut_objects([pair()], 8))  # larger than the square


def test_pasted_pixels_are_changed_and_only_the_second_date_has_them():
    given, found = plain(Augmentation(paste=0.9)), batch_of(Augmentation(paste=0.9))
    new = (found.label == 1) & (given.label != 1)
    assert int(new.flatten(1).any(1).sum()) > 12
    torch.testing.assert_close(found.before, given.before, rtol=0, atol=0.1)
    core = found.after.amin(1) > 0.9 * OBJECT
    assert bool((found.label[core] == 1).all())
    assert float((found.after - given.after).abs().amax(1)[new].mean()) > 50
    # What is neither pasted nor near it is left alone.
    assert float(((found.after - given.after).abs().amax(1) > 0.1).float().mean()) < 0.6


def test_objects_in_both_dates_are_no_change():
    given, found = plain(Augmentation(both=0.9)), batch_of(Augmentation(both=0.9))
    seen = (found.before.amin(1) > 0.9 * OBJECT) & (given.before.amax(1) < 100)
    assert int(seen.flatten(1).any(1).sum()) > 12
    assert bool((found.label[seen] == 0).all())
    assert torch.equal(found.label == 1, given.label == 1)
    assert float((found.after - found.before).abs().amax(1)[seen].max()) < 0.1


def test_pairs_of_one_image_hold_no_change_though_the_light_differs():
    found = batch_of(Augmentation(same=0.999, light=0.3), on_change=0.999)
    assert not bool((found.label == 1).any())
    assert float((found.after - found.before).abs().mean()) > 2
    dates = torch.stack([found.before, found.after], 1).flatten(2)
    assert min(float(torch.corrcoef(two)[0, 1]) for two in dates) > 0.8


def test_scale_and_rotation_move_both_dates_and_the_label_alike():
    augment = Augmentation(warp=0.999, scale=1.4)
    assert CROP < augment.reach(CROP, 80) <= 80
    found = batch_of(augment, on_change=0.999)
    bright = found.after.amin(1) > 0.8 * OBJECT
    assert int((found.label == 1).flatten(1).any(1).sum()) > 18
    assert float((found.label[bright] == 1).float().mean()) > 0.97
    same = (found.after == found.before).all(1)
    assert float((found.label[~same] == 1).float().mean()) > 0.6  # the rest is interpolated at edges
    sizes = (found.label == 1).flatten(1).sum(1).float()
    assert float(sizes.max()) > 1.3 * 80 > 80 > float(sizes[sizes > 20].min())


def test_what_has_no_value_stays_without_and_what_lies_outside_is_unknown():
    scene = pair()
    before = scene.before.astype(np.float32)
    before[:, 20:30, 20:30] = np.nan
    augment = Augmentation(warp=0.9, shift=1.0, light=0.2, blur=1.0)
    augmenter, crops = augmented_crops(augment, [PairScene(before, scene.after, scene.label)], [(0, 255)] * 3, 64, 0.5)
    assert crops.size == 80  # less than a turn needs: the scene has no more
    generator = torch.Generator().manual_seed(0)
    found = augmenter(crops.draw(16, generator), generator)
    missing = found.before.isnan().any(1)
    assert torch.equal(missing, found.after.isnan().any(1))
    assert 0 < float(missing.float().mean()) < 0.4
    assert bool((found.before[~missing[:, None].expand_as(found.before)] >= 0).all())


def test_shift_moves_one_date_only():
    given = plain(Augmentation(shift=2.0))
    found = batch_of(Augmentation(shift=2.0))
    edge = (given.before.shape[-1] - CROP) // 2
    middle = slice(edge, edge + CROP)
    torch.testing.assert_close(found.before, given.before[..., middle, middle], rtol=0, atol=0.05)
    assert float((found.after - given.after[..., middle, middle]).abs().mean()) > 5


def test_the_overlap_rewards_what_f1_rewards():
    target = torch.zeros(1, 8, 8)
    target[:, :2] = 1
    weight = torch.ones_like(target)
    weight[:, 7] = 0
    good, poor = 20 * (2 * target - 1), torch.full_like(target, -20.0)
    unknown = good.clone()
    unknown[:, 7] = 20
    assert float(change_loss(good, target, weight, 1.0)) == pytest.approx(0, abs=1e-3)
    assert torch.equal(change_loss(unknown, target, weight, 1.0), change_loss(good, target, weight, 1.0))
    gained = float(change_loss(poor, target, weight, 1.0) - change_loss(poor, target, weight, 0.0))
    assert gained == pytest.approx(1 - 1 / 17, abs=1e-3)


def test_augmenters_without_objects_paste_nothing():
    bare = PairScene(pair().before, pair().after)
    augmenter = Augmenter(Augmentation(paste=0.9), [bare], [(0, 255)] * 3, CROP)
    assert augmenter.objects.shape == (0, 4, CROP, CROP)

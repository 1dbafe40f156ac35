"""The segmenter: volumes and their gradient, its training, its packaged weights on scans with known labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medical.brain.anatomy import anatomy_of
from medical.brain.head_mask import head_mask
from medical.brain.prepare import placed_around, prepare
from medical.brain.segmenter import (
    CLASSES,
    MEASURED,
    BrainSegmenter,
    SegmenterConfig,
    SegmenterNetwork,
    load_segmenter,
    on_spacing,
    save_segmenter,
    standardised,
)
from medical.brain.segmenter_data import labelled_head, varied
from medical.brain.segmenter_training import SegmenterTrainer, SegmenterTraining, losses_of, write_segmenter_card
from medical.brain.simulate import simulate_head
from medical.brain.volume import Volume, read_volume, to_lps
from shared import weights
from shared.errors import InputError

pytest.importorskip("monai")
SMALL = SegmenterConfig(channels=(4, 8), features=4)
SCAN = "brain/noncommercial_cc-by-nc/sub-OAS10331_ses-1"
# Manual labels of OASIS (Neuromorphometrics): both sides.
MANUAL = {
    "white_matter": (44, 45), "thalamus": (59, 60), "putamen": (57, 58), "brain_stem": (35,),
    "cerebellum": (38, 39, 40, 41, 71, 72, 73),
}  # fmt: skip


def small(seed: int = 0) -> BrainSegmenter:
    torch.manual_seed(seed)
    return BrainSegmenter(SMALL, SegmenterNetwork(SMALL).eval())


def test_the_gradient_of_a_volume_is_that_of_differences():
    segmenter = small()
    segmenter.network.double()
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 9, 8, 10, generator=generator, dtype=torch.float64)
    x[..., :2] = 0  # air, whose level counts as fixed
    x.requires_grad_()
    volumes = segmenter.soft_volumes(x)
    assert set(volumes) == set(MEASURED)
    assert volumes["thalamus"].shape == (2,)
    (slope,) = torch.autograd.grad(volumes["thalamus"][0], x)
    assert slope[1].abs().max() == 0
    way = torch.randn(x.shape, generator=generator, dtype=torch.float64) * (x.detach() > 0)
    up, down = (segmenter.soft_volumes(x.detach() + h * way)["thalamus"][0] for h in (1e-6, -1e-6))
    assert float((slope * way).sum()) == pytest.approx(float((up - down).detach()) / 2e-6, rel=1e-3)


def test_all_volumes_together_fill_the_field_of_view_and_scale_and_offset_do_not_matter():
    segmenter = small()
    x = torch.rand(11, 8, 9, generator=torch.Generator().manual_seed(0))
    shares = segmenter.shares(x)
    assert shares.shape == (1, len(CLASSES), 11, 8, 9)
    torch.testing.assert_close(shares.sum(1), torch.ones(1, 11, 8, 9))
    volumes = segmenter.volumes_of(torch.ones(1, len(CLASSES), 1, 1, 1))
    assert float(volumes["thalamus"]) == pytest.approx(0.064)
    assert float(volumes["brain"]) == pytest.approx(0.064 * (len(CLASSES) - 4))
    torch.testing.assert_close(segmenter.shares(x * 500 - 3), shares, atol=1e-4, rtol=0)


def test_finer_voxels_are_averaged_and_other_spacings_told():
    fine = torch.rand(8, 9, 8, generator=torch.Generator().manual_seed(0))
    coarse = on_spacing(fine, 2.0, 4.0)
    assert coarse.shape == (1, 1, 4, 5, 4)
    assert float(coarse[0, 0, 1, 2, 3]) == pytest.approx(float(fine[2:4, 4:6, 6:8].mean()))
    assert float(coarse[0, 0, 0, 4, 0]) == pytest.approx(float(fine[:2, 8, :2].mean()))
    for spacing in (3.0, 8.0):
        with pytest.raises(InputError, match="whole number"):
            on_spacing(fine, spacing, 4.0)


def test_shares_are_counted_where_the_head_is_painted():
    labels = np.zeros((40, 44, 40), dtype=np.int32)
    x, y, z = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * 4 for n in labels.shape], indexing="ij", sparse=True)
    for code, radius in ((511, 70), (24, 62), (3, 58), (2, 45), (10, 15)):
        labels[x**2 + y**2 + z**2 < radius**2] = code
    anatomy = anatomy_of(labels, (4.0, 4.0, 4.0))
    head = labelled_head(anatomy, 5, SegmenterConfig(), size=(24, 24, 24))
    truth = simulate_head(anatomy, 5, size=(24, 24, 24), spacing_mm=4.0)
    torch.testing.assert_close(head.x, truth.x)
    torch.testing.assert_close(head.shares.sum(0), torch.ones(24, 24, 24))
    volumes = small().volumes_of(head.shares[None])
    for name in ("brain", "white_matter", "cortex", "thalamus", "lateral_ventricles"):
        assert float(volumes[name]) == pytest.approx(truth.volumes_cm3[name], abs=1e-3)
    assert float(volumes["brain"]) > 100
    for seed in range(8):
        again = varied(head, SegmenterConfig(), np.random.default_rng(seed))
        torch.testing.assert_close(again.shares.sum(0), torch.ones(24, 24, 24), atol=1e-5, rtol=0)
        assert torch.isfinite(again.x).all()


def test_no_term_of_the_loss_can_be_lowered_below_the_true_shares():
    source = torch.Generator().manual_seed(0)
    shares = torch.rand(1, 5, 6, 6, 6, generator=source)
    shares = shares / shares.sum(1, keepdim=True)
    best = losses_of(shares.log(), shares)
    assert float(best["overlap"]) == pytest.approx(0, abs=1e-6)
    assert float(best["volumes"]) == pytest.approx(0, abs=1e-5)
    for _ in range(5):
        other = losses_of(shares.log() + 0.3 * torch.randn(shares.shape, generator=source), shares)
        assert all(other[name] > best[name] for name in best)


def tiny_heads(folder, count: int = 4) -> list:
    """Files of heads as a training keeps them, bright balls in dark boxes, and label maps that are never read."""
    folder.mkdir(parents=True)
    maps = [folder.parent / "map.nii.gz"]
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, 12)] * 3, indexing="ij")
    for number in range(count):
        ball = torch.from_numpy(x**2 + y**2 + z**2 < 0.3 + 0.1 * number)
        shares = torch.zeros(len(CLASSES), 12, 12, 12, dtype=torch.uint8)
        shares[CLASSES.index("air")], shares[CLASSES.index("white_matter")] = (~ball) * 255, ball * 255
        tensors = {"x": ball.half() * 2 - 1, "shares": shares}
        save_file(tensors, folder / f"0_{number:04d}_map.safetensors")
    return maps


def test_training_learns_and_goes_on_after_a_stop_and_its_file_is_loaded_again(tmp_path):
    settings = SegmenterTraining(
        name="medical/tiny", model=SMALL, heads=4, steps=30, warmup=2, learning_rate=0.05, log_every=10
    )
    whole = SegmenterTrainer(settings, tiny_heads(tmp_path / "a" / "heads"), tmp_path / "a")
    first = whole.train_step()
    whole.run()
    assert whole.facts["losses"]["entropy"] < 0.7 * first["entropy"]
    maps = tiny_heads(tmp_path / "b" / "heads")
    SegmenterTrainer(settings, maps, tmp_path / "b").run(stop_at=12)
    resumed = SegmenterTrainer(settings, maps, tmp_path / "b")
    resumed.run()
    made = [trainer.segmenter() for trainer in (whole, resumed)]
    for a, b in zip(*(one.network.parameters() for one in made), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    made[0].facts["seconds"] = 1
    save_segmenter(tmp_path / "tiny.safetensors", made[0], made[0].network.state_dict())
    loaded = load_segmenter(tmp_path / "tiny.safetensors")
    x = torch.rand(8, 8, 8)
    for a, b in zip(loaded.shares_and_features(x), made[0].shares_and_features(x), strict=True):
        torch.testing.assert_close(a, b)
    write_segmenter_card(loaded, tmp_path / "tiny.md")
    assert "30 of 30 steps" in (tmp_path / "tiny.md").read_text()
    with pytest.raises(InputError, match="another configuration"):
        SegmenterTrainer(settings.model_copy(update={"steps": 31}), maps, tmp_path / "b")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="kind None"):
        load_segmenter(tmp_path / "other.safetensors")


def test_packaged_weights_have_their_recorded_hash_and_a_card():
    path = weights.find("medical/brain_segmenter")
    assert weights.sha256(path) in (path.parent / "SHA256SUMS").read_text()
    assert path.with_suffix(".md").is_file()
    assert path.stat().st_size < 600_000


@pytest.mark.data
def test_structures_of_a_scan_without_skull_agree_with_manual_labels(data_file):
    """Dice at 4 mm, by the largest share of each voxel; the scan is of nobody in the training, which saw no scan."""
    scan, manual = (
        to_lps(read_volume(data_file(f"{SCAN}_{kind}.nii.gz"))) for kind in ("T1w_brain", "desc-manual_dseg")
    )
    x, labels = (
        torch.from_numpy(placed_around(Volume(v.voxels, v.affine), scan.voxels > 0, (192, 224, 192))[0].voxels)
        for v in (scan, manual)
    )
    found = load_segmenter().shares(x, 1.0)[0].argmax(0)
    known = {"white_matter": 0.75, "thalamus": 0.65, "putamen": 0.5, "brain_stem": 0.7, "cerebellum": 0.8}
    for name, least in known.items():
        share = on_spacing(torch.isin(labels, torch.tensor(MANUAL[name], dtype=labels.dtype)).float(), 1.0, 4.0)[0, 0]
        mine, theirs = found == CLASSES.index(name), share > 0.5
        assert 2 * float((mine & theirs).sum()) / float(mine.sum() + theirs.sum()) > least, name


@pytest.mark.data
def test_volumes_of_a_whole_head_are_near_those_of_a_published_segmenter(data_file):
    """MeshNet's at 1 mm (brainchop, `medical.brain.qc.meshnet`), on the raw head: cm3."""
    raw = read_volume(data_file("brain/open/sub-pycortexS1_T1w.nii.gz"))
    head = prepare(raw, head_mask(raw.voxels, raw.affine), spacing_mm=4.0).volume
    found = load_segmenter().soft_volumes(torch.from_numpy(head.voxels.astype(np.float32)))
    theirs = {"brain": 1284, "white_matter": 499, "cortex": 553, "cerebellum": 145, "thalamus": 19.5, "putamen": 11.0}
    for name, cm3 in theirs.items():
        assert float(found[name]) == pytest.approx(cm3, rel=0.35 if cm3 < 100 else 0.15), name


def test_standardised_volumes_have_air_at_zero_and_tissue_about_one():
    x = torch.full((1, 1, 10, 10, 10), -1.0)
    x[..., :4] = torch.rand(10, 10, 4, generator=torch.Generator().manual_seed(0)) * 0.1 + 0.3
    y = standardised(x)
    assert y[..., 4:].abs().max() < 1e-5
    assert float(y[..., :4].mean()) == pytest.approx(1, abs=1e-5)

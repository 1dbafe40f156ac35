"""The learned benchmark gives the numbers it promises, on the real brain and on held-out simulation."""

from __future__ import annotations

import pytest
import torch

from benchmarks.mri_learned import judge, real_brain, real_table, simulated_table
from benchmarks.mri_learned_methods import runners
from medical.metrics import nrmse_best_scalar
from medical.simulation.volumes import AnatomyCache, subjects
from tests.conftest import data_folder
from tests.medical.reconstruction.test_trained import random_weights

METRICS = {"psnr", "ssim", "seconds"}


def some_methods(tmp_path):
    weights = {"varnet": str(random_weights(tmp_path, "varnet"))}
    return runners(("zero-filled", "sense", "wavelet", "varnet"), weights, samples=2, calls=2, device="cpu")


@pytest.mark.data
def test_real_numbers_are_named_as_promised_and_rank_classical_methods_as_known(data_file, tmp_path):
    data_file("mri/pulseq_cimaX_brain_bodycoil_2ch_128.npy")
    numbers = real_table(data_folder(), ("poisson",), (4,), some_methods(tmp_path))
    for method in ("zero-filled", "sense", "wavelet", "varnet"):
        assert {f"real.R4.poisson.{method}.{name}" for name in METRICS} <= set(numbers)
        assert {f"body.R4.poisson.{method}.{name}" for name in ("psnr", "ssim")} <= set(numbers)
    assert numbers["real.R4.poisson.acceleration"] == pytest.approx(4, rel=0.01)
    psnr = [numbers[f"body.R4.poisson.{method}.psnr"] for method in ("zero-filled", "sense", "wavelet")]
    assert psnr == sorted(psnr)
    assert 0.3 < numbers["real.R4.poisson.wavelet.residual"] < 3, "whitened: noise leaves about 1"


@pytest.mark.data
def test_both_references_of_the_brain_show_the_same_head(data_file):
    data_file("mri/pulseq_cimaX_brain_bodycoil_2ch_128.npy")
    _, references = real_brain(data_folder())
    inside = references["body"] > 0
    assert 0.2 < float(inside.float().mean()) < 0.6
    assert nrmse_best_scalar((references["rss"] * inside)[None], references["body"][None]) < 0.05


@pytest.mark.data
def test_simulated_numbers_are_named_as_promised_for_subjects_that_no_training_saw(data_file, tmp_path):
    volume = data_file("brain/open/labelmaps_head/sub-synthseg11_dseg.nii.gz")
    assert volume
    test = subjects("test", data_folder() / "brain")
    assert not {s.name for s in test} & {s.name for s in subjects("train")}
    cache = AnatomyCache(tuple(s for s in test if s.name == "synthseg11"), data_folder() / "brain", tmp_path / "cache")
    numbers = simulated_table(cache, ("equispaced",), (4,), 1, some_methods(tmp_path))
    assert numbers["simulated.R4.equispaced.wavelet.psnr"] > numbers["simulated.R4.equispaced.zero-filled.psnr"] + 3
    assert numbers["simulated.R4.mean.wavelet.psnr"] == numbers["simulated.R4.equispaced.wavelet.psnr"]


def test_scores_ignore_units_but_not_structure():
    reference = torch.rand(32, 32, generator=torch.Generator().manual_seed(0))
    assert judge(reference, 7 * reference)["nmse"] < 1e-12
    assert judge(reference, reference.flip(0))["nmse"] > 0.1


def test_a_method_without_weights_is_left_out_with_a_word(capsys):
    found = runners(("zero-filled", "varnet"), {"varnet": "nowhere/at-all"}, samples=2, calls=2, device="cpu")
    assert list(found) == ["zero-filled"]
    assert "varnet is left out" in capsys.readouterr().out

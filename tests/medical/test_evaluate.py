"""`fewstep mri evaluate`: the numbers of fastMRI's evaluation, whatever file the volumes lie in."""

from __future__ import annotations

import json

import h5py
import nibabel
import numpy as np
import pytest
import torch

from medical.comparison import evaluate_files
from medical.images import Image
from medical.images import write_image as write
from shared.errors import InputError
from tests.medical.reconstruction.test_cli import assert_one_clear_line, fewstep


def volumes(shape=(3, 40, 32), seed=0):
    """A smooth reference (slice, y, x) of unequal slices and a rescaled noisy image of it."""
    generator = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    reference = (1.5 + np.sin(2 * x + z) * np.cos(3 * y)) * (0.4 + z) * (1 + (y / 2) ** 2)
    return reference, 0.9 * reference + 0.1 * (1 + y) * generator.standard_normal(shape)


def fastmri_evaluate(target, image):
    """The definitions of facebookresearch/fastMRI's evaluation, written with scikit-image and NumPy."""
    metrics = pytest.importorskip("skimage.metrics")
    width = target.shape[-1]
    start = [(n - width) // 2 for n in target.shape[1:]]
    window = (slice(None), *(slice(s, s + width) for s in start))
    r, x = np.abs(target[window]).astype(np.float64), np.abs(image[window]).astype(np.float64)
    similar = [metrics.structural_similarity(a, b, data_range=r.max()) for a, b in zip(r, x, strict=True)]
    best = (r * x).sum() / (x * x).sum()
    return {
        "nmse": np.linalg.norm(r - x) ** 2 / np.linalg.norm(r) ** 2,
        "psnr": metrics.peak_signal_noise_ratio(r, x, data_range=r.max()),
        "ssim": np.mean(similar),
        "nrmse": np.linalg.norm(best * x - r) / np.linalg.norm(r),
    }


def test_numbers_are_fastmris_on_files_of_fastmris_layout(tmp_path):
    reference, image = (v.astype(np.float32) for v in volumes())
    with h5py.File(tmp_path / "truth.h5", "w") as file:
        file["reconstruction_rss"] = reference
        file["reconstruction_esc"] = reference * 3
        file["kspace"] = np.zeros((3, 2, 4, 4), np.complex64)
    with h5py.File(tmp_path / "image.h5", "w") as file:
        file["reconstruction"] = image
    out = tmp_path / "numbers.json"
    done = fewstep("mri", "evaluate", tmp_path / "image.h5", tmp_path / "truth.h5", "--json", out)
    assert done.returncode == 0, done.stderr
    found, expected = json.loads(out.read_text()), fastmri_evaluate(reference, image)
    assert set(found) == {"psnr", "ssim", "nmse", "nrmse", "hfen"}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
    whole = evaluate_files(tmp_path / "image.h5", tmp_path / "truth.h5", square=False)
    assert abs(whole["psnr"] - found["psnr"]) > 1e-3, "the crop matters here"


def test_single_coil_files_are_judged_by_their_esc_reference_unless_told(tmp_path):
    reference, image = volumes()
    with h5py.File(tmp_path / "truth.h5", "w") as file:
        file["reconstruction_rss"], file["reconstruction_esc"] = reference * 3, reference
        file["kspace"] = np.zeros((3, 4, 4), np.complex64)
    np.save(tmp_path / "image.npy", np.swapaxes(image, 1, 2))
    esc = evaluate_files(tmp_path / "image.npy", tmp_path / "truth.h5")
    assert esc["psnr"] == pytest.approx(fastmri_evaluate(reference, image)["psnr"], rel=1e-6)
    rss = evaluate_files(tmp_path / "image.npy", tmp_path / "truth.h5", key="reconstruction_rss")
    assert rss["psnr"] == pytest.approx(fastmri_evaluate(3 * reference, image)["psnr"], rel=1e-6)


def test_one_image_gives_the_same_numbers_from_every_format(tmp_path):
    reference, image = volumes((3, 40, 40))
    data = torch.from_numpy(image)
    for name in ("image.nii.gz", "image.h5"):
        write(Image(data.to(torch.complex64), np.eye(4)), tmp_path / name)
    np.save(tmp_path / "image.npy", image.astype(np.complex64))
    write(Image(torch.from_numpy(reference), np.eye(4)), tmp_path / "truth.nii")
    found = [evaluate_files(tmp_path / f"image.{end}", tmp_path / "truth.nii") for end in ("nii.gz", "h5", "npy")]
    for name, value in fastmri_evaluate(reference, image).items():
        assert [numbers[name] for numbers in found] == pytest.approx([value] * 3, rel=1e-5), name


def test_our_reconstruction_of_a_fastmri_file_meets_its_reference_pixel_by_pixel(tmp_path):
    """fastMRI's reference has the phase encode last, our image the readout; orientation must not enter the numbers."""
    from tests.medical.reconstruction.formats.test_fastmri import reference_rss, true_kspace, write_fastmri

    path = write_fastmri(tmp_path / "scan.h5")
    with h5py.File(path, "a") as file:
        file["reconstruction_rss"] = reference_rss(true_kspace())
    assert fewstep("mri", "reconstruct", path, "-o", tmp_path / "image.nii", "--method", "rss").returncode == 0
    numbers = evaluate_files(tmp_path / "image.nii", path, square=False)
    assert numbers["ssim"] == pytest.approx(1, abs=1e-5)
    assert numbers["nmse"] < 1e-9


def test_folders_give_the_mean_over_volumes_and_each_volumes_numbers(tmp_path):
    found = {}
    for folder in ("image", "truth"):
        (tmp_path / folder).mkdir()
    for seed, name in enumerate(("a.npy", "b.npy")):
        reference, image = volumes(seed=seed)
        np.save(tmp_path / "truth" / name, reference * (1 + seed))
        np.save(tmp_path / "image" / name, image)
        found[name] = fastmri_evaluate(reference * (1 + seed), image)
    numbers = evaluate_files(tmp_path / "image", tmp_path / "truth")
    for metric in ("psnr", "ssim", "nmse", "nrmse"):
        each = [found[name][metric] for name in ("a.npy", "b.npy")]
        assert numbers[metric] == pytest.approx(np.mean(each), rel=1e-5)
        assert numbers[f"b.npy.{metric}"] == pytest.approx(each[1], rel=1e-5)
    (tmp_path / "image" / "b.npy").unlink()
    with pytest.raises(InputError, match=r"b\.npy"):
        evaluate_files(tmp_path / "image", tmp_path / "truth")


def test_cropping_keeps_places_and_other_places_are_refused(tmp_path):
    reference, image = volumes((3, 40, 32))
    shifted = np.eye(4)
    shifted[1, 3] = 4
    write(Image(torch.from_numpy(reference), np.eye(4)), tmp_path / "truth.nii")
    write(Image(torch.from_numpy(image[:, 4:-4]), shifted), tmp_path / "cropped.nii")
    write(Image(torch.from_numpy(image[:, 4:-4]), np.eye(4)), tmp_path / "moved.nii")
    numbers = evaluate_files(tmp_path / "cropped.nii", tmp_path / "truth.nii")
    assert numbers["psnr"] == pytest.approx(fastmri_evaluate(reference, image)["psnr"], rel=1e-5)
    with pytest.raises(InputError, match="affine"):
        evaluate_files(tmp_path / "moved.nii", tmp_path / "truth.nii")


def test_what_cannot_be_evaluated_is_one_clear_line(tmp_path):
    reference, _ = volumes()
    np.save(tmp_path / "truth.npy", reference)
    np.save(tmp_path / "small.npy", reference[:, :20])
    np.save(tmp_path / "line.npy", reference[0, 0])
    np.save(tmp_path / "nan.npy", reference * np.nan)
    (tmp_path / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\nbroken")
    (tmp_path / "picture.png").write_bytes(b"")
    nibabel.Nifti1Image(reference.astype(np.float32), np.eye(4)).to_filename(tmp_path / "other.nii")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["something"] = 1
    for name, word in [
        ("small.npy", "32 x 32"),
        ("line.npy", "three axes"),
        ("nan.npy", "NaN"),
        ("broken.h5", "HDF5"),
        ("picture.png", "suffix"),
        ("other.nii", "pixels"),
        ("empty.h5", "something"),
        ("absent.npy", "readable"),
        (".", "folder"),
    ]:
        assert_one_clear_line(fewstep("mri", "evaluate", tmp_path / name, tmp_path / "truth.npy"), word)
    words = ("mri", "evaluate", tmp_path / "truth.npy", tmp_path / "truth.npy", "--crop", "round")
    assert_one_clear_line(fewstep(*words), "--crop", "round")

"""Trained networks in the pipeline: from raw data to image, companions, provenance and report, and the gate before it.

The networks have random weights that do something; what is tested is everything around them.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from safetensors.torch import load_file, save_file

from medical import reconstruction as mri
from medical.images import Geometry
from medical.reconstruction import trained
from medical.reconstruction.formats.ismrmrd_writer import write_ismrmrd
from medical.reconstruction.fourier import fft_centred, ifft_centred
from medical.reconstruction.learned.build import network_from_data
from medical.reconstruction.pipeline import one_slice, reconstruct_all
from medical.reconstruction.quality.card import ModelCard
from medical.reconstruction.settings import Settings
from medical.reconstruction.trusted import ended, reconstruct_trained
from shared.errors import InputError
from shared.weights import sha256
from tests.medical.reconstruction.phantom import coil_maps, every_nth_line, head, scan
from tests.medical.reconstruction.scans import scan_of
from tests.medical.reconstruction.test_cli import assert_one_clear_line, fewstep

SMALL = {"cascades": 2, "channels": 4, "pools": 2, "sensitivity_channels": 4, "sensitivity_pools": 2}
NETWORKS = {
    "varnet": {"name": "varnet", **SMALL},
    "no-varnet": {"name": "no_varnet", **SMALL, "radius_mm": 10.0, "kspace_channels": 4, "kspace_pools": 2},
}
DOMAIN = {
    "patterns": ["equispaced", "magic"],
    "acceleration": [1.5, 5],
    "coils": [2, 6],
    "matrix": [32, 96],
    "spacing_mm": [0.5, 5],
    "fov_mm": [32, 400],
    "calibration": [8, 40],
}


def random_weights(folder: Path, method: str = "varnet", domain: dict | None = None, seed: int = 0) -> Path:
    """A network whose refinements are random but small, saved with a card as training saves it."""
    network = network_from_data(NETWORKS[method])
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        key: value + 0.02 * torch.randn(value.shape, generator=generator) if value.dim() > 1 else value
        for key, value in network.state_dict().items()
    }
    path = folder / f"{method}.safetensors"
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    card = {"name": f"test/{method}", "method": method, "network": NETWORKS[method], "simulated": True}
    card |= {"trained_on": DOMAIN if domain is None else domain, "data": "none: random weights"}
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def white_scan(shape=(48, 40), coils=4, slices=1, acceleration=3, calibration=16, level=30.0):
    """A head scanned with unit noise and its noise scan, pixels of 4 mm along y and 5 mm along x."""
    kspace = torch.cat(
        [
            scan(
                level * (1 + z) * head(shape),
                coil_maps(shape, coils),
                every_nth_line(shape, acceleration, calibration),
                1.0,
                z,
            )
            for z in range(slices)
        ]
    )
    mask = every_nth_line(shape, acceleration, calibration).expand(slices, *shape).clone()
    noise = torch.randn(coils, 20000, dtype=torch.complex64, generator=torch.Generator().manual_seed(9))
    fov = (5.0 * shape[1], 4.0 * shape[0], 5.0)
    geometry = Geometry(fov, positions_mm=tuple((0.0, 0.0, 5.0 * z) for z in range(slices)))
    facts = {"geometry": geometry, "recon_fov_mm": fov, "noise": noise, "simulated": True}
    return scan_of(kspace.to(torch.complex64), mask, **facts)


def load(weights: Path) -> trained.TrainedModel:
    return trained.load_model(Settings(method="varnet", weights=str(weights)))


@pytest.mark.parametrize("method", ["varnet", "no-varnet"])
def test_the_pipeline_gives_the_networks_own_image_in_place_with_its_companions(tmp_path, method):
    weights = random_weights(tmp_path, method)
    settings = Settings(method=method, weights=str(weights), classical="sense", consistency="none")
    raw = white_scan(slices=2)
    found = reconstruct_all(raw, settings)
    network = network_from_data(NETWORKS[method])
    network.load_state_dict(load_file(weights))
    box = torch.zeros_like(raw.mask)
    box[:, 16:32] = True
    with torch.inference_mode():
        expected = network(raw.kspace, raw.mask, box, (4.0, 5.0)).image
    torch.testing.assert_close(found.image.data, expected, rtol=1e-4, atol=1e-3)
    classical = mri.reconstruct(raw, Settings(method="sense"))
    torch.testing.assert_close(found.companions["classical"].data, classical.data)
    assert set(found.companions) == {"classical", "unmeasured", "unexplained", "disagreement"}
    for image in found.companions.values():
        np.testing.assert_array_equal(image.affine, found.image.affine)
        assert image.data.shape == found.image.data.shape
    facts = found.image.provenance
    assert facts["model"]["sha256"] == sha256(weights)
    assert facts["model"]["name"] == f"test/{method}"
    assert len(facts["consistency"]) == len(facts["trust"]["unmeasured_fraction"]) == 2
    assert found.companions["classical"].provenance["method"] == "sense"
    assert "consistency" not in found.companions["classical"].provenance
    assert facts["warnings"] == ()


def test_the_residual_is_that_of_the_networks_image_and_maps(tmp_path):
    weights = random_weights(tmp_path)
    raw = white_scan()
    found = trained.images_of(raw, load(weights), torch.Generator())
    energy = float(((fft_centred(found.maps[:, 0] * found.image) - raw.kspace) * raw.mask[:, None]).norm()) ** 2
    settings = Settings(method="varnet", consistency="none")
    plain = reconstruct_trained(raw, settings, load(weights), generator=torch.Generator())
    assert plain.residual_energy == pytest.approx(energy, rel=1e-4)


def test_soft_consistency_brings_a_wrong_image_near_the_truth_and_leaves_a_right_one():
    shape, coils = (48, 40), 6
    maps, mask = coil_maps(shape, coils)[None, None].to(torch.complex64), every_nth_line(shape, 2, 20)
    truth = (30 * head(shape))[None, None].to(torch.complex64)
    noise = torch.randn(coils, 5000, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    raw = scan_of(scan(truth[0, 0].to(torch.complex128), maps[0, 0], mask, 1.0).to(torch.complex64), mask, noise=noise)
    blurred = truth + 6 * torch.randn(truth.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(2))
    wrong, told = ended(raw, trained.TrainedImages(blurred, maps), Settings(method="varnet"))
    assert "soft data consistency" in told

    def error(found):
        return float((found.maps * found.image[:, :, None] - maps * truth[:, :, None]).norm())

    before = error(trained.TrainedImages(blurred, maps))
    assert error(wrong) < 0.6 * before
    hard, _ = ended(raw, trained.TrainedImages(blurred, maps), Settings(method="varnet", consistency="hard"))
    assert error(wrong) < error(hard), "the hard step fits the noise"
    fitted_noise = trained.TrainedImages(0.999 * wrong.image, wrong.maps)
    kept, told = ended(raw, fitted_noise, Settings(method="varnet"))
    assert "that of noise" in told
    assert torch.equal(kept.image, fitted_noise.image)
    unknown = replace(raw, noise=None)
    assert ended(unknown, trained.TrainedImages(blurred, maps), Settings(method="varnet"))[0].image is blurred


@pytest.mark.parametrize(("brightness", "largest", "smallest"), [(60.0, 0.85, 0.0), (2.0, 1.0, 0.98)])
def test_a_network_that_is_told_the_noise_ends_nearer_to_the_full_scan_the_higher_the_snr(
    brightness, largest, smallest
):
    """The image is the truth, so all that the last step can bring it nearer to is the noise of the full scan."""
    shape, coils = (48, 40), 6
    maps, mask = coil_maps(shape, coils)[None, None].to(torch.complex64), every_nth_line(shape, 2, 20)
    truth = (brightness * head(shape))[None, None].to(torch.complex64)
    full = fft_centred(maps[0, 0] * truth[0, 0])
    full = full + torch.randn(full.shape, dtype=full.dtype, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(coils, 5000, dtype=torch.complex64, generator=torch.Generator().manual_seed(2))
    raw = scan_of((full * mask)[None], mask, noise=noise)
    own = trained.TrainedImages(truth, maps, noise_std=1.0)
    found, told = ended(raw, own, Settings(method="varnet"))
    assert "soft data consistency" in told
    full_scan = (maps[0, 0].conj() * ifft_centred(full)).sum(0)
    left = (found.image - full_scan).norm() / (truth - full_scan).norm()
    assert smallest <= left < largest
    assert ended(raw, own, Settings(method="varnet", consistency="none"))[0] is own


def test_coils_beyond_the_card_are_compressed_and_odd_sizes_crop_like_classical_ones(tmp_path):
    weights = random_weights(tmp_path)
    raw = white_scan((51, 45), coils=9)
    raw = replace(raw, recon_matrix=(1, 41, 45), recon_fov_mm=(225.0, 164.0, 5.0))
    found = reconstruct_all(raw, Settings(method="varnet", weights=str(weights)))
    assert found.image.data.shape == (1, 41, 45)
    assert any("compressed from 9 to 6" in step for step in found.image.provenance["history"])
    classical = mri.reconstruct(raw, Settings(method="wavelet"))
    np.testing.assert_allclose(found.image.affine, classical.affine)
    correlation = torch.corrcoef(torch.stack([x.abs().flatten() for x in (found.image.data, classical.data)]))[0, 1]
    assert float(correlation) > 0.9, "the untrained network starts at the zero-filled image, on the same pixels"


@pytest.mark.parametrize("coils", [1, 32])
@pytest.mark.parametrize("method", ["varnet", "no-varnet"])
def test_one_coil_and_thirty_two_give_complex_single_precision_images(tmp_path, method, coils):
    weights = random_weights(tmp_path, method, domain={"coils": [1, 8]})
    raw = white_scan((49, 56), coils=coils, calibration=24)
    found = reconstruct_all(raw, Settings(method=method, weights=str(weights)))
    assert found.image.data.dtype == torch.complex64
    assert found.image.data.shape == (1, 49, 56)
    assert bool(torch.isfinite(found.image.data.abs()).all())
    assert any("compressed from 32 to 8" in step for step in found.image.provenance["history"]) == (coils == 32)


def test_partial_fourier_is_left_to_the_network_unless_asked_for(tmp_path):
    weights = random_weights(tmp_path)
    raw = white_scan((64, 40), acceleration=1)
    mask = raw.mask.clone()
    mask[:, :18] = False
    raw = replace(raw, kspace=raw.kspace * mask[:, None], mask=mask)
    settings = Settings(method="varnet", weights=str(weights), force=True)
    plain = mri.reconstruct(raw, settings)
    assert not any("Partial Fourier" in text for text in plain.provenance["warnings"])
    filled = mri.reconstruct(raw, settings.model_copy(update={"partial_fourier": "pocs"}))
    assert any("filled by pocs" in text for text in filled.provenance["history"])
    assert not torch.equal(plain.data, filled.data)


def test_a_scan_without_a_sampled_centre_is_refused(tmp_path):
    raw = white_scan()
    mask = torch.zeros_like(raw.mask)
    mask[:, 1::4] = True
    raw = replace(raw, kspace=raw.kspace * mask[:, None], mask=mask)
    with pytest.raises(InputError, match="centre"):
        mri.reconstruct(raw, Settings(method="varnet", weights=str(random_weights(tmp_path)), force=True))


@pytest.mark.parametrize("axis", [-3, -1])
def test_a_slab_becomes_planes_along_the_axis_without_gaps(tmp_path, axis):
    """Every plane of the slab must equal the plane scanned alone, whatever axis it is transformed along."""
    shape, coils = (10, 36, 32), 3
    maps, image = coil_maps(shape, coils), 30 * head(shape)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, ::3] = True
    mask[:, 12:24] = True
    if axis == -1:
        mask[::2] = False
        mask[2:8, 12:24] = True
    raw = scan_of(scan(image, maps, mask, 0.1).to(torch.complex64), mask[None])
    weights = random_weights(tmp_path, domain={"coils": [1, 8]})
    model = load(weights)
    found = trained.images_of(raw, model, torch.Generator())
    assert found.image.shape == (1, 1, *shape)
    assert found.maps.shape == (1, 1, coils, *shape)
    plane = 4
    planes = ifft_centred(raw.kspace[0], (axis,)).movedim(axis, 0)[plane]
    alone = scan_of(planes[None], mask.any(axis)[None])
    expected = trained.images_of(alone, model, torch.Generator()).image
    torch.testing.assert_close(found.image[0, 0].movedim(axis, 0)[plane], expected[0, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("axis", "expected"), [(-3, (3.0, 2.0)), (-2, (4.0, 2.0)), (-1, (4.0, 3.0))])
def test_the_planes_of_a_slab_have_the_pixel_size_of_their_own_axes(axis, expected):
    """Voxels of 2, 3 and 4 mm along x, y and z: a model must be told the sizes of the two axes that it sees."""
    shape = (12, 24, 32)
    mask = torch.zeros(shape, dtype=torch.bool).movedim(axis, 0)
    mask[:, ::2, ::2] = True
    mask[:, 4:8, 8:20] = True
    mask = mask.movedim(0, axis)
    fov = (64.0, 72.0, 48.0)
    raw = scan_of(torch.ones(1, 2, *shape, dtype=torch.complex64), mask[None], recon_fov_mm=fov, geometry=Geometry(fov))
    seen = []

    def spy(kspace, mask, spacing, generator):
        seen.append((tuple(mask.shape), spacing))
        return trained.TrainedImages(kspace[None, :1], kspace[None, None])

    model = model_that_runs(spy)
    found = trained.images_of(raw, model, torch.Generator())
    plane = tuple(n for number, n in enumerate(shape) if number != 3 + axis)
    assert set(seen) == {(plane, expected)}
    assert len(seen) == shape[axis]
    assert found.image.shape == (1, 1, *shape)


def model_that_runs(run) -> trained.TrainedModel:
    return trained.TrainedModel(run, ModelCard(name="spy", method="varnet"), "0")


def test_separate_calibration_lines_enter_k_space_where_it_has_none(tmp_path):
    raw = white_scan()
    block = raw.kspace[:, :, 16:32].clone()
    mask = torch.zeros_like(raw.mask)
    mask[:, ::3] = True
    apart = replace(raw, kspace=raw.kspace * mask[:, None], mask=mask, calibration=block)
    model = load(random_weights(tmp_path))
    together = trained.fitted(apart, model, Settings(method="varnet"))
    assert torch.equal(together.kspace, raw.kspace)
    assert torch.equal(together.mask, raw.mask)
    assert any("Separate calibration" in text for text in together.warnings)


def test_a_scan_far_outside_the_card_is_refused_before_any_work_and_forced_with_a_warning(tmp_path):
    weights = random_weights(tmp_path, domain={**DOMAIN, "patterns": ["poisson"]})
    settings = Settings(method="varnet", weights=str(weights))
    with pytest.raises(InputError, match="far outside its training"):
        mri.reconstruct(white_scan(), settings)
    forced = mri.reconstruct(white_scan(), settings.model_copy(update={"force": True}))
    assert any("FORCED" in text for text in forced.provenance["warnings"])


def test_an_interrupted_trained_run_resumes_with_companions_and_other_weights_start_anew(tmp_path):
    raw = white_scan(slices=2)
    settings = Settings(method="varnet", weights=str(random_weights(tmp_path)), classical="sense")
    whole = reconstruct_all(raw, settings, work=tmp_path / "work")
    again = reconstruct_all(raw, settings, work=tmp_path / "work")
    assert torch.equal(again.image.data, whole.image.data)
    for name, image in whole.companions.items():
        assert torch.equal(again.companions[name].data, image.data)
    assert again.image.provenance == whole.image.provenance
    random_weights(tmp_path, seed=1)
    other = reconstruct_all(raw, settings, work=tmp_path / "work")
    assert not torch.equal(other.image.data, whole.image.data)


def test_the_command_writes_both_images_maps_report_and_says_which_network(tmp_path):
    weights = random_weights(tmp_path)
    source = write_ismrmrd(tmp_path / "scan.h5", white_scan())
    out, page = tmp_path / "brain.nii.gz", tmp_path / "brain.html"
    words = ["mri", "reconstruct", source, "--method", "varnet", "--weights", weights]
    done = fewstep(*words, "-o", out, "--report", page, "--trust-maps", "--classical", "sense")
    assert done.returncode == 0, done.stderr
    told = {Path(line).name for line in done.stdout.split()}
    names = {
        f"brain{part}{end}"
        for part in ("", "_classical", "_unmeasured", "_unexplained", "_disagreement")
        for end in (".nii.gz", ".json")
    }
    assert told == names | {"brain.html", "brain.report.json"}
    facts = json.loads((tmp_path / "brain.json").read_text())
    assert facts["model"]["sha256"] == sha256(weights)
    assert facts["consistency"][0]["verdict"] in ("consistent", "unexplained data", "fits noise")
    assert json.loads((tmp_path / "brain_classical.json").read_text())["method"] == "sense"
    text = page.read_text()
    assert text.count("<img") >= 7
    assert "Classical image of the same data: sense" in text
    assert sha256(weights) in text
    classical = nibabel.load(tmp_path / "brain_classical.nii.gz")
    assert classical.shape == nibabel.load(out).shape


def test_dicom_names_the_network_its_hash_and_what_it_was_trained_on(tmp_path):
    weights = random_weights(tmp_path)
    image = mri.reconstruct(white_scan(), Settings(method="varnet", weights=str(weights)))
    mri.write(image, tmp_path / "brain.dcm")
    comments = pydicom.dcmread(tmp_path / "brain.dcm").ImageComments
    for word in ("test/varnet", sha256(weights), "simulated data", "NOT FOR DIAGNOSIS"):
        assert word in comments


def test_wrong_weights_are_one_clear_line(tmp_path):
    source = write_ismrmrd(tmp_path / "scan.h5", white_scan())
    weights = random_weights(tmp_path)
    words = ["mri", "reconstruct", source, "-o", tmp_path / "out.nii", "--weights", weights, "--method"]
    assert_one_clear_line(fewstep(*words, "no-varnet"), "varnet", "method")
    card = weights.with_suffix(".json")
    facts = json.loads(card.read_text())
    card.write_text(json.dumps({**facts, "network": {**facts["network"], "channels": 6}}))
    assert_one_clear_line(fewstep(*words, "varnet"), "card")
    card.unlink()
    assert_one_clear_line(fewstep(*words, "varnet"), "model card")
    weights.write_bytes(b"nothing")
    assert_one_clear_line(fewstep(*words, "varnet"), "safetensors")
    assert not list(tmp_path.glob("out*"))


def test_radial_scans_are_refused(tmp_path):
    raw = one_slice(white_scan(), 0)
    spokes = replace(raw, trajectory=torch.zeros(1, 48, 40, 2))
    model = load(random_weights(tmp_path))
    with pytest.raises(InputError, match="non-Cartesian"):
        trained.fitted(spokes, model, Settings(method="varnet"))


def gaussian_prior(folder: Path) -> Path:
    """A prior whose network is zero: its estimate is the posterior mean of white Gaussian pixels of known variance."""
    from medical.reconstruction.posterior.network import SliceUNet, SliceUNetConfig
    from medical.reconstruction.posterior.prior import PriorFacts, save_prior

    tensors = {
        key: torch.zeros_like(value) for key, value in SliceUNet(SliceUNetConfig((16, 16), 1, 16)).state_dict().items()
    }
    facts = PriorFacts(0.4, 0.002, 20.0, (16, 16), 1, 16, {"matrix": [48, 40], "simulated": True})
    save_prior(folder / "prior.safetensors", tensors, facts)
    return folder / "prior.safetensors"


def test_dds_writes_the_mean_of_its_samples_and_their_spread_which_is_wide_where_the_data_are_silent(tmp_path):
    weights = gaussian_prior(tmp_path)
    settings = Settings(method="dds", weights=str(weights), samples=4, calls=6)
    found = reconstruct_all(white_scan(), settings, seed=3)
    assert found.image.provenance["model"]["sha256"] == sha256(weights)
    assert set(found.companions) == {"classical", "uncertainty", "unmeasured", "unexplained", "disagreement"}
    assert torch.equal(reconstruct_all(white_scan(), settings, seed=3).image.data, found.image.data)
    full = reconstruct_all(white_scan(acceleration=1), settings, seed=3)
    gaps, none = (run.companions["uncertainty"].data.abs().mean() for run in (found, full))
    assert float(gaps) > 1.5 * float(none)
    assert float(none) == pytest.approx(1, rel=0.5), "a full scan leaves noise of variance 1 a pixel"


def test_dds_estimates_the_noise_where_the_scan_has_none_and_keeps_the_unit_of_the_data(tmp_path):
    settings = Settings(method="dds", weights=str(gaussian_prior(tmp_path)), samples=2, calls=3)
    unknown = replace(white_scan(), noise=None)
    found = reconstruct_all(unknown, settings)
    assert any("estimated from the image data" in text for text in found.image.provenance["warnings"])
    assert not found.image.provenance["units"].startswith("SNR")
    small = reconstruct_all(replace(unknown, kspace=1e-3 * unknown.kspace), settings)
    for ours, scaled in (
        (found.image, small.image),
        *((found.companions[n], small.companions[n]) for n in ("uncertainty",)),
    ):
        assert (1e3 * scaled.data - ours.data).norm() < 1e-2 * ours.data.norm()

"""The latent model: MAISI's autoencoder in slabs against itself whole, its files, and volumes drawn through it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

nibabel = pytest.importorskip("nibabel")
pytest.importorskip("monai")
pytest.importorskip("einops")

import medical.brain.latent as latent  # noqa: E402
from medical.brain.cli import app  # noqa: E402
from medical.brain.config import BrainConfig  # noqa: E402
from medical.brain.files import load_brain, save_brain  # noqa: E402
from medical.brain.latent import Autoencoder, autoencoder_network, load_autoencoder  # noqa: E402
from medical.brain.memory import measure  # noqa: E402
from medical.brain.model import BrainModel, Sampling  # noqa: E402
from medical.brain.network import brain_network  # noqa: E402
from medical.brain.official import LATENT  # noqa: E402
from medical.brain.start import Start  # noqa: E402
from shared.errors import InputError  # noqa: E402
from shared.memory import call_bytes  # noqa: E402
from shared.sampling import sample  # noqa: E402

SIZE = (32, 64, 32)
NARROW = (8, 8, 16)
SMALL = BrainConfig(
    strategy="rflow", channels=(8, 16), attention=(False, True), blocks=1, size=SIZE, spacing_mm=4, latent="maisi"
)


def narrow(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return autoencoder_network(NARROW).eval()


@pytest.fixture
def narrow_files(monkeypatch):
    """Read files of narrow autoencoders: the published one has 21 million numbers."""
    monkeypatch.setattr(latent, "autoencoder_network", lambda: autoencoder_network(NARROW))


@pytest.fixture(scope="module")
def model() -> BrainModel:
    torch.manual_seed(1)
    network = brain_network(SMALL).eval()
    torch.nn.init.normal_(network.out[2].conv.weight, std=0.2)
    return BrainModel(SMALL, network, name="small", autoencoder=Autoencoder(narrow()))


@pytest.mark.parametrize(("side", "slabs"), [(128, 8), (64, 4), (48, 2), (36, 1)])
def test_slabs_of_the_autoencoder_are_the_whole(side, slabs):
    whole, ours = narrow(), Autoencoder(narrow())
    for module in whole.modules():
        if hasattr(module, "num_splits"):
            module.num_splits = 1
    x = torch.randn(1, 1, 12, side, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean, _ = whole.encode((x + 1) / 2)
        torch.testing.assert_close(ours.encode(x), mean, rtol=0, atol=1e-5)
        torch.testing.assert_close(ours.decode(mean), 2 * whole.decode(mean) - 1, rtol=0, atol=1e-4)
    assert {module.num_splits for module in ours.network.modules() if hasattr(module, "num_splits")} == {slabs}
    assert mean.shape == (1, *SMALL.sampled((12, side, 8))) == (1, 4, 3, side // 4, 2)
    with pytest.raises(InputError, match="multiples of 4"):
        ours.encode(x[..., :6])


def test_the_published_networks_have_the_published_widths():
    """Names as MedForj's and NVIDIA's configurations make them, without the memory of their numbers."""
    with torch.device("meta"):
        unet, autoencoder = brain_network(LATENT).state_dict(), autoencoder_network().state_dict()
    assert tuple(unet["conv_in.conv.weight"].shape) == (64, 4, 3, 3, 3)
    assert tuple(unet["out.2.conv.weight"].shape) == (4, 64, 3, 3, 3)
    assert tuple(unet["down_blocks.3.attentions.1.attn.to_q.weight"].shape) == (512, 512)
    assert LATENT.multiple == 32
    assert LATENT.sampled(LATENT.size) == (4, 48, 56, 48)
    assert tuple(autoencoder["decoder.blocks.0.conv.conv.weight"].shape) == (256, 4, 3, 3, 3)
    assert tuple(autoencoder["post_quant_conv.conv.weight"].shape) == (4, 4, 1, 1, 1)
    assert sum(value.numel() for value in autoencoder.values()) == pytest.approx(21e6, rel=0.05)


def test_a_volume_is_the_decoded_sample(model):
    sampling = Sampling(steps=4)
    drawn = model.draw(sampling=sampling, generator=torch.Generator().manual_seed(2))
    z = torch.randn(1, 4, 8, 16, 8, generator=torch.Generator().manual_seed(2))
    z = sample(model.denoiser(), z, sampling.grid("rflow"), sampling.solver())
    assert drawn.shape == SIZE
    torch.testing.assert_close(drawn, model.autoencoder.decode(z)[0, 0])


@pytest.mark.usefixtures("narrow_files")
def test_the_command_draws_through_the_autoencoder(model, tmp_path):
    weights, autoencoder = tmp_path / "mine.safetensors", tmp_path / "autoencoder_v1.pt"
    save_brain(weights, SMALL, model.network.state_dict(), {})
    torch.save(narrow().state_dict(), autoencoder)
    words = ["generate", "--model", str(weights), "-n", "1", "-o", str(tmp_path / "made"), "--steps", "3", "-q"]
    alone = CliRunner().invoke(app, words)
    assert isinstance(alone.exception, InputError)
    assert "--autoencoder" in str(alone.exception)
    assert not (tmp_path / "made").exists()
    done = CliRunner().invoke(app, [*words, "--autoencoder", str(autoencoder)])
    assert done.exit_code == 0, done.output
    path = tmp_path / "made" / "sub-syn001" / "anat" / "sub-syn001_T1w.nii.gz"
    voxels = np.asanyarray(nibabel.load(path).dataobj)
    assert voxels.shape == SIZE
    assert voxels.std() > 0
    facts = json.loads(path.with_name("sub-syn001_T1w.json").read_text())
    assert facts["model"]["autoencoder_sha256"] == load_autoencoder(autoencoder).sha256


@pytest.mark.usefixtures("narrow_files")
def test_wrong_files_and_uses_are_told(model, tmp_path):
    state = narrow().state_dict()
    state["decoder.blocks.9.other"] = state.pop("decoder.blocks.0.conv.conv.weight")
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"decoder\.blocks\.0\.conv\.conv\.weight absent"):
        load_autoencoder(tmp_path / "other.pt")
    pixels = BrainConfig(strategy="flow", channels=(8, 16), attention=(False, True), blocks=1, size=SIZE, spacing_mm=4)
    save_brain(tmp_path / "pixels.safetensors", pixels, brain_network(pixels).state_dict(), {})
    with pytest.raises(InputError, match="model of voxels"):
        load_brain(tmp_path / "pixels.safetensors", autoencoder=tmp_path / "other.pt")
    with pytest.raises(InputError, match="found a latent model"):
        model.draw(sampling=Sampling(steps=3), start=Start(torch.zeros(SIZE)))
    with pytest.raises(InputError, match="multiples of 8"):
        model.draw((32, 60, 32))
    with pytest.raises(ValueError, match="needs fold: none"):
        BrainConfig.model_validate(SMALL.model_dump() | {"fold": "haar"})
    name = tmp_path / "MedForj-weights-ldm_rflow_ema.pt"
    torch.save({"conv_in.conv.weight": torch.zeros(64, 4, 3, 3, 3)}, name)
    with pytest.raises(InputError, match="a name that says rflow"):
        load_brain(name, "flow")
    with pytest.raises(InputError, match="found 1 tensors"):
        load_brain(name)


def test_the_plan_counts_the_decoding(model):
    planned = measure(SMALL, model.network, (32, 64, 96), 0, model.autoencoder)
    z = torch.zeros(1, 4, 8, 16, 24)
    needed = call_bytes(lambda: model.autoencoder.decode(z))
    assert planned.call == pytest.approx(needed, rel=0.1)
    assert planned.call > 2 * measure(SMALL, model.network, (32, 64, 96)).call
    assert planned.weights > measure(SMALL, model.network, (32, 64, 96)).weights

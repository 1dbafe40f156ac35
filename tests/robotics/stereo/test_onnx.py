"""The exported graph in onnxruntime against the model in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from robotics.stereo.config import StereoConfig
from robotics.stereo.files import load_stereo, save_stereo
from robotics.stereo.model import first_map
from robotics.stereo.networks import StereoNetwork, reduced
from robotics.stereo.onnx_export import SamplingGraph
from robotics.stereo.pair import StereoPair
from shared.errors import InputError
from shared.weights import sha256
from tests.robotics.stereo.test_cli import call
from tests.robotics.stereo.test_model import pair

TINY = StereoConfig(
    half=8, quarter=8, groups=2, volume=4, channels=(8,), embedding=8, correction=4, surfaces=(8, 32)
)  # fmt: skip
WIDTH, HEIGHT = 38, 34  # no multiples of 8: the graph pads


def inputs(one: StereoPair, first: np.ndarray | None) -> list[np.ndarray]:
    """The graph's left, right, first and known."""
    images = [image.transpose(2, 0, 1)[None].astype(np.float32) / 255 for image in (one.left, one.right)]
    return [*images, *(value[None, None] for value in first_map(first, one.left.shape[:2]))]


@pytest.fixture
def model(tmp_path):
    """A file of a network whose last layers are not zero, as they are before training."""
    torch.manual_seed(0)
    network = StereoNetwork(TINY)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    save_stereo(tmp_path / "model.safetensors", TINY, network.state_dict(), {})
    return tmp_path / "model.safetensors"


def test_what_is_exported_samples_as_draw_does_call_after_call(model):
    one, loaded = pair(height=HEIGHT, width=WIDTH), load_stereo(model)
    graph = SamplingGraph(loaded, (WIDTH, HEIGHT), 12, 3, 0.1).eval()
    noise = torch.randn(graph.noise_shape(2), generator=torch.Generator().manual_seed(5))
    for first in (None, np.full((HEIGHT, WIDTH), 7.0, np.float32)):
        expected = loaded.draw(loaded.look(one.left, one.right, first, 12, 0.1), calls=3, samples=2, x=noise).disparity
        with torch.no_grad():
            found = graph(*(torch.from_numpy(value) for value in inputs(one, first)), noise)
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)  # px
        assert float((found[0] - found[1]).abs().max()) > 0.05


def test_the_graph_gives_in_onnxruntime_what_draw_gives_with_and_without_a_first_map(model, tmp_path):
    """Of one call, because each takes the exporter seconds; more of them are tested above."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    given = ["--size", f"{WIDTH}x{HEIGHT}", "--max-disparity", 8, "--calls", 1, "--samples", 2, "--glass", 0.1]
    lines = call("export", model, *given, "-o", path)
    assert lines[-1] == str(path)
    assert float(lines[0].split()[1]) < 1e-3
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert [(entry.name, entry.shape) for entry in session.get_inputs()] == [
        ("left", [1, 3, HEIGHT, WIDTH]), ("right", [1, 3, HEIGHT, WIDTH]), ("first", [1, 1, HEIGHT, WIDTH]),
        ("known", [1, 1, HEIGHT, WIDTH]), ("noise", [2, 1, 10, 10]),
    ]  # fmt: skip
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["sha256"] == sha256(model)
    assert (facts["calls"], facts["max_disparity"]) == ("1", "8")
    one, loaded = pair(height=HEIGHT, width=WIDTH), load_stereo(model)
    holed = np.full((HEIGHT, WIDTH), 5.0, np.float32)
    holed[:, 20:30] = np.nan
    noise = torch.randn(2, 1, 10, 10, generator=torch.Generator().manual_seed(5))
    answers = []
    for first in (holed, None):
        values = dict(zip(("left", "right", "first", "known"), inputs(one, first), strict=True))
        (found,) = session.run(None, {**values, "noise": noise.numpy()})
        view = loaded.look(one.left, one.right, first, 8, 0.1)
        expected = loaded.draw(view, calls=1, samples=2, x=noise).disparity.numpy()
        assert found.shape == (2, HEIGHT, WIDTH)
        assert np.abs(found - expected).max() < 1e-3
        answers.append(found)
    assert np.abs(answers[0] - answers[1]).max() > 0.05
    with pytest.raises(InputError, match="existing output"):
        call("export", model, *given, "-o", path)


def test_bad_input_is_told(model, tmp_path):
    for more, message in (
        (["--size", "64x32", "-o", tmp_path / "m.pb"], "suffix"),
        (["--size", "64", "-o", tmp_path / "m.onnx"], "WxH"),
    ):
        with pytest.raises(InputError, match=message):
            call("export", model, *more)


def test_a_reduced_map_is_the_median_of_what_is_known():
    blocks = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 80], [float("nan")] * 4, [9, 9, 9, 9]])
    some = reduced(blocks[None, None])
    assert float(some) == np.nanmedian(blocks.numpy())
    assert torch.isnan(reduced(torch.full((1, 1, 4, 4), float("nan")))).all()
    many = torch.rand(2, 1, 16, 24, generator=torch.Generator().manual_seed(0))
    many[torch.rand(many.shape, generator=torch.Generator().manual_seed(1)) < 0.4] = float("nan")
    parts = many.numpy().reshape(2, 4, 4, 6, 4).transpose(0, 1, 3, 2, 4).reshape(2, 4, 6, 16)
    np.testing.assert_allclose(reduced(many)[:, 0], np.nanmedian(parts, -1), rtol=1e-6)

"""Networks in slabs: the results of whole maps, in less memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from shared.errors import InputError
from shared.memory import LiveBytes, call_bytes, sliceable, sliced
from shared.memory.slabs import Activated, Convolved, Cut, Joined, Resized, Stored, refined, stored

pytest.importorskip("monai")
pytest.importorskip("einops")
from monai.networks.nets import DiffusionModelUNet

TIMES = torch.tensor([10.0, 500.0])


def unet(dims: int = 3, **changes) -> DiffusionModelUNet:
    torch.manual_seed(0)
    settings = {
        "spatial_dims": dims, "in_channels": 1, "out_channels": 1, "channels": (8, 16, 16), "num_res_blocks": 1,
        "attention_levels": (False, False, True), "num_head_channels": 8, "norm_num_groups": 4,
        "use_flash_attention": True,
    }  # fmt: skip
    network = DiffusionModelUNet(**(settings | changes)).double().eval()
    for parameter in network.parameters():  # MONAI starts the last convolutions at zero
        nn.init.normal_(parameter, std=0.15)
    return network


def noise(*shape: int) -> torch.Tensor:
    return 1 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def error(value: torch.Tensor, reference: torch.Tensor) -> float:
    return float((value - reference).abs().max() / reference.abs().max())


@pytest.mark.parametrize(
    ("size", "changes", "told"),
    [
        ((20, 12, 8), {"num_res_blocks": 2}, {}),
        ((12, 8, 12), {"attention_levels": (True, False, False), "resblock_updown": True}, {}),
        ((7, 9, 5), {"channels": (8,), "attention_levels": (False,)}, {}),
        ((28, 20), {"num_class_embeds": 3, "in_channels": 3, "out_channels": 2},
         {"class_labels": torch.tensor([0, 2])}),
        ((12, 8), {"with_conditioning": True, "cross_attention_dim": 5}, {"context": noise(2, 3, 5)}),
    ],
)  # fmt: skip
def test_slabs_give_the_results_of_the_network(size, changes, told):
    network = unet(len(size), **changes)
    x = noise(2, network.in_channels, *size)
    with torch.no_grad():
        reference = network(x, TIMES, **told)
        for slabs in (1, 3, 5, 100):
            assert error(sliced(network, slabs)(x, TIMES, **told), reference) < 1e-13
        single = network.float()
        told = {name: value.float() if value.is_floating_point() else value for name, value in told.items()}
        assert error(sliced(single, 5)(x.float(), TIMES, **told), single(x.float(), TIMES, **told)) < 2e-6


def test_statistics_of_each_slab_alone_would_be_wrong(monkeypatch):
    network, x = unet(), noise(2, 1, 20, 12, 8)
    reference = network(x, TIMES).detach()

    def own_statistics(self, start, stop):
        before, after = max(0, -start), max(0, stop - self.shape[2])
        part = nn.functional.silu(self.norm(self.source.inside(start + before, stop - after)))
        return nn.functional.pad(part, (0, 0, 0, 0, before, after))

    monkeypatch.setattr(Activated, "planes", own_statistics)
    made = Activated.__init__

    def remember(self, source, norm, cut):
        made(self, source, norm, cut)
        self.norm = norm

    monkeypatch.setattr(Activated, "__init__", remember)
    assert error(sliced(network, 1)(x, TIMES), reference) < 1e-13
    assert error(sliced(network, 4)(x, TIMES), reference) > 0.01


def test_maps_are_read_in_planes_of_odd_sizes():
    x, cut = noise(2, 6, 7, 5, 9), Cut(2 * 4 * 2 * 5 * 9)
    source = Stored(x)
    for stride, kernel, padding in ((1, 3, 1), (2, 3, 1), (1, 1, 0), (2, 5, 2)):
        convolution = nn.Conv3d(6, 4, kernel, stride, padding).double()
        expected = convolution(x).detach()
        with torch.no_grad():
            result = stored(Convolved(source, convolution), cut)
        torch.testing.assert_close(result.tensor, expected)
        torch.testing.assert_close(result.sums(cut).first, expected.sum((2, 3, 4)))
    upsample = nn.Upsample(scale_factor=2.0, mode="nearest")
    torch.testing.assert_close(stored(Resized(source, upsample, up=2), Cut(1)).tensor, upsample(x))
    torch.testing.assert_close(Resized(source, upsample, up=2).planes(3, 16), nn.functional.pad(
        upsample(x)[:, :, 3:], (0, 0, 0, 0, 0, 2)))  # fmt: skip
    pool = nn.AvgPool3d(2)
    torch.testing.assert_close(stored(Resized(source, pool, down=2), Cut(1)).tensor, pool(x))

    # Groups of a joined map span its parts, whose scales differ.
    joined, norm = Joined(source, Stored(100 + 30 * x[:, :3])), nn.GroupNorm(3, 9, eps=1e-6).double()
    nn.init.normal_(norm.weight)
    expected = nn.functional.silu(norm(joined.inside(0, 7))).detach()
    with torch.no_grad():
        torch.testing.assert_close(stored(Activated(joined, norm, cut), cut).tensor, expected)


def test_a_residual_is_added_in_place_for_any_cut():
    norm, convolution = nn.GroupNorm(2, 4).double(), nn.Conv3d(4, 4, 3, padding=1).double()
    h, skip = noise(1, 4, 7, 3, 5), noise(1, 4, 7, 3, 5).flip(2)
    with torch.no_grad():
        expected = skip + convolution(nn.functional.silu(norm(h)))
        for planes in (1, 2, 3, 7):
            place = Stored(h.clone())
            result = refined(place, norm, convolution, Stored(skip), cut := Cut(planes * 4 * 3 * 5))
            assert len(cut(h.shape)) == -(-7 // planes)
            assert result.tensor is place.tensor
            torch.testing.assert_close(result.tensor, expected)
            torch.testing.assert_close(result.sums(cut).first, expected.sum((2, 3, 4)))


def test_slabs_take_a_third_of_the_memory_and_leave_the_network_alone():
    network = unet(num_res_blocks=2).float()
    names, places = list(network.state_dict()), [value.data_ptr() for value in network.parameters()]
    x = noise(1, 1, 64, 16, 16).float()
    whole = call_bytes(lambda: network(x, TIMES[:1]))
    small = sliced(network, 32)
    counts = []
    for _ in range(2):
        with LiveBytes() as watched:
            result = small(x, TIMES[:1])
            counts.append(watched.live)
    assert counts == [result.nbytes] * 2  # nothing else is left
    # Two skips, the upsampled map of twice the channels and the output are full maps; the rest is slabs.
    full = 8 * x.nbytes
    assert call_bytes(lambda: small(x, TIMES[:1])) < 6 * full < 0.4 * whole
    assert list(network.state_dict()) == names
    assert [value.data_ptr() for value in small.parameters()] == places


class Around(nn.Module):
    """A network around a U-Net: halves of the first axis become channels."""

    def __init__(self):
        super().__init__()
        self.unet, self.scale = unet(in_channels=2, out_channels=2), nn.Parameter(torch.tensor(0.5))

    def forward(self, x, times):
        inner = self.unet(torch.cat([x[:, :, ::2], x[:, :, 1::2]], 1), timesteps=times) * self.scale
        return inner.transpose(1, 2).flatten(1, 2).unsqueeze(1)


def test_the_unet_inside_another_network_is_sliced():
    network, x = Around().eval(), noise(2, 1, 24, 12, 8)
    assert sliceable(network)
    with torch.no_grad():
        reference = network(x, TIMES)
        whole = call_bytes(lambda: network(x, TIMES))
        small = sliced(network, 6)
        assert error(small(x, TIMES), reference) < 1e-13
        assert call_bytes(lambda: small(x, TIMES)) < 0.7 * whole
        assert "forward" not in vars(network.unet)


def test_what_slabs_cannot_do_is_refused():
    network, x = unet(), noise(2, 1, 8, 8, 8)
    with pytest.raises(InputError, match="1 or more"):
        sliced(network, 0)
    with pytest.raises(InputError, match="without a DiffusionModelUNet"):
        sliced(nn.Conv3d(1, 1, 3), 4)
    with pytest.raises(InputError, match="gradients"):
        sliced(network, 4)(x.clone().requires_grad_(), TIMES)
    with pytest.raises(InputError, match="ControlNet"):
        sliced(network, 4)(x, TIMES, mid_block_additional_residual=x)
    with pytest.raises(ValueError, match="with_conditioning"):
        sliced(network, 4)(x, TIMES, context=x)

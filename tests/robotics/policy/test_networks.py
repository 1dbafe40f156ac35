import torch

from robotics.policy.config import (
    ActionConfig,
    ChunkConfig,
    ObservationField,
    PolicyConfig,
    TransformerConfig,
    UnetConfig,
)
from robotics.policy.networks import build_network
from robotics.policy.networks.unet import ConditionalUnet1D
from tests.oracles import official_policy as official

OBSERVATION = (ObservationField(name="keypoint", size=18), ObservationField(name="state", size=2, columns=(0, 1)))


def policy_config(network, horizon=16):
    return PolicyConfig(
        observation=OBSERVATION, action=ActionConfig(size=2), chunk=ChunkConfig(horizon=horizon), network=network
    )


def random_weights(network: torch.nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    named = {
        name: value if name.endswith("mask") else 0.3 * torch.randn(value.shape, generator=generator)
        for name, value in network.state_dict().items()
    }
    network.load_state_dict(named, strict=True)
    network.eval()
    return named


def shapes(network: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


def test_published_push_t_unet_has_its_148_tensors_of_65_78_million_numbers():
    with torch.device("meta"):
        network = build_network(policy_config(UnetConfig()))
    layout = official.unet_layout(2, 40, embedding=256, widths=[256, 512, 1024], kernel=5, scale=True)
    assert shapes(network) == layout
    assert len(layout) == 148
    assert sum(value.numel() for value in network.parameters()) == 65_783_298


def test_unet_without_scale_and_with_one_more_level_has_the_published_layout():
    with torch.device("meta"):
        network = ConditionalUnet1D(
            7, global_cond_dim=10, diffusion_step_embed_dim=32, down_dims=(8, 16, 24, 32), kernel_size=3
        )
    assert shapes(network) == official.unet_layout(7, 10, embedding=32, widths=[8, 16, 24, 32], kernel=3, scale=False)


def test_unet_gives_the_published_outputs_on_random_weights():
    for scale in (True, False):
        config = policy_config(
            UnetConfig(widths=(16, 24, 32), step_embedding=16, groups=4 if scale else 8, scale=scale)
        )
        network = build_network(config)
        weights = random_weights(network)
        x, observed, steps = torch.randn(3, 16, 2), torch.randn(3, 2, 20), torch.tensor([0.0, 17.0, 99.0])
        expected = official.unet(
            weights, x, steps, observed.reshape(3, 40), levels=3, groups=4 if scale else 8, scale=scale
        )
        with torch.no_grad():
            torch.testing.assert_close(
                network(x, steps, **network.conditioning(observed)), expected, rtol=1e-4, atol=1e-4
            )


def test_local_condition_enters_the_first_level_alone_as_in_published_checkpoints():
    torch.manual_seed(0)
    network = ConditionalUnet1D(2, local_cond_dim=3, diffusion_step_embed_dim=8, down_dims=(8, 16))
    x, local = torch.randn(2, 8, 2), torch.randn(2, 8, 3)
    told = network(x, 3.0, local_cond=local)
    assert not torch.allclose(told, network(x, 3.0))
    for parameter in network.local_cond_encoder[1].parameters():
        parameter.data.add_(1.0)
    torch.testing.assert_close(network(x, 3.0, local_cond=local), told)


def test_transformer_has_the_published_layout_and_outputs():
    for causal in (True, False):
        network = build_network(
            policy_config(TransformerConfig(layers=2, heads=4, width=32, causal=causal), horizon=10)
        )
        assert shapes(network) == official.transformer_layout(2, 20, 10, 2, layers=2, width=32, causal=causal)
        weights = random_weights(network)
        x, observed, steps = torch.randn(3, 10, 2), torch.randn(3, 2, 20), torch.tensor([0.0, 17.0, 99.0])
        expected = official.transformer(weights, x, steps, observed, layers=2, heads=4, causal=causal)
        with torch.no_grad():
            torch.testing.assert_close(network(x, steps, cond=observed), expected, rtol=1e-4, atol=1e-4)


def test_published_low_dimensional_transformer_has_9_million_numbers():
    with torch.device("meta"):
        network = build_network(policy_config(TransformerConfig()))
    assert 8.9e6 < sum(value.numel() for value in network.parameters()) < 9.1e6

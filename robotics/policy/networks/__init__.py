"""The networks of policies. Each maps (x (N, T, A), step (N,), condition) to the prediction (N, T, A)."""

from __future__ import annotations

from robotics.policy.config import PolicyConfig, TransformerConfig, UnetConfig
from robotics.policy.networks.mlp import ConditionalMLP
from robotics.policy.networks.transformer import TransformerForDiffusion
from robotics.policy.networks.unet import ConditionalUnet1D
from robotics.policy.networks.vision import VisualNetwork

NumbersNetwork = ConditionalUnet1D | TransformerForDiffusion | ConditionalMLP
PolicyNetwork = NumbersNetwork | VisualNetwork


def build_network(config: PolicyConfig) -> PolicyNetwork:
    """Return the untrained network of a policy, with torch's global random numbers."""
    network = _of_numbers(config)
    return VisualNetwork(network, config) if config.images else network


def _of_numbers(config: PolicyConfig) -> NumbersNetwork:
    network, actions, chunk = config.network, config.action.size, config.chunk
    if isinstance(network, UnetConfig):
        return ConditionalUnet1D(
            actions,
            global_cond_dim=chunk.observe * config.condition_size,
            diffusion_step_embed_dim=network.step_embedding,
            down_dims=network.widths,
            kernel_size=network.kernel,
            n_groups=network.groups,
            cond_predict_scale=network.scale,
        )
    if isinstance(network, TransformerConfig):
        return TransformerForDiffusion(
            actions,
            actions,
            chunk.horizon,
            n_obs_steps=chunk.observe,
            cond_dim=config.condition_size,
            n_layer=network.layers,
            n_head=network.heads,
            n_emb=network.width,
            p_drop_emb=network.dropout,
            p_drop_attn=network.attention_dropout,
            causal_attn=network.causal,
            n_cond_layers=network.condition_layers,
        )
    return ConditionalMLP(
        chunk.horizon * actions,
        chunk.observe * config.condition_size,
        width=network.width,
        depth=network.depth,
        embedding=network.embedding,
    )

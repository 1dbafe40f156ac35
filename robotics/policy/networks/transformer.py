r"""The transformer of diffusion policies: the chunk's actions attend to the step and the observations.

    memory = Encoder([e(k); W_o o_1; ...; W_o o_To] + p_memory)
    out    = W LayerNorm(Decoder(W_a x + p, memory))

with pre-normalised layers of torch. With `causal_attn`, action i attends to actions j <= i, to the step and to
observations j <= i.

Names and shapes of the weights, and the outputs, are those of `TransformerForDiffusion` of
real-stanford/diffusion_policy with observations as condition (`obs_as_cond`, `time_as_cond`).

Reference: Chi et al., Diffusion Policy, RSS 2023, section IV-A.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from robotics.policy.networks.embedding import StepEmbedding, steps_of

INITIAL_STD = 0.02


class TransformerForDiffusion(nn.Module):
    """The transformer of the module docstring; argument names are the published ones.

    Args:
        input_dim: A, numbers of one action.
        output_dim: numbers of one predicted action.
        horizon: T, actions of a chunk.
        n_obs_steps: T_o, observations.
        cond_dim: D_o, numbers of one observation.
        n_layer: layers of the decoder.
        n_head: heads of each attention.
        n_emb: width of the tokens.
        p_drop_emb: dropout of the tokens.
        p_drop_attn: dropout inside the layers.
        causal_attn: whether attention looks back only.
        n_cond_layers: layers of the encoder; 0 is an MLP on each token.
    """

    mask: Tensor | None
    memory_mask: Tensor | None

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        horizon: int,
        *,
        n_obs_steps: int,
        cond_dim: int,
        n_layer: int = 12,
        n_head: int = 12,
        n_emb: int = 768,
        p_drop_emb: float = 0.1,
        p_drop_attn: float = 0.1,
        causal_attn: bool = False,
        n_cond_layers: int = 0,
    ) -> None:
        super().__init__()
        remembered = 1 + n_obs_steps
        self.input_emb = nn.Linear(input_dim, n_emb)
        self.pos_emb = nn.Parameter(torch.empty(1, horizon, n_emb).normal_(std=INITIAL_STD))
        self.drop = nn.Dropout(p_drop_emb)
        self.time_emb = StepEmbedding(n_emb)
        self.cond_obs_emb = nn.Linear(cond_dim, n_emb)
        self.cond_pos_emb = nn.Parameter(torch.empty(1, remembered, n_emb).normal_(std=INITIAL_STD))
        layer: dict[str, Any] = {
            "d_model": n_emb, "nhead": n_head, "dim_feedforward": 4 * n_emb, "dropout": p_drop_attn,
            "activation": "gelu", "batch_first": True, "norm_first": True,
        }  # fmt: skip
        self.encoder: nn.Module
        if n_cond_layers:
            self.encoder = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(**layer), n_cond_layers, enable_nested_tensor=False
            )
        else:
            self.encoder = nn.Sequential(nn.Linear(n_emb, 4 * n_emb), nn.Mish(), nn.Linear(4 * n_emb, n_emb))
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**layer), n_layer)
        if causal_attn:
            action = torch.arange(horizon)[:, None]
            self.register_buffer("mask", _closed(action < torch.arange(horizon)))
            self.register_buffer("memory_mask", _closed(action < torch.arange(remembered) - 1))  # entry 0 is the step
        else:
            self.mask, self.memory_mask = None, None
        self.ln_f = nn.LayerNorm(n_emb)
        self.head = nn.Linear(n_emb, output_dim)
        self._dummy_variable = nn.Parameter(torch.empty(0))  # published checkpoints hold it
        self.apply(_initialise)

    @staticmethod
    def conditioning(observations: Tensor) -> dict[str, Tensor]:
        """Return the keyword arguments for normalised observations (N, T_o, D_o)."""
        return {"cond": observations}

    def forward(self, sample: Tensor, timestep: Tensor | float, *, cond: Tensor) -> Tensor:
        """Return the prediction (N, T, A).

        Args:
            sample: noisy chunk (N, T, A), T at most the horizon.
            timestep: entry of the noise table, one number or (N,); floats between entries are allowed.
            cond: normalised observations (N, T_o, D_o).
        """
        step = self.time_emb(steps_of(timestep, sample)).to(sample.dtype)[:, None]
        told = torch.cat([step, self.cond_obs_emb(cond)], dim=1)
        memory = self.encoder(self.drop(told + self.cond_pos_emb[:, : told.shape[1]]))
        x = self.drop(self.input_emb(sample) + self.pos_emb[:, : sample.shape[1]])
        x = self.decoder(x, memory, tgt_mask=self.mask, memory_mask=self.memory_mask)
        return self.head(self.ln_f(x))


def _closed(closed: Tensor) -> Tensor:
    """Return the additive mask that is -inf where attention is closed."""
    return torch.zeros(closed.shape).masked_fill(closed, -math.inf)


def _initialise(module: nn.Module) -> None:
    """Start as GPT-2 does: N(0, 0.02^2) matrices, no biases."""
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=INITIAL_STD)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.MultiheadAttention):
        nn.init.normal_(module.in_proj_weight, std=INITIAL_STD)
        nn.init.zeros_(module.in_proj_bias)

"""Every process and every grid, by name: what the truths are tested over."""

from __future__ import annotations

import torch

from shared import FlowMatching, VarianceExploding, VariancePreserving, squared_cosine_betas

PROCESSES = {
    "vp_linear": VariancePreserving.linear(),
    "vp_cosine": VariancePreserving.cosine(),
    "vp_table_linear": VariancePreserving.from_betas(torch.linspace(1e-4, 0.02, 1000)),
    "vp_table_scaled_linear": VariancePreserving.from_betas(torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),
    "vp_table_squaredcos_cap_v2": VariancePreserving.from_betas(squared_cosine_betas(1000)),
    "ve_edm": VarianceExploding(),
    "flow": FlowMatching(),
}

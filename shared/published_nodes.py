"""Nodes that others found for their models: numbers only. `shared.grid` maps them to any process.

References:
    Hyperparameters are all you need: using five-step inference for an original diffusion model, arXiv 2510.02390.
    Sabour, Fidler and Kreis, Align Your Steps, 2024; the constants are also `AysSchedules` of diffusers.
"""

from __future__ import annotations

TRUNCATED_POWER: dict[str, dict[int, tuple[int, float, int]]] = {
    "sd15": {4: (8, 7, 6), 5: (8, 5, 6), 6: (8, 5, 6), 8: (12, 7, 9)},
    "sdxl": {4: (8, 7, 6), 5: (8, 5, 6), 6: (8, 5, 6), 8: (12, 12, 10)},
}
"""(n, rho, stop) of the truncated power grid by model and number of calls."""

TRUNCATED_POWER_TIME = 1.2
"""Power of the times between its start and its stop."""

AYS: dict[str, tuple[float, ...]] = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034),
}
"""kappa = sigma / alpha at the ten calls for Stable Diffusion 1.5, SDXL and Stable Video Diffusion."""

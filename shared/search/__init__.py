"""Sampling with several particles that compete: resampling and sequential Monte Carlo on sampler states."""

"""MR images drawn from their posterior: a diffusion prior of brain slices, guided by the measured k-space."""

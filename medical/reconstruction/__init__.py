"""Reconstruction of MR images from raw k-space."""

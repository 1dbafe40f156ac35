"""Learned reconstruction of undersampled Cartesian k-space: networks that take k-space and give a complex image."""

"""Robotics: diffusion policy and stereo depth for control loops."""

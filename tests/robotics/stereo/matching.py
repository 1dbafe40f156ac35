"""Weights by hand, under which a network that nobody trained finds shifts of textures by multiples of 4 px."""

from __future__ import annotations

import torch

from robotics.stereo.config import StereoConfig
from robotics.stereo.networks import StereoNetwork

LINEAR = 20.0  # added before a SiLU, which is then x + 20
SHARP = 30.0  # of the scores


def matching(config: StereoConfig) -> StereoNetwork:
    """Return a fresh network whose cost volume is the mean of the plain correlation over 3 x 3, sharpened.

    Its features are random, and random features of the same texture are alike.
    """
    torch.manual_seed(0)
    network = StereoNetwork(config).eval().requires_grad_(False)
    for place, layer in enumerate(network.volume.layers):
        for convolution in (layer.within, layer.across):
            convolution.weight.zero_()
            convolution.bias.zero_()
        layer.within.bias.fill_(LINEAR)
        for channel in range(layer.within.out_channels):
            layer.across.weight[channel, channel, 1, 0] = 1
            layer.within.weight[channel, channel % layer.within.in_channels, 1, 1] = 1
        if place == 0:
            layer.within.weight.fill_(1 / (9 * layer.within.in_channels))
    network.volume.leave.weight.fill_(SHARP / network.volume.leave.in_channels)
    network.volume.leave.bias.zero_()
    return network

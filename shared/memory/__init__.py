"""Less memory for a network call, and how much it takes, before it is made.

    small = sliced(network, 16)              # MONAI's DiffusionModelUNet in slabs: the same results

| module | what |
| --- | --- |
| slabs | feature maps read in slabs: convolutions and group normalisation of the whole map |
| unet | MONAI's U-Net of them |
| live | bytes of all tensors at once during a call |
"""

from shared.memory.live import LiveBytes, call_bytes
from shared.memory.unet import SlicedNetwork, sliceable, sliced

__all__ = ["LiveBytes", "SlicedNetwork", "call_bytes", "sliceable", "sliced"]

"""Synthetic three-dimensional brain MRI on the core: MedForj's networks and ours.

| module | what |
| --- | --- |
| config, network, model | the network as data, MONAI's U-Net, and how it draws volumes |
| files, official | models on disk; published weights of MedForj, read strictly |
| memory | what a volume needs, before it is drawn |
| volume, head_mask, prepare | raw heads onto the grid of the networks |
| generate, output | a batch of volumes as a BIDS data set, resumed |
| anatomy, simulate, heads | label maps, heads simulated of them, sets of heads to train on |
| conditions, training, card | what a network is told, its training, what its file says |
"""

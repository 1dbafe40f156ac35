"""Train learned reconstructions on simulated acquisitions: `fewstep mri train CONFIG`.

config.py      what a training is: network, ranges of the simulator, optimiser, budget
dataset.py     slice number -> simulated slice, the same on every machine and after every restart
loss.py        1 - SSIM of the magnitude and L1 of the complex coil images
loop.py        the loop, on any device, resumable
checkpoint.py  all of its state in one safetensors file
validation.py  scores and pictures on held-out subjects
card.py        weights with a model card that says what they were trained on
"""

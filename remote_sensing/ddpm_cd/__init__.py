"""DDPM-CD: change detection on the features of a diffusion network.

Bandara, Nair and Patel, DDPM-CD, arXiv 2206.11892, WACV 2025.

    detector, training = load_detector("light.safetensors")
    probability = detector.probability(before, after, origins)        # (N, C, H, W) twice -> (N, H, W)

| module | what it is |
| --- | --- |
| config.py | sizes of everything as data |
| schedule.py | the noise process and the 12 published buffers |
| unet.py, head.py | the two networks, with the published names of all tensors |
| noise.py | noise that belongs to the place, not to the tile |
| features.py, detector.py, cache.py | from a pair of images to a probability |
| official.py, files.py | published weights; our own files |
| loop.py, pretraining.py, change_training.py | training |
"""

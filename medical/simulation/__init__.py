"""Simulated acquisitions of real anatomy, to train and to test reconstructions on. Labelled as such, always.

    from medical.simulation.acquisition import simulate
    from medical.simulation.protocol import Ranges
    from medical.simulation.volumes import AnatomyCache, subjects

    anatomies = AnatomyCache(subjects("train", data), data, cache)
    slice_ = simulate(anatomies.slice(0, 80, thickness_mm=3.0), Ranges(), torch.Generator().manual_seed(0))

    volumes.py     T1-weighted volumes and label maps, licences, split by subject, cache of axial slices
    contrast.py    signal curves, painted tissues, shading      phase.py    background phase
    objects.py     an anatomy placed on fine cells, complex     coils.py    receive arrays and their noise
    patterns.py    six sampling patterns at true acceleration   motion.py   rigid motion between shots
    protocol.py    one scan, and the ranges of many             acquisition.py    from both to k-space and truth

`medical.reconstruction.simulate` scans whole volumes in patient coordinates into a `RawScan`; this package draws single
slices by the thousand, of varied contrast, geometry and sampling. Both encode the continuous object of
`medical.reconstruction.continuous_object` exactly.

Functions that draw take a NumPy generator; `simulate` takes a torch generator or a seed, as samplers do.
"""

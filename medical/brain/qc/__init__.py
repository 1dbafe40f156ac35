"""Quality of synthetic brain volumes beside real ones: `fewstep brain qc`.

| module | what |
| --- | --- |
| inputs, measure | volumes of a folder on one grid; what is measured of each |
| features, distances | named features of whole volumes; Frechet distance and MMD with the floor of real heads |
| diversity | MS-SSIM of pairs |
| nearest | copies of training heads, by a cut that repeats and strangers calibrate |
| meshnet, permutation | volumes of structures by brainchop's network; tests of their distributions |
| quality, report | all of it for two folders; the page |
"""

"""Stereo depth: pairs, their truth, their geometry, and how a disparity map is judged.

d = x_left - x_right >= 0 in pixels of the left image; unknown is NaN, everywhere.

| module | what |
| --- | --- |
| pair, camera | `StereoPair`, `StereoSample` with truth, `StereoCamera` |
| formats, calibration | disparities and calibrations of others |
| geometry | points, PLY, the right image seen from the left |
| checks | is it a rectified pair, left first |
| metrics | errors with masks, confidence against errors |
| sgbm | semi-global matching: the baseline |
| scenes | a generator of pairs with exact truth |
| config, networks, model | the network as data, its parts, and how it draws samples |
| estimation, guidance, video | a map with its confidence; what a pair says while it is sampled; frame after frame |
| crops, training, confidence, calibrating | how a model comes to be |
| files, card | models on disk |
| inputs, outputs, page | files of a pair, and what is written of it |
| onnx_export, official | for other runtimes; checkpoints of the published D3RoMa |
"""

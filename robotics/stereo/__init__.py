"""Stereo depth.

| module | what |
| --- | --- |
| pair, camera | a pair with its geometry, a pair with its truth |
| scenes | a generator of pairs with exact truth |
| sgbm | semi-global matching: the baseline |
"""

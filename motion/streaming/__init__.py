"""Endless motion, block after block, told what to do while it runs.

| module | what |
| --- | --- |
| config, network | a transformer that makes a block of frames from noise and the clean blocks before it |
| commands | what to do in a block: actions, places of the hips; ways over the floor as commands |
| model | `stream`: blocks of motion, placed in the world, for as long as there are commands |
| training, files | weights from clips, and on disk |
"""

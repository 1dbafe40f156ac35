"""Diffusion policies: chunks of actions from observations, on the shared sampler, warm-started in a control loop.

| module | what |
| --- | --- |
| config | a policy as data: observation, actions, chunk, noise, network |
| networks | the published U-Net and transformer, with the published names of their weights, and a small MLP |
| normalise | units to [-1, 1] and back |
| policy | observations to a chunk of actions |
| rolling | a policy in a control loop: warm starts, resets, a change detector, deadlines |
| acting, execution | what every way of executing a policy has in common, and all by name |
| chunking | chunks that agree with the actions already on their way |
| ensembling, bidirectional, partial | other ways: average the chunks, choose among many, go on half-way |
| warmstart, calibration | the first x of a sampling from the last chunk, and how noisy it must be |
| episodes, windows | recorded demonstrations: zarr, LeRobot v3, npz |
| training, files, official | loop, checkpoints, checkpoints of others |
| distilling | a student of one or two network calls |
| environments, pusht, metaworld, gym_world | worlds by name |
| evaluation, film | the protocol, and what it looks like |
| collecting | demonstrations of scripted experts |
| running | a policy in a world through the runtime |
| runtime | a policy in command of a robot: deadlines, gates, a ladder of fallbacks |
"""

"""Motion: scene-aware human motion synthesis.

| module | what |
| --- | --- |
| skeleton, roles | `Skeleton`: joints, rest pose, what each joint is for, how its file writes it down |
| clips | `Motion`: resampling, mirroring, canonical frames |
| rotations, kinematics | 6-D rotations, Euler angles, forward kinematics |
| formats | BVH, ASF/AMC and DeepMimic in; BVH and animated GLB out |
| stance | the pose in which a body stands, which retargeting and mirroring refer to |
| retarget, blending | to another skeleton; from one motion into the next |
| metrics | skating, contact, jerk, keyframes |
| synthesize | a skeleton, a scene and tasks to a motion and its folder |
| policy, long_motion | motions drawn to fit, window after window |
| tasks, schedule, timing | task files, and what they mean in a scene frame by frame |
| goals, energies, anatomy | what a motion should do, how far it is from it, what a body is |
| finish, result | feet locked, hands and hips put right; every goal judged |
| scene | meshes, signed distance, walkable map, routes, seats, a body of capsules |
| actions, features, collection, windows | what a body does in each frame; motions as numbers; clips to train on |
| config, network, training, files | a transformer over frames, and its weights |
| encoder, encoder_training | features of windows, in which sets of motions are compared |
| distribution, nearest | `compare`: Frechet distance beside that of real motion, diversity, copies of the training |
| model | `draw`: motions from noise, with some of them known |
| control, control_training, control_files | a branch on the frozen network that hears hints: places of joints |
| recipes | which training a configuration describes |
| streaming | endless motion, block after block, told what to do while it runs |
| distilling | a student of one network call |
| noise | `draw_towards`: motions whose noise is optimised until they do what an energy asks |
| viewer | one HTML file that plays a motion in its scene |

Metres, seconds, z up, right-handed; local rotations are matrices (frames, joints, 3, 3).
"""

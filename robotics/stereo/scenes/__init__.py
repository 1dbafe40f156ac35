"""A generator of stereo pairs with exact truth: random scenes, a ray caster, cameras with faults.

| module | what |
| --- | --- |
| config | a family of scenes as data |
| layouts, dressing | random scenes: what stands where, materials, lights, projectors |
| scene, primitives, textures | a scene as data, rays against primitives, mip-mapped procedural textures |
| optics, tracing | Snell and Fresnel, and the ray caster |
| rendering, sensor | both views with exact disparities, and what a pair of cameras makes of them |
| samples | a scene's seed to a `StereoSample` |
| shards | data sets on disk: written resumably, read fast |
"""

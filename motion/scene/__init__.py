"""Scenes: from a file of triangles to where a body can walk, sit and lie, and how deep it is inside something.

Metres, z up, right-handed, everywhere behind `loading`.

| module | what |
| --- | --- |
| loading, orientation | meshes with names, up axis, unit and floor found |
| field | signed distance to the scene, differentiable |
| walkable | where a body can stand; rooms |
| paths | routes, curves through waypoints |
| surfaces | what a mesh looks like from above |
| goals, lying | seats and lying surfaces |
| body | capsules on bones; penetration and contact |
"""

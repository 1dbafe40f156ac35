"""Shapes with known distances, and the apartment, whose grid is computed once."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from motion.scene.field import build_field
from motion.scene.loading import Scene, SceneObject, read_scene
from motion.scene.walkable import walkable_map


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Keep the grids of tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSTEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def thing(name, mesh):
    return SceneObject(name, np.asarray(mesh.vertices, float), np.asarray(mesh.faces, np.int64))


def box(name, low, high):
    return thing(name, trimesh.creation.box(bounds=[low, high]))


def scene_of(*objects, floor=0.0):
    return Scene(tuple(objects), floor, "z", "m", (), "test scene")


@pytest.fixture(scope="session")
def shapes():
    """Return the builders of things and scenes: thing(name, mesh), box(name, low, high), scene_of(*things)."""

    class Shapes:
        pass

    Shapes.thing, Shapes.box, Shapes.scene_of = map(staticmethod, (thing, box, scene_of))
    return Shapes


@pytest.fixture(scope="session")
def grid_of():
    """Return a function from a scene to its field and map, at 0.08 m."""

    def build(scene, voxel=0.08, **settings):
        field = build_field(scene, voxel=voxel)
        return field, walkable_map(scene, field, **settings)

    return build


_apartment = {}


@pytest.fixture
def apartment(data_file):
    """Return the apartment: scene, field at 0.1 m and map."""
    path = data_file("motion/scenes/apartment.glb")
    if not _apartment:
        scene = read_scene(path)
        field = build_field(scene, voxel=0.1)
        _apartment["all"] = scene, field, walkable_map(scene, field)
    return _apartment["all"]

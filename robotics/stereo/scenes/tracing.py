"""A ray caster: first surfaces exactly, and colours through mirrors and glass; compiled, in double precision.

The light along a ray is what the first surface sends by itself, plus shares of the light along the rays that it
sends on: a mirror one, glass two with Fresnel's shares, and so on until a share no longer counts. Those rays wait on a
small stack.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from robotics.stereo.pair import Surface
from robotics.stereo.scenes.compiled import compiled
from robotics.stereo.scenes.optics import Vector, fresnel, reflect, refract, schlick, thin_sheet
from robotics.stereo.scenes.primitives import INFINITY, MATERIAL, into_frame, may_meet, meet, outward, table
from robotics.stereo.scenes.scene import Material, Scene
from robotics.stereo.scenes.textures import look_up, pyramids

NOTHING = -1
MAX_DEPTH = 6
LEAST_WEIGHT = 0.02
STACK = 2 * MAX_DEPTH + 2
# A ray leaves a surface by this much, m; points are exact to about 1e-12.
STEP_OFF = 1e-6
GLASS_SHADE = 0.7  # light that passes a glass object, instead of its caustics
DIFFUSE, GLOSSY, MIRROR, GLASS, THIN_GLASS, TRANSLUCENT = (int(surface) for surface in Surface)
# Columns of the table of materials: surface, texture, three colours, numbers.
SURFACE, TEXTURE, COLOUR = 0, 1, 2
TEXELS_PER_METRE, SHINE, SHARPNESS, REFLECTANCE, INDEX, OPACITY, PASSES = range(11, 18)
# Places in the numbers of the whole scene.
UP, TOP, BOTTOM, AMBIENT, PROJECTOR = 0, 3, 6, 9, 12
Light = tuple[float, float, float]


class World(NamedTuple):
    """A scene as few arrays, which compiled code reads.

    Attributes:
        prims: (P, ..) table of primitives.
        waves: (K, 4) of heightfields.
        mats: (M, 18) table of materials.
        lamps: (L, 6) positions and colours.
        sky: (18,) up vector, colours of top and bottom, ambient light, and the projector's position, strength, texels
            and texture; no strength, no projector.
        windows: (W, 7) of the environment.
        texels: mip pyramids of all textures, (.., 2).
    """

    prims: np.ndarray
    waves: np.ndarray
    mats: np.ndarray
    lamps: np.ndarray
    sky: np.ndarray
    windows: np.ndarray
    texels: np.ndarray


def world_of(scene: Scene) -> World:
    """Return a scene as arrays."""
    mats = [
        (int(m.surface), m.texture, *m.colours.reshape(-1), m.texels, m.shine, m.sharpness, m.reflectance, m.index,
         m.opacity, _passes(m))
        for m in scene.materials
    ]  # fmt: skip
    dots, around = scene.projector, scene.environment
    projector = (0.0,) * 6 if dots is None else (*dots.position, dots.strength, dots.texels, dots.texture)
    prims, waves = table(scene.primitives)
    return World(
        prims=prims,
        waves=waves,
        mats=np.array(mats, float),
        lamps=np.array([(*light.position, *light.colour) for light in scene.lights], float).reshape(-1, 6),
        sky=np.array([*around.up, *around.top, *around.bottom, *scene.ambient, *projector], float),
        windows=np.array(around.windows, float).reshape(-1, 7),
        texels=pyramids(scene.textures),
    )


def _passes(material: Material) -> float:
    """Return the share of a lamp's light that a surface lets through straight."""
    match material.surface:
        case Surface.GLASS | Surface.THIN_GLASS:
            return GLASS_SHADE
        case Surface.TRANSLUCENT:
            return 1.0 - material.opacity
        case _:
            return 0.0


@compiled
def surface_ahead(prims: np.ndarray, waves: np.ndarray, p: int, o: Vector, d: Vector, reach: float) -> float:
    """Return the distance of the surface of primitive p that is ahead and nearer than `reach`; infinity without one."""
    if may_meet(prims, p, o, d, reach):
        enter, leave = meet(prims, waves, p, o, d)
        if enter <= leave:
            t = enter if enter > STEP_OFF else leave
            if STEP_OFF < t < reach:
                return t
    return INFINITY


@compiled
def first_hit(prims: np.ndarray, waves: np.ndarray, o: Vector, d: Vector) -> tuple[float, int]:
    """Return distance and primitive of the nearest surface ahead; infinity and `NOTHING` if there is none."""
    best, found = INFINITY, NOTHING
    for p in range(prims.shape[0]):
        t = surface_ahead(prims, waves, p, o, d, best)
        if t < best:
            best, found = t, p
    return best, found


@compiled
def transmittance(prims: np.ndarray, waves: np.ndarray, mats: np.ndarray, o: Vector, d: Vector, reach: float) -> float:
    """Return the share of light that comes straight along d from `reach` metres away."""
    share = 1.0
    for p in range(prims.shape[0]):
        if surface_ahead(prims, waves, p, o, d, reach) < reach:
            share *= mats[int(prims[p, MATERIAL]), PASSES]
            if share == 0.0:
                break
    return share


@compiled
def surface_at(prims: np.ndarray, waves: np.ndarray, p: int, point: Vector) -> tuple[Vector, float, float]:
    """Return the outward normal and the texture's coordinates, m, at a point of primitive p.

    The texture is projected along the axis of the primitive's frame that the normal is closest to. Each primitive,
    and each pair of its faces, takes another part of it.
    """
    i, j, k = into_frame(prims, p, point[0] - prims[p, 1], point[1] - prims[p, 2], point[2] - prims[p, 3])
    x, y, z = outward(prims, waves, p, i, j, k)
    if abs(x) >= abs(y) and abs(x) >= abs(z):
        u, v = j, k
    elif abs(y) >= abs(z):
        u, v = i + 0.37, k + 0.37
    else:
        u, v = i + 0.74, j + 0.74
    normal = (
        prims[p, 4] * x + prims[p, 7] * y + prims[p, 10] * z,
        prims[p, 5] * x + prims[p, 8] * y + prims[p, 11] * z,
        prims[p, 6] * x + prims[p, 9] * y + prims[p, 12] * z,
    )
    return normal, u + 0.61 * p, v + 0.61 * p


@compiled
def background(sky: np.ndarray, windows: np.ndarray, d: Vector) -> Light:
    """Return what a ray sees that meets nothing."""
    k = 0.5 + 0.5 * (sky[UP] * d[0] + sky[UP + 1] * d[1] + sky[UP + 2] * d[2])
    r = sky[BOTTOM] + k * (sky[TOP] - sky[BOTTOM])
    g = sky[BOTTOM + 1] + k * (sky[TOP + 1] - sky[BOTTOM + 1])
    b = sky[BOTTOM + 2] + k * (sky[TOP + 2] - sky[BOTTOM + 2])
    for w in range(windows.shape[0]):
        aligned = windows[w, 0] * d[0] + windows[w, 1] * d[1] + windows[w, 2] * d[2]
        glow = math.exp(windows[w, 6] * (aligned - 1.0))
        r, g, b = r + glow * windows[w, 3], g + glow * windows[w, 4], b + glow * windows[w, 5]
    return r, g, b


@compiled
def _mixed(mats: np.ndarray, m: int, channel: int, a: float, b: float) -> float:
    """Return one channel of c0 + a (c1 - c0) + b (c2 - c0)."""
    base = mats[m, COLOUR + channel]
    mixed = base + a * (mats[m, COLOUR + 3 + channel] - base) + b * (mats[m, COLOUR + 6 + channel] - base)
    return min(max(mixed, 0.01), 1.0)


@compiled
def shade(
    prims: np.ndarray, waves: np.ndarray, mats: np.ndarray, lamps: np.ndarray, sky: np.ndarray, texels: np.ndarray,
    m: int, point: Vector, d: Vector, n: Vector, u: float, v: float, width: float, pixel: float,
) -> tuple[Light, int]:  # fmt: skip
    """Return the light that a surface sends by itself, and bit k for each lamp k that reaches it.

    Lambert's law for lamps and dots, Blinn and Phong's for highlights, and ambient light that is stronger from above.

    Args:
        prims: of the world, as all arrays.
        waves: likewise.
        mats: likewise.
        lamps: likewise.
        sky: likewise.
        texels: likewise.
        m: material.
        point: of the surface.
        d: of the ray that arrives.
        n: unit normal against it.
        u: coordinate of the texture, m.
        v: likewise.
        width: of the pixel's footprint on the surface, m.
        pixel: angle of a pixel, rad.
    """
    surface = mats[m, SURFACE]
    rough = surface in (DIFFUSE, GLOSSY, TRANSLUCENT)
    red, green, blue = 0.0, 0.0, 0.0
    if rough:
        fine = mats[m, TEXELS_PER_METRE]
        a, b = look_up(texels, int(mats[m, TEXTURE]), u * fine, v * fine, width * fine)
        red, green, blue = _mixed(mats, m, 0, a, b), _mixed(mats, m, 1, a, b), _mixed(mats, m, 2, a, b)
    k = 0.75 + 0.25 * (sky[UP] * n[0] + sky[UP + 1] * n[1] + sky[UP + 2] * n[2])
    r, g, b = red * sky[AMBIENT] * k, green * sky[AMBIENT + 1] * k, blue * sky[AMBIENT + 2] * k
    start = (point[0] + STEP_OFF * n[0], point[1] + STEP_OFF * n[1], point[2] + STEP_OFF * n[2])
    lit = 0
    for lamp in range(lamps.shape[0]):
        x, y, z = lamps[lamp, 0] - start[0], lamps[lamp, 1] - start[1], lamps[lamp, 2] - start[2]
        reach = math.sqrt(x * x + y * y + z * z)
        x, y, z = x / reach, y / reach, z / reach
        cosine = x * n[0] + y * n[1] + z * n[2]
        if cosine <= 0.0:
            continue
        share = transmittance(prims, waves, mats, start, (x, y, z), reach)
        if share == 0.0:
            continue
        if share > 0.5:
            lit |= 1 << lamp
        spot = 0.0
        if mats[m, SHINE] > 0.0:
            hx, hy, hz = x - d[0], y - d[1], z - d[2]
            aligned = (hx * n[0] + hy * n[1] + hz * n[2]) / math.sqrt(hx * hx + hy * hy + hz * hz)
            if aligned > 0.0:
                spot = mats[m, SHINE] * aligned ** mats[m, SHARPNESS]
        r += share * lamps[lamp, 3] * (red * cosine + spot)
        g += share * lamps[lamp, 4] * (green * cosine + spot)
        b += share * lamps[lamp, 5] * (blue * cosine + spot)
    if rough and sky[PROJECTOR + 3] > 0.0:
        dots = projected(prims, waves, mats, sky, texels, start, n, pixel)
        r, g, b = r + red * dots, g + green * dots, b + blue * dots
    if surface == TRANSLUCENT:
        k = mats[m, OPACITY]
        r, g, b = k * r, k * g, k * b
    return (r, g, b), lit


@compiled
def projected(
    prims: np.ndarray, waves: np.ndarray, mats: np.ndarray, sky: np.ndarray, texels: np.ndarray, point: Vector,
    n: Vector, pixel: float,
) -> float:  # fmt: skip
    """Return the light of the projected dots on a surface: a texture over the direction from the projector.

    The pattern is sharp on every surface, and a pixel is as wide as so many texels at any distance.
    """
    x, y, z = point[0] - sky[PROJECTOR], point[1] - sky[PROJECTOR + 1], point[2] - sky[PROJECTOR + 2]
    reach = math.sqrt(x * x + y * y + z * z)
    cosine = -(x * n[0] + y * n[1] + z * n[2]) / reach
    if cosine <= 0.0 or z <= 1e-3:
        return 0.0
    fine = sky[PROJECTOR + 4]
    pattern, _ = look_up(texels, int(sky[PROJECTOR + 5]), x / z * fine, y / z * fine, pixel * fine)
    if pattern < 1e-3:
        return 0.0
    share = transmittance(prims, waves, mats, point, (-x / reach, -y / reach, -z / reach), reach)
    return sky[PROJECTOR + 3] * pattern * cosine * share


@compiled
def trace(
    prims: np.ndarray, waves: np.ndarray, mats: np.ndarray, lamps: np.ndarray, sky: np.ndarray, windows: np.ndarray,
    texels: np.ndarray, o: Vector, d: Vector, pixel: float, stack: np.ndarray,
) -> tuple[Light, float, int, int]:  # fmt: skip
    """Return the light along a camera ray, and distance, primitive and lamps of its first surface.

    Args:
        prims: of the world, as all arrays.
        waves: likewise.
        mats: likewise.
        lamps: likewise.
        sky: likewise.
        windows: likewise.
        texels: likewise.
        o: origin.
        d: unit direction.
        pixel: angle of a pixel, rad.
        stack: (STACK, 11) scratch, rows of origin, direction, weight, length and depth.
    """
    r, g, b = 0.0, 0.0, 0.0
    waiting = _push(stack, 0, o, d, (1.0, 1.0, 1.0), 0.0, 0.0)
    distance, primitive, lamps_seen = INFINITY, NOTHING, 0
    while waiting > 0:
        waiting -= 1
        o = (stack[waiting, 0], stack[waiting, 1], stack[waiting, 2])
        d = (stack[waiting, 3], stack[waiting, 4], stack[waiting, 5])
        w = (stack[waiting, 6], stack[waiting, 7], stack[waiting, 8])
        length, depth = stack[waiting, 9], stack[waiting, 10]
        t, p = first_hit(prims, waves, o, d)
        if p == NOTHING:
            light = background(sky, windows, d)
            r, g, b = r + w[0] * light[0], g + w[1] * light[1], b + w[2] * light[2]
            continue
        point = (o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
        length += t
        n, u, v = surface_at(prims, waves, p, point)
        cosine = n[0] * d[0] + n[1] * d[1] + n[2] * d[2]
        inside = cosine > 0.0
        if inside:
            n = (-n[0], -n[1], -n[2])
        cosine = min(abs(cosine), 1.0)
        width = length * pixel / math.sqrt(max(cosine, 0.2))
        m = int(prims[p, MATERIAL])
        light, lit = shade(prims, waves, mats, lamps, sky, texels, m, point, d, n, u, v, width, pixel)
        r, g, b = r + w[0] * light[0], g + w[1] * light[1], b + w[2] * light[2]
        if depth == 0.0:
            distance, primitive, lamps_seen = t, p, lit
        surface = mats[m, SURFACE]
        if surface == DIFFUSE or depth >= MAX_DEPTH:
            continue
        tint = (mats[m, COLOUR], mats[m, COLOUR + 1], mats[m, COLOUR + 2])
        mirrored, passed = 0.0, 0.0
        onwards = d
        if surface == MIRROR:
            mirrored = 1.0
            w = (w[0] * tint[0], w[1] * tint[1], w[2] * tint[2])
        elif surface == GLOSSY:
            mirrored = schlick(cosine, mats[m, REFLECTANCE])
        elif surface == GLASS:
            ratio = mats[m, INDEX] if inside else 1.0 / mats[m, INDEX]
            mirrored = fresnel(cosine, ratio)
            passed = 1.0 - mirrored
            onwards = refract(d, n, ratio)
            if not inside:  # the glass colours light once, as it leaves
                tint = (1.0, 1.0, 1.0)
        elif surface == THIN_GLASS:
            mirrored = thin_sheet(fresnel(cosine, 1.0 / mats[m, INDEX]))
            passed = 1.0 - mirrored
        else:
            passed = 1.0 - mats[m, OPACITY]
        if mirrored > 0.0:
            share = (mirrored * w[0], mirrored * w[1], mirrored * w[2])
            waiting = _push(stack, waiting, point, reflect(d, n), share, length, depth + 1.0)
        if passed > 0.0:
            share = (passed * tint[0] * w[0], passed * tint[1] * w[1], passed * tint[2] * w[2])
            waiting = _push(stack, waiting, point, onwards, share, length, depth + 1.0)
    return (r, g, b), distance, primitive, lamps_seen


@compiled
def _push(stack: np.ndarray, waiting: int, o: Vector, d: Vector, w: Light, length: float, depth: float) -> int:
    """Put a ray on the stack unless it does not count; return the number of rays that wait."""
    if max(w[0], w[1], w[2]) < LEAST_WEIGHT:
        return waiting
    long = math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
    stack[waiting, 0], stack[waiting, 1], stack[waiting, 2] = o
    stack[waiting, 3], stack[waiting, 4], stack[waiting, 5] = d[0] / long, d[1] / long, d[2] / long
    stack[waiting, 6], stack[waiting, 7], stack[waiting, 8] = w
    stack[waiting, 9], stack[waiting, 10] = length, depth
    return waiting + 1

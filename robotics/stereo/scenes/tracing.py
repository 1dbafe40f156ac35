"""A ray caster on tensors: first surfaces exactly, and colours through mirrors and glass.

Rays are (3, N), neighbours beside each other. Colours are found breadth first:
all rays of one depth are traced at once, what they hit is shaded, and mirrors and glass send out the rays of the next
depth with their share of the light (Fresnel), so a ray that splits costs two rays and no recursion.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robotics.stereo.pair import Surface
from robotics.stereo.scenes.casting import Caster, bundled, nearest
from robotics.stereo.scenes.optics import dot, fresnel, norm, reflect, refract, schlick, thin_sheet
from robotics.stereo.scenes.primitives import INFINITY
from robotics.stereo.scenes.scene import Material, Scene
from robotics.stereo.scenes.textures import Atlas

NOTHING = -1
MAX_DEPTH = 7
LEAST_WEIGHT = 0.015
# A ray leaves a surface by this share of the scene's depth, above float32's rounding of its points.
STEP_OFF = 2e-4
LEAST_SHADOWED = 0.2  # share of a pixel's light below which no shadows are looked for
GLASS_SHADE = 0.7  # light that passes a glass object, instead of its caustics


@dataclass(frozen=True)
class Hits:
    """Where rays ended.

    Attributes:
        distance: (N,) along the ray, infinite where nothing was met.
        primitive: (N,) int64, `NOTHING` where nothing was met.
    """

    distance: Tensor
    primitive: Tensor


@dataclass(frozen=True)
class Shaded:
    """Colours of camera rays.

    Attributes:
        colour: (3, N) linear light.
        hits: of the camera rays themselves: the first surfaces.
        lit: (N,) int64, bit k: light k reaches the first surface.
    """

    colour: Tensor
    hits: Hits
    lit: Tensor


class Tracer:
    """Casts rays into one scene.

    Args:
        scene: what is seen.
        pixel: angle of a pixel, rad: 1 / fx.
        device: of all tensors.
    """

    def __init__(self, scene: Scene, pixel: float, device: torch.device | str = "cpu") -> None:
        self.scene = scene
        self.pixel = pixel
        self.device = torch.device(device)
        self.atlas = Atlas(list(scene.textures), self.device)
        self.caster = Caster(scene.primitives, self.device)
        materials = scene.materials
        self.material = torch.tensor([primitive.material for primitive in scene.primitives], device=self.device)
        self.surface = torch.tensor([int(material.surface) for material in materials], device=self.device)
        self.texture = torch.tensor([material.texture for material in materials], device=self.device)
        self.colours = self._tensor([material.colours.tolist() for material in materials])
        self.palettes = self.colours.reshape(-1, 9).T.contiguous()
        names = ("texels", "shine", "sharpness", "reflectance", "index", "opacity")
        self.numbers = {name: self._tensor([getattr(material, name) for material in materials]) for name in names}
        self.passes = self._tensor([_passes(material) for material in materials])
        self.ambient = self._tensor(scene.ambient)[:, None]
        nearest = min(float(abs(primitive.center).max()) for primitive in scene.primitives)
        self.step_off = STEP_OFF * max(nearest, 0.05)

    def _tensor(self, values: object) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.float32)).to(self.device)

    def first_hits(self, origin: Tensor, direction: Tensor) -> Hits:
        """Return the nearest surfaces of rays (3, N) from `origin`, (3, 1) or (3, N)."""
        rays = bundled(direction)
        starts = origin.T[..., None] if origin.shape[1] == 1 else bundled(origin)
        distance = torch.full((len(rays), rays.shape[2]), INFINITY, device=self.device)
        found = torch.full(distance.shape, NOTHING, dtype=torch.int64, device=self.device)
        for primitive, bundle, enter, leave in self.caster.meetings(starts, rays):
            near = nearest(enter, leave, self.step_off)
            best = distance.index_select(0, bundle)
            closer = near < best
            distance[bundle] = torch.where(closer, near, best)
            found[bundle] = torch.where(closer, primitive[:, None], found.index_select(0, bundle))
        count = direction.shape[1]
        return Hits(distance.reshape(-1)[:count], found.reshape(-1)[:count])

    def transmittance(self, lamp: Tensor, point: Tensor) -> Tensor:
        """Return the share of a lamp's light, (N,), that comes straight to points (3, N); rays go from the lamp.

        Args:
            lamp: (3, 1) its position.
            point: just above the surfaces that are lit.
        """
        way = point - lamp
        long = norm(way)
        rays, reach = bundled(way / long), bundled(long - self.step_off)
        share = torch.ones_like(reach)
        for primitive, bundle, enter, leave in self.caster.meetings(lamp.T[..., None], rays, reach):
            blocked = (enter <= leave) & (leave > 0) & (enter < reach.index_select(0, bundle))
            passes = self.passes[self.material[primitive]][:, None]
            share[bundle] = share.index_select(0, bundle) * torch.where(blocked, passes, 1.0)
        return share.reshape(-1)[: len(long)]

    def trace(self, origin: Tensor, direction: Tensor) -> Shaded:
        """Return the colours seen from one point, (3, 1), along unit directions (3, N)."""
        count = direction.shape[1]
        colour = torch.zeros(3, count, device=self.device)
        first: Shaded | None = None
        ray = torch.arange(count, device=self.device)
        weight = torch.ones(3, count, device=self.device)
        length = torch.zeros(count, device=self.device)
        for _ in range(MAX_DEPTH):
            hits = self.first_hits(origin, direction)
            missed = hits.primitive == NOTHING
            if bool(missed.any()):
                colour.index_add_(1, ray[missed], weight[:, missed] * self._background(direction[:, missed]))
            met = (~missed).nonzero().squeeze(1)
            start = origin if origin.shape[1] == 1 else origin.index_select(1, met)
            point = start + hits.distance[met] * direction.index_select(1, met)
            length = length[met] + hits.distance[met]
            ray, weight, direction = ray[met], weight.index_select(1, met), direction.index_select(1, met)
            primitive = hits.primitive[met]
            light, lit, normals = self._shade(point, direction, primitive, length, weight.amax(0))
            colour.index_add_(1, ray, weight * light)
            if first is None:
                all_lit = torch.zeros(count, dtype=torch.int64, device=self.device)
                all_lit[met] = lit
                first = Shaded(colour, hits, all_lit)
            origin, direction, weight, ray, length = self._next_rays(
                point, direction, normals, primitive, weight, ray, length
            )
            if not len(ray):
                break
        assert first is not None
        return first

    def _background(self, direction: Tensor) -> Tensor:
        environment = self.scene.environment
        height = 0.5 + 0.5 * (self._tensor(environment.up) @ direction)
        bottom, top = self._tensor(environment.bottom)[:, None], self._tensor(environment.top)[:, None]
        light = bottom + height * (top - bottom)
        for window in environment.windows:
            values = self._tensor(window)
            light = light + values[3:6, None] * torch.exp(values[6] * (values[:3] @ direction - 1.0))
        return light

    def _shade(
        self, point: Tensor, direction: Tensor, primitive: Tensor, length: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the light a surface itself sends, (3, N), the lights that reach it as bits, and outward normals."""
        normals, u, v = self.caster.surfaces(point, primitive)
        material = self.material[primitive]
        cosine = dot(normals, direction)
        facing = torch.where(cosine > 0, -normals, normals)
        surface = self.surface[material]
        albedo = torch.zeros_like(point)
        rough = (surface == Surface.DIFFUSE) | (surface == Surface.GLOSSY) | (surface == Surface.TRANSLUCENT)
        chosen = rough.nonzero().squeeze(1)
        dull = material[chosen]
        texels = self.numbers["texels"][dull]
        footprint = length[chosen] * self.pixel * texels / cosine[chosen].abs().clamp_min(0.2).sqrt()
        fields = self.atlas.read(self.texture[dull], u[chosen] * texels, v[chosen] * texels, footprint).T
        base, one, two = self.palettes.index_select(1, dull).reshape(3, 3, -1)
        albedo[:, chosen] = (base + fields[0] * (one - base) + fields[1] * (two - base)).clamp(0.01, 1.0)
        light, lit = self._lamps(point + self.step_off * facing, facing, direction, albedo, material, weight)
        opacity = torch.where(surface == Surface.TRANSLUCENT, self.numbers["opacity"][material], 1.0)
        return light * opacity, lit, normals

    def _lamps(
        self, point: Tensor, facing: Tensor, view: Tensor, albedo: Tensor, material: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return Lambert's and Blinn-Phong's light with shadows, and the bits of the lamps that are seen."""
        up = self._tensor(self.scene.environment.up)
        light = albedo * self.ambient * (0.75 + 0.25 * (up @ facing))
        lit = torch.zeros(point.shape[1], dtype=torch.int64, device=self.device)
        shiny = (self.numbers["shine"][material] > 0).nonzero().squeeze(1)
        polish = material[shiny]
        for index, lamp in enumerate(self.scene.lights):
            place = self._tensor(lamp.position)[:, None]
            towards = place - point
            towards = towards / norm(towards)
            cosine = dot(facing, towards).clamp_min(0.0)
            share = self._shares(place, point, cosine, weight)
            bright = (share * cosine) * albedo
            half = towards.index_select(1, shiny) - view.index_select(1, shiny)
            aligned = (dot(facing.index_select(1, shiny), half) / norm(half)).clamp_min(0.0)
            spot = self.numbers["shine"][polish] * aligned.pow(self.numbers["sharpness"][polish]) * share[shiny]
            light = light + self._tensor(lamp.colour)[:, None] * bright.index_add_(1, shiny, spot.expand(3, -1))
            lit |= (share > 0.5).long() << index
        if self.scene.projector is not None:
            light = light + albedo * self._dots(point, facing, weight)
        return light, lit

    def _shares(self, lamp: Tensor, point: Tensor, cosine: Tensor, weight: Tensor) -> Tensor:
        """Return what arrives of a lamp at surfaces turned to it; light that hardly counts is not asked for shadows."""
        share = (cosine > 0).to(point.dtype)
        asked = ((cosine > 0) & (weight > LEAST_SHADOWED)).nonzero().squeeze(1)
        share[asked] = self.transmittance(lamp, point.index_select(1, asked))
        return share

    def _dots(self, point: Tensor, facing: Tensor, weight: Tensor) -> Tensor:
        """Return the light of the projected dots, (N,): a texture over the direction from the projector."""
        projector = self.scene.projector
        assert projector is not None
        place = self._tensor(projector.position)[:, None]
        away = point - place
        cosine = -dot(facing, away) / norm(away)
        share = self._shares(place, point, cosine.masked_fill(away[2] < 1e-3, -1.0), weight)
        u, v = (away[axis] / away[2].clamp_min(1e-3) * projector.texels for axis in (0, 1))
        # The pattern is sharp on every surface, and a pixel is as wide as so many texels at any distance.
        wide = torch.full_like(u, self.pixel * projector.texels)
        texture = torch.full_like(u, projector.texture, dtype=torch.int64)
        return projector.strength * self.atlas.read(texture, u, v, wide)[:, 0] * share * cosine.clamp_min(0.0)

    def _next_rays(
        self, point: Tensor, direction: Tensor, normals: Tensor, primitive: Tensor, weight: Tensor, ray: Tensor,
        length: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """Return origins, directions, weights, camera rays and lengths of the rays that specular surfaces send out."""
        material = self.material[primitive]
        surface = self.surface[material]
        children: list[tuple[Tensor, ...]] = []

        def send(chosen: Tensor, towards: Tensor, share: Tensor) -> None:
            carried = weight[:, chosen] * share
            strong = (carried.amax(0) > LEAST_WEIGHT).nonzero().squeeze(1)
            if len(strong):
                kept = chosen[strong]
                away = towards[:, strong]
                away = away / norm(away)
                children.append((point[:, kept], away, carried[:, strong], ray[kept], length[kept]))

        cosine = dot(direction, normals)
        facing = torch.where(cosine > 0, -normals, normals)
        cosine = cosine.abs().clamp(0.0, 1.0)
        tint = self.palettes[:3].index_select(1, material)
        ratio = 1.0 / self.numbers["index"][material]

        chosen = ((surface == Surface.MIRROR) | (surface == Surface.GLOSSY)).nonzero().squeeze(1)
        if len(chosen):
            share = schlick(cosine[chosen], self.numbers["reflectance"][material[chosen]])
            share = torch.where(surface[chosen] == Surface.MIRROR, tint[:, chosen], share)
            send(chosen, reflect(direction[:, chosen], facing[:, chosen]), share)
        chosen = (surface == Surface.GLASS).nonzero().squeeze(1)
        if len(chosen):
            inside = dot(direction[:, chosen], normals[:, chosen]) > 0
            ratios = torch.where(inside, 1.0 / ratio[chosen], ratio[chosen])
            reflected = fresnel(cosine[chosen], ratios)
            send(chosen, reflect(direction[:, chosen], facing[:, chosen]), reflected.expand(3, -1))
            bent, _ = refract(direction[:, chosen], facing[:, chosen], ratios)
            send(chosen, bent, (1.0 - reflected) * torch.where(inside, tint[:, chosen], torch.ones_like(bent)))
        chosen = (surface == Surface.THIN_GLASS).nonzero().squeeze(1)
        if len(chosen):
            reflected = thin_sheet(fresnel(cosine[chosen], ratio[chosen]))
            send(chosen, reflect(direction[:, chosen], facing[:, chosen]), reflected.expand(3, -1))
            send(chosen, direction[:, chosen], (1.0 - reflected) * tint[:, chosen])
        chosen = (surface == Surface.TRANSLUCENT).nonzero().squeeze(1)
        if len(chosen):
            through = 1.0 - self.numbers["opacity"][material[chosen]]
            send(chosen, direction[:, chosen], through * tint[:, chosen])
        if not children:
            empty = point[:, :0]
            return empty, empty, empty, ray[:0], length[:0]
        origins, directions, weights, rays, lengths = zip(*children, strict=True)
        return torch.cat(origins, 1), torch.cat(directions, 1), torch.cat(weights, 1), torch.cat(rays), torch.cat(lengths)


def _passes(material: Material) -> float:
    match material.surface:
        case Surface.GLASS | Surface.THIN_GLASS:
            return GLASS_SHADE
        case Surface.TRANSLUCENT:
            return 1.0 - material.opacity
        case _:
            return 0.0

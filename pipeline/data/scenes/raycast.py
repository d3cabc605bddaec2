"""Where rays meet a scene: distances, surfaces and what is needed to shade them.

A ray is origin + t * direction with a direction of any length. Camera rays have length one along
the optical axis, so t is planar depth; a ray from the light to a lit point has t = 1 at the point.
Arithmetic is float32 with +, -, *, / and square roots only, so pictures are the same on every machine.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from pipeline.data.scenes.scene import CAPSULE, CUBE, CYLINDER, SPHERE, Scene, Solid, Vector

Component = Float32[np.ndarray, " ray"]

FLOOR, WALL, TABLE = range(3)
_INFINITY = np.float32(np.inf)
_TINY = 1e-9
_CAP_MARGIN_M = 1e-5


@dataclass(frozen=True)
class Rays:
    """Rays of one origin."""

    origin: Vector
    x: Component
    y: Component
    z: Component
    length_sq: Component


@dataclass(frozen=True)
class SolidHit:
    """Which rays meet one solid, how far away, and the outward normal there."""

    ray: Int[np.ndarray, " hit"]
    t: Float32[np.ndarray, " hit"]
    normal: tuple[Float32[np.ndarray, " hit"], Float32[np.ndarray, " hit"], Float32[np.ndarray, " hit"]]


@dataclass(frozen=True)
class Hits:
    """The first surface on every ray.

    Attributes:
        t: Distance in units of the ray's direction.
        surface: Number of the surface.
        faces_x: Of rays that end at a wall: whether that wall is perpendicular to x.
        solids: Visible part of every solid in view, by its surface number.
    """

    t: Component
    surface: UInt8[np.ndarray, " ray"]
    faces_x: Bool[np.ndarray, " ray"]
    solids: dict[int, SolidHit]


def cast(scene: Scene, rays: Rays) -> Hits:
    """The first surface on every ray from inside the room that does not reach the ceiling."""
    t, surface, faces_x = _room(scene, rays)
    candidates = {}
    for number, solid in enumerate(scene.solids, start=scene.first_solid):
        ray, distance = _meet(solid, rays)
        nearer = distance < t[ray]
        ray, distance = ray[nearer], distance[nearer]
        if len(ray):
            t[ray] = distance
            surface[ray] = number
            candidates[number] = ray
    solids = {}
    for number, ray in candidates.items():
        seen = ray if len(candidates) == 1 else ray[surface[ray] == number]
        normal = _normal(scene.solids[number - scene.first_solid], rays, seen, t[seen])
        solids[number] = SolidHit(seen, t[seen], normal)
    return Hits(t, surface, faces_x, solids)


def blocked(scene: Scene, rays: Rays, before: float) -> Int[np.ndarray, " hit"]:
    """The rays that meet a solid at t < `before`; one that meets several may be named twice."""
    hits = []
    for solid in scene.solids:
        ray, distance = _meet(solid, rays)
        hits.append(ray[distance < before])
    return np.concatenate(hits) if hits else np.zeros(0, np.int64)


def _room(scene: Scene, rays: Rays) -> tuple[Component, UInt8[np.ndarray, " ray"], Bool[np.ndarray, " ray"]]:
    eye_x, eye_y, eye_z = rays.origin
    wall_x = (np.copysign(np.float32(scene.half_room), rays.x) - eye_x) / rays.x
    wall_y = (np.copysign(np.float32(scene.half_room), rays.y) - eye_y) / rays.y
    down = np.where(rays.z < 0, -1 / rays.z, _INFINITY)
    floor = down * eye_z
    faces_x = wall_x < wall_y
    wall = np.minimum(wall_x, wall_y)
    surface = (wall <= floor).astype(np.uint8)
    t = np.minimum(wall, floor)
    if scene.table is not None:
        table = down * (eye_z - scene.table.height)
        on_table = np.abs(eye_x + table * rays.x) < scene.table.half_x
        on_table &= np.abs(eye_y + table * rays.y) < scene.table.half_y
        on_table &= table < t
        t[on_table] = table[on_table]
        surface[on_table] = TABLE
    return t, surface, faces_x


def _meet(solid: Solid, rays: Rays) -> tuple[Int[np.ndarray, " hit"], Float32[np.ndarray, " hit"]]:
    """Rays that come near a solid, and where they enter it (infinity if they do not)."""
    to_x, to_y, to_z = (c - o for c, o in zip(solid.centre, rays.origin, strict=True))
    along = rays.x * to_x + rays.y * to_y + rays.z * to_z
    tangent_sq = to_x**2 + to_y**2 + to_z**2 - solid.bounding_radius**2
    near = np.flatnonzero((along > 0) & (along * along > rays.length_sq * tangent_sq))
    cosine, sine = math.cos(solid.yaw), math.sin(solid.yaw)
    origin = (-cosine * to_x - sine * to_y, sine * to_x - cosine * to_y, -to_z)
    world_x, world_y = rays.x[near], rays.y[near]
    x, y, z = cosine * world_x + sine * world_y, cosine * world_y - sine * world_x, rays.z[near]
    match solid.shape:
        case 0:
            return near, _enter_cube(solid, origin, x, y, z)
        case 1:
            return near, _enter_cylinder(solid, origin, x, y, z)
        case 2:
            return near, _enter_sphere(solid.radius, origin, x, y, z)
        case _:
            return near, _enter_capsule(solid, origin, x, y, z)


def _enter_cube(solid: Solid, origin: Vector, x: Component, y: Component, z: Component) -> Component:
    """Slabs: the last of the near faces, if it comes before the first of the far ones."""
    enter, leave = np.full_like(x, -np.inf), np.full_like(x, np.inf)
    for start, direction, half in zip(
        origin, (x, y, z), (solid.radius, solid.radius, solid.half_height), strict=True
    ):
        inverse = 1 / direction
        middle, spread = -start * inverse, np.abs(half * inverse)
        enter = np.maximum(enter, middle - spread)
        leave = np.minimum(leave, middle + spread)
    return np.where(enter < leave, enter, _INFINITY)


def _enter_sphere(radius: float, origin: Vector, x: Component, y: Component, z: Component) -> Component:
    """The nearer root of |origin + t * direction| = radius."""
    square = x * x + y * y + z * z
    half_slope = origin[0] * x + origin[1] * y + origin[2] * z
    discriminant = half_slope * half_slope - square * (
        origin[0] ** 2 + origin[1] ** 2 + origin[2] ** 2 - radius**2
    )
    root = (-half_slope - np.sqrt(np.maximum(discriminant, 0))) / square
    return np.where(discriminant > 0, root, _INFINITY)


def _enter_tube(
    radius: float, origin: Vector, x: Component, y: Component
) -> tuple[Component, Bool[np.ndarray, " ray"]]:
    """Where rays enter an endless cylinder around the z axis, and whether they do."""
    square = x * x + y * y + _TINY
    half_slope = origin[0] * x + origin[1] * y
    discriminant = half_slope * half_slope - square * (origin[0] ** 2 + origin[1] ** 2 - radius**2)
    return (-half_slope - np.sqrt(np.maximum(discriminant, 0))) / square, discriminant > 0


def _enter_cylinder(solid: Solid, origin: Vector, x: Component, y: Component, z: Component) -> Component:
    """The tube between its ends, or the flat end that faces the ray."""
    tube, meets = _enter_tube(solid.radius, origin, x, y)
    side = meets & (np.abs(origin[2] + tube * z) <= solid.half_height)
    end = (np.copysign(np.float32(solid.half_height), -z) - origin[2]) / z
    end_x, end_y = origin[0] + end * x, origin[1] + end * y
    on_end = end_x * end_x + end_y * end_y <= solid.radius**2
    return np.where(side, tube, np.where(on_end, end, _INFINITY))


def _enter_capsule(solid: Solid, origin: Vector, x: Component, y: Component, z: Component) -> Component:
    """The tube between its ends, or the sphere at the end beyond which the ray enters the tube."""
    tube, meets = _enter_tube(solid.radius, origin, x, y)
    height = origin[2] + tube * z
    side = meets & (np.abs(height) <= solid.half_height)
    top = _enter_sphere(solid.radius, (origin[0], origin[1], origin[2] - solid.half_height), x, y, z)
    bottom = _enter_sphere(solid.radius, (origin[0], origin[1], origin[2] + solid.half_height), x, y, z)
    return np.where(side, tube, np.where(height > 0, top, bottom))


def _normal(
    solid: Solid, rays: Rays, ray: Int[np.ndarray, " hit"], t: Float32[np.ndarray, " hit"]
) -> tuple[Float32[np.ndarray, " hit"], Float32[np.ndarray, " hit"], Float32[np.ndarray, " hit"]]:
    """Outward unit normal of the solid at the points origin + t * direction."""
    world_x = rays.origin[0] - solid.centre[0] + t * rays.x[ray]
    world_y = rays.origin[1] - solid.centre[1] + t * rays.y[ray]
    z = rays.origin[2] - solid.centre[2] + t * rays.z[ray]
    if solid.shape == SPHERE:
        return world_x / solid.radius, world_y / solid.radius, z / solid.radius
    if solid.shape == CAPSULE:
        beyond = z - np.clip(z, -solid.half_height, solid.half_height)
        return world_x / solid.radius, world_y / solid.radius, beyond / solid.radius
    if solid.shape == CYLINDER:
        end = np.abs(z) > solid.half_height - _CAP_MARGIN_M
        side = np.where(end, np.float32(0), np.float32(1 / solid.radius))
        return world_x * side, world_y * side, np.where(end, np.sign(z), np.float32(0))
    assert solid.shape == CUBE
    cosine, sine = math.cos(solid.yaw), math.sin(solid.yaw)
    x, y = (
        (cosine * world_x + sine * world_y) / solid.radius,
        (cosine * world_y - sine * world_x) / solid.radius,
    )
    z = z / solid.half_height
    size_x, size_y = np.abs(x), np.abs(y)
    end = np.abs(z) > np.maximum(size_x, size_y)
    normal_x = np.where(~end & (size_x >= size_y), np.sign(x), np.float32(0))
    normal_y = np.where(~end & (size_x < size_y), np.sign(y), np.float32(0))
    normal_z = np.where(end, np.sign(z), np.float32(0))
    return cosine * normal_x - sine * normal_y, sine * normal_x + cosine * normal_y, normal_z

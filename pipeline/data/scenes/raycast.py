"""Where rays meet a scene: distances, surfaces and normals.

A ray is origin + t * direction with a direction of any length. Camera rays have length one along
the optical axis, so t is planar depth; a ray from the light to a lit point has t = 1 at the point.
Arithmetic is float32 with +, -, *, / and square roots only, so pictures are the same on every machine.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8

from pipeline.data.scenes.scene import Scene, Solid, Vector

PerRay = Float32[np.ndarray, " _"]
Points = Float32[np.ndarray, "3 _"]

FLOOR, WALL, TABLE = range(3)
_INFINITY = np.float32(np.inf)
_TINY = 1e-9
_END_MARGIN_M = 1e-5


@dataclass(frozen=True)
class Rays:
    """Rays of one origin."""

    origin: Vector
    direction: Points
    length_sq: PerRay


@dataclass(frozen=True)
class Visible:
    """The part of one solid that rays end at, and its outward normal there."""

    ray: Int[np.ndarray, " _"]
    normal: Points


@dataclass(frozen=True)
class Hits:
    """The first surface on every ray.

    Attributes:
        t: Distance in units of the ray's direction.
        surface: Number of the surface.
        faces_x: Of rays that end at a wall: whether that wall is perpendicular to x.
        solids: What is visible of each solid, by its surface number.
    """

    t: PerRay
    surface: UInt8[np.ndarray, " _"]
    faces_x: Bool[np.ndarray, " _"]
    solids: dict[int, Visible]


def cast(scene: Scene, rays: Rays) -> Hits:
    """The first surface on every ray from inside the room that does not reach the ceiling."""
    t, surface, faces_x = _room(scene, rays)
    met = {}
    for number, solid in enumerate(scene.solids, start=scene.first_solid):
        ray, distance = _meet(solid, rays)
        nearer = distance < t[ray]
        ray = ray[nearer]
        if len(ray):
            t[ray] = distance[nearer]
            surface[ray] = number
            met[number] = ray
    solids = {}
    for number, ray in met.items():
        seen = ray if len(met) == 1 else ray[surface[ray] == number]
        solid = scene.solids[number - scene.first_solid]
        solids[number] = Visible(seen, _normal(solid, points(some(rays, seen), t.take(seen), solid.centre)))
    return Hits(t, surface, faces_x, solids)


def blocked(scene: Scene, rays: Rays, before: float) -> Int[np.ndarray, " _"]:
    """The rays that meet a solid at t < `before`; one that meets several may be named twice."""
    hits = []
    for solid in scene.solids:
        ray, distance = _meet(solid, rays)
        hits.append(ray[distance < before])
    return np.concatenate(hits)


def points(rays: Rays, t: PerRay, zero: Vector) -> Points:
    """The points at t, in coordinates that begin at `zero`."""
    point = rays.direction * t
    for axis, start, origin in zip(point, rays.origin, zero, strict=True):
        axis += start - origin
    return point


def some(rays: Rays, ray: Int[np.ndarray, " _"]) -> Rays:
    """A selection of rays."""
    return Rays(rays.origin, rays.direction.take(ray, axis=1), rays.length_sq.take(ray))


def dot(first: Points, second: Points) -> PerRay:
    """Scalar product of vectors side by side."""
    product = first * second
    return (product[0] + product[1]) + product[2]


def _column(vector: list[float] | Vector) -> Float32[np.ndarray, "3 1"]:
    return np.array([[part] for part in vector], np.float32)


def _room(scene: Scene, rays: Rays) -> tuple[PerRay, UInt8[np.ndarray, " _"], Bool[np.ndarray, " _"]]:
    """The room's nearest plane is the one of the largest 1/t, which is linear in the direction."""
    x, y, z = rays.direction
    eye_x, eye_y, eye_z = rays.origin
    wall_x = _inverse_distance_to_walls(x, eye_x, scene.half_room)
    wall_y = _inverse_distance_to_walls(y, eye_y, scene.half_room)
    floor = z * (-1 / eye_z)
    wall = np.maximum(wall_x, wall_y)
    surface = (wall > floor).astype(np.uint8)
    t = 1 / np.maximum(wall, floor)
    if scene.table is not None:
        table = (scene.table.height - eye_z) / z
        on_table = np.abs(eye_x + table * x) < scene.table.half_x
        on_table &= np.abs(eye_y + table * y) < scene.table.half_y
        on_table &= (table > 0) & (table < t)
        np.putmask(t, on_table, table)
        surface[on_table] = TABLE
    return t, surface, wall_x > wall_y


def _inverse_distance_to_walls(direction: PerRay, start: float, half_room: float) -> PerRay:
    """1/t at whichever of the walls at +-half_room the ray approaches."""
    return np.maximum(direction * (1 / (half_room - start)), direction * (-1 / (half_room + start)))


def _meet(solid: Solid, rays: Rays) -> tuple[Int[np.ndarray, " _"], PerRay]:
    """Rays that meet the bounding sphere of a solid, and t where they enter the solid (infinity if not)."""
    center_x, center_y, center_z = solid.centre
    center = (center_x - rays.origin[0], center_y - rays.origin[1], center_z - rays.origin[2])
    distance_sq = center[0] ** 2 + center[1] ** 2 + center[2] ** 2
    x, y, z = rays.direction
    along = (x * center[0] + y * center[1]) + z * center[2]
    tangent_sq = distance_sq - solid.bounding_radius**2
    near = np.flatnonzero((along > 0) & (along * along > rays.length_sq * tangent_sq))
    direction = rays.direction.take(near, axis=1)
    match solid.shape:
        case 0:
            return near, _enter_cube(solid, center, direction)
        case 1:
            return near, _enter_cylinder(solid, center, direction)
        case 2:
            return near, _enter_sphere(
                along.take(near), rays.length_sq.take(near), distance_sq - solid.radius**2
            )
        case _:
            return near, _enter_capsule(solid, center, direction, along.take(near), rays.length_sq.take(near))


def _enter_cube(solid: Solid, center: Vector, direction: Points) -> PerRay:
    """Slabs: the last of the near faces, if it comes before the first of the far ones."""
    cosine, sine = math.cos(solid.yaw), math.sin(solid.yaw)
    center_x, center_y = cosine * center[0] + sine * center[1], cosine * center[1] - sine * center[0]
    x, y = cosine * direction[0] + sine * direction[1], cosine * direction[1] - sine * direction[0]
    inverse = 1 / np.stack([x, y, direction[2]])
    middle = inverse * _column((center_x, center_y, center[2]))
    spread = np.abs(inverse * _column((solid.radius, solid.radius, solid.half_height)))
    near, far = middle - spread, middle + spread
    enter = np.maximum(np.maximum(near[0], near[1]), near[2])
    leave = np.minimum(np.minimum(far[0], far[1]), far[2])
    return np.where(enter < leave, enter, _INFINITY)


def _enter_sphere(along: PerRay, length_sq: PerRay, tangent_sq: float | PerRay) -> PerRay:
    """The nearer root of |t * direction - center| = radius.

    Args:
        along: Scalar product of direction and center.
        length_sq: Squared length of the direction.
        tangent_sq: Squared distance of the center less the squared radius.
    """
    discriminant = along * along - length_sq * tangent_sq
    root = (along - np.sqrt(np.maximum(discriminant, 0))) / length_sq
    return np.where(discriminant > 0, root, _INFINITY)


def _enter_tube(radius: float, center: Vector, direction: Points) -> PerRay:
    """Where rays enter an endless upright cylinder."""
    x, y, _ = direction
    return _enter_sphere(
        x * center[0] + y * center[1], x * x + y * y + _TINY, center[0] ** 2 + center[1] ** 2 - radius**2
    )


def _enter_cylinder(solid: Solid, center: Vector, direction: Points) -> PerRay:
    """The tube between its ends, or the flat end that faces the ray."""
    x, y, z = direction
    tube = _enter_tube(solid.radius, center, direction)
    on_side = np.abs(tube * z - center[2]) <= solid.half_height
    end = (center[2] - np.copysign(np.float32(solid.half_height), z)) / z
    end_x, end_y = end * x - center[0], end * y - center[1]
    on_end = end_x * end_x + end_y * end_y <= solid.radius**2
    return np.where(on_side, tube, np.where(on_end, end, _INFINITY))


def _enter_capsule(
    solid: Solid, center: Vector, direction: Points, along: PerRay, length_sq: PerRay
) -> PerRay:
    """The tube between its ends, or the sphere at the end beyond which the ray enters the tube."""
    z = direction[2]
    tube = _enter_tube(solid.radius, center, direction)
    height = tube * z - center[2]
    end = np.copysign(np.float32(solid.half_height), height)
    tangent_sq = end * (2 * center[2]) + (
        center[0] ** 2 + center[1] ** 2 + center[2] ** 2 + solid.half_height**2 - solid.radius**2
    )
    return np.where(
        np.abs(height) <= solid.half_height, tube, _enter_sphere(along + end * z, length_sq, tangent_sq)
    )


def _normal(solid: Solid, point: Points) -> Points:
    """Outward unit normal at points of the surface, given from the solid's centre."""
    x, y, z = point
    match solid.shape:
        case 0:
            return _cube_normal(solid, point)
        case 1:
            end = np.abs(z) > solid.half_height - _END_MARGIN_M
            return np.stack([x / solid.radius * ~end, y / solid.radius * ~end, np.sign(z) * end])
        case 2:
            return point / np.float32(solid.radius)
        case _:
            beyond = z - np.clip(z, -solid.half_height, solid.half_height)
            return np.stack([x, y, beyond]) / np.float32(solid.radius)


def _cube_normal(solid: Solid, point: Points) -> Points:
    """That of the face whose plane is nearest to the point."""
    cosine, sine = math.cos(solid.yaw), math.sin(solid.yaw)
    x = (cosine * point[0] + sine * point[1]) / solid.radius
    y = (cosine * point[1] - sine * point[0]) / solid.radius
    z = point[2] / solid.half_height
    face_z = np.abs(z) > np.maximum(np.abs(x), np.abs(y))
    face_x = ~face_z & (np.abs(x) > np.abs(y))
    x, y, z = np.sign(x) * face_x, np.sign(y) * ~(face_x | face_z), np.sign(z) * face_z
    return np.stack([cosine * x - sine * y, sine * x + cosine * y, z])

"""What a scene is made of. Metres, z up, the floor at z = 0, the room centred on the z axis."""

import math
from dataclasses import dataclass

Vector = tuple[float, float, float]

SHAPES = ("cube", "cylinder", "sphere", "capsule")
"""Order of `Solid.shape`."""

CUBE, CYLINDER, SPHERE, CAPSULE = range(4)

PLAIN, CHECKS, STRIPES = range(3)
"""Patterns of the room's surfaces."""


@dataclass(frozen=True)
class Solid:
    """One object, upright.

    Attributes:
        shape: Index in `SHAPES`.
        centre: Its centre.
        radius: Of a round shape; half the side of a cube's base.
        half_height: Half the height; of a capsule, without its round ends; unused by a sphere.
        yaw: Rotation about the z axis, radians.
        colour: Albedo, red, green, blue in 0..1.
    """

    shape: int
    centre: Vector
    radius: float
    half_height: float
    yaw: float
    colour: Vector

    @property
    def bounding_radius(self) -> float:
        """Radius of a sphere around the centre that encloses the solid."""
        match self.shape:
            case 0:
                tight = math.sqrt(2 * self.radius**2 + self.half_height**2)
            case 1:
                tight = math.hypot(self.radius, self.half_height)
            case 2:
                tight = self.radius
            case _:
                tight = self.radius + self.half_height
        return tight * 1.001


@dataclass(frozen=True)
class Camera:
    """A pinhole with square pixels.

    Attributes:
        eye: Where it is.
        forward: Unit vector along the optical axis; planar depth is measured along it.
        right: Unit vector to the right of the picture.
        up: Unit vector to the top of the picture.
        half_width: Half the width of the picture at depth 1, the tangent of half the field of view.
    """

    eye: Vector
    forward: Vector
    right: Vector
    up: Vector
    half_width: float


@dataclass(frozen=True)
class Table:
    """A rectangular top without thickness, centred on the z axis."""

    half_x: float
    half_y: float
    height: float
    colour: Vector


@dataclass(frozen=True)
class Light:
    """A point light and how surfaces answer to it."""

    position: Vector
    ambient: float
    power: float
    specular: float


@dataclass(frozen=True)
class Scene:
    """A square room with a camera and a light inside; the ceiling is out of every camera's view.

    Surfaces are numbered: floor 0, wall 1, table 2 if there is one, then the solids in order.

    Attributes:
        half_room: Distance of each wall from the z axis.
        pattern: `PLAIN`, `CHECKS` or `STRIPES` on floor, wall and table.
        contrast: How much the pattern darkens, in 0..1.
    """

    camera: Camera
    light: Light
    half_room: float
    floor_colour: Vector
    wall_colour: Vector
    solids: tuple[Solid, ...]
    table: Table | None = None
    pattern: int = PLAIN
    contrast: float = 0.0

    @property
    def first_solid(self) -> int:
        """Number of the first solid's surface."""
        return 2 if self.table is None else 3

    @property
    def surface_colours(self) -> list[Vector]:
        """Albedo per surface number."""
        table = [] if self.table is None else [self.table.colour]
        return [self.floor_colour, self.wall_colour, *table, *(solid.colour for solid in self.solids)]

    @property
    def surface_labels(self) -> list[int]:
        """Class per surface number: that of a solid is its shape, after floor, wall and table."""
        return [*range(self.first_solid), *(self.first_solid + solid.shape for solid in self.solids)]


def look_at(eye: Vector, target: Vector, half_width: float) -> Camera:
    """A level camera at `eye` with `target` in the middle of its picture."""
    forward = _unit((target[0] - eye[0], target[1] - eye[1], target[2] - eye[2]))
    right = _unit((forward[1], -forward[0], 0.0))
    up = (
        right[1] * forward[2] - right[2] * forward[1],
        right[2] * forward[0] - right[0] * forward[2],
        right[0] * forward[1] - right[1] * forward[0],
    )
    return Camera(eye, forward, right, up, half_width)


def _unit(vector: Vector) -> Vector:
    length = math.sqrt(vector[0] ** 2 + vector[1] ** 2 + vector[2] ** 2)
    return (vector[0] / length, vector[1] / length, vector[2] / length)

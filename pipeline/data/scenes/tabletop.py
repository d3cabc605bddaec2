"""One to several objects on a table, seen from above at an angle."""

import math
from colorsys import hsv_to_rgb

from pipeline.data.hashing import key_of, uniform
from pipeline.data.modality import Factor
from pipeline.data.scenes.scene import (
    CAPSULE,
    CUBE,
    CYLINDER,
    SHAPES,
    Light,
    Scene,
    Solid,
    Table,
    Vector,
    look_at,
)

CLASS_NAMES = ("floor", "wall", "table", *SHAPES)

_NUMBERS = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
)
_SCENE, _OBJECT = 1, 2
_TABLE_HEIGHT = 0.75
_LOOKED_AT_HEIGHT = 0.85
_PLACE_ATTEMPTS = 8
_GAP_M = 0.01
_FULL_SIZE = {"cube": (0.11, 0.11), "cylinder": (0.10, 0.14), "sphere": (0.13, 0.13), "capsule": (0.08, 0.10)}
"""Radius and half height at scale 1, metres."""


def factors(max_objects: int) -> tuple[Factor, ...]:
    """What is known of a tabletop: the number of objects."""
    return (Factor("objects", tuple(_NUMBERS[:max_objects])),)


def tabletop(number: int, seed: int, max_objects: int) -> Scene:
    """The scene with a number; a function of its arguments."""
    chance = iter(uniform(key_of(seed, number, _SCENE), 20).tolist())

    def between(low: float, high: float) -> float:
        return low + (high - low) * next(chance)

    objects = 1 + int(max_objects * next(chance))
    camera_azimuth, light_azimuth = between(0.0, 2 * math.pi), between(0.0, 2 * math.pi)
    elevation, reach = math.radians(between(28.0, 58.0)), between(1.9, 2.4)
    eye = (
        math.cos(camera_azimuth) * math.cos(elevation) * reach,
        math.sin(camera_azimuth) * math.cos(elevation) * reach,
        _LOOKED_AT_HEIGHT + math.sin(elevation) * reach,
    )
    half_field_of_view = math.radians(between(44.0, 52.0) / 2)
    light_at = (1.8 * math.cos(light_azimuth), 1.8 * math.sin(light_azimuth), between(2.5, 3.0))
    return Scene(
        camera=look_at(eye, (0.0, 0.0, _LOOKED_AT_HEIGHT), math.tan(half_field_of_view)),
        light=Light(light_at, ambient=between(0.3, 0.5), power=between(0.5, 0.9), specular=between(0.0, 0.5)),
        half_room=3.0,
        floor_colour=hsv_to_rgb(next(chance), 0.3, between(0.4, 0.8)),
        wall_colour=hsv_to_rgb(next(chance), 0.25, between(0.6, 0.95)),
        solids=_place(objects, seed, number),
        table=Table(
            half_x=between(0.75, 0.85),
            half_y=between(0.75, 0.85),
            height=_TABLE_HEIGHT,
            colour=hsv_to_rgb(between(0.0, 0.12), 0.45, between(0.45, 0.9)),
        ),
        pattern=int(between(0.0, 3.0)),
        contrast=0.22,
    )


def _place(objects: int, seed: int, number: int) -> tuple[Solid, ...]:
    """Objects whose footprints do not touch; one that finds no room in a few attempts is left out."""
    placed: list[Solid] = []
    for place in range(objects):
        chance = uniform(key_of(seed, number, _OBJECT, place), 7 + 2 * _PLACE_ATTEMPTS).tolist()
        colour = hsv_to_rgb(chance[0], 0.55 + 0.4 * chance[1], 0.6 + 0.4 * chance[2])
        shape, yaw = int(len(SHAPES) * chance[3]), math.pi * chance[4]
        radius, half_height = _size(shape, scale=0.7 + 0.7 * chance[5], stretch=0.7 + 0.8 * chance[6])
        for attempt in range(_PLACE_ATTEMPTS):
            x, y = (1.1 * (u - 0.5) for u in chance[7 + 2 * attempt : 9 + 2 * attempt])
            solid = _standing(shape, (x, y), radius, half_height, yaw, colour)
            if all(_apart(solid, other) for other in placed):
                placed.append(solid)
                break
    return tuple(placed)


def _size(shape: int, scale: float, stretch: float) -> tuple[float, float]:
    """Radius and half height; cubes and cylinders vary in height."""
    radius, half_height = (scale * length for length in _FULL_SIZE[SHAPES[shape]])
    return radius, half_height * stretch if shape in (CUBE, CYLINDER) else half_height


def _standing(
    shape: int, at: tuple[float, float], radius: float, half_height: float, yaw: float, colour: Vector
) -> Solid:
    height = _TABLE_HEIGHT + half_height + (radius if shape == CAPSULE else 0.0)
    return Solid(shape, (*at, height), radius, half_height, yaw, colour)


def _apart(first: Solid, second: Solid) -> bool:
    distance = math.hypot(first.centre[0] - second.centre[0], first.centre[1] - second.centre[1])
    return distance > _footprint(first) + _footprint(second) + _GAP_M


def _footprint(solid: Solid) -> float:
    """Radius of the circle on the table that holds the solid at any yaw."""
    return solid.radius * (math.sqrt(2) if solid.shape == CUBE else 1)

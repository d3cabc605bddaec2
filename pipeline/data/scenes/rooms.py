"""One object in a room, with the six factors of Shapes3D and, around them, nuisances.

Source: the factors are those of Burgess & Kim 2018, "3D Shapes Dataset".
"""

import math
from colorsys import hsv_to_rgb

import numpy as np
from jaxtyping import Int64

from pipeline.data.hashing import key_of, permutation, uniform
from pipeline.data.modality import Factor
from pipeline.data.scenes.scene import CAPSULE, PLAIN, SHAPES, SPHERE, Light, Scene, Solid, Vector, look_at
from pipeline.errors import InputError

CLASS_NAMES = ("floor", "wall", *SHAPES)

HUES = ("red", "orange", "lime", "green", "mint", "cyan", "blue", "violet", "magenta", "pink")
SCALES = tuple(0.75 + 0.5 * step / 7 for step in range(8))
ORIENTATIONS_DEG = tuple(-30 + 60 * step / 14 for step in range(15))

FACTORS = (
    Factor("floor_hue", HUES),
    Factor("wall_hue", HUES),
    Factor("object_hue", HUES),
    Factor("scale", tuple(f"{scale:.2f}" for scale in SCALES)),
    Factor("shape", SHAPES),
    Factor("orientation", tuple(f"{degrees:+.0f}" for degrees in ORIENTATIONS_DEG)),
)
_SIZES = tuple(len(factor.values) for factor in FACTORS)
GRID = math.prod(_SIZES)
"""Combinations of factor values: 480,000."""

_DRAW, _NUISANCE = 1, 2
_FULL_SIZE = {"cube": (0.36, 0.36), "cylinder": (0.40, 0.42), "sphere": (0.46, 0.46), "capsule": (0.30, 0.30)}
"""Radius and half height at scale 1, metres."""
_TARGET_HEIGHT = 0.55
_HALF_FIELD_OF_VIEW = math.radians(26)


def factor_values(room: int) -> tuple[int, ...]:
    """Value index of each factor, for a number in the grid."""
    return tuple(int(value) for value in np.unravel_index(room, _SIZES))


def factor_grid(numbers: Int64[np.ndarray, " room"]) -> Int64[np.ndarray, "room factor"]:
    """Value indices of many rooms."""
    return np.stack(np.unravel_index(numbers, _SIZES), 1).astype(np.int64)


def room_number(values: tuple[int, ...]) -> int:
    """The grid number of a combination of factor values."""
    return int(np.ravel_multi_index(values, _SIZES))


def draw_rooms(count: int, seed: int) -> Int64[np.ndarray, " count"]:
    """Grid numbers without repetition; a larger count begins with those of a smaller one.

    Raises:
        InputError: If the grid has fewer rooms.
    """
    if count > GRID:
        raise InputError(
            f"data.source.count is {count:,}, but there are only {GRID:,} rooms; ask for at most that many"
        )
    return permutation(GRID, key_of(seed, _DRAW))[:count]


def room(number: int, seed: int, nuisance: float) -> Scene:
    """The scene with a grid number.

    Args:
        number: Decides the factors and, with the seed, the nuisances.
        seed: Chooses the nuisances.
        nuisance: Their strength in 0..1; 0 leaves only what the factors name.
    """
    floor_hue, wall_hue, object_hue, scale, shape, orientation = factor_values(number)
    chance = uniform(key_of(seed, number, _NUISANCE), 9).tolist()
    elevation, distance, light_azimuth, light_height, power, yaw, shift_x, shift_y = (
        nuisance * (2 * u - 1) for u in chance[:8]
    )
    azimuth = math.radians(45 + ORIENTATIONS_DEG[orientation])
    elevation = math.radians(22 + 7 * elevation)
    reach = 2.75 + 0.3 * distance
    eye = (
        -math.cos(azimuth) * math.cos(elevation) * reach,
        -math.sin(azimuth) * math.cos(elevation) * reach,
        _TARGET_HEIGHT + math.sin(elevation) * reach,
    )
    light_azimuth = azimuth + math.radians(180 + 60 * light_azimuth)
    light_at = (2.0 * math.cos(light_azimuth), 2.0 * math.sin(light_azimuth), 2.6 + 0.4 * light_height)
    return Scene(
        camera=look_at(eye, (0.0, 0.0, _TARGET_HEIGHT), math.tan(_HALF_FIELD_OF_VIEW)),
        light=Light(light_at, ambient=0.42, power=0.62 + 0.15 * power, specular=0.35),
        half_room=3.0,
        floor_colour=_colour(floor_hue, 0.75, 0.9),
        wall_colour=_colour(wall_hue, 0.65, 0.95),
        solids=(
            standing(
                shape,
                SCALES[scale],
                (0.25 * shift_x, 0.25 * shift_y),
                math.radians(45) * yaw,
                _colour(object_hue, 0.85, 1.0),
            ),
        ),
        pattern=int(3 * chance[8]) if nuisance > 0 else PLAIN,
        contrast=0.22 * nuisance,
    )


def standing(shape: int, scale: float, at: tuple[float, float], yaw: float, colour: Vector) -> Solid:
    """A solid that stands on the floor."""
    radius, half_height = (scale * length for length in _FULL_SIZE[SHAPES[shape]])
    height = half_height + (radius if shape == CAPSULE else 0.0)
    assert shape != SPHERE or radius == half_height
    return Solid(shape, (*at, height), radius, half_height, yaw, colour)


def _colour(hue: int, saturation: float, value: float) -> Vector:
    return hsv_to_rgb(hue / len(HUES), saturation, value)

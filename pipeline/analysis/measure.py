"""Numbers that any scene has, real or decoded: where its classes are, how large, near and coloured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from pipeline.analysis.views import Views

Property = Literal["area", "across", "down", "depth_m", "lightness", "red_green", "yellow_blue"]
PROPERTIES: tuple[Property, ...] = get_args(Property)
"""Share of the image; centroid from the left and from the top, as shares of the image; metres; then
colour in 0..1: mean of the channels, red - green, and (red + green) / 2 - blue."""

OF_CLASSES = ("area", "across", "down")
"""What only a class has, not the whole scene."""

SCENE = "scene"
"""The region that is the whole image."""

SMALLEST_CHANGE: dict[Property, float] = {
    "area": 0.01, "across": 0.01, "down": 0.01, "depth_m": 0.02,
    "lightness": 0.02, "red_green": 0.02, "yellow_blue": 0.02,
}  # fmt: skip
"""A person would hardly notice less, so a quantity's spread counts as at least this."""

SMALLEST_AREA = 0.005
"""Share of the image below which a class is not measured."""


@dataclass(frozen=True)
class Quantity:
    """A property of a class, or of the whole scene."""

    region: str
    property: Property


def quantities(views: Views, class_names: tuple[str, ...]) -> tuple[Quantity, ...]:
    """All that `measure` gives for such scenes, in its order."""
    known = [name for name in PROPERTIES if _is_known(name, views)]
    regions = class_names if views.labels is not None else ()
    return (
        *(Quantity(SCENE, name) for name in known if name not in OF_CLASSES),
        *(Quantity(region, name) for region in regions for name in known),
    )


def measure(views: Views, class_names: tuple[str, ...]) -> Float[np.ndarray, "scene quantity"]:
    """Every quantity of every scene; NaN where a class is absent, tiny, or without a value."""
    maps = _property_maps(views)
    everything = np.zeros((len(views), *views.size), np.int64)
    whole = [
        _region_means(image, everything, 1)[:, 0] for name, image in maps.items() if name not in OF_CLASSES
    ]
    scene = np.stack(whole, axis=1) if whole else np.empty((len(views), 0))
    if views.labels is None:
        return scene
    classes = len(class_names)
    region = np.where(views.labels < classes, views.labels, classes).astype(np.int64)
    pixels = region.shape[1] * region.shape[2]
    area = _region_sums(np.ones(region.shape, np.float32), region, classes) / pixels
    parts = [area, *(_region_means(image, region, classes) for image in maps.values())]
    visible = np.where(area >= SMALLEST_AREA, 1.0, np.nan)[..., None]
    of_classes = np.stack(parts, axis=2) * visible
    return np.concatenate([scene, of_classes.reshape(len(views), -1)], axis=1)


def spread(
    measured: Float[np.ndarray, "scene quantity"], named: tuple[Quantity, ...]
) -> Float[np.ndarray, " quantity"]:
    """Standard deviation of each quantity over scenes, and at least what a person would notice."""
    least = np.array([SMALLEST_CHANGE[quantity.property] for quantity in named])
    found: Float[np.ndarray, " quantity"] = np.maximum(over_scenes(np.nanstd, measured), least)
    return found


def over_scenes(
    reduce: Callable[..., Float[np.ndarray, " quantity"]], measured: Float[np.ndarray, "scene quantity"]
) -> Float[np.ndarray, " quantity"]:
    """`nanmean` or `nanstd` over scenes; 0 for a quantity that no scene has."""
    unknown = np.isnan(measured).all(axis=0)
    return reduce(np.where(unknown, 0.0, measured), axis=0)


def _property_maps(views: Views) -> dict[Property, Float[np.ndarray, "scene height width"]]:
    """Properties but the area, in order, as pictures whose mean over a region is the region's value."""
    maps: dict[Property, Float[np.ndarray, "scene height width"]] = {}
    height, width = views.size
    if views.labels is not None:
        across = (np.arange(width, dtype=np.float32) + 0.5) / width
        down = (np.arange(height, dtype=np.float32) + 0.5) / height
        maps["across"] = np.broadcast_to(across, (len(views), height, width))
        maps["down"] = np.broadcast_to(down[:, None], (len(views), height, width))
    if views.depth_m is not None:
        maps["depth_m"] = views.depth_m
    if views.rgb is not None:
        red, green, blue = views.rgb.transpose(1, 0, 2, 3)
        maps["lightness"] = (red + green + blue) / 3.0
        maps["red_green"] = red - green
        maps["yellow_blue"] = (red + green) / 2.0 - blue
    return maps


def _region_means(
    image: Float[np.ndarray, "scene height width"],
    region: Int[np.ndarray, "scene height width"],
    regions: int,
) -> Float[np.ndarray, "scene region"]:
    """Mean of the known pixels of each region below `regions`, NaN where there are none."""
    known = np.isfinite(image)
    total = _region_sums(np.where(known, image, 0.0), region, regions)
    count = _region_sums(known.astype(np.float32), region, regions)
    means: Float[np.ndarray, "scene region"] = np.full_like(total, np.nan)
    np.divide(total, count, out=means, where=count > 0)
    return means


def _region_sums(
    image: Float[np.ndarray, "scene height width"],
    region: Int[np.ndarray, "scene height width"],
    regions: int,
) -> Float[np.ndarray, "scene region"]:
    """Sum over each region below `regions`; a pixel of no region has that number."""
    scenes = len(image)
    cell = region + (regions + 1) * np.arange(scenes)[:, None, None]
    sums = np.bincount(cell.ravel(), weights=image.ravel(), minlength=scenes * (regions + 1))
    return sums.reshape(scenes, regions + 1)[:, :regions]


def _is_known(name: Property, views: Views) -> bool:
    match name:
        case "area" | "across" | "down":
            return views.labels is not None
        case "depth_m":
            return views.depth_m is not None
        case _:
            return views.rgb is not None

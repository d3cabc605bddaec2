"""What stands under a figure: the depth scale and the class colours."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from pipeline.analysis.colour import NO_DEPTH, NO_LABEL, class_colour, depth_bar, depth_range_m
from pipeline.analysis.lettering import INK, NOTE_PX, font, text_width, write
from pipeline.data.modality import DatasetInfo

_BAR_PX, _SCALE_LABEL_PX, _SCALE_HEIGHT, _SWATCH_PX = 220, 74, 38, 14


@dataclass(frozen=True)
class Swatch:
    """A colour and what it means."""

    name: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Legend:
    """What stands under a grid: the depths that the colour map spans, and the class colours."""

    depth_m: tuple[float, float] | None = None
    swatches: tuple[Swatch, ...] = ()


def scene_legend(
    info: DatasetInfo,
    labels: Iterable[int] | None = None,
    *,
    holes: bool = False,
    unlabelled: bool = False,
) -> Legend:
    """The legend that fits a dataset.

    Args:
        info: The dataset; its depth statistics give the scale that `depth_range_m` decides.
        labels: Classes that occur in the picture; None: all.
        holes: The picture has pixels without depth, so say which colour they have.
        unlabelled: The picture has ignored pixels, so say which colour they have.
    """
    shown = range(len(info.class_names)) if labels is None else sorted(set(labels))
    swatches = [
        Swatch(info.class_names[label], class_colour(label))
        for label in shown
        if label < len(info.class_names)
    ]
    if unlabelled:
        swatches.append(Swatch("no label", NO_LABEL))
    if holes:
        swatches.append(Swatch("no depth", NO_DEPTH))
    return Legend(depth_range_m(info.depth) if info.depth else None, tuple(swatches))


def legend_height(legend: Legend, width: int) -> int:
    """Pixels that `paint_legend` needs below its upper edge."""
    scale, swatches = _arrange(legend, width)
    lowest = max((y for _, y in swatches), default=0)
    return max(_SCALE_HEIGHT if scale else 0, lowest + _SWATCH_PX)


def paint_legend(canvas: Image.Image, legend: Legend, left: int, top: int, width: int) -> None:
    """Draw the scale and, to its right or below it, the swatches in as many lines as they need."""
    brush = ImageDraw.Draw(canvas)
    scale, places = _arrange(legend, width)
    if scale and legend.depth_m:
        _paint_scale(canvas, brush, legend.depth_m, left, top, scale)
    for swatch, (x, y) in zip(legend.swatches, places, strict=True):
        corner = (left + x, top + y)
        brush.rectangle((*corner, corner[0] + _SWATCH_PX - 1, corner[1] + _SWATCH_PX - 1), fill=swatch.colour)
        write(brush, (corner[0] + 20, corner[1] + 7), swatch.name, font(NOTE_PX), anchor="lm")


def _arrange(legend: Legend, width: int) -> tuple[int, list[tuple[int, int]]]:
    """Width of the scale's bar (0: none) and the upper left corner of each swatch."""
    bar = max(40, min(_BAR_PX, width - _SCALE_LABEL_PX)) if legend.depth_m else 0
    indent, y = (_SCALE_LABEL_PX + bar + 40 if bar else 0), 0
    widths = [20 + text_width(swatch.name, font(NOTE_PX)) for swatch in legend.swatches]
    if bar and widths and indent + max(120, *widths) > width:
        indent, y = 0, _SCALE_HEIGHT + 12
    x, places = indent, []
    for needed in widths:
        if x > indent and x + needed > width:
            x, y = indent, y + NOTE_PX + 12
        places.append((x, y))
        x += needed + 18
    return bar, places


def _paint_scale(
    canvas: Image.Image, brush: ImageDraw.ImageDraw, depth_m: tuple[float, float], x: int, y: int, width: int
) -> None:
    low, high = depth_m
    write(brush, (x, y + 7), "depth (m)", font(NOTE_PX), anchor="lm")
    start = x + _SCALE_LABEL_PX
    canvas.paste(Image.fromarray(depth_bar(width, 14)), (start, y))
    for tick in round_ticks(low, high):
        centre = start + round((tick - low) / (high - low) * (width - 1))
        brush.line((centre, y + 14, centre, y + 17), fill=INK)
        write(brush, (centre, y + 19), f"{tick:g}", font(NOTE_PX), anchor="ma")


def round_ticks(low: float, high: float) -> list[float]:
    """At most six round numbers from low to high."""
    spacing = next(
        step * 10.0**power
        for power in range(-4, 8)
        for step in (1, 2, 5)
        if (high - low) / (step * 10.0**power) <= 5.0
    )
    first, last = int(np.ceil(low / spacing - 1e-6)), int(np.floor(high / spacing + 1e-6))
    return [round(index * spacing, 6) for index in range(first, last + 1)]

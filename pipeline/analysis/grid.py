"""Figures made of small pictures: a grid with labels, captions, a depth scale and the class colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from pipeline.analysis.colour import NO_DEPTH, NO_LABEL, class_colour, depth_bar, depth_range_m
from pipeline.data.modality import DatasetInfo

TILE_PX = 128
"""Side of a picture in a grid: small images are repeated a whole number of times, large ones averaged."""

_INK, _FAINT, _RULE, _BLANK = (32, 33, 36), (112, 117, 122), (205, 208, 212), (244, 245, 246)
_TEXT_PX, _NOTE_PX = 15, 13
_MARGIN, _GAP, _GROUP_GAP, _PAD = 20, 4, 16, 8
_SCALE_LABEL_PX = 74


@dataclass(frozen=True)
class Tile:
    """One picture, or None where there is nothing to show, and a note under it."""

    image: UInt8[np.ndarray, "height width 3"] | None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """Pictures side by side; neighbouring rows of the same group stand together under its name."""

    tiles: tuple[Tile, ...]
    label: str = ""
    group: str = ""


@dataclass(frozen=True)
class Columns:
    """Neighbouring columns: a caption over all of them and a label over each."""

    labels: tuple[str, ...]
    caption: str = ""


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


def draw_grid(
    rows: Sequence[Row],
    columns: Sequence[Columns] = (),
    legend: Legend | None = None,
    title: str = "",
    tile_px: int = TILE_PX,
) -> Image.Image:
    """Compose a figure.

    Args:
        rows: From top to bottom, each with the same number of pictures.
        columns: Captions, together as many as a row has pictures; empty: none, all columns stand together.
        legend: Drawn at the bottom.
        title: Drawn at the top.
        tile_px: Side of a picture; see `TILE_PX`.

    Raises:
        ValueError: If there is no picture, or rows and columns disagree on their number.
    """
    count = len(rows[0].tiles) if rows else 0
    if count == 0 or any(len(row.tiles) != count for row in rows):
        raise ValueError(f"a grid needs rows of one length, not {[len(row.tiles) for row in rows]}")
    if columns and sum(len(part.labels) for part in columns) != count:
        raise ValueError(
            f"{count} pictures in a row, but captions for {[len(part.labels) for part in columns]}"
        )
    layout = _layout(rows, columns or (Columns(("",) * count),), title, tile_px)
    bottom = layout.bottom + (_PAD + _paint_legend(None, legend, layout, 0) if legend else 0)
    canvas = Image.new("RGB", (layout.width, bottom + _MARGIN), "white")
    brush = ImageDraw.Draw(canvas)
    if title:
        _write(brush, (layout.left, _MARGIN), title, _font(_TEXT_PX + 3, bold=True), anchor="la")
    _paint_columns(brush, columns, layout)
    _paint_row_labels(canvas, rows, layout)
    for y, row in zip(layout.y, rows, strict=True):
        for x, tile in zip(layout.x, row.tiles, strict=True):
            _paint_tile(canvas, brush, tile, x, y, layout.tile)
    if legend:
        _paint_legend(canvas, legend, layout, layout.bottom + _PAD)
    return canvas


def save_png(path: Path, image: Image.Image | UInt8[np.ndarray, "height width 3"]) -> None:
    """Write a PNG; the same picture gives the same bytes."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="PNG", compress_level=6)


def resized(image: UInt8[np.ndarray, "height width 3"], side_px: int) -> Image.Image:
    """A picture at about `side_px` for its longer side: crisp pixels when enlarged, averaged when reduced."""
    picture = Image.fromarray(image)
    longer = max(picture.size)
    if longer <= side_px:
        factor = side_px // longer
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    shape = (max(1, picture.width * side_px // longer), max(1, picture.height * side_px // longer))
    return picture.resize(shape, Image.Resampling.BOX)


@dataclass(frozen=True)
class _Layout:
    """Where everything goes, in pixels: left edges of columns, upper edges of rows."""

    x: tuple[int, ...]
    y: tuple[int, ...]
    tile: tuple[int, int]
    left: int
    label_right: int
    captions_y: int
    width: int
    bottom: int


def _layout(rows: Sequence[Row], columns: Sequence[Columns], title: str, tile_px: int) -> _Layout:
    image = next((tile.image for row in rows for tile in row.tiles if tile.image is not None), None)
    tile = (tile_px, tile_px) if image is None else resized(image, tile_px).size
    grouped = any(row.group for row in rows)
    label_width = max(_text_width(row.label, _font(_TEXT_PX)) for row in rows)
    label_right = _MARGIN + (_TEXT_PX + 2 * _PAD if grouped else 0) + label_width
    left = label_right + (2 * _PAD if label_width else 0)
    ends = set(accumulate(len(part.labels) for part in columns))
    x = [left]
    for column in range(1, len(rows[0].tiles)):
        x.append(x[-1] + tile[0] + (_GROUP_GAP if column in ends else _GAP))
    captions_y = _MARGIN + (_TEXT_PX + 3 + 2 * _PAD if title else 0)
    y = [captions_y + _caption_height(columns)]
    for above, below in zip(rows, rows[1:], strict=False):
        gap = _GROUP_GAP if grouped and above.group != below.group else _GAP
        y.append(y[-1] + tile[1] + _note_height(above) + gap)
    return _Layout(
        x=tuple(x),
        y=tuple(y),
        tile=tile,
        left=left,
        label_right=label_right,
        captions_y=captions_y,
        width=x[-1] + tile[0] + _MARGIN,
        bottom=y[-1] + tile[1] + _note_height(rows[-1]),
    )


def _caption_height(columns: Sequence[Columns]) -> int:
    line = _TEXT_PX + _PAD
    captioned = any(part.caption for part in columns)
    labelled = any(label for part in columns for label in part.labels)
    return (line + 4 if captioned else 0) + (line if labelled else 0)


def _note_height(row: Row) -> int:
    return _NOTE_PX + 6 if any(tile.note for tile in row.tiles) else 0


def _paint_columns(brush: ImageDraw.ImageDraw, columns: Sequence[Columns], layout: _Layout) -> None:
    labels_y = layout.y[0] - _PAD // 2
    first = 0
    for part in columns:
        last = first + len(part.labels) - 1
        start, end = layout.x[first], layout.x[last] + layout.tile[0]
        if part.caption:
            _write(
                brush,
                ((start + end) // 2, layout.captions_y),
                part.caption,
                _font(_TEXT_PX, bold=True),
                anchor="ma",
            )
            rule_y = layout.captions_y + _TEXT_PX + 6
            brush.line((start, rule_y, end - 1, rule_y), fill=_RULE)
        for column, label in enumerate(part.labels, first):
            centre = layout.x[column] + layout.tile[0] // 2
            _write(brush, (centre, labels_y), label, _font(_TEXT_PX), anchor="md")
        first = last + 1


def _paint_row_labels(canvas: Image.Image, rows: Sequence[Row], layout: _Layout) -> None:
    brush = ImageDraw.Draw(canvas)
    for y, row in zip(layout.y, rows, strict=True):
        _write(brush, (layout.label_right, y + layout.tile[1] // 2), row.label, _font(_TEXT_PX), anchor="rm")
    first = 0
    for last in range(len(rows)):
        if last + 1 < len(rows) and rows[last + 1].group == rows[first].group:
            continue
        if rows[first].group:
            _paint_group(canvas, rows[first].group, layout.y[first], layout.y[last] + layout.tile[1])
        first = last + 1


def _paint_group(canvas: Image.Image, name: str, top: int, bottom: int) -> None:
    """A group's name, read from below, and a rule along its rows."""
    font = _font(_TEXT_PX, bold=True)
    while _text_width(name, font) > bottom - top and len(name) > 2:
        name = name[:-2] + "…"
    strip = Image.new("RGB", (_text_width(name, font) + 2, _TEXT_PX + 6), "white")
    ImageDraw.Draw(strip).text((1, strip.height // 2), name, font=font, fill=_INK, anchor="lm")
    turned = strip.rotate(90, expand=True)
    canvas.paste(turned, (_MARGIN - 4, (top + bottom - turned.height) // 2))
    ImageDraw.Draw(canvas).line((_MARGIN + _TEXT_PX + 5, top, _MARGIN + _TEXT_PX + 5, bottom - 1), fill=_RULE)


def _paint_tile(
    canvas: Image.Image, brush: ImageDraw.ImageDraw, tile: Tile, x: int, y: int, shape: tuple[int, int]
) -> None:
    if tile.image is None:
        brush.rectangle((x, y, x + shape[0] - 1, y + shape[1] - 1), fill=_BLANK)
        _write(brush, (x + shape[0] // 2, y + shape[1] // 2), "–", _font(_TEXT_PX), anchor="mm", fill=_FAINT)
    else:
        canvas.paste(resized(tile.image, max(shape)), (x, y))
    if tile.note:
        _write(
            brush, (x + shape[0] // 2, y + shape[1] + 4), tile.note, _font(_NOTE_PX), anchor="ma", fill=_FAINT
        )


def _paint_legend(canvas: Image.Image | None, legend: Legend | None, layout: _Layout, top: int) -> int:
    """Draw, or with no canvas only measure; returns the height."""
    if legend is None or (legend.depth_m is None and not legend.swatches):
        return 0
    brush = ImageDraw.Draw(canvas) if canvas else None
    font, line = _font(_NOTE_PX), _NOTE_PX + 12
    x, y = layout.left, top + _PAD
    height = line
    if legend.depth_m:
        bar = min(220, layout.width - _MARGIN - layout.left - _SCALE_LABEL_PX)
        if canvas and brush:
            _paint_depth_scale(canvas, brush, legend.depth_m, x, y, bar)
        x, height = x + _SCALE_LABEL_PX + bar + 40, 38
    indent = x
    if indent + 120 > layout.width - _MARGIN and legend.swatches and legend.depth_m:
        x = indent = layout.left
        y, height = y + height + 4, height + 4 + line
    for swatch in legend.swatches:
        width = 14 + 6 + _text_width(swatch.name, font)
        if x > indent and x + width > layout.width - _MARGIN:
            x, y = indent, y + line
            height = max(height, y - top - _PAD + line)
        if brush:
            brush.rectangle((x, y, x + 13, y + 13), fill=swatch.colour)
            _write(brush, (x + 20, y + 7), swatch.name, font, anchor="lm")
        x += width + 18
    return height + _PAD


def _paint_depth_scale(
    canvas: Image.Image, brush: ImageDraw.ImageDraw, depth_m: tuple[float, float], x: int, y: int, width: int
) -> None:
    font, (low, high) = _font(_NOTE_PX), depth_m
    label = _SCALE_LABEL_PX
    _write(brush, (x, y + 7), "depth (m)", font, anchor="lm")
    canvas.paste(Image.fromarray(depth_bar(width, 14)), (x + label, y))
    for tick in _ticks(low, high):
        centre = x + label + round((tick - low) / (high - low) * (width - 1))
        brush.line((centre, y + 14, centre, y + 17), fill=_INK)
        _write(brush, (centre, y + 19), f"{tick:g}", font, anchor="ma")


def _ticks(low: float, high: float) -> list[float]:
    """At most six round numbers from low to high."""
    spacing = next(
        step * 10.0**power
        for power in range(-4, 8)
        for step in (1, 2, 5)
        if (high - low) / (step * 10.0**power) <= 5.0
    )
    first, last = int(np.ceil(low / spacing - 1e-6)), int(np.floor(high / spacing + 1e-6))
    return [round(index * spacing, 6) for index in range(first, last + 1)]


Anchor = Literal["la", "ma", "md", "rm", "mm", "lm"]


def _write(
    brush: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    font: ImageFont.FreeTypeFont,
    *,
    anchor: Anchor,
    fill: tuple[int, int, int] = _INK,
) -> None:
    if text:
        brush.text(place, text, font=font, fill=fill, anchor=anchor)


def _text_width(text: str, font: ImageFont.FreeTypeFont) -> int:
    return round(font.getlength(text)) if text else 0


@cache
def _font(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(matplotlib.get_data_path(), "fonts", "ttf", name)
    return ImageFont.truetype(path, size_px, layout_engine=ImageFont.Layout.BASIC)

"""Figures made of small pictures: a grid with labels, captions, a depth scale and the class colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from pipeline.analysis.legend import Legend, Swatch, legend_height, paint_legend, scene_legend
from pipeline.analysis.lettering import FAINT, INK, NOTE_PX, TEXT_PX, font, text_width, write

__all__ = ["Columns", "Legend", "Row", "Swatch", "Tile", "draw_grid", "resized", "save_png", "scene_legend"]

TILE_PX = 128
"""Side of a picture in a grid: small images are repeated a whole number of times, large ones averaged."""

_RULE, _BLANK = (205, 208, 212), (244, 245, 246)
_MARGIN, _GAP, _GROUP_GAP, _PAD = 20, 4, 16, 8


@dataclass(frozen=True)
class Tile:
    """One picture, or None where there is nothing to show and `blank` stands instead; a note under it."""

    image: UInt8[np.ndarray, "height width 3"] | None
    note: str = ""
    blank: str = "\N{EN DASH}"


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
    room = layout.width - _MARGIN - layout.left
    bottom = layout.bottom + (2 * _PAD + legend_height(legend, room) if legend else 0)
    canvas = Image.new("RGB", (layout.width, bottom + _MARGIN), "white")
    brush = ImageDraw.Draw(canvas)
    if title:
        write(brush, (layout.left, _MARGIN), title, font(TEXT_PX + 3, bold=True), anchor="la")
    _paint_columns(brush, columns, layout)
    _paint_row_labels(canvas, rows, layout)
    for y, row in zip(layout.y, rows, strict=True):
        for x, tile in zip(layout.x, row.tiles, strict=True):
            _paint_tile(canvas, brush, tile, x, y, layout.tile)
    if legend:
        paint_legend(canvas, legend, layout.left, layout.bottom + 2 * _PAD, room)
    return canvas


def save_png(path: Path, image: Image.Image | UInt8[np.ndarray, "height width 3"]) -> None:
    """Write a PNG; the same picture gives the same bytes."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="PNG", compress_level=3)  # more effort makes photographs hardly smaller


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
    label_width = max(text_width(row.label, font(TEXT_PX)) for row in rows)
    label_right = _MARGIN + (TEXT_PX + 2 * _PAD if grouped else 0) + label_width
    left = label_right + (2 * _PAD if label_width else 0)
    ends = set(accumulate(len(part.labels) for part in columns))
    x = [left]
    for column in range(1, len(rows[0].tiles)):
        x.append(x[-1] + tile[0] + (_GROUP_GAP if column in ends else _GAP))
    captions_y = _MARGIN + (TEXT_PX + 3 + 2 * _PAD if title else 0)
    y = [captions_y + _caption_height(columns)]
    for above, below in pairwise(rows):
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
    line = TEXT_PX + _PAD
    captioned = any(part.caption for part in columns)
    labelled = any(label for part in columns for label in part.labels)
    return (line + 4 if captioned else 0) + (line if labelled else 0)


def _note_height(row: Row) -> int:
    return NOTE_PX + 6 if any(tile.note for tile in row.tiles) else 0


def _paint_columns(brush: ImageDraw.ImageDraw, columns: Sequence[Columns], layout: _Layout) -> None:
    labels_y = layout.y[0] - _PAD // 2
    first = 0
    for part in columns:
        last = first + len(part.labels) - 1
        start, end = layout.x[first], layout.x[last] + layout.tile[0]
        if part.caption:
            write(
                brush,
                ((start + end) // 2, layout.captions_y),
                part.caption,
                font(TEXT_PX, bold=True),
                anchor="ma",
            )
            rule_y = layout.captions_y + TEXT_PX + 6
            brush.line((start, rule_y, end - 1, rule_y), fill=_RULE)
        for column, label in enumerate(part.labels, first):
            centre = layout.x[column] + layout.tile[0] // 2
            write(brush, (centre, labels_y), label, font(TEXT_PX), anchor="md")
        first = last + 1


def _paint_row_labels(canvas: Image.Image, rows: Sequence[Row], layout: _Layout) -> None:
    brush = ImageDraw.Draw(canvas)
    for y, row in zip(layout.y, rows, strict=True):
        write(brush, (layout.label_right, y + layout.tile[1] // 2), row.label, font(TEXT_PX), anchor="rm")
    first = 0
    for last in range(len(rows)):
        if last + 1 < len(rows) and rows[last + 1].group == rows[first].group:
            continue
        if rows[first].group:
            _paint_group(canvas, rows[first].group, layout.y[first], layout.y[last] + layout.tile[1])
        first = last + 1


def _paint_group(canvas: Image.Image, name: str, top: int, bottom: int) -> None:
    """A group's name, read from below, and a rule along its rows."""
    bold = font(TEXT_PX, bold=True)
    while text_width(name, bold) > bottom - top and len(name) > 2:
        name = name[:-2] + "…"
    strip = Image.new("RGB", (text_width(name, bold) + 2, TEXT_PX + 6), "white")
    ImageDraw.Draw(strip).text((1, strip.height // 2), name, font=bold, fill=INK, anchor="lm")
    turned = strip.rotate(90, expand=True)
    canvas.paste(turned, (_MARGIN - 4, (top + bottom - turned.height) // 2))
    ImageDraw.Draw(canvas).line((_MARGIN + TEXT_PX + 5, top, _MARGIN + TEXT_PX + 5, bottom - 1), fill=_RULE)


def _paint_tile(
    canvas: Image.Image, brush: ImageDraw.ImageDraw, tile: Tile, x: int, y: int, shape: tuple[int, int]
) -> None:
    if tile.image is None:
        brush.rectangle((x, y, x + shape[0] - 1, y + shape[1] - 1), fill=_BLANK)
        write(
            brush,
            (x + shape[0] // 2, y + shape[1] // 2),
            tile.blank,
            font(TEXT_PX),
            anchor="mm",
            fill=FAINT,
        )
    else:
        canvas.paste(resized(tile.image, max(shape)), (x, y))
    if tile.note:
        write(brush, (x + shape[0] // 2, y + shape[1] + 4), tile.note, font(NOTE_PX), anchor="ma", fill=FAINT)

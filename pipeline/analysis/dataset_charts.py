"""How often each class and each depth is, as pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pipeline.analysis.colour import NO_LABEL, class_colour, depth_colour
from pipeline.analysis.dataset import Survey, class_pixels
from pipeline.analysis.dataset_text import HOLES, metres, percent
from pipeline.analysis.lettering import FAINT, INK, NOTE_PX, TEXT_PX, font, text_width, write

_MARGIN, _ROW, _BAR, _GAP, _BAR_HEIGHT = 20, 24, 300, 14, 16
_RAIL = (238, 240, 242)


@dataclass(frozen=True)
class Bar:
    """One bar: how long as a share of the longest possible, and the number beside it."""

    share: float
    text: str
    colour: tuple[int, int, int]


def draw_classes(found: Survey) -> Image.Image | None:
    """Per class its share of the pixels, and of the samples that have it; None without classes."""
    names = found.description.info.class_names
    if not names:
        return None
    pixels = class_pixels(found)
    total = sum(pixels) + found.pixels.unlabelled
    samples = sum(found.pixels.labelled.values())
    rows = []
    for label, name in enumerate(names):
        within = sum(classes[label].samples for classes in found.pixels.classes.values())
        colour = class_colour(label)
        shares = (pixels[label], total), (within, samples)
        rows.append((
            name,
            [Bar(part / max(1, whole), percent(part, whole), colour) for part, whole in shares],
        ))
    if found.pixels.unlabelled:
        count = found.pixels.unlabelled
        rows.append(("no label", [Bar(count / total, percent(count, total), NO_LABEL)]))
    return _draw("Classes", ("share of pixels", "share of samples that have it"), rows, [_looked_at(found)])


def draw_depth(found: Survey) -> Image.Image | None:
    """The histogram of depth in the colours that depth has on the contact sheet; None without depth."""
    depth = found.pixels.depth
    if depth is None:
        return None
    low_m, high_m = depth.span_m
    most = max(1, *depth.counts)
    rows = []
    for place, count in enumerate(depth.counts):
        near_m, far_m = depth.edges_m[place : place + 2]
        colour = depth_colour((near_m + far_m) / 2, low_m, high_m)
        rows.append((
            f"{metres(near_m)} to {metres(far_m)} m",
            [Bar(count / most, percent(count, depth.valid), colour)],
        ))
    quantiles = [f"{share:.0%} {metres(value)}" for share, value in depth.quantiles_m.items()]
    holes = [f"{name}: {count:,}" for name, count in zip(HOLES, depth.holes, strict=True) if count]
    notes = [
        f"{percent(depth.valid, depth.pixels)} of pixels valid, "
        f"{metres(depth.nearest_m)} to {metres(depth.farthest_m)} m",
        f"quantiles (m): {', '.join(quantiles)}",
        f"samples by valid pixels: {', '.join(holes)}",
        _looked_at(found),
    ]
    return _draw("Depth", ("share of valid pixels",), rows, notes)


def _looked_at(found: Survey) -> str:
    seen = sum(found.pixels.samples.values())
    return f"of all {seen:,} samples" if found.is_complete else f"of {seen:,} samples, evenly spread"


def _draw(
    title: str, headings: Sequence[str], rows: Sequence[tuple[str, Sequence[Bar]]], notes: Sequence[str]
) -> Image.Image:
    small, large = font(NOTE_PX), font(TEXT_PX, bold=True)
    names = max(text_width(name, small) for name, _ in rows)
    numbers = max(text_width(bar.text, small) for _, bars in rows for bar in bars)
    left = _MARGIN + names + _GAP
    column = _BAR + 6 + numbers + 2 * _GAP
    width = max(left + column * len(headings), *(text_width(note, small) + 2 * _MARGIN for note in notes))
    top = _MARGIN + TEXT_PX + 2 * _GAP + NOTE_PX
    canvas = Image.new("RGB", (width, top + _ROW * len(rows) + (NOTE_PX + 6) * len(notes) + _MARGIN), "white")
    brush = ImageDraw.Draw(canvas)
    write(brush, (_MARGIN, _MARGIN), title, large, anchor="la")
    for number, heading in enumerate(headings):
        write(brush, (left + number * column, top - 6), heading, small, anchor="ld", fill=FAINT)
    for row, (name, bars) in enumerate(rows):
        middle = top + row * _ROW + _ROW // 2
        write(brush, (left - _GAP, middle), name, small, anchor="rm")
        for number, bar in enumerate(bars):
            _paint_bar(brush, bar, left + number * column, middle)
    for number, note in enumerate(notes):
        y = top + _ROW * len(rows) + _GAP // 2 + number * (NOTE_PX + 6)
        write(brush, (_MARGIN, y), note, small, anchor="la", fill=FAINT)
    return canvas


def _paint_bar(brush: ImageDraw.ImageDraw, bar: Bar, left: int, middle: int) -> None:
    top, bottom = middle - _BAR_HEIGHT // 2, middle + _BAR_HEIGHT // 2 - 1
    brush.rectangle((left, top, left + _BAR - 1, bottom), fill=_RAIL)
    length = max(round(bar.share * _BAR), 1) if bar.share > 0 else 0
    if length:
        brush.rectangle((left, top, left + length - 1, bottom), fill=bar.colour)
    write(brush, (left + _BAR + 6, middle), bar.text, font(NOTE_PX), anchor="lm", fill=INK)

"""The numbers of a comparison as one figure: a panel per quantity, a row per system, a dot per seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pipeline.analysis.comparison import Comparison, Quantity, Summary, leaders, missing_reason
from pipeline.analysis.comparison_text import (
    DASH,
    decimals,
    general_notes,
    number_text,
    partly_failed,
    title_of,
)
from pipeline.analysis.legend import round_ticks
from pipeline.analysis.lettering import FAINT, INK, NOTE_PX, TEXT_PX, Anchor, font, text_width, write

PANELS_PER_LINE = 4
LOG_RATIO = 20.0
"""Panels whose values are positive and differ by more than this factor have a logarithmic axis."""

LEAST_SHARE = 0.4
"""Of a panel's width that the systems keep; what they are held against is off the axis if it takes more."""

SCALE = 2
"""Drawn so much larger and reduced, which makes dots round."""

COLOURS = (
    (0, 114, 178),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (120, 94, 240),
    (230, 159, 0),
    (86, 180, 233),
    (140, 86, 75),
    (70, 70, 75),
    (166, 118, 29),
)
"""Told apart with any colour vision; after Okabe & Ito 2008."""

Pixels = float | int

_RAIL, _GRID, _REFERENCE = (240, 242, 244), (222, 225, 228), (150, 154, 158)
_MARGIN, _ROW, _BAR, _GAP, _PANEL_GAP = 24, 24, 150, 10, 34
_HEAD, _FOOT = 46, 36


@dataclass(frozen=True)
class Axis:
    """Values to shares of a panel's width.

    Attributes:
        low: The value at the left.
        high: The value at the right.
        is_log: Whether ratios are equally long.
    """

    low: float
    high: float
    is_log: bool

    def share(self, value: float) -> float:
        """0 at the left, 1 at the right."""
        if self.is_log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, width: int) -> list[float]:
        """As many round numbers as can be read side by side in so many pixels."""
        if self.is_log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            ticks = [10.0**power for power in powers if self.low <= 10.0**power <= self.high]
        else:
            ticks = round_ticks(self.low, self.high)
        needed = max((text_width(_tick_text(tick), font(NOTE_PX - 2)) for tick in ticks), default=0) + 8
        apart = width * (self.share(ticks[1]) - self.share(ticks[0])) if len(ticks) > 1 else needed
        return ticks[:: max(1, math.ceil(needed / apart))]


@dataclass(frozen=True)
class _Widths:
    names: int
    numbers: int

    @property
    def panel(self) -> int:
        return self.names + _GAP + _BAR + _GAP + self.numbers


def axis_of(values: Sequence[float]) -> Axis:
    """An axis that holds all values with some room at both ends."""
    low, high = min(values), max(values)
    if low > 0.0 and high / low > LOG_RATIO:
        room = (high / low) ** 0.06
        return Axis(low / room, high * room, True)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return Axis(low - room, high + room, False)


def draw_comparison(comparison: Comparison) -> Image.Image:
    """All quantities of a comparison at a glance."""
    panels = [
        (question.title, quantity)
        for question in comparison.questions
        for quantity in question.quantities
        if any(comparison.summary(system, quantity.metric) for system in comparison.systems)
    ]
    widths = _widths(comparison, panels)
    notes = _wrapped(comparison, _width(widths) - 2 * _MARGIN)
    height = _HEAD + _ROW * len(comparison.systems) + _FOOT
    lines = math.ceil(len(panels) / PANELS_PER_LINE)
    top = _MARGIN + TEXT_PX + 26
    size = (_width(widths), top + lines * (height + _PANEL_GAP) + len(notes) * (NOTE_PX + 6) + _MARGIN)
    canvas = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    brush = _Brush(ImageDraw.Draw(canvas))
    brush.text((_MARGIN, _MARGIN), comparison.name, TEXT_PX + 4, bold=True)
    for number, (question, quantity) in enumerate(panels):
        line, column = divmod(number, PANELS_PER_LINE)
        corner = (_MARGIN + column * (widths.panel + _PANEL_GAP), top + line * (height + _PANEL_GAP))
        _paint_panel(brush, comparison, quantity, question, corner, widths)
    for number, note in enumerate(notes):
        y = top + lines * (height + _PANEL_GAP) + number * (NOTE_PX + 6)
        brush.text((_MARGIN, y), note, NOTE_PX, fill=FAINT)
    return canvas.resize(size, Image.Resampling.LANCZOS)


@dataclass(frozen=True)
class _Brush:
    """Draws in pixels of the finished figure."""

    draw: ImageDraw.ImageDraw

    def text(
        self,
        place: tuple[Pixels, Pixels],
        text: str,
        size: int,
        *,
        bold: bool = False,
        fill: tuple[int, int, int] = INK,
        anchor: Anchor = "la",
    ) -> None:
        spot = (round(place[0] * SCALE), round(place[1] * SCALE))
        write(self.draw, spot, text, font(size * SCALE, bold=bold), anchor=anchor, fill=fill)

    def box(self, box: tuple[Pixels, Pixels, Pixels, Pixels], fill: tuple[int, int, int]) -> None:
        self.draw.rectangle([round(part * SCALE) for part in box], fill=fill)

    def dot(self, x: Pixels, y: Pixels, radius: Pixels, fill: tuple[int, int, int]) -> None:
        box = [round(part * SCALE) for part in (x - radius, y - radius, x + radius, y + radius)]
        self.draw.ellipse(box, fill=fill, outline=(255, 255, 255), width=SCALE)


def _paint_panel(
    brush: _Brush,
    comparison: Comparison,
    quantity: Quantity,
    question: str,
    corner: tuple[int, int],
    widths: _Widths,
) -> None:
    left, top = corner
    found = {system: comparison.summary(system, quantity.metric) for system in comparison.systems}
    reference = comparison.reference(quantity)
    axis = _panel_axis(found.values(), reference)
    start, first = left + widths.names + _GAP, top + _HEAD
    last = first + _ROW * len(found)
    brush.text((start, top), question, NOTE_PX, fill=FAINT)
    brush.text((start, top + NOTE_PX + 4), title_of(quantity), TEXT_PX, bold=True)
    _paint_axis(brush, axis, (start, first, last), quantity.reference_title, reference)
    places = decimals([summary.mean for summary in found.values() if summary])
    best = leaders(comparison, quantity)
    for row, (system, summary) in enumerate(found.items()):
        middle = first + _ROW * row + _ROW / 2
        colour = COLOURS[row % len(COLOURS)]
        brush.text((start - _GAP, middle), system, NOTE_PX, anchor="rm", bold=system in best)
        edge = start + _BAR + _GAP
        if summary is None:
            brush.text((edge, middle), DASH, NOTE_PX, anchor="lm", fill=FAINT)
            continue
        for value in summary.values.values():
            brush.dot(start + axis.share(value) * _BAR, middle, 3.5, _paler(colour))
        x = start + axis.share(summary.mean) * _BAR
        brush.box((x - 1.5, middle - 8, x + 1.5, middle + 8), colour)
        text = number_text(summary.mean, summary.spread, places)
        brush.text((edge, middle), text, NOTE_PX, anchor="lm", bold=system in best)


def _paint_axis(
    brush: _Brush, axis: Axis, place: tuple[int, int, int], reference_title: str, reference: float | None
) -> None:
    start, first, last = place
    brush.box((start, first, start + _BAR, last), _RAIL)
    for tick in axis.ticks(_BAR):
        x = start + axis.share(tick) * _BAR
        brush.box((x - 0.5, first, x + 0.5, last), _GRID)
        brush.text((x, last + 3), _tick_text(tick), NOTE_PX - 2, anchor="ma", fill=FAINT)
    if axis.is_log:
        brush.text((start + _BAR + _GAP, last + 3), "log", NOTE_PX - 2, fill=FAINT)
    if reference is None:
        return
    inside = axis.low <= reference <= axis.high
    text = f"{'dashed: ' if inside else ''}{reference_title} {reference:,.4g}"
    brush.text((start, last + 18), text, NOTE_PX - 2, fill=FAINT)
    x = start + axis.share(reference) * _BAR if inside else 0.0
    for y in range(first, last, 8) if inside else ():
        brush.box((x - 0.5, y, x + 0.5, y + 4), _REFERENCE)


def _panel_axis(summaries: Iterable[Summary | None], reference: float | None) -> Axis:
    """Of every value that a panel shows; what systems are held against, if it leaves them room."""
    values: list[float] = []
    for summary in summaries:
        if summary is not None:
            values += [summary.mean, *summary.values.values()]
    axis = axis_of(values)
    if reference is None or axis.low <= reference <= axis.high:
        return axis
    wider = axis_of([*values, reference])
    taken = wider.share(max(values)) - wider.share(min(values))
    return wider if wider.is_log == axis.is_log and taken >= LEAST_SHARE else axis


def _tick_text(tick: float) -> str:
    return f"{tick:,.5g}"


def _widths(comparison: Comparison, panels: Sequence[tuple[str, Quantity]]) -> _Widths:
    texts = [DASH]
    for _, quantity in panels:
        found = [comparison.summary(system, quantity.metric) for system in comparison.systems]
        places = decimals([summary.mean for summary in found if summary])
        texts += [number_text(summary.mean, summary.spread, places) for summary in found if summary]
    bold = font(NOTE_PX, bold=True)
    return _Widths(
        max(text_width(system, bold) for system in comparison.systems),
        max(text_width(text, bold) for text in texts),
    )


def _width(widths: _Widths) -> int:
    return 2 * _MARGIN + PANELS_PER_LINE * widths.panel + (PANELS_PER_LINE - 1) * _PANEL_GAP


def _wrapped(comparison: Comparison, width: int) -> list[str]:
    """What stands below, in lines that fit."""
    several = "A dot per seed, a bar at their mean"
    known = [note.replace("*:", "Bold:") for note in general_notes(comparison)]
    missing = [f"{', '.join(systems)}: {reason}." for reason, systems in _missing(comparison).items()]
    lines: list[str] = []
    for text in [f"{several}. {known[0]}", *known[1:], *missing]:
        words, line = text.split(), ""
        for word in words:
            longer = f"{line} {word}".strip()
            if line and text_width(longer, font(NOTE_PX)) > width:
                lines.append(line)
                line = f"    {word}"
            else:
                line = longer
        lines.append(line)
    return lines


def _missing(comparison: Comparison) -> dict[str, list[str]]:
    """Why numbers are missing, and of which systems."""
    systems: dict[str, list[str]] = {}
    for system in comparison.systems:
        reasons = [
            missing_reason(comparison, system, quantity)
            for question in comparison.questions
            for quantity in question.quantities
            if comparison.summary(system, quantity.metric) is None
        ]
        if failed := partly_failed(comparison, system):
            reasons.insert(0, failed)
        for reason in dict.fromkeys(reasons):
            systems.setdefault(reason, []).append(system)
    return systems


def _paler(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (round(part + 0.45 * (255 - part)) for part in colour)
    return red, green, blue

"""Text on pictures, in the font that matplotlib ships, so it looks the same on every machine."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from PIL import ImageDraw, ImageFont

INK, FAINT = (32, 33, 36), (112, 117, 122)
TEXT_PX, NOTE_PX = 15, 13

Anchor = Literal["la", "ld", "ma", "md", "rm", "mm", "lm"]
"""Which point of the text stands at the given place: left, middle or right; ascender, middle or descender."""


def write(
    brush: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    font: ImageFont.FreeTypeFont,
    *,
    anchor: Anchor,
    fill: tuple[int, int, int] = INK,
) -> None:
    """Write one line."""
    if text:
        brush.text(place, text, font=font, fill=fill, anchor=anchor)


def text_width(text: str, font: ImageFont.FreeTypeFont) -> int:
    """Width of one line in pixels."""
    return round(font.getlength(text)) if text else 0


@cache
def font(size_px: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans; matplotlib is found but not imported, which takes most of a second."""
    found = find_spec("matplotlib")
    assert found is not None
    assert found.origin is not None
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    path = Path(found.origin).with_name("mpl-data") / "fonts" / "ttf" / name
    return ImageFont.truetype(path, size_px, layout_engine=ImageFont.Layout.BASIC)

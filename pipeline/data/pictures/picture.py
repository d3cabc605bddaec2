"""What one file or array holds before anybody says what its numbers mean, and what is no picture at all."""

from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from pipeline.data.refusal import Refused

MOST_PIXELS = 64_000_000
"""A larger picture is refused before it is decoded."""

REPLACE = "replace the file"

_MOST_CHANNELS = 4


@dataclass(frozen=True)
class Picture:
    """What one file or array holds, as stored.

    Attributes:
        stored: An array (height, width) or (height, width, channel); or a decoded image that becomes one only
            if somebody asks, since colours are brought to size faster without.
        format: PNG, JPEG, TIFF, NPY, EXR; ARRAY if it never was a file.
        mode: Pillow's mode; `RGB;16` and the like for colours of 16 bits; an array's type.
        orientation: EXIF, 1 if there is none. The array is not turned.
        name: What to call it in messages.
        palette: Colour and opacity by index, of a palette picture, whose array holds the indices.
        lossy: Whether its format changes numbers.
    """

    stored: Shaped[np.ndarray, "height width *channel"] | Image.Image
    format: str
    mode: str
    orientation: int
    name: str
    palette: UInt8[np.ndarray, "256 4"] | None = None
    lossy: bool = False

    @cached_property
    def array(self) -> Shaped[np.ndarray, "height width *channel"]:
        """(height, width) or (height, width, channel)."""
        return np.asarray(self.stored)

    @property
    def height_width(self) -> tuple[int, int]:
        """In pixels."""
        if isinstance(self.stored, Image.Image):
            return self.stored.height, self.stored.width
        return self.stored.shape[0], self.stored.shape[1]

    @property
    def what(self) -> str:
        """Its kind of numbers, for messages."""
        shape = " x ".join(map(str, self.array.shape))
        return f"{self.format}, {self.mode}, {shape}"


def picture_of(array: Shaped[np.ndarray, "..."], name: str) -> Picture:
    """An array that a source holds, such as one of an HDF5 file.

    Raises:
        Refused: If it holds no plain numbers, is too large or has no picture's shape.
    """
    return checked_array(array, "ARRAY", name)


def checked_array(array: Shaped[np.ndarray, "..."], kind: str, name: str) -> Picture:
    """An array as a picture.

    Raises:
        Refused: If it holds no plain numbers, is too large or has no picture's shape.
    """
    if array.dtype.hasobject:
        refuse_pickle(name, "an array of objects")
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or array.shape[2:] > (_MOST_CHANNELS,):
        raise Refused(
            "wrong_channels",
            f"{name}: an array {array.dtype} of shape {array.shape}",
            "save plain numbers of shape (height, width) or (height, width, 3)",
        )
    check_pixels(name, *array.shape[:2])
    return Picture(array, kind, array.dtype.name, 1, name)


def check_pixels(name: str, height: int, width: int) -> None:
    """Refuse a size before anything of that size is made.

    Raises:
        Refused: If there are too many pixels, or none.
    """
    if height * width > MOST_PIXELS:
        refuse_size(name, f"{width} x {height} pixels")
    if not height * width:
        raise Refused("unreadable", f"{name}: {width} x {height} pixels", REPLACE)


def refuse_size(name: str, what: str) -> NoReturn:
    """Refuse what is too large.

    Raises:
        Refused: Always.
    """
    raise Refused(
        "too_large", f"{name}: {what}; the limit is {MOST_PIXELS:,} pixels", "make the picture smaller"
    )


def refuse_pickle(name: str, what: str) -> NoReturn:
    """Refuse what could execute something if it were opened.

    Raises:
        Refused: Always.
    """
    raise Refused(
        "pickle",
        f"{name}: {what}, which may run a program when it is opened; it was not",
        "save plain numbers with numpy.save(..., allow_pickle=False)",
    )

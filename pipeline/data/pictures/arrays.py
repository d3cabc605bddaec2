"""Arrays as `numpy.save` writes them."""

import io
import math
from typing import Any

import numpy as np

from pipeline.data.pictures.picture import REPLACE, Picture, check_pixels, checked_array, refuse_pickle
from pipeline.data.refusal import Refused

_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def decode_array(content: bytes, name: str) -> Picture:
    """An array of plain numbers; it shares the memory of the bytes.

    Raises:
        Refused: If it holds objects, is too large, shorter than it says, or no picture's shape.
        ValueError: If the bytes are not what numpy writes.
    """
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"npy version {version}")
    shape, fortran_order, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        refuse_pickle(name, "an array of objects")
    if len(shape) >= 2:
        check_pixels(name, *shape[:2])
    count = math.prod(shape)
    given = len(content) - stream.tell()
    if given < count * dtype.itemsize:
        raise Refused(
            "truncated",
            f"{name}: {given:,} bytes of numbers; {count * dtype.itemsize:,} belong there",
            REPLACE,
        )
    array = np.frombuffer(content, dtype, count, offset=stream.tell())
    return checked_array(array.reshape(shape, order="F" if fortran_order else "C"), "NPY", name)

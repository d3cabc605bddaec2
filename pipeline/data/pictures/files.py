"""One picture from its bytes: what it is decided by content, its size bounded before it is decoded."""

import io
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from pipeline.data.refusal import Refused

SUFFIXES = (".png", ".jpg", ".jpeg", ".npy", ".exr", ".tif", ".tiff")
"""Of files that are pictures, in lower case."""

MOST_PIXELS = 64_000_000
"""A larger picture is refused before it is decoded."""

MOST_BYTES = 1 << 30
"""A larger file is refused before it is read."""

REPLACE = "replace the file"

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"\x93NUMPY": "NPY",
    b"\x76\x2f\x31\x01": "EXR",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
_LFS_POINTER = b"version https://git-lfs"
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_ORIENTATION = 0x0112
_TAIL = 64


@dataclass(frozen=True)
class Picture:
    """What one file or array holds, before anybody says what the numbers mean.

    Attributes:
        array: (height, width) or (height, width, channel).
        format: PNG, JPEG, TIFF, NPY, EXR; ARRAY if it never was a file.
        mode: Pillow's mode; `RGB;16` and the like for colours of 16 bits; an array's type.
        orientation: EXIF, 1 if there is none. The array is as stored, not turned.
        name: What to call it in messages.
        palette: Colours (and perhaps opacity) of a palette picture, whose array holds the indices.
    """

    array: Shaped[np.ndarray, "height width *channel"]
    format: str
    mode: str
    orientation: int
    name: str
    palette: UInt8[np.ndarray, "colour channel"] | None = None

    @property
    def what(self) -> str:
        """Its kind of numbers, for messages."""
        return f"{self.format} of mode {self.mode}, shape {self.array.shape}"


def read_picture(path: Path) -> Picture:
    """The picture in a file.

    Raises:
        Refused: If it cannot be read, or is not a picture we take.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise Refused("unreadable", f"{path.name}: {error.strerror}", "check the file") from None
    return decode_picture(content, path.name)


def decode_picture(content: bytes, name: str) -> Picture:
    """The picture in some bytes; nothing in them is executed.

    Args:
        content: A PNG, JPEG, TIFF or EXR picture or an array as `numpy.save` writes it.
        name: What to call it in messages.

    Raises:
        Refused: If it is not such a picture, truncated, damaged or too large.
    """
    if len(content) > MOST_BYTES:
        _too_large(name, f"more than {MOST_BYTES:,} bytes")
    kind = _kind(content, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            match kind:
                case "NPY":
                    return _array(content, name)
                case _:
                    return _image(content, name)
    except Refused:
        raise
    except Image.DecompressionBombError as error:
        _too_large(name, str(error))
    except Exception as error:  # noqa: BLE001 (a damaged file may make a decoder raise anything)
        if kind in _ENDS and _ENDS[kind] not in content[-_TAIL:]:
            raise Refused("truncated", f"{name}: the {kind} ends too early: {error}", REPLACE) from None
        raise Refused("unreadable", f"{name}: {error}", REPLACE) from None


def picture_of(array: Shaped[np.ndarray, "..."], name: str) -> Picture:
    """An array that a source holds, such as one of an HDF5 file.

    Raises:
        Refused: If it holds objects, is too large or is not a picture's shape.
    """
    return _checked(array, "ARRAY", name)


def _kind(content: bytes, name: str) -> str:
    for magic, kind in _MAGIC.items():
        if content.startswith(magic):
            return kind
    if content.startswith(_LFS_POINTER):
        raise Refused("lfs_pointer", f"{name}: a Git LFS pointer, not the file", "fetch it: git lfs pull")
    if not content:
        raise Refused("truncated", f"{name}: the file is empty", REPLACE)
    if _PICKLE.match(content):
        raise Refused("pickle", f"{name}: a pickle; it is not opened", "save plain arrays with numpy.save")
    raise Refused(
        "not_an_image", f"{name}: begins with {content[:8]!r}", "give PNG, JPEG, TIFF, EXR or .npy files"
    )


def _image(content: bytes, name: str) -> Picture:
    with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "TIFF")) as image:
        _check_pixels(name, image.height, image.width)
        image.load()
        array, mode, palette = np.asarray(image), image.mode, None
        if mode == "P":
            kind = "RGBA" if "transparency" in image.info else "RGB"
            colours = Image.new("P", (256, 1))
            colours.putdata(range(256))
            colours.putpalette(image.getpalette() or [])
            palette = np.asarray(colours.convert("RGB"))[0]
            if kind == "RGBA":
                palette = np.concatenate([palette, np.zeros((256, 1), np.uint8)], axis=1)
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        assert image.format is not None
        return Picture(array, image.format, mode, orientation if 1 <= orientation <= 8 else 1, name, palette)


def _array(content: bytes, name: str) -> Picture:
    stream = io.BytesIO(content)
    version = np.lib.format.read_magic(stream)
    header: Any = (
        np.lib.format.read_array_header_1_0(stream)
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0(stream)
    )
    shape, fortran_order, dtype = header
    if dtype.hasobject:
        raise Refused("pickle", f"{name}: an array of objects; it is not opened", "save plain numbers")
    if len(shape) >= 2:
        _check_pixels(name, *shape[:2])
    count = int(np.prod(shape, dtype=object))
    if len(content) - stream.tell() < count * dtype.itemsize:
        raise Refused("truncated", f"{name}: shorter than its header says", REPLACE)
    array = np.frombuffer(content, dtype, count, offset=stream.tell())
    return _checked(array.reshape(shape, order="F" if fortran_order else "C"), "NPY", name)


def _checked(array: Shaped[np.ndarray, "..."], kind: str, name: str) -> Picture:
    if array.dtype.hasobject:
        raise Refused("pickle", f"{name}: an array of objects", "give plain numbers")
    if array.ndim not in (2, 3):
        raise Refused(
            "wrong_channels",
            f"{name}: an array of shape {array.shape}",
            "give (height, width) or (height, width, 3)",
        )
    _check_pixels(name, *array.shape[:2])
    return Picture(array, kind, array.dtype.name, 1, name)


def _check_pixels(name: str, height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        _too_large(name, f"{width} x {height} pixels")
    if not height * width:
        raise Refused("unreadable", f"{name}: {width} x {height} pixels", REPLACE)


def _too_large(name: str, what: str) -> NoReturn:
    raise Refused(
        "too_large", f"{name}: {what}; the limit is {MOST_PIXELS:,} pixels", "make the picture smaller"
    )

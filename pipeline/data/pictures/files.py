"""One picture from its bytes: content decides what it is, and its size is bounded before it is decoded."""

import os
import re
import warnings
from pathlib import Path

from PIL import Image

from pipeline.data.pictures.arrays import decode_array
from pipeline.data.pictures.exr import decode_exr
from pipeline.data.pictures.picture import REPLACE, Picture, picture_of, refuse_pickle, refuse_size
from pipeline.data.pictures.raster import decode_raster
from pipeline.data.refusal import Refused
from pipeline.errors import InputError

__all__ = ["SUFFIXES", "Picture", "decode_picture", "picture_of", "read_picture"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".npy", ".exr", ".tif", ".tiff")
"""Of files that are pictures, in lower case."""

MOST_BYTES = 1 << 30
"""A larger file is refused before it is read."""

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"\x93NUMPY": "NPY",
    b"\x76\x2f\x31\x01": "EXR",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
}
_LFS_POINTER = b"version https://git-lfs"
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_ENDS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
_TAIL = 64
_ENDS_EARLY = re.compile(r"truncated|end of file|eof|too short|incomplete|unexpected end", re.IGNORECASE)


def read_picture(path: Path) -> Picture:
    """The picture in a file.

    Raises:
        Refused: If it cannot be read, or is not a picture we take.
        InputError: If its format needs a package that is not installed.
    """
    try:
        with path.open("rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > MOST_BYTES:
                refuse_size(path.name, f"more than {MOST_BYTES:,} bytes")
            content = file.read()
    except OSError as error:
        raise Refused(
            "unreadable", f"{path.name}: {error.strerror}", "check the file and its permissions"
        ) from None
    return decode_picture(content, path.name)


def decode_picture(content: bytes, name: str) -> Picture:
    """The picture in some bytes; nothing in them is executed.

    Args:
        content: A PNG, JPEG, TIFF or EXR picture or an array as `numpy.save` writes it.
        name: What to call it in messages.

    Raises:
        Refused: If it is not such a picture, or truncated, damaged or too large.
        InputError: If its format needs a package that is not installed.
    """
    if len(content) > MOST_BYTES:
        refuse_size(name, f"more than {MOST_BYTES:,} bytes")
    kind = _kind(content, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            match kind:
                case "NPY":
                    return decode_array(content, name)
                case "EXR":
                    return decode_exr(content, name)
                case _:
                    return decode_raster(content, kind, name)
    except (Refused, InputError):
        raise
    except Image.DecompressionBombError as error:
        refuse_size(name, str(error))
    except Exception as error:  # noqa: BLE001 (a damaged file may make a decoder raise anything)
        if _ends_early(content, kind, str(error)):
            raise Refused("truncated", f"{name}: the {kind} ends too early ({error})", REPLACE) from None
        raise Refused(
            "unreadable", f"{name}: the {kind} is damaged or ends too early ({error})", REPLACE
        ) from None


def _kind(content: bytes, name: str) -> str:
    for magic, kind in _MAGIC.items():
        if content.startswith(magic):
            return kind
        if magic.startswith(content):
            raise Refused("truncated", f"{name}: it has {len(content)} bytes", REPLACE)
    if content.startswith(_LFS_POINTER):
        raise Refused("lfs_pointer", f"{name}: a Git LFS pointer, not the file", "fetch it: git lfs pull")
    if _PICKLE.match(content):
        refuse_pickle(name, "a pickle")
    raise Refused(
        "not_an_image",
        f"{name}: it begins with {content[:8]!r}",
        "save it as PNG, JPEG, TIFF, EXR or .npy",
    )


def _ends_early(content: bytes, kind: str, said: str) -> bool:
    if kind in _ENDS:
        return _ENDS[kind] not in content[-_TAIL:]
    return bool(_ENDS_EARLY.search(said))

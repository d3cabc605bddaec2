"""PNG, JPEG and TIFF: what Pillow decodes, with its conveniences undone where they change numbers."""

import io

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from pipeline.data.pictures.picture import Picture, check_pixels
from pipeline.data.pictures.square import turned
from pipeline.data.refusal import Refused

_ORIENTATION = 0x0112
_EXIF_IN = {"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
_TURNED_BACK = {6: 8, 8: 6}
_OPAQUE = 255
_GREY = 0
_IHDR = slice(12, 16)
_BIT_DEPTH, _COLOUR_TYPE = 24, 25


def decode_raster(content: bytes, kind: str, name: str) -> Picture:
    """Decode an image whose size was checked first.

    Raises:
        Refused: If it is too large or has several pages.
        Exception: Whatever Pillow raises for a damaged file.
    """
    with Image.open(io.BytesIO(content), formats=(kind,)) as image:
        check_pixels(name, image.height, image.width)
        orientation = _orientation(image, kind)
        lossy = kind == "JPEG" or "jpeg" in str(image.info.get("compression", ""))
        if kind == "TIFF" and getattr(image, "n_frames", 1) > 1:
            raise Refused("wrong_channels", f"{name}: a TIFF of several pages", "save one page per file")
        image.load()
        palette = _palette(image) if image.mode == "P" else None
        mode = image.mode
    if mode == "RGB" and (kind == "JPEG" or (content[_BIT_DEPTH] == 8 and kind == "PNG")):
        return Picture(image, kind, mode, orientation, name, palette, lossy)
    array = np.asarray(image)
    if kind == "TIFF" and orientation != 1:  # Pillow turns a TIFF while it loads
        array = turned(array, _TURNED_BACK.get(orientation, orientation))
    if kind == "PNG" and content[_IHDR] == b"IHDR":
        array, mode = _as_stored(array, mode, content[_BIT_DEPTH], content[_COLOUR_TYPE])
    return Picture(array, kind, mode, orientation, name, palette, lossy)


def _orientation(image: Image.Image, kind: str) -> int:
    if kind != "TIFF" and not _EXIF_IN & image.info.keys():
        return 1
    orientation = image.getexif().get(_ORIENTATION, 1)
    return orientation if orientation in range(2, 9) else 1


def _palette(image: Image.Image) -> UInt8[np.ndarray, "256 4"]:
    """Colour and opacity by index; what has no entry is black."""
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 3] = _OPAQUE
    colours = np.asarray(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    palette[: len(colours), :3] = colours
    match image.info.get("transparency"):
        case bytes() as opacity:
            palette[: len(opacity), 3] = np.frombuffer(opacity, np.uint8)[:256]
        case int() as clear:
            palette[clear, 3] = 0
    return palette


def _as_stored(
    array: Shaped[np.ndarray, "..."], mode: str, bits: int, colour_type: int
) -> tuple[Shaped[np.ndarray, "..."], str]:
    """Undo what Pillow does to a PNG: grey of 2 or 4 bits stretched to 255, colours of 16 bits cut to 8."""
    if colour_type == _GREY and bits in (2, 4):
        return array // (255 // (2**bits - 1)), mode
    return array, f"{mode};16" if bits == 16 and mode not in ("I", "I;16", "I;16B") else mode

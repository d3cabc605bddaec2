"""One picture of a person's own data: read with care, cut to a square, brought to size.

RGB is averaged over the area a pixel covers. Depth and labels are never averaged, since a mean of
two surfaces is on neither: labels take the value in the middle of the area, depth the valid value
nearest to the middle. EXIF orientation is not applied, for depth and labels have none.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float32, Int, Shaped, UInt8
from PIL import Image

from pipeline.data.modality import IGNORE_INDEX
from pipeline.data.refusal import Refused

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
ARRAY_SUFFIX = ".npy"

MOST_PIXELS = 64_000_000
"""A larger picture is refused before it is decoded."""

_OPAQUE = 255
_REPLACE = "replace the file"


def read_rgb(path: Path) -> UInt8[np.ndarray, "height width 3"]:
    """An RGB picture.

    Raises:
        Refused: If it cannot be decoded or is not RGB.
    """
    if path.suffix.lower() == ARRAY_SUFFIX:
        array = _array(path)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            _wrong_channels(
                path, f"an array {array.dtype} {array.shape}", "save RGB as uint8 of shape (height, width, 3)"
            )
        return array
    image = _image(path)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "RGBA" and bool((np.asarray(image)[..., 3] == _OPAQUE).all()):
        image = image.convert("RGB")
    if image.mode != "RGB":
        _wrong_channels(path, f"of mode {image.mode}", "save it as 8-bit RGB without transparency")
    return np.asarray(image)


def read_depth(path: Path, unit_m: float, invalid: float) -> Float32[np.ndarray, "height width"]:
    """A depth map in metres, NaN where there is no measurement (not finite, not positive, or `invalid`).

    Raises:
        Refused: If it cannot be decoded or has several channels.
    """
    stored = _single_channel(path, "save depth as one channel: 16-bit PNG or a .npy array")
    if stored.dtype.kind not in "uif":
        _wrong_channels(path, f"of type {stored.dtype}", "save depth as numbers")
    valid = np.isfinite(stored) & (stored > 0) & (stored != invalid)
    depth = np.where(valid, stored, 0).astype(np.float64) * unit_m
    return np.where(valid, depth, np.nan).astype(np.float32)


def read_seg(path: Path, ignore: int, classes: int | None) -> UInt8[np.ndarray, "height width"]:
    """Labels, 255 where there is none.

    Args:
        path: A PNG (grey or palette: the indices count, not the colours) or an array.
        ignore: The stored value that means no label.
        classes: How many there are; None if any number below 255 may be one.

    Raises:
        Refused: If it cannot be decoded, is a colour picture, or holds a value that is no class.
    """
    stored = _single_channel(path, "save class indices as one channel, not colours")
    if stored.dtype == bool:
        stored = stored.astype(np.uint8)
    if stored.dtype.kind not in "ui":
        _wrong_channels(path, f"of type {stored.dtype}", "save class indices as integers")
    labelled = stored != ignore
    limit = IGNORE_INDEX if classes is None else classes
    wrong = stored[labelled & ((stored < 0) | (stored >= limit))]
    if len(wrong):
        raise Refused(
            "class_out_of_range",
            f"{path.name}: {int(wrong.flat[0])} is no class; they are 0..{limit - 1}, and ignore is {ignore}",
            "name every class in data.source.classes, or set data.source.seg.ignore",
        )
    return np.where(labelled, stored, IGNORE_INDEX).astype(np.uint8)


@dataclass(frozen=True)
class Square:
    """The largest centred square of a picture, sampled at `size` x `size`."""

    height: int
    width: int
    size: int

    @property
    def side(self) -> int:
        """Pixels along a side of the square."""
        return min(self.height, self.width)

    def rgb(self, picture: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "size size 3"]:
        """The mean over each pixel's area; interpolated where the square is smaller than `size`."""
        top, left = self._corner()
        square = np.ascontiguousarray(picture[top : top + self.side, left : left + self.side])
        resample = Image.Resampling.BOX if self.side >= self.size else Image.Resampling.BICUBIC
        return np.asarray(Image.fromarray(square).resize((self.size, self.size), resample))

    def seg(self, labels: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "size size"]:
        """The label in the middle of each pixel's area."""
        rows, columns = self._middles()
        return labels[np.ix_(rows, columns)]

    def depth(self, depth: Float32[np.ndarray, "height width"]) -> Float32[np.ndarray, "size size"]:
        """The valid depth nearest to the middle of each pixel's area; NaN if the area has none."""
        rows, columns = self._middles()
        top, left = self._corner()
        reach = max(self.side // self.size - 1, 0) // 2
        steps = [(down, right) for down in range(-reach, reach + 1) for right in range(-reach, reach + 1)]
        sampled = np.full((self.size, self.size), np.nan, np.float32)
        for down, right in sorted(steps, key=lambda step: (step[0] ** 2 + step[1] ** 2, step)):
            here = depth[
                np.ix_(
                    np.clip(rows + down, top, top + self.side - 1),
                    np.clip(columns + right, left, left + self.side - 1),
                )
            ]
            sampled = np.where(np.isnan(sampled), here, sampled)
        return sampled

    def _corner(self) -> tuple[int, int]:
        return (self.height - self.side) // 2, (self.width - self.side) // 2

    def _middles(self) -> tuple[Int[np.ndarray, " size"], Int[np.ndarray, " size"]]:
        top, left = self._corner()
        middle = (2 * np.arange(self.size) + 1) * self.side // (2 * self.size)
        return middle + top, middle + left


def _single_channel(path: Path, remedy: str) -> Shaped[np.ndarray, "height width"]:
    if path.suffix.lower() == ARRAY_SUFFIX:
        array = _array(path)
        array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        what = f"an array of shape {array.shape}"
    else:
        image = _image(path)
        array, what = np.asarray(image), f"of mode {image.mode}"
    if array.ndim != 2:
        _wrong_channels(path, what, remedy)
    return array


def _image(path: Path) -> Image.Image:
    """Decode an image whose size was checked first.

    Raises:
        Refused: If it is too large or cannot be decoded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                _check_pixels(path, image.height, image.width)
                image.load()
                return image
    except Image.DecompressionBombError as error:
        _too_large(path, str(error))
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 (a damaged file may make a decoder raise anything)
        raise Refused("unreadable", f"{path.name}: {error}", _REPLACE) from None


def _array(path: Path) -> Shaped[np.ndarray, "..."]:
    """Load an array of plain numbers whose size was checked first; nothing in it is executed.

    Raises:
        Refused: If it is too large or cannot be loaded.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mapped: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        if mapped.ndim >= 2:
            _check_pixels(path, *mapped.shape[:2])
        return np.array(mapped)
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 (a damaged file may make a decoder raise anything)
        raise Refused("unreadable", f"{path.name}: {error}", _REPLACE) from None


def _check_pixels(path: Path, height: int, width: int) -> None:
    if height * width > MOST_PIXELS:
        _too_large(path, f"{width} x {height} pixels")
    if not height * width:
        raise Refused("unreadable", f"{path.name}: {width} x {height} pixels", _REPLACE)


def _too_large(path: Path, what: str) -> NoReturn:
    raise Refused(
        "too_large", f"{path.name}: {what}; the limit is {MOST_PIXELS:,}", "make the picture smaller"
    )


def _wrong_channels(path: Path, what: str, remedy: str) -> NoReturn:
    raise Refused("wrong_channels", f"{path.name}: {what}", remedy)

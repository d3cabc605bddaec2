"""From stored labels to class indices."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn

import numpy as np
from jaxtyping import Int16, Integer, UInt8

from pipeline.data.modality import IGNORE_INDEX
from pipeline.data.pictures.picture import Picture
from pipeline.data.pictures.rgb import colours
from pipeline.data.refusal import Refused

NO_CLASS = -1

_UINT16_VALUES = 1 << 16
_COLOURS = 1 << 24
_REMEDY = (
    "name every class, or say which values mean no label (`ignore`) or belong to another class (`merge`)"
)


@dataclass(frozen=True)
class LabelReading:
    """How stored labels become class indices.

    Attributes:
        classes: (Stored value, class index) of every value that may occur; index 255 has no label.
        others: Index of all other values; -1 where they are no class.
        colours: (Packed colour, stored value), for label maps in colour; empty for maps of indices.
        divisor: A stored value is divided by it first.
    """

    classes: tuple[tuple[int, int], ...]
    others: int = NO_CLASS
    colours: tuple[tuple[int, int], ...] = ()
    divisor: int = 1


def packed(red: int, green: int, blue: int) -> int:
    """One number per colour."""
    return red << 16 | green << 8 | blue


def class_indices(picture: Picture, reading: LabelReading) -> UInt8[np.ndarray, "height width"]:
    """Class indices, 255 where there is no label.

    Raises:
        Refused: If it is lossy, in colour without a colour map, not integers, or holds what is no class.
    """
    labels, indices = labels_and_table(picture, reading)
    return labels if indices is None else indices.take(labels)


def labels_and_table(
    picture: Picture, reading: LabelReading
) -> tuple[UInt8[np.ndarray, "height width"], UInt8[np.ndarray, "256"] | None]:
    """Bytes as stored, every one a class, with the index of each, so that only some pixels need converting.

    Returns:
        Both; or class indices and None, where labels are stored otherwise.

    Raises:
        Refused: As `class_indices`.
    """
    _check_lossless(picture)
    if reading.colours:
        return _indices_of_colours(picture, reading), None
    stored = _stored(picture)
    if stored.dtype == np.uint8:
        known, indices = _of_every_byte(reading)
        if wrong := stored.tobytes().translate(None, known):
            _refuse_value(picture, wrong[0], reading)
        return stored, indices
    if stored.dtype == np.uint16:
        wide = _of_every_uint16(reading).take(stored)
    else:
        value = stored // reading.divisor
        inside = (value >= 0) & (value < _UINT16_VALUES)
        plain = LabelReading(reading.classes, reading.others)
        wide = _of_every_uint16(plain).take(np.where(inside, value, 0))
        wide = np.where(inside, wide, _of_far_values(value, inside, reading))
    if wide.min() < 0:
        _refuse_value(picture, int(stored[wide < 0].flat[0]), reading)
    return wide.astype(np.uint8), None


def _refuse_value(picture: Picture, value: int, reading: LabelReading) -> NoReturn:
    shown = str(value) if reading.divisor == 1 else f"{value} // {reading.divisor}"
    raise Refused(
        "class_out_of_range",
        f"{picture.name}: {shown} is no class; they are {_listed(reading)}",
        _REMEDY,
    )


@lru_cache(maxsize=4)
def _of_every_byte(reading: LabelReading) -> tuple[bytes, UInt8[np.ndarray, "256"]]:
    """The bytes that may occur, and the class index of each."""
    wide = _of_every_uint16(reading)[:256]
    return bytes(np.flatnonzero(wide >= 0).tolist()), wide.astype(np.uint8)


@lru_cache(maxsize=4)
def _of_every_uint16(reading: LabelReading) -> Int16[np.ndarray, " value"]:
    """Class index by stored value, so that a picture takes one look-up per pixel."""
    index_of = np.full(_UINT16_VALUES, reading.others, np.int16)
    for value, index in reading.classes:
        if 0 <= value < _UINT16_VALUES:
            index_of[value] = index
    return index_of[np.arange(_UINT16_VALUES) // reading.divisor]


def _of_far_values(
    value: Integer[np.ndarray, "height width"], inside: np.ndarray, reading: LabelReading
) -> Int16[np.ndarray, "height width"]:
    """Class index of values that a table of 16 bits does not hold."""
    indices = np.full(value.shape, reading.others, np.int16)
    if not inside.all():
        for known, index in reading.classes:
            if not 0 <= known < _UINT16_VALUES:
                indices[value == known] = index
    return indices


@lru_cache(maxsize=1)
def _of_every_colour(reading: LabelReading) -> Int16[np.ndarray, " colour"]:
    index_of = np.full(_COLOURS, NO_CLASS, np.int16)
    classes = dict(reading.classes)
    for colour, value in reading.colours:
        index_of[colour] = classes[value]
    return index_of


def _indices_of_colours(picture: Picture, reading: LabelReading) -> UInt8[np.ndarray, "height width"]:
    if picture.array.ndim != 3 and picture.palette is None:
        raise Refused(
            "wrong_channels",
            f"{picture.name}: {picture.what}: not in colour, though `colours` says what colours mean",
            "leave out `colours` if labels are indices",
        )
    rgb = colours(picture)
    colour = rgb[..., 0].astype(np.int32) << 16 | rgb[..., 1].astype(np.int32) << 8 | rgb[..., 2]
    indices = _of_every_colour(reading).take(colour)
    if indices.min() < 0:
        wrong = rgb[indices < 0][0].tolist()
        raise Refused(
            "class_out_of_range",
            f"{picture.name}: the colour {wrong} is that of no class",
            "name it in the labels' `colours`; list the name in `ignore` if it means no label",
        )
    return indices.astype(np.uint8)


def _check_lossless(picture: Picture) -> None:
    if picture.lossy:
        raise Refused(
            "lossy_labels",
            f"{picture.name}: {picture.what}: its compression changes labels",
            "save labels anew from the original, as PNG or .npy",
        )


def _stored(picture: Picture) -> Integer[np.ndarray, "height width"]:
    array = picture.array
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim == 3 and array.shape[2] >= 3:
        raise Refused(
            "colour_labels",
            f"{picture.name}: {picture.what}: colours, not class indices",
            "save class indices as one channel, or say what the colours mean: `colours: {cup: [255, 0, 0]}`",
        )
    if array.ndim != 2:
        raise Refused(
            "wrong_channels", f"{picture.name}: {picture.what}", "save class indices as one channel"
        )
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind not in "ui":
        raise Refused(
            "float_labels",
            f"{picture.name}: {picture.what}: fractions, not class indices",
            "save class indices as integers",
        )
    return array


def _listed(reading: LabelReading) -> str:
    """The stored values that are classes, in short: 0..4, or the first of them."""
    values = sorted(value for value, index in reading.classes if index != IGNORE_INDEX)
    if not values:
        return "none"
    if values == list(range(values[0], values[-1] + 1)):
        listed = f"{values[0]}..{values[-1]}" if len(values) > 1 else str(values[0])
    else:
        listed = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    ignored = [str(value) for value, index in reading.classes if index == IGNORE_INDEX]
    return listed + (f"; {', '.join(ignored[:8])} mean no label" if ignored else "")

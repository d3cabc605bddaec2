"""From stored labels to class indices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer, UInt8

from pipeline.config.pictures import SegSection
from pipeline.data.modality import IGNORE_INDEX
from pipeline.data.pictures.files import Picture
from pipeline.data.refusal import Refused
from pipeline.errors import InputError


@dataclass(frozen=True)
class LabelReading:
    """How stored values become class indices.

    Attributes:
        classes: Class index by stored value; 255 has no label; a value that is not there is no class.
        colours: Stored value by packed colour, for label maps in colour.
        divisor: Stored values are divided by it first.
    """

    classes: Mapping[int, int]
    colours: Mapping[int, int]
    divisor: int = 1


def label_reading(
    section: SegSection, class_names: Sequence[str] | None
) -> tuple[LabelReading, tuple[str, ...] | None]:
    """What a config section means, and the names of the classes it leads to (None: known from the labels).

    Raises:
        InputError: If a name is not that of a class.
    """
    ...
    names = tuple(class_names) if class_names else tuple(section.colours) or None
    classes = {value: value for value in range(IGNORE_INDEX if names is None else len(names))}
    for value in section.ignore:
        if isinstance(value, str):
            raise InputError(f"seg.ignore: {value}")
        classes[value] = IGNORE_INDEX
    return LabelReading(classes, {}, section.divisor), names


def class_indices(picture: Picture, reading: LabelReading) -> UInt8[np.ndarray, "height width"]:
    """Class indices, 255 where there is no label.

    Raises:
        Refused: If it is lossy, in colour without a colour map, not integers, or holds what is no class.
    """
    stored = _stored(picture) // reading.divisor
    indices = np.full(stored.shape, IGNORE_INDEX, np.uint8)
    for value in np.unique(stored).tolist():
        if value not in reading.classes:
            raise Refused(
                "class_out_of_range",
                f"{picture.name}: {value} is no class; they are {_few(reading.classes)}",
                "name every class, or say which values mean no label (`ignore`)",
            )
        indices[stored == value] = reading.classes[value]
    return indices


def _stored(picture: Picture) -> Integer[np.ndarray, "height width"]:
    if picture.format == "JPEG":
        raise Refused(
            "lossy_labels",
            f"{picture.name}: a JPEG changes labels",
            "save labels as PNG or .npy from the original",
        )
    array = picture.array
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim != 2:
        raise Refused(
            "colour_labels",
            f"{picture.name}: {picture.what}",
            "save class indices as one channel, or say what the colours mean (`colours`)",
        )
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    if array.dtype.kind not in "ui":
        raise Refused("float_labels", f"{picture.name}: {picture.what}", "save class indices as integers")
    return array


def _few(classes: Mapping[int, int]) -> str:
    values = sorted(value for value, index in classes.items() if index != IGNORE_INDEX)
    return f"{values[0]}..{values[-1]}" if values else "(none)"

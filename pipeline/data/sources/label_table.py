"""Tables that give many stored labels fewer class numbers, and the names of NYU's classes."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.config.containers import LabelTable
from pipeline.config.pictures import SegSection
from pipeline.data.modality import IGNORE_INDEX
from pipeline.errors import InputError

NYU13 = (
    "bed", "books", "ceiling", "chair", "floor", "furniture", "objects", "picture", "sofa", "table", "tv",
    "wall", "window",
)  # fmt: skip
"""Source: Couprie 2013 (arXiv:1301.3572), in the order of their class numbers."""

NYU40 = (
    "wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf", "picture",
    "counter", "blinds", "desk", "shelves", "curtain", "dresser", "pillow", "mirror", "floor mat", "clothes",
    "ceiling", "books", "refrigerator", "television", "paper", "towel", "shower curtain", "box", "whiteboard",
    "person", "night stand", "toilet", "sink", "lamp", "bathtub", "bag", "otherstructure", "otherfurniture",
    "otherprop",
)  # fmt: skip
"""Source: Gupta 2013 (Perceptual organization and recognition of indoor scenes), classes 1 to 40."""

_MOST_BYTES = 1 << 24


def seg_section(labels: LabelTable, root: Path, unlabelled: tuple[int, ...]) -> SegSection:
    """What stored labels mean, as a table says; without one they are class numbers.

    Args:
        labels: The table and the names of its classes.
        root: Where the table lies.
        unlabelled: Stored labels that mean none, unless the table says otherwise.

    Raises:
        InputError: If the table is missing, malformed, or has a class number without a name.
    """
    names = _class_names(labels)
    if labels.table is None:
        pairs = [(number, number) for number in range(labels.first, labels.first + len(names))]
        where = "data.source.labels.classes"
    else:
        where = str(root / labels.table)
        pairs = list(_pairs(root / labels.table))
    new_of: dict[int, int] = {}
    for old, new in pairs:
        if new_of.setdefault(old, new) != new:
            raise InputError(
                f"{where}: label {old} becomes both {new_of[old]} and {new}; keep one line of it"
            )
    names = names or _numbers(labels, new_of)
    taken: dict[str, list[int]] = {name: [] for name in names}
    ignored = [old for old in unlabelled if old not in new_of]
    for old, new in sorted(new_of.items()):
        if new in labels.ignore:
            ignored.append(old)
        elif not labels.first <= new < labels.first + len(names):
            raise InputError(
                f"{where}: label {old} becomes {new}, which is no class; they are {labels.first}.."
                f"{labels.first + len(names) - 1} ({names[0]} to {names[-1]}); see `first` and `ignore` there"
            )
        else:
            taken[names[new - labels.first]].append(old)
    return SegSection(ignore=tuple(ignored), merge={name: tuple(olds) for name, olds in taken.items()})


def _class_names(labels: LabelTable) -> tuple[str, ...]:
    match labels.classes:
        case "nyu40":
            return NYU40
        case "nyu13":
            return NYU13
        case names:
            assert isinstance(names, tuple)
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(
            f"data.source.labels.classes: {repeated[0]!r} is named twice; names tell classes apart"
        )
    return names


def _numbers(labels: LabelTable, new_of: dict[int, int]) -> tuple[str, ...]:
    """Names of classes nobody named, up to the largest number.

    Raises:
        InputError: If there is none, or too many.
    """
    largest = max((new for new in new_of.values() if new not in labels.ignore), default=labels.first - 1)
    if not labels.first <= largest < labels.first + IGNORE_INDEX:
        raise InputError(
            f"data.source.labels: class numbers go from {labels.first} to {largest}; there must be 1 to "
            f"{IGNORE_INDEX} classes"
        )
    return tuple(str(number) for number in range(labels.first, largest + 1))


def _pairs(path: Path) -> Iterator[tuple[int, int]]:
    """Old and new label of every line.

    Raises:
        InputError: If the file is missing or malformed.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(_MOST_BYTES + 1)
    except FileNotFoundError:
        raise InputError(
            f"data.source.labels.table: there is no file {path}; name it relative to data.source.root"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a text file: {error}") from None
    if len(text) > _MOST_BYTES:
        raise InputError(f"{path}: more than {_MOST_BYTES:,} characters; a table of labels is smaller")
    if path.suffix.lower() == ".json":
        yield from _json_pairs(path, text)
        return
    for number, row in enumerate(csv.reader(text.splitlines()), start=1):
        if not row or (number == 1 and not _is_number(row[0])):
            continue
        if len(row) < 2 or not _is_number(row[0]) or not _is_number(row[1]):
            raise InputError(f"{path}:{number}: {','.join(row)!r}; a line is `old,new`, two whole numbers")
        yield int(row[0]), int(row[1])


def _json_pairs(path: Path, text: str) -> Iterator[tuple[int, int]]:
    try:
        stored: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a JSON file: {error}") from None
    if not isinstance(stored, dict):
        raise InputError(f'{path}: a JSON object {{"old": new}} is expected, not a {type(stored).__name__}')
    for old, new in stored.items():
        if not _is_number(old) or isinstance(new, bool) or not isinstance(new, int):
            raise InputError(f"{path}: {old!r}: {new!r}; both are whole numbers")
        yield int(old), new


def _is_number(text: str) -> bool:
    return text.strip().removeprefix("-").isdecimal() and len(text) < 12

"""Which classes labels have in the end: named, merged, left out."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from pipeline.config.pictures import SegSection
from pipeline.data.modality import IGNORE_INDEX
from pipeline.data.pictures.labels import NO_CLASS, LabelReading, packed
from pipeline.errors import InputError

_FIELD = "data.source.seg"


def label_reading(
    section: SegSection, class_names: Sequence[str] | None
) -> tuple[LabelReading, tuple[str, ...] | None]:
    """What a config section means.

    Args:
        section: How labels are stored, which of them mean none, and which are merged.
        class_names: Of the stored values, in their order; None or empty if they have no names.

    Returns:
        How to read labels, and the names of the classes; None where they are known only from the labels.

    Raises:
        InputError: If a name is that of no class, or something has two meanings.
    """
    old_names = tuple(class_names or section.colours)
    new_of = _merged(section, old_names)
    left_out = _without_label(section, old_names, new_of)
    gone = {
        *new_of,
        *(_value(old_names, name, "ignore") for name in section.ignore or () if isinstance(name, str)),
    }
    kept = [name for value, name in enumerate(old_names) if section.rest == "keep" and value not in gone]
    names = (*section.merge, *kept)
    _check_names(names)
    if names:
        classes = {v: names.index(n) if n in kept else IGNORE_INDEX for v, n in enumerate(old_names)}
        classes |= {value: names.index(new) for value, new in new_of.items()}
    else:
        classes = {value: value for value in range(IGNORE_INDEX)}
    classes |= dict.fromkeys(left_out, IGNORE_INDEX)
    others = IGNORE_INDEX if section.rest == "ignore" and section.merge and not old_names else NO_CLASS
    colours = _colours(section, old_names)
    return LabelReading(tuple(sorted(classes.items())), others, colours, section.divisor), names or None


def _merged(section: SegSection, old_names: Sequence[str]) -> dict[int, str]:
    """New class name by stored value.

    Raises:
        InputError: If a name is that of no class, or a value is in two classes.
    """
    new_of: dict[int, str] = {}
    for new, members in section.merge.items():
        for member in members:
            value = _value(old_names, member, f"merge.{new}")
            if new_of.setdefault(value, new) != new:
                raise InputError(
                    f"{_FIELD}.merge: {member!r} is in {new_of[value]!r} and {new!r}; say one of the two"
                )
    return new_of


def _without_label(section: SegSection, old_names: Sequence[str], new_of: Mapping[int, str]) -> set[int]:
    """Stored values that mean no label.

    Raises:
        InputError: If a name is that of no class, or `merge` makes a class of it.
    """
    if section.ignore is None:
        return {IGNORE_INDEX} - ({*range(len(old_names))} | new_of.keys())
    values = set()
    for wanted in section.ignore:
        value = _value(old_names, wanted, "ignore")
        if value in new_of:
            raise InputError(
                f"{_FIELD}.merge.{new_of[value]}: {wanted!r} means no label (`ignore`); say one of the two"
            )
        values.add(value)
    return values


def _colours(section: SegSection, old_names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Stored value by packed colour.

    Raises:
        InputError: If a name is that of no class, or two have the same colour.
    """
    value_of = {
        packed(*colour): _value(old_names, name, "colours") for name, colour in section.colours.items()
    }
    if len(value_of) != len(section.colours):
        raise InputError(f"{_FIELD}.colours: two classes have the same colour; merge them by `merge`")
    return tuple(value_of.items())


def _value(names: Sequence[str], wanted: int | str, field: str) -> int:
    """The stored value that a name or number stands for.

    Raises:
        InputError: If no class has the name.
    """
    if isinstance(wanted, int):
        return wanted
    if wanted in names:
        return names.index(wanted)
    near = get_close_matches(wanted, names, n=1, cutoff=0.5)
    meant = f"did you mean {near[0]!r}? " if near else ""
    known = f"they are: {', '.join(names)}" if names else "no classes are named; give stored values"
    raise InputError(f"{_FIELD}.{field}: {wanted!r} is no class; {meant}{known}")


def _check_names(names: Sequence[str]) -> None:
    if len(names) > IGNORE_INDEX:
        raise InputError(
            f"data.source.classes: {len(names)} classes; labels have 8 bits: at most {IGNORE_INDEX}; "
            f"join some with {_FIELD}.merge"
        )
    if repeated := sorted({name for name in names if list(names).count(name) > 1}):
        raise InputError(f"data.source.classes: {repeated[0]!r} is named twice; names tell classes apart")

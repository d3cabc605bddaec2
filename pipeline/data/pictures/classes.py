"""Which classes labels have in the end: named, merged, left out."""

from collections.abc import Sequence
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
    named = _Named(old_names)
    left_out = {named.value(name, "ignore") for name in section.ignore if isinstance(name, str)}
    ignored = {value for value in section.ignore if isinstance(value, int)}
    new_of: dict[int, str] = {}
    for new, members in section.merge.items():
        for member in members:
            value = named.value(member, f"merge.{new}")
            if value in ignored | left_out:
                raise InputError(
                    f"{_FIELD}.merge.{new}: {member!r} means no label (`ignore`); say one of the two"
                )
            if new_of.setdefault(value, new) != new:
                raise InputError(
                    f"{_FIELD}.merge: {member!r} is in {new_of[value]!r} and {new!r}; say one of the two"
                )
    kept = [
        name
        for value, name in enumerate(old_names)
        if value not in new_of and value not in left_out and section.rest == "keep"
    ]
    names = (*section.merge, *kept)
    _check_names(names)
    classes: dict[int, int] = {}
    for value in range(len(old_names)):
        new_name = new_of.get(value) or (old_names[value] if old_names[value] in kept else None)
        classes[value] = IGNORE_INDEX if new_name is None else names.index(new_name)
    classes |= {value: names.index(new) for value, new in new_of.items()}
    if not names:
        classes = {value: value for value in range(IGNORE_INDEX)}
    classes |= dict.fromkeys(ignored | left_out, IGNORE_INDEX)
    colours = tuple(
        (packed(*colour), named.value(name, "colours")) for name, colour in section.colours.items()
    )
    if len(dict(colours)) != len(colours):
        raise InputError(f"{_FIELD}.colours: two classes have the same colour")
    others = IGNORE_INDEX if section.rest == "ignore" and not old_names and section.merge else NO_CLASS
    return LabelReading(tuple(sorted(classes.items())), others, colours, section.divisor), names or None


class _Named:
    """Stored values by the name of their class."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def value(self, wanted: int | str, field: str) -> int:
        """The stored value that a name or number stands for.

        Raises:
            InputError: If no class has the name.
        """
        if isinstance(wanted, int):
            return wanted
        if wanted in self._names:
            return self._names.index(wanted)
        near = get_close_matches(wanted, self._names, n=1, cutoff=0.5)
        meant = f"did you mean {near[0]!r}? " if near else ""
        known = (
            f"they are: {', '.join(self._names)}"
            if self._names
            else "no classes are named; give stored values"
        )
        raise InputError(f"{_FIELD}.{field}: {wanted!r} is no class; {meant}{known}")


def _check_names(names: Sequence[str]) -> None:
    if len(names) > IGNORE_INDEX:
        raise InputError(
            f"data.source.classes: {len(names)} classes; labels have 8 bits: at most {IGNORE_INDEX}; "
            f"join some with {_FIELD}.merge"
        )
    if repeated := sorted({name for name in names if list(names).count(name) > 1}):
        raise InputError(f"data.source.classes: {repeated[0]!r} is named twice; names tell classes apart")

"""Entries of a source that are made when asked for, so that a million of them are not a million objects."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

from pipeline.data.columns import texts
from pipeline.data.keys import LONGEST, unique_keys

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Rows(Sequence[Entry], Generic[Entry]):
    """A sequence whose items a function makes from their position.

    Attributes:
        total: How many there are.
        row: The item at a position from 0 to `total` - 1.
    """

    total: int
    row: Callable[[int], Entry]

    def __len__(self) -> int:
        return self.total

    @overload
    def __getitem__(self, place: int) -> Entry: ...
    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...
    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        """One item, or the list of some.

        Raises:
            IndexError: If there is none.
        """
        if isinstance(place, slice):
            return [self.row(number) for number in range(*place.indices(self.total))]
        if not -self.total <= place < self.total:
            raise IndexError(place)
        return self.row(place % self.total)


@dataclass(frozen=True)
class Names:
    """What samples are called, and their keys, in one piece of memory each.

    Attributes:
        names: What their owner calls them.
        keys: Unique and safe.
    """

    names: Any
    keys: Any

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """Of names without repetition, in order."""
        listed = list(names)
        keys = unique_keys(listed)
        packed = texts(listed)
        return cls(packed, packed if keys == listed else texts(keys))

    def name(self, number: int) -> str:
        """What the sample at a position is called."""
        return str(self.names[number].as_py())

    def key(self, number: int) -> str:
        """The key of the sample at a position."""
        return str(self.keys[number].as_py())


def short_keys(names: Sequence[str], room: int) -> tuple[str, ...]:
    """A key per name to which `room` characters more may be added."""
    keys = unique_keys(names)
    fits = LONGEST - room
    return tuple(
        key if len(key) <= fits else f"{key[: fits - 8]}-{number:07d}" for number, key in enumerate(keys)
    )

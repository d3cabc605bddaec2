"""Where the members of every sample lie in some tars, found by reading headers once and kept in columns."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int8, Int16, Int32, Int64

from pipeline.data.columns import numbers_of, texts
from pipeline.data.sources.tar_headers import Fault, Member
from pipeline.data.sources.tar_samples import ZSTD, TarSample, Trouble, samples_of, trouble_with
from pipeline.data.storage import Storage

_SCANS_AT_ONCE = 8
_MOST_TROUBLES = 10_000
_NONE = -1


@dataclass(frozen=True)
class Places:
    """Where the members of one modality are, a row per sample.

    Attributes:
        tar: Number of the tar; -1 where a sample has no such member.
        offset: Where its bytes begin.
        size: How many they are.
        ending: Which of the modality's endings it has: twice its number, and one more with `.zst`.
    """

    tar: Int32[np.ndarray, " sample"]
    offset: Int64[np.ndarray, " sample"]
    size: Int64[np.ndarray, " sample"]
    ending: Int8[np.ndarray, " sample"]

    def take(self, rows: Int64[np.ndarray, " row"]) -> "Places":
        """The places of some samples; row -1 has none."""
        kept = np.maximum(rows, 0)
        tar = np.where(rows >= 0, self.tar[kept], np.int32(_NONE))
        return Places(tar, self.offset[kept], self.size[kept], self.ending[kept])


@dataclass(frozen=True)
class Series:
    """The samples of some tars.

    Attributes:
        names: What they are called, as strings of Arrow.
        file: Number of the tar each is in.
        places: Per modality.
        trouble: Index into `troubles`, -1 where there is none.
        troubles: Why samples are refused.
        unread: How many members have endings that nothing is made of, by ending.
    """

    names: Any
    file: Int32[np.ndarray, " sample"]
    places: dict[str, Places]
    trouble: Int16[np.ndarray, " sample"]
    troubles: tuple[Trouble, ...]
    unread: Counter[str]


def scan(storage: Storage, tars: Sequence[str], first: int, endings: Mapping[str, Sequence[str]]) -> Series:
    """Find the samples of a series of tars.

    Args:
        storage: Where they are.
        tars: Their names, in order.
        first: Number of the first of them among all tars of the source.
        endings: Of members, per modality, in order of preference.

    Raises:
        InputError: If a tar is not there or cannot be read.
    """
    found = _Found(endings)
    for number, samples in enumerate(_each(storage, tars), start=first):
        found.add(number, samples)
    return found.series()


def join(series: Sequence[Series]) -> Series:
    """Samples of several series, by name: those of the first in their order, then what only others have."""
    names = series[0].names
    for other in series[1:]:
        new = pc.is_null(pc.index_in(other.names, value_set=names))
        names = pa.concat_arrays([names, other.names.filter(new)])
    places: dict[str, Places] = {}
    troubles: list[Trouble] = []
    file = np.full(len(names), _NONE, np.int32)
    trouble = np.full(len(names), _NONE, np.int16)
    unread: Counter[str] = Counter()
    for one in series:
        if not len(one.names):
            continue
        rows = numbers_of(pc.index_in(names, value_set=one.names), _NONE).astype(np.int64)
        here = rows >= 0
        places |= {modality: place.take(rows) for modality, place in one.places.items()}
        file = np.where((file < 0) & here, one.file[rows], file)
        found = np.where(here, one.trouble[rows], np.int16(_NONE))
        trouble = np.where((trouble < 0) & (found >= 0), found + np.int16(len(troubles)), trouble)
        troubles += one.troubles
        unread += one.unread
    return Series(names, file, places, trouble, tuple(troubles), unread)


def _each(storage: Storage, tars: Sequence[str]) -> Iterator[Iterable[TarSample]]:
    """The samples of each tar; several at a time are scanned where that means waiting for a network."""
    if not storage.is_remote or len(tars) == 1:
        yield from (samples_of(storage, tar) for tar in tars)
        return
    with ThreadPoolExecutor(_SCANS_AT_ONCE) as threads:
        yield from threads.map(lambda tar: list(samples_of(storage, tar)), tars)


class _Column:
    """`Places` while they grow."""

    def __init__(self) -> None:
        self._fields = array("i"), array("q"), array("q"), array("b")

    def append(self, tar: int, offset: int = 0, size: int = 0, ending: int = 0) -> None:
        for field, value in zip(self._fields, (tar, offset, size, ending), strict=True):
            field.append(value)

    def places(self) -> Places:
        kinds = np.int32, np.int64, np.int64, np.int8
        return Places(*(np.array(field, kind) for field, kind in zip(self._fields, kinds, strict=True)))


class _Found:
    """A `Series` while it grows."""

    def __init__(self, endings: Mapping[str, Sequence[str]]) -> None:
        self._codes = {
            modality: {
                ending + packed: 2 * number + bool(packed)
                for number, ending in enumerate(listed)
                for packed in ("", ZSTD)
            }
            for modality, listed in endings.items()
        }
        self._wanted = frozenset[str]().union(*self._codes.values())
        self._columns = {modality: _Column() for modality in endings}
        self._names: list[Any] = [texts([])]
        self._file, self._trouble = array("i"), array("h")
        self._troubles: dict[Trouble, int] = {}
        self._unread: Counter[str] = Counter()

    def add(self, tar: int, samples: Iterable[TarSample]) -> None:
        """The samples of one more tar."""
        seen: dict[str, int] = {}
        for sample in samples:
            self._unread.update(sorted(sample.members.keys() - self._wanted))
            chosen = {m: _preferred(codes, sample.members) for m, codes in self._codes.items()}
            trouble = sample.trouble or _cut_off(chosen)
            if trouble is None and not any(chosen.values()):
                continue
            name = sample.name
            while name in seen:
                trouble = trouble_with("repeated", "it")
                seen[sample.name] += 1
                name = f"{sample.name}#{seen[sample.name]}"
            seen[name] = 1
            self._file.append(tar)
            self._trouble.append(_NONE if trouble is None else self._number(trouble))
            for modality, column in self._columns.items():
                if (choice := chosen[modality]) is None:
                    column.append(_NONE)
                else:
                    column.append(tar, choice[1].offset, choice[1].size, choice[0])
        self._names.append(texts(seen))

    def series(self) -> Series:
        """All that was added."""
        return Series(
            pa.concat_arrays(self._names),
            np.array(self._file, np.int32),
            {modality: column.places() for modality, column in self._columns.items()},
            np.array(self._trouble, np.int16),
            tuple(self._troubles),
            self._unread,
        )

    def _number(self, trouble: Trouble) -> int:
        if trouble not in self._troubles and len(self._troubles) >= _MOST_TROUBLES:
            return _MOST_TROUBLES - 1
        return self._troubles.setdefault(trouble, len(self._troubles))


def _preferred(codes: Mapping[str, int], members: Mapping[str, Member]) -> tuple[int, Member] | None:
    there = [(codes[ending], member) for ending, member in members.items() if ending in codes]
    return min(there, key=lambda choice: choice[0], default=None)


def _cut_off(chosen: Mapping[str, tuple[int, Member] | None]) -> Trouble | None:
    for modality, choice in chosen.items():
        if choice is not None and choice[1].fault == Fault.TRUNCATED:
            return trouble_with(Fault.TRUNCATED, f"its {modality}")
    return None

"""What the index of a dataset says of every sample, without opening a tar.

The index is read in pieces: of a million samples some ten bytes each are kept, no object per sample.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, Shaped, UInt8, UInt64

from pipeline.data.columns import fixed_binaries_of, numbers_of
from pipeline.data.modality import MODALITIES, SPLITS
from pipeline.data.shards.dataset import INDEX
from pipeline.data.shards.description import Description
from pipeline.data.shards.fingerprint import LOOK_BYTES
from pipeline.errors import InputError

ROWS_AT_ONCE = 65_536

CONTENT, LOOK = "content", "look"
"""Columns with a hash of all pixels, and with one of what RGB looks like; absent in older datasets."""


@dataclass(frozen=True)
class SplitCounts:
    """One split.

    Attributes:
        samples: How many.
        missing: How many lack each modality of the dataset.
        bytes: Stored bytes of each modality, of all samples together.
        factors: How many samples have each value of each known factor.
    """

    samples: int
    missing: dict[str, int]
    bytes: dict[str, int]
    factors: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Index:
    """The index, summed up.

    Attributes:
        splits: By name, in the order of `SPLITS`.
        split_of: Position in `splits` of the split of each row.
        content: Hash of each row's arrays; None where the index has none.
        look: Hash of what each row's RGB looks like, zeros without; None where the index has none.
        combinations: How many different combinations of known factors' values occur.
    """

    splits: dict[str, SplitCounts]
    split_of: UInt8[np.ndarray, " row"]
    content: UInt64[np.ndarray, " row"] | None
    look: UInt64[np.ndarray, "row 2"] | None
    combinations: int

    def rows(self, split: str) -> Int64[np.ndarray, " row"]:
        """The row numbers of one split, in order."""
        return np.flatnonzero(self.split_of == list(self.splits).index(split)).astype(np.int64)


def read_index(directory: Path, description: Description) -> Index:
    """Sum up the index of a dataset.

    Raises:
        InputError: If it is missing, not an index, or not that of `dataset.json`.
    """
    info = description.info
    names = [split for split in SPLITS if split in info.counts]
    sums = {name: _Sums(description) for name in names}
    combinations: set[int] = set()
    split_of: list[np.ndarray] = []
    hashes: dict[str, list[pa.Array]] = {CONTENT: [], LOOK: []}
    for rows in _pieces(directory / INDEX):
        code = _split_codes(rows, names)
        for number, name in enumerate(names):
            sums[name].add(rows, code == number)
        split_of.append(code)
        combinations |= _combinations(rows, description)
        for name, kept in hashes.items():
            if name in rows.schema.names:
                kept.append(rows[name])
    found = {name: sums[name].counts() for name in names}
    _check_counts(directory, {name: counts.samples for name, counts in found.items()}, info.counts)
    return Index(
        found,
        np.concatenate([np.zeros(0, np.uint8), *split_of]),
        _content(hashes[CONTENT]),
        _look(hashes[LOOK]),
        len(combinations),
    )


def read_rows(directory: Path, wanted: Int64[np.ndarray, " row"]) -> list[dict[str, Any]]:
    """Some rows of the index by ascending number.

    Raises:
        InputError: If the index cannot be read.
    """
    found: list[dict[str, Any]] = []
    first = 0
    for rows in _pieces(directory / INDEX):
        last = first + len(rows)
        for row in (wanted[(wanted >= first) & (wanted < last)] - first).tolist():
            found += rows.slice(row, 1).to_pylist()
        first = last
    return found


class _Sums:
    """Adds up the rows of one split."""

    def __init__(self, description: Description) -> None:
        info = description.info
        self._samples = 0
        self._missing = dict.fromkeys(info.modalities, 0)
        self._bytes = dict.fromkeys(info.modalities, 0)
        self._factors = {
            factor.name: np.zeros(len(factor.values), np.int64) for factor in info.factors if factor.values
        }

    def add(self, rows: pa.RecordBatch, here: Shaped[np.ndarray, " row"]) -> None:
        """Add the rows that are `here`."""
        self._samples += int(here.sum())
        for modality in self._missing:
            self._missing[modality] += int((_column(rows, f"{modality}_offset")[here] < 0).sum())
            self._bytes[modality] += int(_column(rows, f"{modality}_size")[here].sum())
        for name, counts in self._factors.items():
            values = _column(rows, f"factor_{name}")[here].astype(np.int64)
            counts += np.bincount(values[values >= 0], minlength=len(counts))[: len(counts)]

    def counts(self) -> SplitCounts:
        """What came together."""
        factors = {name: tuple(int(count) for count in counts) for name, counts in self._factors.items()}
        return SplitCounts(self._samples, self._missing, self._bytes, factors)


def _combinations(rows: pa.RecordBatch, description: Description) -> set[int]:
    """Every combination of factor values that occurs, as one number each."""
    number = np.zeros(len(rows), np.int64)
    factors = description.info.factors
    if not factors:
        return set()
    for factor in factors:
        number = number * max(1, len(factor.values)) + _column(rows, f"factor_{factor.name}")
    return set(np.unique(number).tolist())


def _pieces(path: Path) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(path) as file:
            names = set(file.schema_arrow.names)
            needed = {
                "split",
                "shard",
                "key",
                *(f"{m}_{what}" for m in MODALITIES for what in ("offset", "size")),
            }
            if missing := sorted(needed - names):
                raise InputError(
                    f"{path}: not a dataset's index, it lacks the columns {missing}; write it again"
                )
            yield from file.iter_batches(ROWS_AT_ONCE)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the dataset is incomplete, write it again") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as an index ({error}); write the dataset again") from None


def _column(rows: pa.RecordBatch, name: str) -> Shaped[np.ndarray, " row"]:
    return numbers_of(rows[name])


def _split_codes(rows: pa.RecordBatch, names: list[str]) -> UInt8[np.ndarray, " row"]:
    """Position of each row's split among the names; one more than the last for any other."""
    column = rows["split"]
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    known = [names.index(name) if name in names else len(names) for name in column.dictionary.to_pylist()]
    return np.take(np.array(known, np.uint8), numbers_of(column.indices))


def _check_counts(directory: Path, found: Mapping[str, int], said: Mapping[str, int]) -> None:
    for split, count in said.items():
        if found.get(split, 0) != count:
            raise InputError(
                f"{directory / INDEX}: {found.get(split, 0)} {split} samples, but dataset.json says {count}; "
                "write the dataset again"
            )


def _content(pieces: list[pa.Array]) -> UInt64[np.ndarray, " row"] | None:
    if not pieces:
        return None
    return np.concatenate([numbers_of(piece) for piece in pieces])


def _look(pieces: list[pa.Array]) -> UInt64[np.ndarray, "row 2"] | None:
    """Two words per row; zeros where there is nothing to see."""
    if not pieces or pieces[0].type != pa.binary(LOOK_BYTES):
        return None
    return np.concatenate([_words(piece) for piece in pieces])


def _words(column: pa.Array) -> UInt64[np.ndarray, "row 2"]:
    return fixed_binaries_of(column).view(np.uint64)

"""The index in memory: a few bytes per sample, read from `index.parquet` a piece at a time.

Contents of tar members begin at multiples of 512 bytes, so places are kept in such blocks: where the
first modality of a sample begins, and how far from there every other one does. Keys stay on disk: the
tar says them again before every member, and a checksum of each tells whether it is the one meant.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Int64, Integer, UInt32

from pipeline.data.loader.places import BLOCK, Places
from pipeline.data.modality import DatasetInfo
from pipeline.data.shards.description import Description
from pipeline.errors import InputError

_ABSENT = 2**32 - 1
_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class Rows:
    """The index of one split: some 30 bytes per sample.

    Attributes:
        shards: The tars of the split, by their number in `dataset.json`.
        starts: First row of every tar, and at the end the number of rows.
        first: Block in which a sample's first modality begins.
        distance: Blocks from there to each modality; 2**32 - 1 where it is lacking.
        size: Bytes of each modality.
        check: CRC-32 of the key.
        factors: Value index of each known factor; None if none is known.
    """

    shards: Int64[np.ndarray, " shard"]
    starts: Int64[np.ndarray, " edge"]
    first: UInt32[np.ndarray, " row"]
    distance: dict[str, UInt32[np.ndarray, " row"]]
    size: dict[str, UInt32[np.ndarray, " row"]]
    check: UInt32[np.ndarray, " row"]
    factors: Integer[np.ndarray, "row factor"] | None

    def __len__(self) -> int:
        return len(self.first)

    def places(self, rows: Int64[np.ndarray, " wanted"]) -> Places:
        """Where the bytes of some rows are."""
        first = self.first[rows].astype(np.int64) * BLOCK
        offset = {}
        for modality, distances in self.distance.items():
            distance = distances[rows]
            offset[modality] = np.where(distance == _ABSENT, -1, first + distance.astype(np.int64) * BLOCK)
        return Places(
            shard=self.shards[self.tar_of(rows)],
            first=first,
            offset=offset,
            size={modality: size[rows].astype(np.int64) for modality, size in self.size.items()},
            check=self.check[rows],
        )

    def tar_of(self, rows: Int64[np.ndarray, " wanted"]) -> Int64[np.ndarray, " wanted"]:
        """Which of the split's tars each row is in."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def nbytes(self) -> int:
        """Memory of the columns."""
        columns = [self.first, self.check, *self.distance.values(), *self.size.values()]
        return sum(column.nbytes for column in columns) + (0 if self.factors is None else self.factors.nbytes)


def read_rows(path: Path, description: Description) -> dict[str, Rows]:
    """Read the index of every split.

    Raises:
        InputError: If it is missing, not an index, or not that of `dataset.json`.
    """
    number = {name: place for place, name in enumerate(description.shards)}
    size = np.array([shard.bytes for shard in description.shards.values()], np.int64)
    splits = {
        name: _Growing(name, count, description.info) for name, count in description.info.counts.items()
    }
    for piece in _pieces(path, description):
        codes, split_names = _coded(piece["split"].to_pylist())
        tars = piece["shard"].cast(pa.string()).dictionary_encode()
        known = tars.dictionary.to_pylist()
        if unknown := [name for name in known if name not in number]:
            raise InputError(
                f"{path}: names {unknown[0]}, which dataset.json does not; write the dataset again"
            )
        shard = np.array([number[name] for name in known], np.int64)[tars.indices.to_numpy()]
        for code, name in enumerate(split_names):
            if name in splits:
                splits[name].add(path, piece, shard, size, codes == code)
    pa.default_memory_pool().release_unused()
    return {name: growing.rows(path) for name, growing in splits.items()}


def read_keys(path: Path, split: str) -> list[str]:
    """The keys of a split, in the order of its rows."""
    table = pq.read_table(path, columns=["key"], filters=[("split", "=", split)])
    keys: list[str] = table["key"].to_pylist()
    return keys


def _pieces(path: Path, description: Description) -> Iterator[dict[str, Any]]:
    """Record batches as a mapping from column name to array."""
    modalities = description.info.modalities
    wanted = ["split", "shard", "key"]
    wanted += [f"{modality}_{what}" for modality in modalities for what in ("offset", "size")]
    wanted += [f"factor_{factor.name}" for factor in description.info.factors]
    try:
        with pq.ParquetFile(path) as file:
            if missing := set(wanted) - set(file.schema_arrow.names):
                raise InputError(
                    f"{path}: not a dataset's index, it lacks the columns {sorted(missing)}; write it again"
                )
            for batch in file.iter_batches(_AT_ONCE, columns=wanted):
                yield {name: batch.column(name) for name in batch.schema.names}
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the dataset is incomplete, write it again") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as an index ({error}); write the dataset again") from None


def _coded(names: list[str]) -> tuple[Int64[np.ndarray, " row"], list[str]]:
    known = list(dict.fromkeys(names))
    code = {name: place for place, name in enumerate(known)}
    return np.array([code[name] for name in names], np.int64), known


class _Growing:
    """The columns of a split while the index is read."""

    def __init__(self, split: str, count: int, info: DatasetInfo) -> None:
        self._split, self._filled = split, 0
        self._first, self._check = np.empty(count, np.uint32), np.empty(count, np.uint32)
        self._distance = {modality: np.empty(count, np.uint32) for modality in info.modalities}
        self._size = {modality: np.empty(count, np.uint32) for modality in info.modalities}
        self._names = [factor.name for factor in info.factors]
        most = max((len(factor.values) for factor in info.factors), default=0)
        self._factors = np.empty((count, len(self._names)), np.int8 if most <= 127 else np.int16)
        self._starts: dict[int, int] = {}

    def add(
        self,
        path: Path,
        piece: dict[str, Any],
        shard: Int64[np.ndarray, " row"],
        tar_bytes: Int64[np.ndarray, " shard"],
        here: Bool[np.ndarray, " row"],
    ) -> None:
        start, end = self._filled, self._filled + int(here.sum())
        self._filled = end
        if end > len(self._first):
            return
        offset = {m: piece[f"{m}_offset"].to_numpy()[here] for m in self._distance}
        present = {m: value >= 0 for m, value in offset.items()}
        first = np.min([np.where(present[m], offset[m], np.iinfo(np.int64).max) for m in offset], axis=0)
        for modality, distance in self._distance.items():
            away = np.where(present[modality], offset[modality] - first, 0)
            size = piece[f"{modality}_size"].to_numpy()[here]
            self._refuse(path, away % BLOCK != 0, modality)
            self._refuse(path, (size < 0) | (first + away + size > tar_bytes[shard[here]]), modality)
            distance[start:end] = np.where(present[modality], away // BLOCK, _ABSENT)
            self._size[modality][start:end] = size
        self._refuse(path, (first % BLOCK != 0) | (first < BLOCK), "a sample")
        self._first[start:end] = first // BLOCK
        keys = piece["key"].to_pylist()
        self._check[start:end] = [
            zlib.crc32(key.encode()) for key, wanted in zip(keys, here.tolist(), strict=True) if wanted
        ]
        for place, name in enumerate(self._names):
            self._factors[start:end, place] = piece[f"factor_{name}"].to_numpy()[here]
        self._tars(path, shard[here], start)

    def rows(self, path: Path) -> Rows:
        count = len(self._first)
        if self._filled != count:
            raise InputError(
                f"{path}: {self._filled} {self._split} samples, but dataset.json says {count}; write it again"
            )
        return Rows(
            shards=np.array(list(self._starts), np.int64),
            starts=np.array([*self._starts.values(), count], np.int64),
            first=self._first,
            distance=self._distance,
            size=self._size,
            check=self._check,
            factors=self._factors if self._names else None,
        )

    def _tars(self, path: Path, shard: Int64[np.ndarray, " row"], start: int) -> None:
        previous = next(reversed(self._starts), -1)
        for change in np.flatnonzero(np.diff(shard, prepend=previous)).tolist():
            if int(shard[change]) in self._starts:
                raise InputError(f"{path}: the rows of a tar are not together; write the dataset again")
            self._starts[int(shard[change])] = start + change

    @staticmethod
    def _refuse(path: Path, wrong: Bool[np.ndarray, " row"], what: str) -> None:
        if wrong.any():
            raise InputError(f"{path}: {what} begins where no tar member can; write the dataset again")

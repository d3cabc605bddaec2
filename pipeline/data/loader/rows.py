"""The index in memory: a few bytes per sample, read from `index.parquet` a piece at a time.

Contents of tar members begin at multiples of 512 bytes, so places are kept in such blocks. The members of
a sample follow each other in the order rgb, depth, seg, so the place of the first and the sizes of all
say where each one is. Keys stay on disk: the tar says them again before every member, and a checksum of
each tells whether it is the one meant.
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

_LARGEST = 2**32 - 1
_AT_ONCE = 1 << 13
_BUFFER = 1 << 16


@dataclass(frozen=True)
class Rows:
    """The index of one split: some 20 bytes per sample.

    Attributes:
        shards: The tars of the split, by their number in `dataset.json`.
        starts: First row of every tar, and at the end the number of rows.
        first: Block in which a sample's first modality begins.
        size: Bytes of each modality; 0 where it is lacking.
        check: CRC-32 of the key.
        factors: Value index of each known factor; None if none is known.
    """

    shards: Int64[np.ndarray, " shard"]
    starts: Int64[np.ndarray, " edge"]
    first: UInt32[np.ndarray, " row"]
    size: dict[str, UInt32[np.ndarray, " row"]]
    check: UInt32[np.ndarray, " row"]
    factors: Integer[np.ndarray, "row factor"] | None

    def __len__(self) -> int:
        return len(self.first)

    def places(self, rows: Int64[np.ndarray, " wanted"]) -> Places:
        """Where the bytes of some rows are."""
        first = self.first[rows].astype(np.int64) * BLOCK
        size = {modality: sizes[rows].astype(np.int64) for modality, sizes in self.size.items()}
        return Places(
            shard=self.shards[self.tar_of(rows)],
            first=first,
            offset=one_after_the_other(first, size),
            size=size,
            check=self.check[rows],
        )

    def tar_of(self, rows: Int64[np.ndarray, " wanted"]) -> Int64[np.ndarray, " wanted"]:
        """Which of the split's tars each row is in."""
        return np.searchsorted(self.starts, rows, side="right") - 1


def one_after_the_other(
    first: Int64[np.ndarray, " row"], size: dict[str, Int64[np.ndarray, " row"]]
) -> dict[str, Int64[np.ndarray, " row"]]:
    """Offsets of members that lie in a tar one after the other; -1 where one is lacking."""
    offset, free = {}, first
    for modality, sizes in size.items():
        offset[modality] = np.where(sizes > 0, free, -1)
        free = free + np.where(sizes > 0, BLOCK + -(-sizes // BLOCK) * BLOCK, 0)
    return offset


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
        shard = np.array([number[name] for name in known], np.int64)[np.from_dlpack(tars.indices)]
        for code, name in enumerate(split_names):
            if name in splits:
                splits[name].add(path, piece, shard, size, codes == code)
    pa.default_memory_pool().release_unused()
    return {name: growing.rows(path) for name, growing in splits.items()}


def _pieces(path: Path, description: Description) -> Iterator[dict[str, Any]]:
    """Record batches as a mapping from column name to array.

    Raises:
        InputError: If the index is missing, or is none.
    """
    modalities = description.info.modalities
    wanted = ["split", "shard", "key"]
    wanted += [f"{modality}_{what}" for modality in modalities for what in ("offset", "size")]
    wanted += [f"factor_{factor.name}" for factor in description.info.factors]
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER) as file:
            if missing := set(wanted) - set(file.schema_arrow.names):
                raise InputError(
                    f"{path}: not a dataset's index, it lacks the columns {sorted(missing)}; write it again"
                )
            for batch in file.iter_batches(_AT_ONCE, columns=wanted, use_threads=False):
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
        offset = {m: np.from_dlpack(piece[f"{m}_offset"])[here] for m in self._size}
        size = {m: np.from_dlpack(piece[f"{m}_size"])[here] for m in self._size}
        first = np.min([np.where(offset[m] >= 0, offset[m], np.iinfo(np.int64).max) for m in offset], axis=0)
        expected = one_after_the_other(first, size)
        wrong = (first % BLOCK != 0) | (first < BLOCK)
        for modality in self._size:
            wrong |= (size[modality] < 0) | (size[modality] > _LARGEST)
            wrong |= offset[modality] != expected[modality]
            wrong |= offset[modality] + size[modality] > tar_bytes[shard[here]]
        if wrong.any():
            key = piece["key"][int(np.flatnonzero(here)[np.argmax(wrong)])]
            raise InputError(f"{path}: {key} is not where a tar of ours has it; write the dataset again")
        for modality, sizes in size.items():
            self._size[modality][start:end] = sizes
        self._first[start:end] = first // BLOCK
        keys = piece["key"].to_pylist()
        self._check[start:end] = [
            zlib.crc32(key.encode()) for key, wanted in zip(keys, here.tolist(), strict=True) if wanted
        ]
        for place, name in enumerate(self._names):
            self._factors[start:end, place] = np.from_dlpack(piece[f"factor_{name}"])[here]
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

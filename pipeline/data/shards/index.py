"""`index.parquet`: one row per sample, with where its bytes are. `quarantine.parquet`: who is not there.

Rows are in the order train, val, test, heldout, and within a split in the order of the tars. Columns:
`split`, `shard` (file name), `key`; for each modality and for `json` `<name>_offset` and `<name>_size`
(-1 and 0 where a sample lacks it); for each known factor `factor_<name>`.
"""

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

from pipeline.data.modality import MODALITIES
from pipeline.data.refusal import Refusal
from pipeline.data.shards.description import Description
from pipeline.errors import InputError

MEMBERS = (*MODALITIES, "json")


class IndexRows:
    """The rows of one split while its tars are written."""

    def __init__(self, split: str, factors: Sequence[str]) -> None:
        self._split, self._factors = split, tuple(factors)
        self._shards: list[str] = []
        self._keys: list[str] = []
        self._places = {f"{member}_{what}": array("q") for member in MEMBERS for what in ("offset", "size")}
        self._values = {name: array("q") for name in self._factors}

    def add(
        self, shard: str, key: str, places: dict[str, tuple[int, int]], factors: dict[str, int] | None
    ) -> None:
        """Append a sample with (offset, size) per member."""
        self._shards.append(shard)
        self._keys.append(key)
        for member in MEMBERS:
            offset, size = places.get(member, (-1, 0))
            self._places[f"{member}_offset"].append(offset)
            self._places[f"{member}_size"].append(size)
        for name in self._factors:
            self._values[name].append((factors or {})[name])

    def table(self) -> pa.Table:
        """The rows as a table."""
        columns: dict[str, Any] = {
            "split": pa.array([self._split] * len(self._keys)).dictionary_encode(),
            "shard": pa.array(self._shards, pa.string()).dictionary_encode(),
            "key": pa.array(self._keys, pa.string()),
        }
        columns |= {name: pa.array(values, pa.int64()) for name, values in self._places.items()}
        columns |= {f"factor_{name}": pa.array(values, pa.int16()) for name, values in self._values.items()}
        return pa.table(columns)


def write_index(path: Path, splits: Sequence[IndexRows]) -> None:
    """Write the index of all splits."""
    tables = [rows.table() for rows in splits]
    _write_table(path, pa.concat_tables(tables).unify_dictionaries())


def read_index(path: Path) -> pa.Table:
    """Read the index.

    Raises:
        InputError: If it is missing or not an index.
    """
    try:
        table = pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the dataset is incomplete, write it again") from None
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read as an index ({error}); write the dataset again") from None
    if missing := {"split", "shard", "key", *(f"{m}_offset" for m in MEMBERS)} - set(table.column_names):
        raise InputError(
            f"{path}: not a dataset's index, it lacks the columns {sorted(missing)}; write it again"
        )
    return table


@dataclass(frozen=True)
class SplitRows:
    """The index of one split as columns; there is no object per sample.

    Attributes:
        key: Keys, an arrow array.
        shard: Number of the tar in the order of `dataset.json`.
        offset: Of each modality's content in the tar; -1 where the sample lacks it.
        size: Its bytes.
        first: Offset of the first modality's content.
        last: End of the last one's.
        starts: First row of every tar, and at the end the number of rows.
        factors: Value index of each known factor; None if none is known.
    """

    key: Any
    shard: Int64[np.ndarray, " row"]
    offset: dict[str, Int64[np.ndarray, " row"]]
    size: dict[str, Int64[np.ndarray, " row"]]
    first: Int64[np.ndarray, " row"]
    last: Int64[np.ndarray, " row"]
    starts: Int64[np.ndarray, " edge"]
    factors: Int64[np.ndarray, "row factor"] | None


def read_splits(path: Path, description: Description) -> dict[str, SplitRows]:
    """Read the index as columns per split.

    Raises:
        InputError: If it is missing, not an index, or not that of `dataset.json`.
    """
    table = read_index(path)
    split = table["split"].cast(pa.string()).combine_chunks()
    number = {name: place for place, name in enumerate(description.shards)}
    names = table["shard"].cast(pa.string()).combine_chunks().dictionary_encode()
    known = names.dictionary.to_pylist()
    if unknown := [name for name in known if name not in number]:
        raise InputError(f"{path}: names {unknown[0]}, which dataset.json does not; write the dataset again")
    shard = np.array([number[name] for name in known], np.int64)[names.indices.to_numpy()]
    splits = {}
    for name, count in description.info.counts.items():
        here = np.flatnonzero(pc.equal(split, name).to_numpy(zero_copy_only=False))
        if len(here) != count:
            raise InputError(
                f"{path}: {len(here)} {name} samples, but dataset.json says {count}; write it again"
            )
        splits[name] = _split_rows(table.take(here), shard[here], description)
    return splits


def _split_rows(table: pa.Table, shard: Int64[np.ndarray, " row"], description: Description) -> SplitRows:
    offset = {m: table[f"{m}_offset"].to_numpy() for m in description.info.modalities}
    size = {m: table[f"{m}_size"].to_numpy() for m in description.info.modalities}
    starts = [np.where(offset[m] < 0, np.iinfo(np.int64).max, offset[m]) for m in offset]
    factors = [
        table[f"factor_{factor.name}"].to_numpy().astype(np.int64) for factor in description.info.factors
    ]
    return SplitRows(
        key=table["key"].combine_chunks(),
        shard=shard,
        offset=offset,
        size=size,
        first=np.min(starts, axis=0),
        last=np.max([offset[m] + size[m] for m in offset], axis=0),
        starts=np.append(np.flatnonzero(np.diff(shard, prepend=-1)), len(shard)),
        factors=np.stack(factors, axis=1) if factors else None,
    )


def write_quarantine(path: Path, refusals: Sequence[Refusal]) -> None:
    """Write what was refused; an empty table when nothing was."""
    names = ("origin", "reason", "detail", "remedy")
    columns = {
        name: pa.array([getattr(refusal, name) for refusal in refusals], pa.string()) for name in names
    }
    _write_table(path, pa.table(columns))


def _write_table(path: Path, table: pa.Table) -> None:
    with path.open("xb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())

"""`index.parquet`: one row per sample, with where its bytes are. `quarantine.parquet`: who is not there.

Rows are in the order train, val, test, heldout, and within a split in the order of the tars. Columns:
`split`, `shard` (file name), `key`; for each modality and for `json` `<name>_offset` and `<name>_size`
(-1 and 0 where a sample lacks it); for each known factor `factor_<name>`.
"""

import os
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.modality import MODALITIES
from pipeline.data.refusal import Refusal
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

"""Parquet files that are written a part at a time: bounded memory, and the same bytes for the same rows."""

from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.columns import texts
from pipeline.data.refusal import Refusal, printable
from pipeline.durable import synced

ROWS_AT_ONCE = 8_192
"""Rows of a row group; only so many are in memory."""

REFUSAL_COLUMNS = ("origin", "reason", "detail", "remedy", "split")
REFUSALS = pa.schema([(name, pa.string()) for name in REFUSAL_COLUMNS])
"""The columns of `quarantine.parquet`."""


class TableWriter:
    """Collects rows and writes them in groups; a context manager, at whose end the file is on the disk."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._waiting: list[pa.Table] = []
        self._rows = 0
        self._synced = synced(path)
        self._file: IO[bytes] | None = None
        self._writer: Any = None

    def add(self, table: pa.Table) -> None:
        """Append rows that have the columns of the schema, and perhaps others."""
        self._waiting.append(table.select(self._schema.names).cast(self._schema))
        self._rows += table.num_rows
        if self._rows >= ROWS_AT_ONCE:
            self._write()

    def _write(self) -> None:
        if self._waiting:
            table = pa.concat_tables(self._waiting).unify_dictionaries().combine_chunks()
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self._waiting, self._rows = [], 0

    def __enter__(self) -> "TableWriter":
        self._file = self._synced.__enter__()
        self._writer = pq.ParquetWriter(self._file, self._schema, compression="zstd")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._write()
        self._writer.close()
        self._synced.__exit__(kind, error, trace)


def refusal_table(refusals: list[Refusal]) -> pa.Table:
    """Refusals as rows of `quarantine.parquet`."""
    return pa.table(
        {
            name: texts((printable(getattr(refusal, name)) for refusal in refusals), pa.string())
            for name in REFUSAL_COLUMNS
        },
        schema=REFUSALS,
    )


def refusals_of(table: pa.Table) -> list[Refusal]:
    """Rows of `quarantine.parquet` as refusals."""
    return [Refusal(**row) for row in table.to_pylist()]

"""Parquet files as Hugging Face writes them: pictures in columns, read by row groups, here or behind a URL.

A picture is the bytes of a file: in a binary column, or in field `bytes` of an image column
(`{bytes, path}`). The path beside them is only a name; it is never opened.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Int64

from pipeline.config.containers import ParquetSource
from pipeline.config.data import Data
from pipeline.data.modality import MODALITIES, Sample
from pipeline.data.pictures.assemble import Assembly, assembly_for
from pipeline.data.pictures.files import Picture, decode_picture
from pipeline.data.refusal import Refusal, Refused
from pipeline.data.sources.catalogue import Catalogue
from pipeline.data.sources.partition import partition
from pipeline.data.sources.rows import Names, Rows, short_keys
from pipeline.data.splits import held_out_values
from pipeline.data.storage import Storage
from pipeline.errors import InputError

MOST_GROUP_BYTES = 1 << 31
"""A row group is read as a whole; a larger one is refused."""

_FINE_M = 0.001
_BUFFER = 1 << 16
_ROW_DIGITS = 8
_FOOTERS_AT_ONCE = 8
_BYTES, _PATH = "bytes", "path"


@dataclass(frozen=True, slots=True)
class RowEntry:
    """One row.

    Attributes:
        key: Unique and safe.
        name: What its owner calls it.
        file: Number of its file.
        group: Number of its row group in the file.
        row: Its number in the row group.
    """

    key: str
    name: str
    file: int
    group: int
    row: int

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Groups:
    """All row groups of all files, one after the other.

    Attributes:
        files: Names of the files.
        file_keys: A short safe name for each.
        file: Of every group, the number of its file.
        group: Of every group, its number in its file.
        starts: Of every group and of what comes after the last, the number of its first row among all rows.
        file_starts: Of every file, the number of its first row.
        names: What people call the rows; None names them by file and row.
    """

    files: tuple[str, ...]
    file_keys: tuple[str, ...]
    file: Int64[np.ndarray, " group"]
    group: Int64[np.ndarray, " group"]
    starts: Int64[np.ndarray, " border"]
    file_starts: Int64[np.ndarray, " file"]
    names: Names | None

    def entry(self, number: int) -> RowEntry:
        """The row at a position among all."""
        place = int(np.searchsorted(self.starts, number, side="right")) - 1
        file = int(self.file[place])
        if self.names is not None:
            key, name = self.names.key(number), self.names.name(number)
        else:
            row = number - int(self.file_starts[file])
            key, name = f"{self.file_keys[file]}-{row:0{_ROW_DIGITS}d}", f"{self.files[file]}:{row}"
        return RowEntry(key, name, file, int(self.group[place]), number - int(self.starts[place]))


@dataclass(frozen=True)
class ParquetSamples:
    """Loads rows; each process keeps the row group it read last.

    Attributes:
        storage: Where the files are.
        files: Their names.
        columns: Per modality.
        assembly: What becomes of the pictures.
    """

    storage: Storage
    files: tuple[str, ...]
    columns: tuple[tuple[str, str], ...]
    assembly: Assembly

    def __call__(self, entries: Sequence[RowEntry]) -> Iterator[Sample | Refusal]:
        """Load some neighbouring rows."""
        for (file, group), some in groupby(entries, key=lambda entry: (entry.file, entry.group)):
            table = _row_group(_Part(self.storage, self.files[file], group, self.columns))
            for entry in some:
                try:
                    pictures = _pictures(table, entry)
                    yield self.assembly.sample(entry.key, entry.name, pictures)
                except Refused as refused:
                    yield Refusal(entry.name, refused.reason, refused.detail, refused.remedy)


def open_parquet(config: Data, source: ParquetSource) -> Catalogue:
    """The rows of the files.

    Raises:
        InputError: If there are no such files, they are not parquet, or lack a column.
    """
    held_out_values(config.held_out.factors, ())
    storage = Storage(source.root, source.options, source.retries)
    divided = partition(storage.names(source.files, "data.source.files"), source.splits, "files")
    columns = tuple((m, part.column) for m in MODALITIES if (part := getattr(source, m)) is not None)
    groups = _groups(storage, divided.names, columns, source.name)
    files = np.repeat(groups.file, np.diff(groups.starts))
    if not len(files):
        raise InputError(
            f"data.source.files: {storage.path(divided.names[0])} and the other files have no rows"
        )
    assembly = assembly_for(config, source.depth, source.seg, source.classes)
    return Catalogue(
        entries=Rows(len(files), groups.entry),
        splits=divided.of_samples(files.tolist(), config),
        load=ParquetSamples(storage, divided.names, columns, assembly),
        class_names=assembly.class_names,
        depth_scale_m=min(assembly.depth_scale_m, _FINE_M),
        description=source.model_dump(mode="json", exclude={"root", "options", "retries"}),
        notes=divided.notes,
    )


def _groups(
    storage: Storage, files: tuple[str, ...], columns: tuple[tuple[str, str], ...], name: str | None
) -> Groups:
    """The row groups of some files; footers are read several at a time."""
    with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as threads:
        footers = list(threads.map(lambda file: _footer(storage, file, columns, name), files))
    counts = [count for footer in footers for count in footer.counts]
    rows = [sum(footer.counts) for footer in footers]
    return Groups(
        files,
        short_keys([file.removesuffix(".parquet") for file in files], _ROW_DIGITS + 1),
        np.repeat(np.arange(len(files)), [len(footer.counts) for footer in footers]),
        np.concatenate([np.arange(len(footer.counts)) for footer in footers]),
        np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]),
        np.concatenate([[0], np.cumsum(rows, dtype=np.int64)])[:-1],
        None if name is None else _distinct([footer.names for footer in footers], name),
    )


@dataclass(frozen=True)
class _Footer:
    """What one file says of itself: rows per row group, and the names of its rows."""

    counts: list[int]
    names: Any


def _footer(storage: Storage, file: str, columns: tuple[tuple[str, str], ...], name: str | None) -> _Footer:
    with _opened(storage, file) as parquet:
        for modality, column in columns:
            _check_column(parquet.schema_arrow, column, f"data.source.{modality}.column", storage.path(file))
        counts = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        return _Footer(counts, None if name is None else _names(parquet, name, storage.path(file)))


@dataclass(frozen=True)
class _Part:
    """The columns of a row group; equal parts of equal storages are the same."""

    storage: Storage
    file: str
    group: int
    columns: tuple[tuple[str, str], ...]

    def __hash__(self) -> int:
        return hash((self.storage.root, self.file, self.group, self.columns))


@lru_cache(maxsize=1)
def _row_group(part: _Part) -> dict[str, Any]:
    """Column per modality of one row group.

    Raises:
        InputError: If it is too large or damaged.
    """
    path = part.storage.path(part.file)
    with _opened(part.storage, part.file) as parquet:
        described = parquet.metadata.row_group(part.group)
        if described.total_byte_size > MOST_GROUP_BYTES:
            raise InputError(
                f"{path}: row group {part.group} has {described.total_byte_size:,} bytes; at most "
                f"{MOST_GROUP_BYTES:,} are read at once: write the file with smaller row groups"
            )
        try:
            table = parquet.read_row_group(part.group, columns=[column for _, column in part.columns])
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{path}: row group {part.group} cannot be read: {error}") from None
    return {modality: _column(table, column) for modality, column in part.columns}


def _column(table: Any, column: str) -> Any:
    """A column; of `a.b`, field b of column a."""
    first, *inner = [column] if column in table.column_names else column.split(".")
    values = table.column(first).combine_chunks()
    return pc.struct_field(values, inner) if inner else values


def _pictures(table: Mapping[str, Any], entry: RowEntry) -> dict[str, Picture]:
    pictures = {}
    for modality, column in table.items():
        value = column[entry.row].as_py()
        if value is None:
            continue
        name = modality
        if isinstance(value, dict):
            value, path = value[_BYTES], value.get(_PATH)
            name = f"{modality} ({path})" if path and path.isprintable() else modality
            if value is None and path is None:
                continue
            if value is None:
                raise Refused(
                    "not_embedded",
                    f"{name}: only a path is stored; paths in data are not opened",
                    "write the dataset with its pictures inside (embed_external_files)",
                )
        pictures[modality] = decode_picture(value, name)
    if not pictures:
        raise Refused("empty", "every column is null", "leave the row out")
    return pictures


@contextmanager
def _opened(storage: Storage, file: str) -> Iterator[Any]:
    """A parquet file.

    Raises:
        InputError: If it is none.
    """
    with storage.open(file, _BUFFER) as stream:
        try:
            parquet = pq.ParquetFile(stream, pre_buffer=True)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"{storage.path(file)}: not a parquet file: {error}") from None
        with parquet:
            yield parquet


def _check_column(schema: Any, column: str, setting: str, path: str) -> None:
    """A column holds bytes of pictures.

    Raises:
        InputError: If it is not there or holds something else.
    """
    names = [field.name for field in schema]
    first, *inner = [column] if column in names else column.split(".")
    if first not in names:
        raise InputError(f"{setting}: {path} has no column {column!r}; it has {', '.join(names)}")
    kind = schema.field(first).type
    for field in inner:
        if not pa.types.is_struct(kind) or kind.get_field_index(field) < 0:
            raise InputError(f"{setting}: {path}: column {first!r} has no field {field!r}; it is {kind}")
        kind = kind.field(field).type
    if pa.types.is_struct(kind) and kind.get_field_index(_BYTES) >= 0:
        kind = kind.field(_BYTES).type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise InputError(
            f"{setting}: {path}: column {column!r} holds {kind}; pictures are bytes, in a binary column "
            "or an image column of bytes and path"
        )


def _names(parquet: Any, name: str, path: str) -> Any:
    if name not in parquet.schema_arrow.names:
        raise InputError(
            f"data.source.name: {path} has no column {name!r}; it has {', '.join(parquet.schema_arrow.names)}"
        )
    column = parquet.read(columns=[name]).column(name).combine_chunks()
    if column.null_count:
        raise InputError(f"data.source.name: {path}: column {name!r} is null in {column.null_count} rows")
    return column.cast(pa.large_string())


def _distinct(names: list[Any], name: str) -> Names:
    listed = [text for column in names for text in column.to_pylist()]
    if len(set(listed)) < len(listed):
        raise InputError(
            f"data.source.name: values of column {name!r} repeat; leave `name` out or name another column"
        )
    return Names.of(listed)

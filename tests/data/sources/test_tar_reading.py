"""Existing tars: what is read of them, and what is kept in memory."""

import pickle
import tarfile
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from container_views import (
    check,
    loaded,
    members,
    opened,
    write,
)
from tar_views import reads, source, write_tars

from pipeline.data.sources.rows import Names, Rows
from pipeline.data.sources.tar_index import Places, Series
from pipeline.data.sources.tar_load import TarIndex


def test_chunk_is_read_at_once_and_nothing_else_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tars(tmp_path, tars=2, samples=40)
    catalogue = opened(source(tmp_path))
    asked = reads(monkeypatch)
    some = catalogue.entries[10:14]
    for number, sample in enumerate(catalogue.load(some), start=10):
        check(sample, number)
    size = sum(len(content) for number in range(10, 14) for content in members(number).values())
    ((name, start, end),) = asked
    assert name == "part-000.tar"
    assert end - start < size + 12 * 1600
    asked.clear()
    assert len(list(catalogue.load(catalogue.entries[38:42]))) == 4
    assert [name for name, _, _ in asked] == ["part-000.tar", "part-001.tar"]


def test_reading_is_divided_where_memory_would_not_be_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.data.sources.tar_load._AT_ONCE_BYTES", 20_000)
    catalogue = opened(source(write_tars(tmp_path, samples=20)))
    asked = reads(monkeypatch)
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
    assert len(asked) > 4
    assert all(end - start < 40_000 for _, start, end in asked)


def test_scanning_keeps_less_than_150_bytes_per_sample(tmp_path: Path) -> None:
    count = 400
    blocks = []
    for number in range(count):
        for ending in ("rgb.png", "depth.png", "seg.png"):
            header = tarfile.TarInfo(f"kitchen/{number:08d}.{ending}")
            header.size = 10
            blocks.append(header.tobuf(tarfile.USTAR_FORMAT) + bytes(512))
    write(tmp_path / "a.tar", b"".join(blocks) + bytes(1024))
    tracemalloc.start()
    catalogue = opened(source(tmp_path))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(catalogue.entries) == count
    assert kept < 150 * count + 100_000


def test_entries_of_a_large_index_are_columns_not_objects() -> None:
    count = 200_000
    names = Names.of(f"kitchen/{number:08d}" for number in range(count))
    column = Places(
        np.zeros(count, np.int32), np.arange(count) * 1000, np.full(count, 900), np.zeros(count, np.int8)
    )
    series = Series(
        names.names, np.zeros(count, np.int32), dict.fromkeys(("rgb", "depth", "seg"), column),
        np.full(count, -1, np.int16), (), Counter(),
    )  # fmt: skip
    index = TarIndex(names, series, {"rgb": ("png",), "depth": ("png",), "seg": ("png",)})
    size = names.names.nbytes + names.keys.nbytes + series.file.nbytes + series.trouble.nbytes
    size += 3 * sum(part.nbytes for part in (column.tar, column.offset, column.size, column.ending))
    assert size / count < 130
    entries = Rows(count, index.entry)
    assert str(entries[123_456]) == "kitchen/00123456"
    assert entries[-1].places["depth"].offset == (count - 1) * 1000
    assert [str(entry) for entry in entries[5:7]] == ["kitchen/00000005", "kitchen/00000006"]
    assert len(pickle.dumps(entries[:32])) < 32 * 400


def test_load_and_entries_travel_to_other_processes(tmp_path: Path) -> None:
    catalogue = opened(source(write_tars(tmp_path)))
    load, entries = pickle.loads(pickle.dumps((catalogue.load, catalogue.entries[1:3])))
    for number, sample in enumerate(load(entries), start=1):
        check(sample, number)

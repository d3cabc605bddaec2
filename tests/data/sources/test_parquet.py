"""Parquet as Hugging Face writes it: columns of pictures, splits by name, one row group at a time."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from container_views import CLASSES, check, depth_mm, labels, loaded, npy, only, opened, png, refusals, rgb

from pipeline.data.modality import Sample
from pipeline.data.sources import parquet
from pipeline.data.storage import Storage
from pipeline.errors import InputError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def source(root: Path | str, **changes: Any) -> dict[str, Any]:
    described = {"kind": "parquet", "root": str(root), "depth": {"unit": "mm"}, "classes": CLASSES}
    return described | changes


def image(content: bytes | None, path: str | None = None) -> dict[str, Any]:
    return {"bytes": content, "path": path}


def table_of(numbers: Sequence[int]) -> Any:
    """Rows in the schema that `datasets` writes: image columns, a binary column, and others."""
    return pa.table({
        "id": pa.array([f"view/{number}" for number in numbers]),
        "image": pa.array([image(png(rgb(n)), f"{n}.png") for n in numbers], IMAGE),
        "depth": pa.array([png(depth_mm(n)) for n in numbers], pa.large_binary()),
        "label": pa.array([image(png(labels(n))) for n in numbers], IMAGE),
        "score": pa.array([0.5] * len(numbers)),
    })


def write_files(root: Path, names: Sequence[str], rows: int = 4, group: int = 2) -> Path:
    for place, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table_of(range(place * rows, (place + 1) * rows)), root / name, row_group_size=group)
    return root


def test_rows_are_right_in_every_pixel_and_named_by_file_and_row(tmp_path: Path) -> None:
    catalogue = opened(source(write_files(tmp_path, ["data/a.parquet", "data/b.parquet"])))
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
    assert str(catalogue.entries[5]) == "data/b.parquet:1"
    assert catalogue.entries[5].key == "data_b-00000001"
    assert catalogue.class_names == CLASSES


def test_rows_may_be_named_by_a_column(tmp_path: Path) -> None:
    catalogue = opened(source(write_files(tmp_path, ["a.parquet"]), name="id"))
    assert [(str(entry), entry.key) for entry in catalogue.entries][1] == ("view/1", "view_1")
    check(only(catalogue), 0)
    for name in ("a.parquet", "b.parquet"):
        pq.write_table(table_of(range(3)), tmp_path / name)
    with pytest.raises(InputError, match=r"data\.source\.name: values of column 'id' repeat"):
        opened(source(tmp_path, name="id"))
    with pytest.raises(InputError, match=r"has no column 'key'; it has id, image, depth, label, score"):
        opened(source(tmp_path, name="key"))


def test_names_of_files_tell_the_splits(tmp_path: Path) -> None:
    names = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    write_files(tmp_path, [*names, "data/validation-00000-of-00001.parquet"], rows=2)
    catalogue = opened(source(tmp_path))
    assert catalogue.splits == ["train"] * 4 + ["test"] * 2
    assert catalogue.notes[0].startswith(
        "names of files tell train and validation but no test: validation is used for testing"
    )
    write_files(tmp_path, ["data/test-00000-of-00001.parquet"], rows=2)
    assert opened(source(tmp_path)).splits == ["test"] * 2 + ["train"] * 4 + ["val"] * 2
    chosen = {"train": "data/train-00000*", "test": ["data/train-00001*"]}
    assert opened(source(tmp_path, splits=chosen)).splits == ["train"] * 2 + ["test"] * 2


def test_missing_pictures_are_missing_modalities_and_paths_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(rgb(1)))
    table = pa.table({
        "image": pa.array(
            [None, image(None), image(None, str(tmp_path / "secret.png")), image(png(rgb(3)))], IMAGE
        ),
        "depth": pa.array([png(depth_mm(0)), None, png(depth_mm(2)), png(depth_mm(3))], pa.binary()),
        "label": pa.array([None, None, None, image(png(labels(3)))], IMAGE),
    })
    pq.write_table(table, tmp_path / "a.parquet")
    catalogue = opened(source(tmp_path))
    samples = loaded(catalogue)
    check(samples[0], 0, leave_out=["rgb", "seg"])
    check(samples[3], 3)
    assert refusals(catalogue) == {"a.parquet:1": "empty", "a.parquet:2": "not_embedded"}


def test_bad_bytes_are_refused_row_by_row(tmp_path: Path) -> None:
    bad = {
        "pickle": npy(np.array([{}], object), pickled=True),
        "not_an_image": b"hello",
        "truncated": png(rgb(0))[:300],
        "lfs_pointer": b"version https://git-lfs.github.com/spec/v1\n",
    }
    table = pa.table({"image": pa.array([*bad.values(), png(rgb(4))], pa.binary())})
    pq.write_table(table, tmp_path / "a.parquet")
    catalogue = opened(source(tmp_path, depth=None, seg=None))
    assert list(refusals(catalogue).values()) == list(bad)
    check(loaded(catalogue)[4], 4, leave_out=["depth", "seg"])


def test_fields_of_nested_columns_are_found(tmp_path: Path) -> None:
    inner = pa.struct([("image", IMAGE)])
    rows = [{"image": image(png(rgb(n)))} for n in range(2)]
    pq.write_table(pa.table({"view": pa.array(rows, inner)}), tmp_path / "a.parquet")
    catalogue = opened(source(tmp_path, rgb={"column": "view.image"}, depth=None, seg=None))
    check(loaded(catalogue)[1], 1, leave_out=["depth", "seg"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rgb": {"column": "img"}}, r"rgb\.column: .*a\.parquet has no column 'img'; it has id, image"),
        ({"rgb": {"column": "score"}}, r"rgb\.column: .*'score' holds double; pictures are bytes"),
        ({"rgb": {"column": "image.jpg"}}, r"column 'image' has no field 'jpg'"),
        ({"files": "*.pq"}, r"data\.source\.files: no file matches"),
        ({"files": "bad.txt"}, r"bad\.txt: not a parquet file"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    write_files(tmp_path, ["a.parquet"])
    (tmp_path / "bad.txt").write_bytes(b"PAR1 no PAR1")
    with pytest.raises(InputError, match=message):
        opened(source(tmp_path) | changes)


def test_only_the_row_group_of_a_chunk_is_read_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, ["a.parquet"], rows=80, group=10)
    catalogue = opened(source(tmp_path))
    asked = []
    original = Storage.read

    def read(self: Storage, name: str, start: int, end: int) -> bytes:
        asked.append(end - start)
        return original(self, name, start, end)

    monkeypatch.setattr(Storage, "read", read)
    parquet._row_group.cache_clear()
    for first in (20, 24):
        for number, sample in enumerate(catalogue.load(catalogue.entries[first : first + 4]), start=first):
            check(sample, number)
    whole = (tmp_path / "a.parquet").stat().st_size
    assert sum(asked) < 0.5 * whole
    assert parquet._row_group.cache_info().misses == 1


def test_row_group_that_does_not_fit_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = opened(source(write_files(tmp_path, ["a.parquet"])))
    monkeypatch.setattr(parquet, "MOST_GROUP_BYTES", 1000)
    parquet._row_group.cache_clear()
    with pytest.raises(InputError, match=r"a\.parquet: row group 0 has .* with smaller row groups"):
        only(catalogue)


def test_a_million_rows_are_not_a_million_objects(tmp_path: Path) -> None:
    count, groups = 1_000_000, 1000
    index = parquet.Groups(
        ("a.parquet",), ("a",), np.zeros(groups, np.int64), np.arange(groups),
        np.arange(groups + 1) * (count // groups), np.zeros(1, np.int64), None,
    )  # fmt: skip
    assert len(pickle.dumps(index)) < 0.1 * count
    entry = index.entry(123_456)
    assert (entry.key, entry.group, entry.row) == ("a-00123456", 123, 456)


def test_files_behind_a_url_are_read(tmp_path: Path) -> None:
    write_files(tmp_path, ["train-0.parquet", "test-0.parquet"])
    memory = fsspec.filesystem("memory")
    for path in tmp_path.iterdir():
        memory.pipe_file(f"/hub/{path.name}", path.read_bytes())
    try:
        catalogue = opened(source("memory://hub"))
        assert catalogue.splits == ["test"] * 4 + ["train"] * 4
        found = loaded(catalogue)
        for place, number in enumerate([4, 5, 6, 7, 0, 1, 2, 3]):
            check(found[place], number)
            assert isinstance(found[place], Sample)
    finally:
        memory.rm("/hub", recursive=True)

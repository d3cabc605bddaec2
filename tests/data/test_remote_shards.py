"""Datasets behind URLs: fetched whole, checked, cached within bounds; and datasets that stand for others."""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import fsspec
import pytest
from small_dataset import SIZE, write

from pipeline.config.existing import DatasetSource
from pipeline.config.training import Loading
from pipeline.data.loader.batches import training_batches
from pipeline.data.loader.copies import GIB
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.loader.location import LOCATION, adopt_dataset
from pipeline.data.shards.dataset import dataset_digest
from pipeline.data.storage import Storage
from pipeline.errors import InputError

URL = "memory://bucket/set"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A dataset in a directory, and the same behind `URL`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "data", train=40, shard_samples=4)
    files = fsspec.filesystem("memory")
    for path in (tmp_path / "data").iterdir():
        files.pipe_file(f"/bucket/set/{path.name}", path.read_bytes())
    yield tmp_path / "data"
    files.rm("/bucket", recursive=True)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read remotely."""
    names: list[str] = []
    original = Storage.read

    def noted(storage: Storage, name: str, start: int, end: int) -> bytes:
        if start == 0:
            names.append(name)
        return original(storage, name, start, end)

    monkeypatch.setattr(Storage, "read", noted)
    return names


def keys(dataset: ShardedDataset, steps: int, **options: object) -> list[str]:
    stream = training_batches(
        dataset, "train", seed=1, global_batch=8, samples_seen=0, world_rank=0, world_size=1, **options
    )
    taken = [key for batch in islice(stream, steps) for key in batch.key]
    stream.close()
    return taken


def test_a_remote_dataset_gives_the_same_samples_in_the_same_order(remote: Path, asked: list[str]) -> None:
    local = keys(ShardedDataset(remote), 10)
    dataset = ShardedDataset(URL)
    assert keys(dataset, 10) == local
    tars = [name for name in asked if name.endswith(".tar")]
    assert sorted(tars) == [f"train-{number:06d}.tar" for number in range(10)]  # each once, no test split
    dataset.close()
    asked.clear()
    assert keys(ShardedDataset(URL), 10) == local
    assert asked == ["dataset.json"]


def test_workers_read_the_copies(remote: Path) -> None:
    assert keys(ShardedDataset(URL), 6, loading=Loading(workers=2)) == keys(ShardedDataset(remote), 6)


def test_single_rows_fetch_only_their_tar(remote: Path, asked: list[str]) -> None:
    batch = ShardedDataset(URL).read("train", [5])
    assert batch.key == ("n00005",)
    assert asked == ["dataset.json", "index.parquet", "train-000001.tar"]


def test_copies_longest_unused_make_room(remote: Path, tmp_path: Path, asked: list[str]) -> None:
    tar_bytes = (remote / "train-000000.tar").stat().st_size
    dataset = ShardedDataset(URL, tmp_path / "small", cache_gib=3.5 * tar_bytes / GIB)
    for tar in (0, 1, 2, 0, 3):
        dataset.read("train", [4 * tar])
        dataset.close()  # so that it is opened, and used, again
    copies = sorted(path.name for path in (tmp_path / "small").glob("*/*.tar"))
    assert copies == ["train-000000.tar", "train-000002.tar", "train-000003.tar"]
    asked.clear()
    assert dataset.read("train", [4]).key == ("n00004",)
    assert asked == ["train-000001.tar"]


def test_a_network_that_fails_now_and_then_is_asked_again(
    remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    memory = type(fsspec.filesystem("memory"))
    original, calls = memory.cat_file, iter(range(10**6))

    def unreliable(*arguments: object, **options: object) -> bytes:
        if next(calls) % 3 < 2:
            raise TimeoutError("no answer")
        return original(*arguments, **options)

    monkeypatch.setattr(memory, "cat_file", unreliable)
    assert ShardedDataset(URL).read("train", [0, 9]).key == ("n00000", "n00009")


def test_a_tar_that_is_not_the_one_meant_is_refused_by_name(remote: Path) -> None:
    files = fsspec.filesystem("memory")
    content = bytearray((remote / "train-000002.tar").read_bytes())
    content[5000] ^= 1
    files.pipe_file("/bucket/set/train-000002.tar", bytes(content))
    with pytest.raises(InputError, match=r"memory://bucket/set/train-000002\.tar: has another SHA-256"):
        ShardedDataset(URL).read("train", [8])
    files.pipe_file("/bucket/set/train-000003.tar", bytes(content[:-1000]))
    with pytest.raises(InputError, match=r"train-000003\.tar: has \d+ bytes instead of \d+"):
        ShardedDataset(URL).read("train", [12])


def test_a_copy_that_was_damaged_is_fetched_again(remote: Path, asked: list[str]) -> None:
    ShardedDataset(URL).read("train", [0])
    copy = next(Path(os.environ["XDG_CACHE_HOME"]).rglob("train-000000.tar"))
    whole = copy.read_bytes()
    copy.write_bytes(whole[:5000] + b"?" + whole[5001:])
    asked.clear()
    assert ShardedDataset(URL).read("train", [0]).key == ("n00000",)
    assert asked == ["dataset.json", "train-000000.tar"]
    assert copy.read_bytes() == whole


def test_several_at_once_fetch_each_tar_once(remote: Path, asked: list[str]) -> None:
    datasets = [ShardedDataset(URL) for _ in range(4)]
    asked.clear()
    with ThreadPoolExecutor(4) as threads:
        batches = list(threads.map(lambda dataset: dataset.read("train", [0, 4]), datasets))
    assert {batch.key for batch in batches} == {("n00000", "n00004")}
    assert sorted(asked) == ["train-000000.tar", "train-000001.tar"]


def test_a_missing_remote_dataset_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"memory://bucket/none/dataset\.json"):
        ShardedDataset("memory://bucket/none")


@pytest.mark.parametrize("where", ["here", "behind a URL"])
def test_a_directory_can_stand_for_a_dataset_elsewhere(remote: Path, tmp_path: Path, where: str) -> None:
    path = str(remote) if where == "here" else URL
    info = adopt_dataset(DatasetSource(kind="dataset", path=path), SIZE, tmp_path / "stand-in")
    assert info.counts == {"train": 40, "test": 4}
    assert not list((tmp_path / "stand-in").glob("*.tar"))
    assert dataset_digest(tmp_path / "stand-in") == dataset_digest(remote)
    assert keys(ShardedDataset(tmp_path / "stand-in"), 6) == keys(ShardedDataset(remote), 6)
    again = DatasetSource(kind="dataset", path=str(tmp_path / "stand-in"))
    if where == "here":
        adopt_dataset(again, SIZE, tmp_path / "third")
        named = json.loads((tmp_path / "third" / LOCATION).read_text())["shards"]
        assert named == str(remote)


def test_an_existing_dataset_of_another_size_or_none_at_all_is_refused(remote: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.image_size is 64, .* are 8 px; set data\.image_size: 8"):
        adopt_dataset(DatasetSource(kind="dataset", path=str(remote)), 64, tmp_path / "out")
    with pytest.raises(InputError, match="is not a dataset directory"):
        adopt_dataset(DatasetSource(kind="dataset", path=str(tmp_path)), SIZE, tmp_path / "out2")

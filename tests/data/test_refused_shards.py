"""What cannot be written as shards or read as such, and what an interrupted writer leaves."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from small_dataset import CLASSES, FACTORS, SIZE, sample, samples, tree_bytes, write

from pipeline.data.loader.dataset import ShardedDataset
from pipeline.data.modality import Sample
from pipeline.data.shards.dataset import read_info, write_dataset
from pipeline.errors import InputError


@pytest.mark.parametrize("key", ["", "a b", "a/b", "../up", "ä", "a.b", "x" * 81])
def test_a_key_with_other_characters_is_refused(tmp_path: Path, key: str) -> None:
    wrong = Sample(key, rgb=np.zeros((SIZE, SIZE, 3), np.uint8))
    with pytest.raises(ValueError, match="key"):
        write_dataset(tmp_path, [("train", wrong)], class_names=None, image_size=SIZE)


def test_a_repeated_key_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n00001"):
        write_dataset(
            tmp_path, [("train", sample(1)), ("test", sample(1))], class_names=CLASSES, image_size=SIZE
        )


def test_a_sample_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n00001"):
        write_dataset(tmp_path, [("train", sample(1, size=16))], class_names=CLASSES, image_size=SIZE)


def test_a_label_beyond_the_class_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only 2 classes"):
        write_dataset(tmp_path, [("train", sample(1))], class_names=("a", "b"), image_size=SIZE)


def test_a_directory_that_holds_a_dataset_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path)
    before = tree_bytes(tmp_path)
    with pytest.raises(InputError, match="already holds a dataset"):
        write(tmp_path)
    assert tree_bytes(tmp_path) == before


def test_no_samples_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no sample"):
        write_dataset(tmp_path, [], class_names=None, image_size=SIZE)


def test_a_full_disk_is_one_message_that_names_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"No space left on device.*free some space"):
        write(tmp_path)
    assert not (tmp_path / "dataset.json").exists()


def test_an_interrupted_writer_leaves_no_description(tmp_path: Path) -> None:
    def interrupted():  # type: ignore[no-untyped-def]
        yield from samples(3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, interrupted(), class_names=CLASSES, image_size=SIZE, factors=FACTORS)
    assert not (tmp_path / "dataset.json").exists()
    with pytest.raises(InputError, match="not a dataset directory"):
        read_info(tmp_path)


def test_a_shard_of_another_size_is_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path)
    with (tmp_path / "train-000002.tar").open("ab") as tar:
        tar.write(b"more")
    with pytest.raises(InputError, match=r"train-000002\.tar.*write the dataset again"):
        ShardedDataset(tmp_path)


@pytest.mark.parametrize("name", ["train-000001.tar", "index.parquet", "dataset.json"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=name):
        ShardedDataset(tmp_path)


@pytest.mark.parametrize("name", ["index.parquet", "dataset.json"])
@pytest.mark.parametrize("content", [b"", b"\x00\xff garbage", b"{}", b"[1, 2]", b'{"format": 1}'])
def test_a_corrupt_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        ShardedDataset(tmp_path)


def test_an_index_of_another_dataset_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "first", train=20)
    write(tmp_path / "second", train=14)
    (tmp_path / "second" / "index.parquet").rename(tmp_path / "first" / "index.parquet")
    with pytest.raises(InputError, match=r"index\.parquet"):
        ShardedDataset(tmp_path / "first")


def test_a_description_of_a_later_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(InputError, match="format 2"):
        read_info(tmp_path)


def test_an_interrupted_writer_does_not_stand_in_the_way_of_the_next(tmp_path: Path) -> None:
    def interrupted():  # type: ignore[no-untyped-def]
        yield from samples(9)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(
            tmp_path / "a",
            interrupted(),
            class_names=CLASSES,
            image_size=SIZE,
            shard_samples=3,
            factors=FACTORS,
        )
    write(tmp_path / "a")
    write(tmp_path / "b")
    assert tree_bytes(tmp_path / "a") == tree_bytes(tmp_path / "b")

"""A tar that is not the one its index was made for is refused by name, and looked through only once."""

import os
import shutil
from pathlib import Path

import pytest
from small_dataset import write

from pipeline.data.loader import verified
from pipeline.data.loader.dataset import ShardedDataset
from pipeline.errors import InputError


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the tars whose content is read for their digest."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: list[str] = []
    original = verified.sha256_of

    def noted(path: Path) -> str:
        names.append(path.name)
        return original(path)

    monkeypatch.setattr(verified, "sha256_of", noted)
    return names


def flip_one_byte(tar: Path, at: int = 5000) -> None:
    """Behind everybody's back: the size and the time of the last change stay."""
    before = tar.stat()
    with tar.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(tar, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (tar.stat().st_size, tar.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_only_tars_that_are_read_are_looked_through_and_only_once(tmp_path: Path, hashed: list[str]) -> None:
    write(tmp_path / "data")
    dataset = ShardedDataset(tmp_path / "data")
    assert hashed == []
    dataset.read("train", [0, 1, 7])
    assert hashed == ["train-000000.tar", "train-000001.tar"]
    dataset.read("train", [1, 8])
    again = ShardedDataset(tmp_path / "data")
    again.read("train", [2, 9, 13])
    assert hashed == ["train-000000.tar", "train-000001.tar", "train-000002.tar"]


def test_a_flipped_byte_is_found_even_when_the_time_of_the_file_is_put_back(
    tmp_path: Path, hashed: list[str]
) -> None:
    write(tmp_path / "data")
    ShardedDataset(tmp_path / "data").read("train", range(20))
    assert len(hashed) == 4
    flip_one_byte(tmp_path / "data" / "train-000001.tar")
    dataset = ShardedDataset(tmp_path / "data")
    dataset.read("train", range(6))
    with pytest.raises(InputError, match=r"train-000001\.tar: its content changed since its index was made"):
        dataset.read("train", [6])
    with pytest.raises(InputError, match=r"train-000001\.tar"):
        ShardedDataset(tmp_path / "data").read("train", [7])


def test_a_flipped_byte_is_found_at_first_sight(tmp_path: Path, hashed: list[str]) -> None:
    write(tmp_path / "data")
    flip_one_byte(tmp_path / "data" / "test-000000.tar")
    with pytest.raises(InputError, match=r"test-000000\.tar"):
        ShardedDataset(tmp_path / "data").read("test", [0])


def test_what_is_known_of_one_copy_is_not_believed_of_another(tmp_path: Path, hashed: list[str]) -> None:
    write(tmp_path / "data")
    ShardedDataset(tmp_path / "data").read("test", [0])
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    hashed.clear()
    ShardedDataset(tmp_path / "copy").read("test", [0])
    assert hashed == ["test-000000.tar"]


def test_a_directory_that_cannot_be_written_to_is_read_and_remembered_elsewhere(
    tmp_path: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data")
    original = Path.open

    def refusing(path: Path, mode: str = "r", *arguments: object, **options: object) -> object:
        if path.name == verified.STAMPS and "a" in mode:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, mode, *arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", refusing)  # root may write everywhere, so that modes would not do
    ShardedDataset(tmp_path / "data").read("test", [0])
    assert not (tmp_path / "data" / verified.STAMPS).exists()
    ShardedDataset(tmp_path / "data").read("test", [0])
    assert hashed == ["test-000000.tar"]

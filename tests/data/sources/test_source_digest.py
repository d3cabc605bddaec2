"""What tells that a source's files changed, so that a dataset is made again exactly when it must be."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from container_views import config_of, members, tar_of_samples, write

from pipeline.errors import InputError
from pipeline.orchestration.listing import source_digest

KINDS: dict[str, tuple[dict[str, Any], str]] = {
    "webdataset": ({"shards": "*.tar", "depth": {"unit": "mm"}}, "b.tar"),
    "parquet": ({"depth": {"unit": "mm"}}, "data/b.parquet"),
    "nyuv2": ({"labels": {"table": "t.csv"}}, "t.csv"),
    "bop": ({}, "test/000001/mask_visib/000000_000000.png"),
    "hypersim": ({}, "ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg"),
}
FILES = {
    "webdataset": ["a.tar", "b.tar", "notes.txt"],
    "parquet": ["data/a.parquet", "data/b.parquet", "notes.txt"],
    "nyuv2": ["nyu_depth_v2_labeled.mat", "t.csv", "notes.txt"],
    "bop": ["test/000001/scene_camera.json", "test/000001/mask_visib/000000_000000.png", "notes.txt"],
    "hypersim": ["ai_001_001/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg", "notes.txt"],
}


@pytest.fixture(params=KINDS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[dict[str, Any], str]:
    for name in FILES[request.param]:
        write(tmp_path / "data of mine" / name, b"one")
    changes, changed = KINDS[request.param]
    return {"kind": request.param, "root": str(tmp_path / "data of mine"), **changes}, changed


def grow(path: Path) -> None:
    path.write_bytes(b"two!")


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [grow, touch, Path.unlink])
def test_a_file_that_changed_is_noticed(
    source: tuple[dict[str, Any], str], change: Callable[[Path], None]
) -> None:
    described, changed = source
    before = source_digest(config_of(described))
    assert source_digest(config_of(described)) == before
    change(Path(described["root"]) / changed)
    assert source_digest(config_of(described)) != before


def test_moving_the_folder_or_changing_other_files_changes_nothing(
    source: tuple[dict[str, Any], str], tmp_path: Path
) -> None:
    described, _ = source
    before = source_digest(config_of(described))
    write(tmp_path / "data of mine/notes.txt", b"other notes")
    (tmp_path / "data of mine").rename(tmp_path / "elsewhere")
    assert source_digest(config_of(described | {"root": str(tmp_path / "elsewhere")})) == before


def test_missing_folder_is_named(source: tuple[dict[str, Any], str], tmp_path: Path) -> None:
    described, _ = source
    with pytest.raises(InputError, match=r"data\.source\.root: there is no folder .*nowhere \(looked in "):
        source_digest(config_of(described | {"root": str(tmp_path / "nowhere")}))


def test_remote_file_that_was_written_again_is_noticed() -> None:
    memory = fsspec.filesystem("memory")
    content = tar_of_samples({"0": members(0)})
    described = {"kind": "webdataset", "root": "memory://digest", "shards": "a.tar", "depth": {"unit": "mm"}}
    memory.pipe_file("/digest/a.tar", content)
    try:
        before = source_digest(config_of(described))
        assert source_digest(config_of(described)) == before
        memory.pipe_file("/digest/a.tar", content)
        assert source_digest(config_of(described)) != before
    finally:
        memory.rm("/digest", recursive=True)


def test_scenes_that_are_rendered_have_no_files() -> None:
    assert source_digest(config_of({"kind": "rooms"})) is None

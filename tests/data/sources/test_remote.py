"""Sources behind a URL: read by ranges, patiently, and named when there is no more hope."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from container_views import CLASSES, check, loaded, members, only, opened, tar_of_samples, write
from range_server import Web, serving

from pipeline.data.storage import Storage
from pipeline.errors import InputError


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    for tar in range(2):
        content = tar_of_samples({f"{number:04d}": members(number) for number in range(3 * tar, 3 * tar + 3)})
        write(tmp_path / "tars" / f"part-{tar:03d}.tar", content)
    with serving(tmp_path / "tars") as served:
        yield served
    fsspec.filesystem("http").clear_instance_cache()


def source(root: str, **changes: Any) -> dict[str, Any]:
    described = {"kind": "webdataset", "root": root, "shards": "part-{000..001}.tar", "classes": CLASSES}
    return described | {"depth": {"unit": "mm"}} | changes


def test_tars_on_a_web_server_are_read_by_ranges(web: Web) -> None:
    catalogue = opened(source(web.url))
    web.asked.clear()
    for number, sample in enumerate(loaded(catalogue)):
        check(sample, number)
    assert len(web.asked) == 2
    assert all(asked is not None and asked.startswith("bytes=") for asked in web.asked)


def test_tars_in_memory_match_a_pattern(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    content = tar_of_samples({str(number): members(number) for number in range(3)})
    memory.pipe_file("/bucket/a/one.tar", content)
    memory.pipe_file("/bucket/a/notes.txt", b"")
    try:
        catalogue = opened(source("memory://bucket", shards="*/*.tar"))
        for number, sample in enumerate(loaded(catalogue)):
            check(sample, number)
        with pytest.raises(InputError, match=r"no file matches memory://bucket/b/\*\.tar"):
            opened(source("memory://bucket", shards="b/*.tar"))
    finally:
        memory.rm("/bucket", recursive=True)


def test_failing_requests_are_repeated_after_longer_and_longer_pauses(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue = opened(source(web.url))
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    web.failures = 3
    check(only(catalogue), 0)
    assert pauses == [0.5, 1.0, 2.0]


def test_server_that_keeps_failing_is_named(web: Web) -> None:
    catalogue = opened(source(web.url, retries=2))
    web.failures = 1000
    with pytest.raises(
        InputError, match=rf"{web.url}/part-000\.tar: cannot be read, tried 3 times: 503"
    ) as told:
        only(catalogue)
    assert "check the connection and run the same command again" in str(told.value)


def test_failing_question_about_a_file_is_not_taken_for_its_absence(
    web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    web.failures = 2
    assert Storage(web.url).states(["part-000.tar"])[0].size > 0
    assert pauses == [0.5]
    web.failures = 1000
    with pytest.raises(InputError, match=r"part-000\.tar: cannot be read, tried 2 times: 503"):
        Storage(web.url, retries=1).states(["part-000.tar"])


def test_what_will_not_pass_is_not_asked_for_again(web: Web) -> None:
    with pytest.raises(InputError, match=rf"{web.url}/part-002\.tar: cannot be read"):
        opened(source(web.url, shards="part-002.tar"))
    catalogue = opened(source(web.url))
    web.failures, web.status = 1, 403
    web.asked.clear()
    with pytest.raises(InputError, match=r"part-000\.tar: cannot be read: 403"):
        only(catalogue)
    assert len(web.asked) == 1


def test_server_that_only_sends_whole_files_is_refused(web: Web) -> None:
    web.ranges = False
    catalogue = opened(source(web.url))
    with pytest.raises(InputError, match="the server sends whole files where a part is asked for"):
        only(catalogue)


@pytest.mark.parametrize("root", ["s3://bucket", "nosuch://bucket"])
def test_url_without_a_reader_says_what_is_missing(root: str) -> None:
    with pytest.raises(InputError, match=rf"data\.source\.root: {root}/part-000\.tar: "):
        opened(source(root))


def test_state_of_a_file_changes_with_its_content(web: Web) -> None:
    storage = Storage(web.url)
    before = storage.states(["part-000.tar", "part-001.tar"])
    assert storage.states(["part-000.tar", "part-001.tar"]) == before
    path = web.root / "part-000.tar"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    after = storage.states(["part-000.tar", "part-001.tar"])
    assert (after[0].size, after[1]) == (before[0].size, before[1])
    assert after[0] != before[0]

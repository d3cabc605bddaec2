"""A stage gives the same bytes in one process and in several, and when it was killed on the way."""

import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
from squares import context, digests
from stage_processes import FAILED, STAGES, parts, prepare, quick_features, run, start

from pipeline.errors import Overtaken, PeerFailed
from pipeline.orchestration import shares
from pipeline.orchestration.shares import Shares, Task
from pipeline.orchestration.stage import Manifest, World

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return prepare(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module", params=list(STAGES))
def alone(
    request: pytest.FixtureRequest, inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Manifest]:
    """What one process makes."""
    directory = tmp_path_factory.mktemp(request.param) / "alone"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.orchestration.dataset_features.fit_features", quick_features)
        return request.param, directory, run(STAGES[request.param], 1, directory, inputs)


@pytest.mark.parametrize("size", [2, 3])
def test_several_processes_make_the_same_bytes_as_one(
    alone: tuple[str, Path, Manifest], inputs: dict[str, Path], size: int
) -> None:
    stage, directory, manifest = alone
    together = run(STAGES[stage], size, directory.with_name(f"{size}"), inputs)
    assert together.metrics == manifest.metrics
    assert (together.headline, together.outputs) == (manifest.headline, manifest.outputs)
    assert digests(directory.with_name(f"{size}")) == digests(directory)


def test_a_killed_stage_goes_on_with_the_parts_it_made_to_the_same_bytes(
    alone: tuple[str, Path, Manifest], inputs: dict[str, Path]
) -> None:
    stage, directory, manifest = alone
    killed = directory.with_name("killed")
    (process,) = start(STAGES[stage], [0], 1, killed, inputs)
    while len(parts(killed)) < min(4, len(parts(directory)) - 1):
        assert process.is_alive()
        time.sleep(0.002)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    made = parts(killed)
    last = max(made)
    (killed / last).write_bytes((killed / last).read_bytes()[:-1])  # a crash of the machine may leave as much
    (killed / "half.png").write_bytes(b"written in the middle")
    again = run(STAGES[stage], 1, killed, inputs)
    assert again.metrics == manifest.metrics
    assert digests(killed) == digests(directory)
    now = parts(killed)
    assert {name for name, when in made.items() if now[name] == when} == set(made) - {last}


def test_a_process_that_comes_too_late_has_nothing_to_do(
    alone: tuple[str, Path, Manifest], inputs: dict[str, Path]
) -> None:
    stage, directory, _ = alone
    late = directory.with_name("late")
    shutil.copytree(directory, late)
    made = parts(late)
    (process,) = start(STAGES[stage], [1], 2, late, inputs)
    process.join(60)
    assert process.exitcode == 0
    assert parts(late) == made
    own = context(directory.with_name("gone"), inputs, world=World(1, 2))
    own.directory.rmdir()  # the first process has moved it in place
    with pytest.raises(Overtaken):
        STAGES[stage](replace(own, is_over=lambda: True))
    assert not own.directory.exists()


def test_a_directory_that_shows_late_is_waited_for(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = context(tmp_path / "stage", inputs, world=World(1, 2))
    own.directory.rmdir()
    show = Timer(0.3, own.directory.mkdir)
    show.start()
    task = Task("alone", [1, 1], lambda number: {"number": np.array(number)})
    Shares(own).make(task)
    show.join()
    assert [path.stem for path in own.directory.rglob("*.part")] == ["000001"]
    shutil.rmtree(own.directory)
    monkeypatch.setattr(shares, "UNSEEN_S", 0.1)
    with pytest.raises(FileNotFoundError):
        Shares(own).make(task)


def test_who_waits_for_a_process_that_failed_is_told(
    tmp_path: Path, inputs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shares, "GRACE_S", 0.1)

    def stage(own: object) -> Manifest:
        raise ValueError("no such scene")

    (process,) = start(stage, [1], 2, tmp_path / "stage", inputs)
    process.join(60)
    failed = tmp_path / FAILED
    own = context(tmp_path / "stage", inputs, world=World(0, 2))
    waiting = Shares(replace(own, peer_failure=lambda: failed.read_text() if failed.exists() else None))
    task = Task("alone", [1, 1], lambda number: {})
    waiting.make(task)
    with pytest.raises(PeerFailed, match="ValueError: no such scene"):
        list(waiting.results(task))

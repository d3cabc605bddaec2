"""What several processes have to say about the same failure is said once."""

import shutil
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.orchestration.job import Job
from pipeline.orchestration.ledger import write_record
from pipeline.orchestration.processes import FAILED_ELSEWHERE
from pipeline.orchestration.stage import World
from stages import worker
from tests.launch.conftest import Run, Terminal


@pytest.mark.slow
def test_bad_input_that_every_process_meets_is_one_message(terminal: Terminal) -> None:
    said = terminal.refused("run", "tiny.yaml", "--nproc", "4", FAKE_REFUSE="shard")
    assert said.count("frame_0003.png: the image is truncated; replace it") == 1


def test_who_fails_alike_after_another_is_silent_and_who_fails_otherwise_is_not(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_STOP_FILE", str(run.directory / "stop"))
    step, record = run.begin("shard")
    assert step.place is not None
    job = Job({}, run.root, step.place, record, {}, Path("progress.json"))

    def fails(rank: int, message: str) -> tuple[int, str]:
        code = worker._report(InputError(message), job, World(rank, 3))
        return code, capsys.readouterr().err

    assert fails(1, "no depth") == (2, "triptych: shard: no depth\n")
    assert fails(0, "no depth") == (2, "")
    assert fails(2, "no labels") == (2, "triptych: shard: no labels\n")

    class DistBackendError(RuntimeError):
        pass

    code = worker._report(DistBackendError("Connection closed by peer"), job, World(0, 3))
    assert (code, capsys.readouterr().err) == (FAILED_ELSEWHERE, "")
    assert worker._failure(job) == "no labels"  # the cause, not what it led to
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert fails(0, "no labels") == (2, "triptych: shard: no labels\n")


def test_a_stage_is_complete_when_its_own_directory_says_so_not_when_it_does_not_show(run: Run) -> None:
    step, record = run.begin("shard")
    place = step.place
    assert place is not None
    job = Job({}, run.root, place, record, {}, Path("progress.json"))
    assert not worker._is_complete(job)
    away = place.working.with_name("away")
    place.working.rename(away)
    assert not worker._is_complete(job), "shown late, or lost"
    away.rename(place.working)
    run.finish("shard")
    assert worker._is_complete(job)
    shutil.copytree(place.final, place.working)  # made once more, since that was forced
    (place.working / "stage.json").unlink()
    assert not worker._is_complete(job), "the record shows late"
    write_record(place.working, record)
    assert not worker._is_complete(job)

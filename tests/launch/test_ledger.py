"""What stages leave behind appears whole or not at all."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import durable
from pipeline.durable import remove_abandoned
from pipeline.errors import InputError
from pipeline.orchestration import ledger
from pipeline.orchestration.ledger import PARTS, begin, commit, read_record
from pipeline.orchestration.stage import Manifest
from tests.launch.conftest import CHECKOUT, Run


def test_stage_is_invisible_until_it_is_committed(run: Run) -> None:
    run.finish("shard")
    run.finish("train")
    step, record = run.begin("evaluate")
    assert step.place is not None
    assert not (run.root / "tiny/evaluate").exists()
    commit(step.place, record, Manifest({"b": 2.0, "a": 1.0}, ("a",), timing={"seconds": 3.0}), run.root)
    done = read_record(run.root / "tiny/evaluate")
    assert done is not None
    assert (done.state, done.headline, done.attempts) == ("complete", {"a": 1.0}, 1)
    assert list(json.loads((run.root / "tiny/evaluate/metrics.json").read_text())) == ["a", "b"]
    assert json.loads((run.root / "tiny/evaluate/timing.json").read_text()) == {"seconds": 3.0}
    assert not (run.root / "tiny/.evaluate.partial").exists()


def test_parts_of_the_same_key_are_kept_and_attempts_are_counted(run: Run) -> None:
    run.finish("shard")
    run.finish("train")
    step, _ = run.begin("evaluate")
    assert step.place is not None
    part = step.place.working / PARTS / "scoring" / "000000.part"
    part.parent.mkdir(parents=True)
    part.write_text("half way")
    assert run.steps()["evaluate"].verb == "continue"
    assert step.wanted is not None
    assert begin(step.place, step.wanted).attempts == 2
    assert part.read_text() == "half way"
    run.overrides.append("evaluate.limit=3")
    _, record = run.begin("evaluate")
    assert not part.exists()
    assert record.attempts == 1


def test_a_finished_stage_keeps_no_parts(run: Run) -> None:
    run.finish("shard")
    run.finish("train")
    step, record = run.begin("evaluate")
    assert step.place is not None
    (step.place.working / PARTS).mkdir()
    (step.place.working / PARTS / "000000.part").write_text("done")
    done = commit(step.place, record, Manifest({}, (), {"result": "result.txt"}), run.root)
    assert sorted(done.files) == ["metrics.json", "result.txt"]
    assert not (step.place.final / PARTS).exists()
    assert run.steps()["evaluate"].verb == "skip"


def test_interrupted_training_keeps_its_files(run: Run) -> None:
    run.finish("shard")
    step, _ = run.begin("train")
    assert step.place is not None
    (step.place.working / "checkpoint").write_text("half way")
    _, record = run.begin("train")
    assert (step.place.working / "checkpoint").read_text() == "half way"
    assert record.attempts == 2


def test_training_of_another_key_starts_in_an_empty_directory(run: Run) -> None:
    run.finish("shard")
    step, record = run.begin("train")
    assert step.place is not None
    (step.place.working / "checkpoint").write_text("of the old model")
    run.overrides = ["model.latent=8"]
    run.begin("train")
    assert not (step.place.working / "checkpoint").exists()
    aside = step.place.working.with_name(f"train.{record.key[:8]}")
    assert (aside / "checkpoint").read_text() == "of the old model"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_number_that_is_not_finite_is_refused_by_name(run: Run, value: float) -> None:
    step, record = run.begin("shard")
    assert step.place is not None
    with pytest.raises(ValueError, match=r"shard: not a finite number: score = (nan|inf)"):
        commit(step.place, record, Manifest({"score": value}), run.root)


def test_declared_output_that_was_not_written_is_refused(run: Run) -> None:
    step, record = run.begin("shard")
    assert step.place is not None
    with pytest.raises(ValueError, match=r"declared but not written: picture \(grid.png\)"):
        commit(step.place, record, Manifest(outputs={"picture": "grid.png"}), run.root)


@pytest.mark.parametrize("content", ["", '{"stage": "train", "sta', "[]", '{"stage": "train"}'])
def test_damaged_ledger_is_refused_with_its_name_and_the_remedy(run: Run, content: str) -> None:
    run.finish_all()
    path = run.root / "tiny/train/stage.json"
    path.write_text(content)
    with pytest.raises(InputError) as refused:
        run.steps()
    assert str(path) in str(refused.value)
    assert "--force train" in str(refused.value)


def test_force_sets_a_damaged_ledger_aside_and_loses_nothing(run: Run) -> None:
    run.finish_all()
    (run.root / "tiny/train/stage.json").write_text("")
    step = run.steps(force=("train",))["train"]
    assert step.place is not None
    assert step.wanted is not None
    ledger.begin(step.place, step.wanted, anew=True)
    assert (run.root / "tiny/train.unreadable/model.safetensors").exists()


def test_foreign_directory_is_not_taken_for_a_stage(run: Run) -> None:
    run.finish("shard")
    foreign = run.root / "tiny/train"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"train: holds files but no stage\.json"):
        run.steps()


def test_replacing_a_file_fails_without_touching_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "stage.json"
    durable.write_json(path, {"good": 1})

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        durable.write_json(path, {"good": 2})
    assert json.loads(path.read_text()) == {"good": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["stage.json"]


KILLED_IN_COMMIT = """
import os, signal, sys
from pathlib import Path
from pipeline.orchestration import ledger
from tests.launch.conftest import Run

run = Run(Path(sys.argv[1]))
calls = 0
def dies_at(function):
    def wrapped(*arguments, **options):
        global calls
        calls += 1
        if calls == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return wrapped

for name in ("write_json", "sync_tree", "set_aside", "sync_directory", "content_digest"):
    setattr(ledger, name, dies_at(getattr(ledger, name)))
Path.rename = dies_at(Path.rename)
run.overrides = ["evaluate.pictures=3"]
run.finish("evaluate")
print("survived")
"""


@pytest.mark.slow
def test_kill_anywhere_in_a_commit_leaves_old_or_new_and_a_rerun_repairs(run: Run) -> None:
    for stage in ("shard", "train", "evaluate"):
        run.finish(stage)  # type: ignore[arg-type]
    for moment in range(1, 40):
        command = [sys.executable, "-c", KILLED_IN_COMMIT, str(run.directory), str(moment)]
        killed = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            capture_output=True,
            text=True,
            check=False,
        )
        record = read_record(run.root / "tiny/evaluate")
        assert record is None or record.state == "complete"
        kept = [read_record(path) for path in run.root.glob("tiny/evaluate*")]
        assert any(found and found.state == "complete" for found in kept)
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL, killed.stderr
    else:
        pytest.fail("the commit never came to its end")
    assert moment > 8
    run.overrides = ["evaluate.pictures=3"]
    assert run.steps()["evaluate"].verb == "skip"


def test_what_a_kill_left_half_written_is_no_part_of_the_result(run: Run) -> None:
    step, record = run.begin("shard")
    assert step.place is not None
    litter = step.place.working / ".stage.json.4711.tmp"
    litter.write_text("{")
    kept = step.place.working / ".notes.tmp"
    kept.write_text("not ours to judge")
    commit(step.place, record, Manifest({"score": 1.0}), run.root)
    assert not (step.place.final / litter.name).exists()
    done = read_record(step.place.final)
    assert done is not None
    assert set(done.files) == {"result.txt", "metrics.json", ".notes.tmp"}


def test_what_a_kill_left_of_an_atomic_write_goes_once_nobody_can_be_writing_it(tmp_path: Path) -> None:
    now = tmp_path / "config.yaml"
    now.write_text("")
    left, fresh, foreign = (tmp_path / name for name in (".job.json.41.tmp", ".run.json.42.tmp", ".a.tmp"))
    below = tmp_path / "train" / ".stage.json.41.tmp"
    below.parent.mkdir()
    for path, age_s in ((left, 3700), (fresh, 3500), (foreign, 99999), (below, 99999)):
        path.write_text("{")
        os.utime(path, (0, now.stat().st_mtime - age_s))
    remove_abandoned(tmp_path, now)
    assert [path.exists() for path in (left, fresh, foreign, below)] == [False, True, True, True]

"""A whole run with fake stages in real processes: interrupted, killed, contended, refused."""

import json
import os
import signal
import time

import pytest

from tests.launch.conftest import Terminal


def record(terminal: Terminal, stage: str) -> dict[str, object]:
    said: dict[str, object] = json.loads((terminal.directory / f"runs/tiny/{stage}/stage.json").read_text())
    return said


def outputs(terminal: Terminal, root: str) -> dict[str, bytes]:
    """Every file that must not depend on how often a run was interrupted."""
    directory = terminal.directory / root
    files = [path for path in directory.rglob("*") if path.is_file()]
    apart = ("stage.json", "timing.json", "run.json", "lock.json")
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in files
        if path.name not in apart and not path.name.startswith(".")
    }


@pytest.mark.slow
def test_run_twice_does_everything_once(terminal: Terminal) -> None:
    first = terminal.type("run", "tiny.yaml")
    assert first.returncode == 0, first.stderr
    assert "[6/6] synthesize: run (no result yet)" in first.stderr
    assert "train       loss    0.5" in first.stdout
    assert record(terminal, "shard")["outputs"] == {
        "dataset": f"datasets/{str(record(terminal, 'shard')['key'])[:16]}"
    }
    left = terminal.directory / "runs/tiny/.job.json.77.tmp"  # by a kill, long ago
    left.write_text("{")
    os.utime(left, (0, 0))
    second = terminal.type("run", "tiny.yaml")
    assert second.returncode == 0
    assert second.stderr.count("skip (complete)") == 6
    assert second.stdout == first.stdout
    assert not left.exists()


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_continues_to_the_same_bytes(terminal: Terminal) -> None:
    assert terminal.type("run", "tiny.yaml", "--until", "train", "--root", "calm").returncode == 0
    process = terminal.start("run", "tiny.yaml", "--until", "train", FAKE_GATE="train")
    terminal.await_file("runs/tiny/train/saved.txt")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert "interrupted; what is done is saved" in err
    assert record(terminal, "train")["state"] == "running"
    again = terminal.type("run", "tiny.yaml", "--until", "train")
    assert "train: continue (interrupted)" in again.stderr
    assert record(terminal, "train")["attempts"] == 2
    assert outputs(terminal, "runs") == outputs(terminal, "calm")


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["shard", "train", "evaluate"])
def test_killed_run_leaves_no_process_and_continues_to_the_same_bytes(terminal: Terminal, stage: str) -> None:
    assert terminal.type("run", "tiny.yaml", "--until", "evaluate", "--root", "calm").returncode == 0
    process = terminal.start("run", "tiny.yaml", "--until", "evaluate", FAKE_GATE=stage)
    inside = {"shard": "datasets/.*.partial", "train": "tiny/train", "evaluate": "tiny/.evaluate.partial"}[
        stage
    ]
    terminal.await_file(f"runs/{inside}/{'saved.txt' if stage == 'train' else 'started'}")
    process.kill()
    process.wait()
    terminal.await_no_process()
    again = terminal.type("run", "tiny.yaml", "--until", "evaluate")
    assert again.returncode == 0, again.stderr
    assert f"{stage}: continue (interrupted)" in again.stderr
    assert outputs(terminal, "runs") == outputs(terminal, "calm")


@pytest.mark.slow
def test_second_ctrl_c_stops_at_once(terminal: Terminal) -> None:
    process = terminal.start("run", "tiny.yaml", "--until", "train", FAKE_DEAF="train")
    terminal.await_file("runs/tiny/train/started")
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10)
    assert process.returncode == 75
    terminal.await_no_process()


@pytest.mark.slow
def test_stage_without_checkpoints_stops_at_the_first_request(terminal: Terminal) -> None:
    process = terminal.start("shard", "tiny.yaml", FAKE_GATE="shard")
    terminal.await_file("runs/datasets/.*.partial/started")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 75


@pytest.mark.slow
def test_second_run_of_the_same_name_is_refused_or_waits(terminal: Terminal) -> None:
    first = terminal.start("run", "tiny.yaml", "--until", "train", FAKE_GATE="train")
    terminal.await_file("runs/tiny/train/started")
    message = terminal.refused("run", "tiny.yaml", "--until", "train")
    assert f"runs/tiny: in use by process {first.pid} on " in message
    waiting = terminal.start("run", "tiny.yaml", "--until", "train", "--wait")
    assert waiting.stderr is not None
    assert f"runs/tiny: waiting for process {first.pid}" in waiting.stderr.readline()
    (terminal.directory / "go").touch()
    assert first.wait(timeout=60) == 0
    _, err = waiting.communicate(timeout=60)
    assert waiting.returncode == 0
    assert "[2/6] train: skip (complete)" in err


@pytest.mark.slow
def test_two_runs_with_the_same_data_make_it_once(terminal: Terminal) -> None:
    first = terminal.start("shard", "tiny.yaml", FAKE_GATE="shard")
    terminal.await_file("runs/datasets/.*.partial/started")
    second = terminal.start("shard", "tiny.yaml", "--set", "name=other")
    assert second.stderr is not None
    assert f"waiting for process {first.pid}" in second.stderr.readline()
    (terminal.directory / "go").touch()
    assert first.wait(timeout=60) == 0
    _, err = second.communicate(timeout=60)
    assert second.returncode == 0
    assert "shard: skip (datasets/" in err
    assert (terminal.directory / "runs/other/shard/stage.json").exists()


@pytest.mark.slow
def test_bad_input_inside_a_stage_is_one_message(terminal: Terminal) -> None:
    message = terminal.refused("run", "tiny.yaml", FAKE_REFUSE="shard")
    assert "triptych: shard: frame_0003.png: the image is truncated; replace it\n" in message
    assert "failed: frame_0003.png: the image is truncated" in terminal.type("plan", "tiny.yaml").stdout


@pytest.mark.slow
def test_failure_of_a_stage_shows_where_and_exits_with_1(terminal: Terminal) -> None:
    result = terminal.type("run", "tiny.yaml", "--until", "train", FAKE_FAIL="train")
    assert result.returncode == 1
    assert "RuntimeError: the fake stage fails as told" in result.stderr
    assert "triptych: train failed with exit code 1" in result.stderr
    assert record(terminal, "train")["state"] == "failed"
    assert "continue  failed: RuntimeError: the fake stage fails" in terminal.type("plan", "tiny.yaml").stdout
    assert terminal.type("run", "tiny.yaml", "--until", "train").returncode == 0


@pytest.mark.slow
def test_force_repeats_a_stage_and_keeps_the_old_result(terminal: Terminal) -> None:
    terminal.type("run", "tiny.yaml", "--until", "train")
    forced = terminal.type("run", "tiny.yaml", "--until", "train", "--force", "train")
    assert "train: run (--force)" in forced.stderr
    assert len(list(terminal.directory.glob("runs/tiny/train.*"))) == 1
    assert "skip" in terminal.type("plan", "tiny.yaml", "--until", "train").stdout


@pytest.mark.slow
def test_run_of_another_config_with_the_same_name_is_refused(terminal: Terminal) -> None:
    terminal.type("run", "tiny.yaml", "--until", "train")
    (terminal.directory / "copy.yaml").write_text("extends: tiny.yaml\ntrain: {learning_rate: 1}")
    message = terminal.refused("run", "copy.yaml", "--until", "train")
    assert "runs/tiny: holds a run of another config" in message
    assert "train.learning_rate: 0.001 -> 1.0" in message
    assert "--set name=NAME" in message
    assert terminal.type("plan", "tiny.yaml", "--until", "train").stdout.count("skip") == 6


@pytest.mark.slow
def test_status_tells_a_running_stage_from_an_interrupted_one(terminal: Terminal) -> None:
    process = terminal.start("run", "tiny.yaml", "--until", "train", FAKE_GATE="train")
    terminal.await_file("runs/tiny/train/saved.txt")
    said = json.loads(terminal.type("status", "tiny.yaml", "--json").stdout)
    train = said["stages"][1]
    assert train["state"] == "running"
    assert train["progress"]["total"] == 256
    assert train["progress"]["history"]["samples_seen"] >= 64
    assert said["holder"]["pid"] == process.pid
    assert said["next"] is None
    process.kill()
    process.wait()
    said = json.loads(terminal.type("status", "tiny.yaml", "--json").stdout)
    assert said["stages"][0]["headline"] == {"score": 1.5}
    assert (said["stages"][1]["state"], said["stages"][1]["verb"]) == ("interrupted", "continue")
    assert said["next"] == "triptych run tiny.yaml"


@pytest.mark.slow
def test_clean_removes_the_superseded_and_the_unused_only(terminal: Terminal) -> None:
    terminal.type("run", "tiny.yaml", "--until", "train")
    terminal.type("run", "tiny.yaml", "--until", "train", "--set", "train.learning_rate=0.5")
    unused = terminal.directory / "runs/datasets/0123456789abcdef"
    unused.mkdir()
    would = terminal.type("clean", "tiny.yaml", "--dry-run").stdout
    assert unused.exists()
    removed = terminal.type("clean", "tiny.yaml").stdout
    assert removed.replace("removed        ", "would be removed").splitlines()[2:] == would.splitlines()[2:]
    assert not unused.exists()
    assert list(terminal.directory.glob("runs/tiny/train.*")) == []
    assert (
        "skip"
        in terminal.type("plan", "tiny.yaml", "--set", "train.learning_rate=0.5", "--until", "train").stdout
    )
    assert terminal.type("clean", "tiny.yaml").stdout == "nothing to remove\n"


@pytest.mark.slow
def test_folder_called_pipeline_in_the_working_directory_does_not_matter(terminal: Terminal) -> None:
    for name in ("pipeline", "stages"):
        (terminal.directory / name).mkdir()
        (terminal.directory / name / "__init__.py").write_text("raise SystemExit('shadowed')")
    assert terminal.type("shard", "tiny.yaml").returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_root_without_write_permission_is_one_message(terminal: Terminal) -> None:
    (terminal.directory / "runs").mkdir(mode=0o555)
    assert "permission denied; make it writable or choose another" in terminal.refused("run", "tiny.yaml")


@pytest.mark.slow
def test_full_disk_is_one_message(terminal: Terminal) -> None:
    message = terminal.refused("run", "tiny.yaml", FAKE_FULL="shard")
    assert "triptych: shard: runs/full.tar: the disk is full; free some space" in message
    assert terminal.type("run", "tiny.yaml", "--until", "shard").returncode == 0

"""Processes that die are started again as often as MAX_RESTARTS allows, with torchrun's own agent."""

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from tests.launch.conftest import Run, Terminal
from tests.launch.test_nodes_together import ended, record, saved, wait_until

pytestmark = pytest.mark.slow

WORDS = ("train", "tiny.yaml")


def worker_of(terminal: Terminal, entry: bytes) -> int:
    """The process that works in this directory with a variable in its environment."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for pid, line in terminal.processes().items():
            with contextlib.suppress(OSError):
                variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                if "fake_worker" in line and entry in variables:
                    return pid
        time.sleep(0.02)
    raise AssertionError(f"no process with {entry!r}")


def test_killed_rank_comes_back_with_its_peers_and_training_goes_on(terminal: Terminal) -> None:
    Run(terminal.directory).finish("shard")
    process = terminal.start(*WORDS, "--nproc", "2", FAKE_GATE="train", MAX_RESTARTS="1")
    helped = terminal.await_file("runs/tiny/train.helped-by-1")
    wait_until(lambda: saved(terminal))
    victim = worker_of(terminal, b"RANK=1")
    os.kill(victim, signal.SIGKILL)
    helped.unlink()
    terminal.await_file("runs/tiny/train.helped-by-1")
    assert worker_of(terminal, b"RANK=1") != victim
    (terminal.directory / "go").touch()
    code, said = ended(process)
    assert code == 0, said
    assert record(terminal)["attempts"] == 1
    assert "Traceback" not in said


def test_killed_rank_ends_the_stage_where_no_restart_is_allowed(terminal: Terminal) -> None:
    Run(terminal.directory).finish("shard")
    process = terminal.start(*WORDS, "--nproc", "2", FAKE_GATE="train")
    terminal.await_file("runs/tiny/train.helped-by-1")
    os.kill(worker_of(terminal, b"RANK=1"), signal.SIGKILL)
    code, said = ended(process)
    assert code == 1
    assert "triptych: train was ended by SIGKILL; often the system's memory was full" in said
    terminal.await_no_process()


def test_stop_with_torchruns_agent_saves_without_noise(terminal: Terminal) -> None:
    Run(terminal.directory).finish("shard")
    process = terminal.start(*WORDS, "--nproc", "2", FAKE_GATE="train", MAX_RESTARTS="3")
    terminal.await_file("runs/tiny/train.helped-by-1")
    wait_until(lambda: saved(terminal))
    process.send_signal(signal.SIGUSR1)
    code, said = ended(process)
    assert code == 75, said
    assert "Traceback" not in said
    assert (record(terminal)["state"], record(terminal)["attempts"]) == ("running", 1)
    terminal.await_no_process()


def test_single_process_that_is_killed_is_started_again(terminal: Terminal) -> None:
    Run(terminal.directory).finish("shard")
    process = terminal.start(*WORDS, "--nproc", "1", FAKE_GATE="train", MAX_RESTARTS="1")
    wait_until(lambda: saved(terminal))
    victim = worker_of(terminal, b"TRIPTYCH_PARENT=%d" % process.pid)
    os.kill(victim, signal.SIGKILL)
    assert worker_of(terminal, b"TRIPTYCH_PARENT=%d" % process.pid) != victim
    (terminal.directory / "go").touch()
    code, said = ended(process)
    assert code == 0, said
    assert "train was ended by SIGKILL" in said
    assert "started again (1 of 1)" in said
    assert record(terminal)["attempts"] == 2

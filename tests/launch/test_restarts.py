"""Processes that die are started again as often as MAX_RESTARTS allows, with torchrun's own agent."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.orchestration.execution import Crew, Launch, work
from pipeline.orchestration.job import Job
from pipeline.orchestration.nodes import Meeting, Nodes
from pipeline.orchestration.nodes_board import NodeNotice
from pipeline.orchestration.nodes_elastic import verdict
from pipeline.orchestration.nodes_lead import Lead
from pipeline.orchestration.processes import BAD_INPUT, FAILED_ELSEWHERE, Interruption
from tests.launch.conftest import CHECKOUT, Run, Terminal
from tests.launch.test_nodes_together import ended, free_port, record, saved, wait_until

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


def test_bad_input_of_one_rank_is_one_message_and_not_tried_again(terminal: Terminal) -> None:
    Run(terminal.directory).finish("shard")
    wrong = {"FAKE_REFUSE": "train", "FAKE_RANK": "1", "FAKE_GATE": "train"}
    process = terminal.start(*WORDS, "--nproc", "2", **wrong, MAX_RESTARTS="2")
    code, said = ended(process)
    assert code == 2, said
    assert said.count("frame_0003.png: the image is truncated; replace it") == 1
    assert (terminal.directory / "runs/tiny/train.refused").read_text() == "1"
    terminal.await_no_process()


AGENT = """
import sys
from pipeline.orchestration.nodes import Meeting
from pipeline.orchestration.nodes_agent import run_processes
address = "127.0.0.1"
meeting = Meeting(2, "tiny-train-1", f"{address}:{sys.argv[2]}", sys.argv[1] == "lead", address, 60)
sys.exit(run_processes(["tests.launch.refusing_rank"], 1, 3, meeting, resumable=True))
"""


def test_no_machine_tries_again_after_bad_input_on_one_of_them(tmp_path: Path) -> None:
    port = str(free_port())
    lead, other = (
        subprocess.Popen(
            [sys.executable, "-c", AGENT, name, port],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("lead", "other")
    )
    assert ended(other) == (2, "")
    assert ended(lead) == (3, "")
    assert (tmp_path / "refused").read_text() == "1"


@pytest.mark.parametrize(("codes", "told"), [([3, -9, 2], 2), ([3, -9], 137), ([3], 3), ([4, 5], 4), ([], 0)])
def test_of_several_failures_the_cause_is_told(codes: list[int], told: int) -> None:
    assert verdict(codes) == told


class OtherFailed(Lead):
    """A lead whose other machine lives, and refused its input."""

    def __init__(self) -> None:
        self.nodes = Nodes(2, 0, True, "127.0.0.1", 29400, "tiny")

    def assemble(self, timeout_s: int) -> list[NodeNotice]:
        return []

    @contextlib.contextmanager
    def calling(self, *_: object) -> Iterator[Meeting]:
        yield Meeting(2, "tiny-train-1", self.nodes.endpoint, True, "127.0.0.1", 60)

    def lost_member(self) -> str:
        return ""

    def failed_code(self) -> int:
        return BAD_INPUT


class Ending(Interruption):
    """Starts nothing; what it should have started ends with a code."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self._code = code

    def run(self, *_: object) -> int:
        return self._code


@pytest.mark.parametrize("code", [FAILED_ELSEWHERE, -9])
def test_lead_whose_processes_end_because_of_another_machines_ends_as_those_do(run: Run, code: int) -> None:
    step, record = run.begin("shard")
    assert step.place is not None
    record = replace(record, execution={"processes": 2, "threads": 1})
    job = Job({}, run.root, step.place, record, {}, run.directory / "progress.json")
    crew = Crew(Launch("no.module"), Ending(code), OtherFailed(), str)
    assert work(job, run.directory, crew, distributed=True) == BAD_INPUT
